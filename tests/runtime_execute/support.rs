//! Bundles with busybox, and a process without threads to start them from.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use oci_spec::runtime::Spec;
use orlop::runtime::compile::{self, HostFacts};
use orlop::runtime::execute::{Attached, Notice, Report, Spawned, Stdio3, go_on, read_status, spawn};
use orlop::runtime::plan::{Plan, RootSource, SpawnHeader};
use serde_json::{Value, json};

const INSIDE: &str = "ORLOP_TEST_SINGLE_THREADED";
const BUSYBOX: &str = "/bin/busybox";

/// Runs `body` in a process of its own that has one thread, as the executor demands of its callers.
pub fn alone(test: &str, body: impl FnOnce()) {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    if !Path::new(BUSYBOX).exists() {
        eprintln!("skipped: needs {BUSYBOX} (package busybox-static)");
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        assert!(crate::sys::in_child(body));
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--test-threads=1", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("1 passed"), "{test}:\n{text}");
}

/// A root file system with busybox, and a specification to change.
pub struct Bundle {
    pub directory: tempfile::TempDir,
    pub spec: Value,
    pub host: HostFacts,
}

/// What came of a start.
#[derive(Debug)]
pub struct Outcome {
    pub failure: Option<Notice>,
    pub warnings: Vec<Notice>,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Bundle {
    /// What a shell command is run in.
    pub fn shell(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        let applets = "sh cat ls id echo mkdir mount umount touch stat readlink sleep true ln rm pwd grep hostname env \
            mknod dd wc test printf head kill tty stty nproc chmod seq sed sysctl";
        for applet in applets.split_ascii_whitespace() {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
            .unwrap();
        let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]);
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "hostname": "inside",
            "process": {
                "args": ["/bin/sh", "-c", script],
                "cwd": "/",
                "env": ["PATH=/bin:/usr/bin"],
                "user": { "uid": 0, "gid": 0 },
                "noNewPrivileges": true,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                    "inheritable": [], "ambient": [],
                },
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                  "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                  "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"] },
            ],
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "network" }, { "type": "cgroup" },
                ],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi",
                    "/proc/acpi", "/not/there"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        Self { directory, spec, host: HostFacts::default() }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub fn process(&mut self) -> &mut Value {
        &mut self.spec["process"]
    }

    pub fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// An overlay with the root file system as its only lower layer.
    pub fn overlay(&self, volatile: bool) -> RootSource {
        let layer = |name: &str| {
            let path = self.directory.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path.into_os_string().into_encoded_bytes()
        };
        RootSource::Overlay {
            lowers: vec![layer("top"), layer("rootfs")],
            upper: layer("upper"),
            work: layer("work"),
            volatile,
            options: Vec::new(),
        }
    }

    pub fn compile(&self, root: RootSource) -> (SpawnHeader, Plan) {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        let (header, plan) = compile::container(&spec, root, &self.host).unwrap();
        (header, Plan::Launch(Box::new(plan)))
    }

    pub fn run(&self) -> Outcome {
        let root = RootSource::Directory(self.rootfs().into_os_string().into_encoded_bytes());
        self.run_with(root)
    }

    pub fn run_with(&self, root: RootSource) -> Outcome {
        let (header, plan) = self.compile(root);
        start(&header, &plan, Attached::default()).finish()
    }

    /// Starts it and leaves it running.
    pub fn start(&self) -> Running {
        let root = RootSource::Directory(self.rootfs().into_os_string().into_encoded_bytes());
        let (header, plan) = self.compile(root);
        start(&header, &plan, Attached::default())
    }

    /// Runs a command in a container of this bundle.
    pub fn exec(&self, init: BorrowedFd<'_>, process: Value) -> Outcome {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        let process = serde_json::from_value(process).unwrap();
        let (header, plan) = compile::process(&spec, &process, &self.host).unwrap();
        let fds = Attached { target: Some(init), ..Attached::default() };
        start(&header, &Plan::Exec(Box::new(plan)), fds).finish()
    }
}

/// A process that was spawned, with the ends of its pipes.
pub struct Running {
    pub spawned: Spawned,
    /// Whom to reap.
    pid: std::cell::Cell<i32>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// Closed by [`Running::finish`].
    pub stdin: Option<OwnedFd>,
}

pub fn memfd(plan: &Plan) -> OwnedFd {
    let fd = rustix::fs::memfd_create("plan", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, &plan.encode().unwrap()).unwrap();
    fd
}

pub fn start(header: &SpawnHeader, plan: &Plan, fds: Attached<'_>) -> Running {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) = (pipe(), pipe(), pipe());
    let io = Stdio3 { stdin: in_read.as_fd(), stdout: out_write.as_fd(), stderr: err_write.as_fd() };
    let memfd = memfd(plan);
    let spawned = spawn(header, memfd.as_fd(), io, fds).unwrap();
    let pid = std::cell::Cell::new(spawned.pid);
    Running { spawned, pid, stdout: out_read, stderr: err_read, stdin: Some(in_write) }
}

impl Running {
    /// Until the program runs, or does not.
    pub fn settle(&self) -> (Vec<Notice>, Option<Notice>) {
        let mut warnings = Vec::new();
        loop {
            match read_status(self.spawned.status.as_fd()).unwrap() {
                Report::Warning(notice) => warnings.push(notice),
                Report::Failure(notice) => return (warnings, Some(notice)),
                Report::End => return (warnings, None),
                Report::Hooks => go_on(self.spawned.status.as_fd()).unwrap(),
                Report::Listener(_) => panic!("no profile here has a listener"),
                Report::Ready | Report::Console(_) => {}
                // An exec's first process was to get it there.
                Report::Init { pid, .. } => drop(reap(self.pid.replace(pid))),
            }
        }
    }

    pub fn finish(mut self) -> Outcome {
        drop(self.stdin.take());
        let (warnings, failure) = self.settle();
        let read = |fd: OwnedFd| {
            let mut text = Vec::new();
            fs::File::from(fd).read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        };
        let (stdout, stderr) = (read(self.stdout), read(self.stderr));
        let status = reap(self.pid.get());
        Outcome { failure, warnings, status, stdout, stderr }
    }

    pub fn kill(self) {
        let pid = rustix::process::Pid::from_raw(self.spawned.pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        reap(self.spawned.pid);
    }
}

fn reap(pid: i32) -> ExitStatus {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    ExitStatus::from_raw(status.as_raw())
}

impl Outcome {
    /// The output of a program that succeeded.
    #[track_caller]
    pub fn output(self) -> String {
        assert!(self.failure.is_none() && self.status.success() && self.stderr.is_empty(), "{self:#?}");
        self.stdout
    }

    #[track_caller]
    pub fn failed(self) -> String {
        let code = self.status.code();
        let Some(failure) = self.failure else { panic!("it did start: {self:#?}") };
        assert_eq!(code, Some(255));
        failure.to_string()
    }
}
