//! A small image made of Debian's static busybox.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::agent::run;
use super::registry::TestRegistry;

/// An image: the text of its config, and its layers as plain tar, the lowest first.
#[derive(Clone, Debug)]
pub struct TestImage {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl TestImage {
    /// What CRI calls the image's id.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// Pushes it, and gives the name to pull it by.
    pub async fn push(&self, registry: &TestRegistry, path: &str, tag: &str) -> String {
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let layers: Vec<_> = self.layers.iter().map(|layer| (kind, layer.as_slice())).collect();
        registry.push_image(path, tag, &self.config, &layers).await;
        format!("{}/{path}:{tag}", registry.host())
    }
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Busybox with the usual directories, two users, and what `config` adds to the image's config.
pub fn busybox(config: serde_json::Value) -> TestImage {
    let stage = tempfile::tempdir().unwrap();
    let root = stage.path();
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var/www", "data/sub"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's busybox-static");
    for name in run(Command::new("/bin/busybox").arg("--list")).lines() {
        if name != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/var/www:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\nextra:x:2000:web\n").unwrap();
    fs::write(root.join("var/www/index.html"), "hello from orlop\n").unwrap();
    fs::write(root.join("data/sub/file"), "from the image\n").unwrap();
    layered(&[tar(root)], config)
}

/// A tar of a directory's content, owned by root.
pub fn tar(root: &Path) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C"]).arg(root).args(["-cf", "-", "."]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An image of plain tar layers, the lowest first.
pub fn layered(layers: &[Vec<u8>], config: serde_json::Value) -> TestImage {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let document = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    TestImage { config: serde_json::to_vec(&document).unwrap(), layers: layers.to_vec() }
}
