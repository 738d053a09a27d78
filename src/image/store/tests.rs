use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::image::test_layers::Tar;
use crate::image::unpack::{self, Expected, Limits};

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn open(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }
}

/// Unpacks a layer into the store.
fn layer(store: &Store, tar: Tar) -> (Digest, Lease) {
    let tar = tar.end();
    let diff_id = Digest::sha256(&tar);
    let expected = Expected { digest: diff_id.clone(), size: tar.len() as u64, diff_id: diff_id.clone() };
    let ingest = store.begin_layer(&diff_id).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (unpacked, ingest) = runtime.block_on(async {
        let mut job = unpack::start(ingest.dir().unwrap(), expected, Limits::default(), ingest).unwrap();
        job.push(Bytes::from(tar)).await.unwrap();
        job.finish().await.unwrap()
    });
    let lease = ingest.commit(&unpacked).unwrap();
    (diff_id, lease)
}

/// Adds an image of the given layers under a tag.
fn image(store: &Store, name: &str, layers: Vec<(Digest, Lease)>) -> Arc<Image> {
    let mut lease = store.empty_lease();
    let mut image_layers = Vec::new();
    for (diff_id, kept) in layers {
        lease.merge(kept);
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        image_layers.push(ImageLayer { digest: diff_id.clone(), diff_id, media_type, size: 1 });
    }
    let diff_ids: Vec<String> = image_layers.iter().map(|layer| format!("\"{}\"", layer.diff_id)).collect();
    let config = format!(
        r#"{{"os":"linux","created":"2026-01-01T00:00:00Z","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let manifest = format!(r#"{{"of":"{name}","config":"{}"}}"#, Digest::sha256(config.as_bytes())).into_bytes();
    let new = NewImage {
        config: config.into_bytes(),
        layers: image_layers,
        documents: vec![(Digest::sha256(&manifest), manifest)],
        reference: Some(name.parse().unwrap()),
        lease,
    };
    store.commit_image(new).unwrap()
}

fn one(store: &Store, name: &str, content: &str) -> Arc<Image> {
    let layer = layer(store, Tar::new().file("f", content.as_bytes()));
    image(store, name, vec![layer])
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not happen");
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn finds_images_by_every_name() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let first = one(&store, "nginx:1", "one");
    let second = one(&store, "reg.example/app", "two");
    let digest = first.repo_digests[0].split_once('@').unwrap().1.to_owned();
    for query in [
        "nginx:1".to_owned(),
        "docker.io/library/nginx:1".to_owned(),
        first.id.to_string(),
        first.id.hex().to_owned(),
        first.id.hex()[..12].to_owned(),
        format!("sha256:{}", &first.id.hex()[..12]),
        format!("nginx@{digest}"),
        format!("nginx:any@{digest}"),
        format!(" {}\n", first.id),
    ] {
        assert_eq!(store.find(&query).map(|image| image.id.clone()), Some(first.id.clone()), "{query}");
    }
    assert_eq!(store.find("reg.example/app:latest").unwrap().id, second.id);
    let other = format!("reg.example/other@{digest}");
    for query in ["nginx", "nginx:2", "", "sha256:", &first.id.hex()[..6], &other, "../../etc", &"0".repeat(64)] {
        assert!(store.find(query).is_none(), "{query}");
    }
    assert_eq!(store.images().len(), 2);
}

#[test]
fn survives_being_closed() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let before = one(&store, "a:1", "one");
    let usage = store.usage();
    assert!(matches!(Store::open(&fixture.root()), Err(StoreError::InUse(_))));
    drop(store);
    let store = fixture.open();
    let after = store.find("a:1").unwrap();
    assert_eq!(
        (&after.id, &after.layers, after.size, after.pulled),
        (&before.id, &before.layers, before.size, before.pulled)
    );
    assert_eq!(store.usage(), usage);
    assert_eq!(fs::read(after.lowers()[0].join("f")).unwrap(), b"one");
    let report = store.report();
    assert_eq!((report.images, report.layers, report.leftovers, report.unclean), (1, 1, 0, false));
    assert!(report.dropped.is_empty());
    assert!(!store.blob(&after.documents[0]).unwrap().is_empty());
    let record = fs::read_to_string(fixture.root().join(format!("images/{}.json", after.id.hex()))).unwrap();
    assert!(
        record.contains("docker.io/library/a:1") && record.contains("2026-01-01T00:00:00Z") && record.contains('\n')
    );
    assert_eq!(fs::metadata(fixture.root()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_was_cut_off_is_cleared_away() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let kept = one(&store, "kept:1", "kept");
    let broken = one(&store, "broken:1", "broken");
    let damaged = one(&store, "damaged:1", "damaged");
    let orphan = layer(&store, Tar::new().file("orphan", b""));
    drop((store, orphan));
    let root = fixture.root();
    fs::create_dir_all(root.join("ingest/half/diff/etc")).unwrap();
    fs::write(root.join("ingest/half/diff/etc/x"), "x").unwrap();
    fs::write(root.join("ingest/record"), "{").unwrap();
    fs::remove_file(root.join("layers/sha256").join(broken.layers[0].diff_id.hex()).join("layer.json")).unwrap();
    fs::write(root.join("blobs/sha256").join(damaged.id.hex()), "{}").unwrap();
    fs::write(root.join("images/torn.json"), "{\"id\":").unwrap();
    fs::write(root.join("boot"), "an-earlier-boot open\n").unwrap();

    let store = fixture.open();
    let report = store.report();
    assert!(report.unclean);
    assert_eq!((report.images, report.leftovers, report.dropped.len()), (1, 2, 4), "{report:?}");
    assert_eq!(store.images()[0].id, kept.id);
    wait_for("the ingest is empty", || is_empty(&root.join("ingest")));
    // A pull makes again what was dropped.
    let again = one(&store, "broken:1", "broken");
    assert_eq!(fs::read(again.lowers()[0].join("f")).unwrap(), b"broken");
    store.collect_garbage();
    wait_for("unused layers are gone", || fs::read_dir(root.join("layers/sha256")).unwrap().count() == 2);
    assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 4);
}

#[test]
fn layers_are_shared_and_counted_once() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let base = || layer(&store, Tar::new().file("base", &[b'b'; 100_000]));
    let first = image(&store, "a:1", vec![base()]);
    let alone = store.usage();
    let second = image(&store, "b:1", vec![base(), layer(&store, Tar::new().file("top", b"t"))]);
    // One more layer, a record, a config and a manifest.
    assert_eq!(store.usage().bytes - alone.bytes, 2 * 4096 + 3 * 4096);
    assert_eq!(first.lowers()[0], second.lowers()[1]);
    assert!(second.size > 100_000);

    assert!(store.remove(&first.id).unwrap());
    assert!(!store.remove(&first.id).unwrap());
    assert!(second.lowers()[1].join("base").exists());
    assert!(store.find("a:1").is_none());
    let lowers = second.lowers();
    store.remove(&second.id).unwrap();
    assert!(lowers.iter().all(|lower| !lower.exists()));
    assert_eq!(store.usage(), Usage::default());
    wait_for("all is deleted", || is_empty(&fixture.root().join("ingest")));
    assert!(is_empty(&fixture.root().join("layers/sha256")) && is_empty(&fixture.root().join("blobs/sha256")));
}

