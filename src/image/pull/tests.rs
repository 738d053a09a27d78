use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::image::test_layers::{Memory, Tar, TestLayer, zstd};

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    puller: Puller,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("images")).unwrap();
        let puller = Puller::new(store.clone(), Limits::default(), 4);
        Self { _dir: dir, store, puller }
    }

    async fn pull(&self, source: &Arc<Memory>, reference: &str) -> Result<Arc<Image>, PullError> {
        let reference = reference.parse().unwrap();
        self.puller.pull(source.clone(), &reference, &Platform::host(), &Progress::default()).await
    }

    fn ingest_is_empty(&self) -> bool {
        let ingest = self.store.root().join("ingest");
        for _ in 0..200 {
            if std::fs::read_dir(&ingest).unwrap().next().is_none() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

fn three_layers() -> Vec<TestLayer> {
    let base = Tar::new()
        .dir("etc/")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:7:8::/app:\n")
        .dir("old/")
        .file("old/x", b"1");
    let middle = Tar::new().dir("etc/").file("etc/motd", &vec![b'm'; 300_000]).file("etc/.wh.gone", b"");
    let top = Tar::new()
        .file(".wh.old", b"")
        .dir("app/")
        .symlink("app/link", "../etc/motd")
        .hard_link("app/hard", "app/link");
    let top = top.end();
    vec![
        TestLayer::gzip(base),
        TestLayer {
            media_type: "application/vnd.docker.image.rootfs.diff.tar",
            tar: middle.clone().end(),
            blob: middle.end(),
        },
        TestLayer { media_type: "application/vnd.oci.image.layer.v1.tar+zstd", blob: zstd(&top), tar: top },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_an_image() {
    let fixture = Fixture::new();
    let mut memory = Memory::new();
    let (id, manifest) = memory.add_image("v1", &three_layers(), r#"{"User":"app","Env":["A=b"]}"#);
    let memory = Arc::new(memory);
    let progress = Progress::default();
    let reference = "reg.example/team/app:v1".parse().unwrap();
    let image = fixture.puller.pull(memory.clone(), &reference, &Platform::host(), &progress).await.unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.tags, ["reg.example/team/app:v1"]);
    assert_eq!(image.repo_digests, [format!("reg.example/team/app@{}", manifest.digest)]);
    assert_eq!(image.config.config.user, "app");
    let (bytes, total, phase) = progress.total();
    assert_eq!((bytes, phase), (total, Phase::Done));
    let lowers = image.lowers();
    assert_eq!(lowers.len(), 3);
    let whiteout = std::fs::symlink_metadata(lowers[0].join("old")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(std::fs::read(lowers[1].join("etc/motd")).unwrap().len(), 300_000);
    assert_eq!(std::fs::read_link(lowers[0].join("app/hard")).unwrap(), Path::new("../etc/motd"));
    let users = fixture.store.users(&image).unwrap();
    assert_eq!(users.user_by_name("app").unwrap().uid, 7);
    assert!(fixture.ingest_is_empty());
    assert!(fixture.store.usage().bytes > 300_000);

    // Once more: nothing but the documents is fetched.
    let before = memory.fetched.load(std::sync::atomic::Ordering::SeqCst);
    let again = fixture.pull(&memory, "reg.example/team/app:v1").await.unwrap();
    assert_eq!(again.id, id);
    assert_eq!(memory.fetched.load(std::sync::atomic::Ordering::SeqCst), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn chooses_by_platform() {
    let fixture = Fixture::new();
    let mut memory = Memory::new();
    let (id, ours) = memory.add_image("ours", &three_layers(), "{}");
    let host = Platform::host();
    let entry = |descriptor: &Descriptor, os: &str, arch: &str| {
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"{os}","architecture":"{arch}"}}}}"#,
            descriptor.media_type,
            descriptor.digest,
            descriptor.len()
        )
    };
    let index = |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let lost = Descriptor::new(media::OCI_MANIFEST, Digest::sha256(b"lost"), 4);
    let inner = memory.add_document(
        "inner",
        media::OCI_INDEX,
        index(&[entry(&lost, "unknown", "unknown"), entry(&ours, "linux", &host.architecture)]),
    );
    let nested =
        format!(r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#, inner.media_type, inner.digest, inner.len());
    let outer = memory.add_document("outer", media::DOCKER_LIST, index(&[entry(&lost, "windows", "amd64"), nested]));
    memory.add_document(
        "none",
        media::OCI_INDEX,
        index(&[entry(&lost, "linux", "s390x"), entry(&lost, "unknown", "unknown")]),
    );
    let other = memory.documents.iter().find(|(tag, ..)| tag == "ours").unwrap().2.clone();
    let other = String::from_utf8(other.to_vec()).unwrap();
    memory.documents.push(("lying".into(), media::OCI_INDEX.into(), other.clone().into()));
    memory.add_document("artifact", media::OCI_MANIFEST, other.replace(media::OCI_CONFIG, "application/wasm"));
    let memory = Arc::new(memory);

    let image = fixture.pull(&memory, "r.example/a:outer").await.unwrap();
    assert_eq!(image.id, id);
    // What was asked for is what the name is pinned to, and all on the way is kept.
    assert_eq!(image.repo_digests, [format!("r.example/a@{}", outer.digest)]);
    assert_eq!(image.documents, [outer.digest.clone(), inner.digest, ours.digest.clone()]);
    let by_digest = fixture.pull(&memory, &format!("r.example/a:ignored@{}", ours.digest)).await.unwrap();
    assert_eq!(by_digest.tags, ["r.example/a:outer"]);
    assert!(by_digest.repo_digests.contains(&format!("r.example/a@{}", ours.digest)));

    let none = fixture.pull(&memory, "r.example/a:none").await.unwrap_err().to_string();
    assert!(none.contains("linux/s390x") && !none.contains("unknown"), "{none}");
    let lying = fixture.pull(&memory, "r.example/a:lying").await.unwrap_err();
    assert!(matches!(lying, PullError::Document { .. }), "{lying}");
    let artifact = fixture.pull(&memory, "r.example/a:artifact").await.unwrap_err();
    assert!(matches!(artifact, PullError::NotAnImage { .. }), "{artifact}");
    let missing = fixture.pull(&memory, "r.example/a:missing").await.unwrap_err().to_string();
    assert!(missing.contains("r.example/a:missing") && missing.contains("manifest unknown"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_names_the_layer_and_leaves_nothing_visible() {
    let fixture = Fixture::new();
    let mut memory = Memory::new();
    let layers = three_layers();
    let middle = Digest::sha256(&layers[1].blob);
    memory.add_image("v1", &layers, "{}");
    memory.broken = Some((middle.clone(), 100));
    let error = fixture.pull(&Arc::new(memory), "r.example/a:v1").await.unwrap_err().to_string();
    assert!(error.contains(middle.as_str()) && error.contains("connection reset"), "{error}");
    assert!(fixture.store.images().is_empty());
    assert!(fixture.ingest_is_empty());

    // What is there is not fetched again.
    let mut memory = Memory::new();
    memory.add_image("base", &layers[..1], "{}");
    memory.add_image("v1", &layers, "{}");
    let memory = Arc::new(memory);
    fixture.pull(&memory, "r.example/a:base").await.unwrap();
    fixture.pull(&memory, "r.example/a:v1").await.unwrap();
    // Two configs and three layers, the base one once at most.
    assert!(memory.fetched.load(std::sync::atomic::Ordering::SeqCst) <= 2 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_share_layers() {
    let fixture = Fixture::new();
    let mut memory = Memory::new();
    let layers = three_layers();
    memory.add_image("v1", &layers, "{}");
    memory.add_image("v2", &layers, r#"{"User":"other"}"#);
    let memory = Arc::new(memory);
    let pulls =
        (0..20).map(|number| fixture.pull(&memory, if number % 2 == 0 { "r.example/a:v1" } else { "r.example/a:v2" }));
    let images = futures_util::future::join_all(pulls).await;
    assert!(images.iter().all(Result::is_ok));
    assert_eq!(fixture.store.images().len(), 2);
    // Twenty configs, and each layer once.
    assert_eq!(memory.fetched.load(std::sync::atomic::Ordering::SeqCst), 20 + 3);
    assert!(fixture.ingest_is_empty());
}

/// Who joins a transfer is not at the mercy of who began it.
#[tokio::test(flavor = "multi_thread")]
async fn a_joined_pull_goes_on_with_its_own_source() {
    let fixture = Fixture::new();
    let layers = three_layers();
    let stuck = {
        let mut memory = Memory::new();
        memory.add_image("v1", &layers, "{}");
        memory.broken = Some((Digest::sha256(&layers[1].blob), 300));
        Arc::new(memory)
    };
    let good = {
        let mut memory = Memory::new();
        memory.add_image("v1", &layers, "{}");
        Arc::new(memory)
    };
    let (first, second) = tokio::join!(fixture.pull(&stuck, "r.example/a:v1"), fixture.pull(&good, "r.example/a:v1"));
    assert!(second.is_ok(), "{second:?}");
    // Whoever came first, its own failure is its own unless the other was faster.
    drop(first);
    assert_eq!(fixture.store.images().len(), 1);
}

/// A source that is refused the manifest gets no image, although all of it is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_given_to_those_only_whose_source_names_it() {
    let fixture = Fixture::new();
    let mut memory = Memory::new();
    memory.add_image("v1", &three_layers(), "{}");
    fixture.pull(&Arc::new(memory), "r.example/a:v1").await.unwrap();
    let stranger = fixture.pull(&Arc::new(Memory::new()), "r.example/a:v1").await;
    assert!(matches!(stranger, Err(PullError::Manifest { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_stops_when_nobody_waits() {
    let fixture = Fixture::new();
    let mut memory = Memory::new();
    let layers = three_layers();
    memory.add_image("v1", &layers, "{}");
    memory.stuck = Some(Digest::sha256(&layers[1].blob));
    let memory = Arc::new(memory);
    let streams = memory.streams.clone();
    let open = || streams.load(std::sync::atomic::Ordering::SeqCst);
    let start = || {
        let (puller, memory) = (fixture.puller.clone(), memory.clone());
        tokio::spawn(async move {
            let reference = "r.example/a:v1".parse().unwrap();
            puller.pull(memory, &reference, &Platform::host(), &Progress::default()).await
        })
    };
    let (first, second) = (start(), start());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(open(), 1, "one transfer for both");
    first.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(open(), 1, "the other one still waits");
    second.abort();
    for _ in 0..100 {
        if open() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(open(), 0);
    assert!(fixture.ingest_is_empty());
    assert!(fixture.store.images().is_empty());
}
