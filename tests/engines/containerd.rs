//! containerd, by its own client ctr.

use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::bundle::{Called, wait_until};
use crate::place::{IMAGE, Place};

/// A containerd of a place.
#[derive(Debug)]
pub struct Daemon {
    pub place: Place,
    process: Child,
}

impl Daemon {
    pub fn start(name: &str) -> Option<Self> {
        let place = Place::new(name, &["containerd", "ctr", "containerd-shim-runc-v2", "script"])?;
        let at = |name: &str| place.text(name);
        let config = format!(
            r#"
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "ours"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.ours]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.ours.options]
        BinaryName = "{runc}"
"#,
            root = at("root-of-containerd"),
            state = at("state"),
            socket = at("containerd.sock"),
            cni = at("cni"),
            runc = place.runc(),
        );
        std::fs::write(place.path("config.toml"), config).unwrap();
        let log = std::fs::File::create(place.path("containerd.log")).unwrap();
        let mut command = place.command("containerd", &["--config", "config.toml"]);
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let daemon = Self { place, process };
        wait_until("containerd answers", || daemon.ctr(&["version"]).status.success());
        Some(daemon)
    }

    pub fn socket(&self) -> String {
        self.place.text("containerd.sock")
    }

    pub fn ctr(&self, arguments: &[&str]) -> Called {
        self.place.call("ctr", &[&["--address", &self.socket()], arguments].concat())
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let called = self.ctr(arguments);
        assert!(called.status.success(), "{called:#?}\n{}", self.log());
        called.stdout
    }

    /// `/k8s.io`, where pods have no cgroup parent of their own; it stays if another containerd has something there.
    pub fn remove_cgroups_of_pods(&self) {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for path in hierarchies.map(|entry| entry.path().join("k8s.io")).chain(["/sys/fs/cgroup/k8s.io".into()]) {
            let _ = std::fs::remove_dir(path);
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("containerd.log")).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its shims go by themselves with their containers, which the tests remove.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

#[test]
fn ctr_runs_containers() {
    let Some(daemon) = Daemon::start("ctr") else { return };
    daemon.ok(&["images", "import", "image.tar"]);
    let (runc, cgroup) = (daemon.place.runc(), format!("{}/c", daemon.place.cgroup));
    let own = ["run", "--runc-binary", &runc, "--snapshotter", "native", "--cgroup", &cgroup];
    let run = |more: &[&'static str]| -> Vec<&str> { [&own[..], more].concat() };

    let called = daemon.ctr(&run(&["--rm", IMAGE, "one", "sh", "-c", "echo out; id -u; exit 4"]));
    assert_eq!((called.status.code(), called.stdout.as_str()), (Some(4), "out\n0\n"), "{called:#?}");

    // A container that stays: exec, pause, processes, figures, signals.
    let script = "trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let log = daemon.place.text("out");
    let uri = format!("file://{log}");
    daemon
        .ok(&[&run(&["-d"])[..], &["--log-uri", &uri, IMAGE, "two", "sh", "-c", &format!("echo said; {script}")]]
            .concat());
    let called = daemon.ctr(&["tasks", "exec", "--exec-id", "e", "two", "sh", "-c", "echo in; exit 3"]);
    assert_eq!((called.status.code(), called.stdout.as_str()), (Some(3), "in\n"), "{called:#?}");
    wait_until("it has said something", || std::fs::read_to_string(&log).is_ok_and(|text| text == "said\n"));
    let status = || daemon.ok(&["tasks", "ls"]).lines().nth(1).unwrap_or_default().to_owned();
    daemon.ok(&["tasks", "pause", "two"]);
    assert!(status().contains("PAUSED"), "{}", status());
    daemon.ok(&["tasks", "resume", "two"]);
    assert!(status().contains("RUNNING"), "{}", status());
    assert!(daemon.ok(&["tasks", "ps", "two"]).lines().count() >= 2);
    assert!(daemon.ok(&["tasks", "metrics", "two"]).contains("memory.usage"), "no figures");
    daemon.ok(&["tasks", "kill", "--signal", "TERM", "two"]);
    wait_until("it has stopped", || status().contains("STOPPED"));
    let called = daemon.ctr(&["tasks", "rm", "two"]);
    assert!(called.status.success() && called.stderr.contains("exit code 7"), "{called:#?}");
    daemon.ok(&["containers", "rm", "two"]);

    // Terminals, limits, a program that is not there.
    let address = daemon.socket();
    let words = [&["--address", address.as_str()], &run(&["--rm", "-t", IMAGE, "three", "tty"])[..]].concat();
    let shown = daemon.place.on_terminal("ctr", &words);
    assert!(shown.ends_with("/dev/pts/0\n"), "{shown:?}");
    let script = "grep Seccomp: /proc/self/status";
    let words = ["--rm", "--seccomp", "--memory-limit", "20000000", "--cpus", "0.5", IMAGE, "four", "sh", "-c", script];
    assert_eq!(daemon.ok(&run(&words)), "Seccomp:\t2\n");
    let called = daemon.ctr(&run(&["--rm", IMAGE, "five", "/not/there"]));
    assert!(!called.status.success() && called.stderr.contains("no such file or directory"), "{called:#?}");
    assert_eq!(daemon.ok(&["containers", "ls", "-q"]), "");
    let left = daemon.place.call(&runc, &["--root", "/run/containerd/runc/default", "list", "-q"]).output();
    assert_eq!(left, "", "states are left");
}
