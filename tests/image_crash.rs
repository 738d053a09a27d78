//! A pull that dies with its process, at a moment of its choice: nothing of it is visible afterwards, what was pulled before
//! is whole, and the next pull succeeds.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use orlop::image::digest::Digest;
use orlop::image::manifest::Descriptor;
use orlop::image::platform::Platform;
use orlop::image::pull::{BlobStream, Fetched, Progress, Puller, Source, SourceError};
use orlop::image::store::{Image, Store};
use orlop::image::unpack::Limits;

const STORE: &str = "ORLOP_TEST_CRASH_STORE";

/// An image of two layers, plain tar, whose source takes its time.
struct Slow {
    config: String,
    manifest: String,
    layers: Vec<Vec<u8>>,
    pause: Duration,
}

impl Slow {
    fn new(content: &str, pause: Duration) -> Self {
        let layers: Vec<Vec<u8>> = (0..2).map(|number| tar(&format!("{content}-{number}"))).collect();
        let quoted: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::sha256(layer))).collect();
        let config = format!(
            r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            Platform::host().architecture,
            quoted.join(",")
        );
        let descriptor = |kind: &str, bytes: &[u8]| {
            format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::sha256(bytes), bytes.len())
        };
        let entries: Vec<String> =
            layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
            entries.join(",")
        );
        Self { config, manifest, layers, pause }
    }
}

/// Two hundred files of 10 KB.
fn tar(content: &str) -> Vec<u8> {
    let mut tar = Vec::new();
    for number in 0..200 {
        let data = format!("{content} {number}\n").repeat(10_000 / (content.len() + 5));
        let mut head = [0_u8; 512];
        let fields = [
            (0, format!("dir/file-{number}")),
            (100, "0000644\0".into()),
            (124, format!("{:011o}\0", data.len())),
            (156, "0".into()),
            (257, "ustar\x0000".into()),
            (148, "        ".into()),
        ];
        for (at, text) in fields {
            head[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&head);
        tar.extend_from_slice(data.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

impl Source for Slow {
    fn manifest<'a>(&'a self, _target: &'a str, _accept: &'a [&'a str]) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        let digest = Digest::sha256(self.manifest.as_bytes());
        let fetched = Fetched { media_type: String::new(), digest, bytes: self.manifest.clone().into() };
        Box::pin(async move { Ok(fetched) })
    }

    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<BlobStream, SourceError>> {
        Box::pin(async move {
            let all = self.layers.iter().map(Vec::as_slice).chain([self.config.as_bytes()]);
            let blob = all.into_iter().find(|blob| Digest::sha256(blob) == descriptor.digest).ok_or("unknown blob")?;
            let chunks: Vec<Bytes> = blob.chunks(64 << 10).map(Bytes::copy_from_slice).collect();
            let pause = self.pause;
            let stream = futures_util::stream::iter(chunks).then(move |chunk| async move {
                tokio::time::sleep(pause).await;
                Ok(chunk)
            });
            Ok(stream.boxed())
        })
    }
}

fn pull(store: &Store, name: &str, source: Slow) -> Arc<Image> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let puller = Puller::new(store.clone(), Limits::default(), 2);
    let (progress, platform) = (Progress::default(), Platform::host());
    let reference = name.parse().expect("a reference");
    runtime.block_on(puller.pull(Arc::new(source), &reference, &platform, &progress)).expect("a pull")
}

/// The process that is killed. It does nothing unless [`STORE`] is set.
#[test]
fn child() {
    let Some(root) = std::env::var_os(STORE) else { return };
    let store = Store::open(Path::new(&root)).expect("a store");
    println!("open");
    pull(&store, "r.example/slow:1", Slow::new("slow", Duration::from_millis(5)));
    println!("pulled");
}

fn start(root: &Path) -> Child {
    let exe = std::env::current_exe().expect("this program");
    let mut command = Command::new(exe);
    command.args(["--exact", "child", "--nocapture"]).env(STORE, root).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("a child")
}

#[test]
fn a_killed_pull_leaves_nothing_visible() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("store");
    let before = {
        let store = Store::open(&root).expect("a store");
        pull(&store, "r.example/before:1", Slow::new("before", Duration::ZERO)).id.clone()
    };
    for millis in [0, 20, 60, 90, 120, 150, 180, 220, 300] {
        let mut child = start(&root);
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let store = Store::open(&root).expect("the store opens after a crash");
        assert!(store.report().dropped.is_empty(), "{:?}", store.report());
        let image = store.find("r.example/before:1").expect("what was pulled before");
        assert_eq!(image.id, before);
        for image in store.images() {
            // Whatever is visible is whole.
            for lower in image.lowers() {
                assert_eq!(std::fs::read_dir(lower.join("dir")).expect("a layer").count(), 200);
            }
        }
    }
    let store = Store::open(&root).expect("a store");
    let image = pull(&store, "r.example/slow:1", Slow::new("slow", Duration::ZERO));
    assert_eq!(store.images().len(), 2);
    store.remove(&image.id).expect("it can be removed");
    store.collect_garbage();
    let layers = std::fs::read_dir(root.join("layers/sha256")).expect("layers").count();
    assert_eq!(layers, 2, "only those of the image that is left");
}