#[test]
fn leases_keep_the_layers_of_running_containers() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let image = one(&store, "a:1", "one");
    let (lease, second) = (store.lease(&image).unwrap(), store.lease(&image).unwrap());
    let lower = image.lowers().remove(0);
    store.remove(&image.id).unwrap();
    store.collect_garbage();
    drop(second);
    assert!(lower.join("f").exists() && store.find("a:1").is_none());
    let diff_ids = image.diff_ids();
    drop((store, lease));

    // After a restart the container's record names the layers.
    let store = fixture.open();
    let lease = store.lease_layers(&diff_ids).unwrap();
    store.collect_garbage();
    assert!(lower.join("f").exists());
    // An image that has the layer again is one more reason to keep it.
    let again = one(&store, "a:2", "one");
    drop(lease);
    assert!(lower.join("f").exists());
    let lease = store.lease(&again).unwrap();
    store.remove(&again.id).unwrap();
    assert!(lower.exists());
    lease.release();
    assert!(!lower.exists());
    assert!(matches!(store.lease(&again), Err(StoreError::NoLayer(_))));
}

#[test]
fn a_tag_moves_to_the_image_pulled_last() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let old = one(&store, "a:1", "old");
    let new = one(&store, "a:1", "new");
    assert_eq!(store.find("a:1").unwrap().id, new.id);
    let old = store.get(&old.id).unwrap();
    assert!(old.tags.is_empty() && old.repo_digests.len() == 1);
    assert_eq!(store.find(&old.repo_digests[0]).unwrap().id, old.id);
    // A second name for the same image.
    let more = one(&store, "b:2", "new");
    assert_eq!(more.id, new.id);
    assert_eq!((more.tags.len(), more.repo_digests.len(), more.documents.len()), (2, 2, 2));
    drop(store);
    let store = fixture.open();
    assert_eq!(store.find("a:1").unwrap().id, new.id);
    assert_eq!(store.find("b:2").unwrap().id, new.id);
    store.remove(&new.id).unwrap();
    assert!(store.find("a:1").is_none() && store.find("b:2").is_none());
    assert_eq!(store.images().len(), 1);
}

