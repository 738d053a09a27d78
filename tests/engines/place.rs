//! Where an engine may do as it likes: private namespaces, a directory, a parent for cgroups, an image.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::bundle::{Called, able, finish, make_rootfs, skip};

/// The name of the image.
pub const IMAGE: &str = "localhost/busybox:1";

/// Made within the namespaces before anything else; then it is their init, which reaps. Nothing of the machine is beneath these mounts; the cgroups are the
/// machine's.
const STAGE: &str = "\
    mount --make-rslave / && mount --make-shared / && mount -t tmpfs -o mode=755 run /run && \
    for d in /var/lib/containers /var/lib/containerd /var/lib/cni /etc/cni; do \
        [ ! -d $d ] || mount -t tmpfs own $d || exit; \
    done && ip link set lo up && echo ready && \
    i=0 && while [ $i -lt 3000 ]; do sleep 0.2; i=$((i+1)); done";

#[derive(Debug)]
pub struct Place {
    pub directory: tempfile::TempDir,
    /// Of cgroups, below the root of each hierarchy; no other test has it.
    pub cgroup: String,
    /// Holds the namespaces, that of the processes too: what a failed test leaves behind ends with it.
    keeper: Child,
}

impl Place {
    /// `None`, and a line that says why, where these programs are not there.
    pub fn new(name: &str, programs: &[&str]) -> Option<Self> {
        if !able() {
            return None;
        }
        for program in programs.iter().chain(&["unshare", "nsenter", "ip", "tar", "setpriv"]) {
            let found = std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).exists()));
            if !found {
                skip(&format!("needs the program {program}"));
                return None;
            }
        }
        let directory = tempfile::Builder::new().prefix("orlop-engines-").tempdir().unwrap();
        // The name by which engines call it; a copy, for users to whom our build directory is closed.
        fs::create_dir(directory.path().join("bin")).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_orlop"), directory.path().join("bin/orlop"))
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_orlop"), directory.path().join("bin/orlop")).map(drop))
            .unwrap();
        symlink("orlop", directory.path().join("bin/runc")).unwrap();
        make_image(directory.path());
        let mut keeper = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["--propagation", "private", "sh", "-c", STAGE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the namespaces cannot be made");
        let cgroup = format!("/orlop-engines-{name}-{}", std::process::id());
        Some(Self { directory, cgroup, keeper })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As text, for arguments.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Our program under the name of runc.
    pub fn runc(&self) -> String {
        self.text("bin/runc")
    }

    /// A program within the namespaces.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        for (kind, file) in [("mount", "mnt"), ("net", "net"), ("pid", "pid_for_children")] {
            command.arg(format!("--{kind}=/proc/{}/ns/{file}", self.keeper.id()));
        }
        command.arg(format!("--wdns={}", self.directory.path().display()));
        command.arg("--").arg(program).args(arguments).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn call(&self, program: &str, arguments: &[&str]) -> Called {
        finish(self.command(program, arguments))
    }

    /// The same on a terminal, by script(1); what is shown there, without carriage returns.
    #[track_caller]
    pub fn on_terminal(&self, program: &str, arguments: &[&str]) -> String {
        let words = [&[program], arguments].concat();
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let called = self.call("script", &["--quiet", "--return", "--command", &quoted.join(" "), "/dev/null"]);
        assert!(called.status.success(), "{called:#?}");
        called.stdout.replace('\r', "")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            let path = hierarchy.join(self.cgroup.trim_start_matches('/'));
            // Its processes have been killed; it takes a moment until they are gone.
            for _ in 0..500 {
                remove_cgroup(&path);
                if !path.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// With those below.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// An image of busybox as an OCI layout (`layout`), and as an archive of it (`image.tar`).
fn make_image(directory: &Path) {
    let root = directory.join("root");
    make_rootfs(&root);
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
    let layout = directory.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let tar = |from: &Path| {
        let mut command = Command::new("tar");
        command.args(["--owner=0", "--group=0", "--numeric-owner", "-C"]).arg(from).args(["-cf", "-", "."]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let put = |kind: &str, bytes: &[u8]| {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).unwrap();
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let layer = put("layer.v1.tar", &tar(&root));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        // Also what a pod's sandbox runs.
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sleep", "1000"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        "history": [{ "created_by": "orlop's tests" }],
    });
    let config = put("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    let mut manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": IMAGE, "io.containerd.image.name": IMAGE });
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()).unwrap();
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    fs::write(directory.join("image.tar"), tar(&layout)).unwrap();
}
