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