/// A crash between the two records of a moved tag leaves it in both.
#[test]
fn a_name_in_two_records_belongs_to_the_later_one() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let old = one(&store, "a:1", "old");
    let record = fixture.root().join(format!("images/{}.json", old.id.hex()));
    let text = fs::read_to_string(&record).unwrap();
    let new = one(&store, "a:1", "new");
    drop(store);
    let stamp = |record: &Path, text: &str, pulled: i64| {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["pulled"] = pulled.into();
        fs::write(record, value.to_string()).unwrap();
    };
    stamp(&record, &text, 5);
    let store = fixture.open();
    assert_eq!(store.find("a:1").unwrap().id, new.id);
    assert!(store.get(&old.id).unwrap().tags.is_empty());
}

#[test]
fn lowers_have_each_directory_once() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let same = || layer(&store, Tar::new().file("same", b"1"));
    let empty = || layer(&store, Tar::new());
    let other = layer(&store, Tar::new().file("other", b"1"));
    let repeated = image(&store, "repeated:1", vec![same(), empty(), other, same(), empty()]);
    let names: Vec<bool> = repeated.lowers().iter().map(|lower| lower.join("same").exists()).collect();
    assert_eq!(names, [true, false]);
    let hidden = layer(&store, Tar::new().file("hidden", b"1"));
    let opaque = layer(&store, Tar::new().file(".wh..wh..opq", b"").file("top", b""));
    let cut = image(&store, "opaque:1", vec![hidden, opaque]);
    assert_eq!(cut.lowers().len(), 1);
    assert!(cut.lowers()[0].join("top").exists());
    let scratch = image(&store, "scratch:1", vec![]);
    assert_eq!(scratch.lowers(), [fixture.root().canonicalize().unwrap().join("empty")]);
    assert!(scratch.size > 0);
    drop(store);
    assert_eq!(fixture.open().find("opaque:1").unwrap().lowers().len(), 1);
}

#[test]
fn pinned_images_are_marked() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let pause = one(&store, "registry.k8s.io/pause:3.10", "pause");
    assert!(!pause.pinned);
    store.set_pinned(&["registry.k8s.io/pause*".to_owned(), "nginx".to_owned()]);
    assert!(store.get(&pause.id).unwrap().pinned);
    assert!(one(&store, "nginx", "nginx").pinned);
    assert!(!one(&store, "nginx:2", "nginx2").pinned);
    store.set_pinned(&[]);
    assert!(store.images().iter().all(|image| !image.pinned));
}

#[test]
fn many_at_once() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let store = store.clone();
            std::thread::spawn(move || {
                for round in 0..5 {
                    let shared = layer(&store, Tar::new().file("shared", b"shared"));
                    let own = layer(&store, Tar::new().file("own", format!("{number}").as_bytes()));
                    let image = image(&store, &format!("i{number}:{round}"), vec![shared, own]);
                    let lease = store.lease(&image).unwrap();
                    store.remove(&image.id).unwrap();
                    assert!(image.lowers().iter().all(|lower| lower.exists()));
                    drop(lease);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    store.collect_garbage();
    assert_eq!(store.usage(), Usage::default());
    wait_for("all is deleted", || is_empty(&fixture.root().join("ingest")));
    assert!(is_empty(&fixture.root().join("layers/sha256")));
}
