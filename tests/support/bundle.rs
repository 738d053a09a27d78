//! An OCI bundle made by a test, and `orlop runtime` to run it with, as an engine would.
//!
//! For a test target of its own: `#[path = "../support/bundle.rs"] mod bundle;`. A bundle lives in a directory that
//! goes away with it, has its own directory of states and its own cgroup, and is deleted (`delete --force`) when it is
//! dropped. `ORLOP_TEST_RUNTIME=/usr/bin/crun` runs the same tests with another runtime, to see whether the test or the
//! runtime is wrong.
#![allow(dead_code, clippy::unwrap_used)] // No test target uses all of it; and all of it is test code.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";

/// How long a call of the runtime may take before it is killed and the test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// The applets that a bundle has links for.
const APPLETS: &str = "sh cat ls id echo mkdir mount umount touch stat readlink sleep true false ln rm pwd grep hostname \
    env mknod dd wc test printf head tail kill tty stty nproc chmod chown seq sed sysctl cut sort tr ip nice chrt ionice \
    taskset date dnsdomainname find ps mkfifo mountpoint df od xargs uname which awk nc ping rmdir mv cp ipcs";

/// A root file system with busybox, and a specification that the test changes.
#[derive(Debug)]
pub struct Bundle {
    pub directory: tempfile::TempDir,
    /// The container's id, which no other test has.
    pub id: String,
    /// What `config.json` is written from, at each call of the runtime.
    pub config: Value,
    /// More arguments before the verb (`--systemd-cgroup`).
    pub global: Vec<String>,
    /// More arguments of `create` and `run` (`--no-pivot`).
    pub options: Vec<String>,
    /// A command and its arguments that the runtime is run by (`nsenter --net=…`).
    pub prefix: Vec<String>,
    /// The environment of the runtime, beside the test's.
    pub environment: Vec<(String, String)>,
}

/// What a call of the runtime came to.
#[derive(Debug)]
pub struct Called {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Called {
    /// The output of a call that succeeded and had nothing to complain of.
    #[track_caller]
    pub fn output(self) -> String {
        assert!(self.status.success() && self.stderr.is_empty(), "{self:#?}");
        self.stdout
    }

    /// What a call said that failed.
    #[track_caller]
    pub fn failed(self) -> String {
        assert!(!self.status.success(), "it did not fail: {self:#?}");
        self.stderr
    }
}

/// Says why a test is left out.
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether containers can be run here at all; says so where not.
pub fn able() -> bool {
    if !rustix::process::getuid().is_root() {
        skip("needs root");
        return false;
    }
    if !Path::new(BUSYBOX).exists() {
        skip("needs /bin/busybox (Debian's package busybox-static)");
        return false;
    }
    true
}

impl Bundle {
    /// What `sh -c script` is run in, as root with few capabilities, in namespaces of its own (no user or time
    /// namespace), with the mounts, masked paths and read-only paths that engines ask for. `None` (and a line that says
    /// why) where no container can be run.
    pub fn new(name: &str, script: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !able() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        make_rootfs(&directory.path().join("rootfs"));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("orlop-test-{name}-{}-{number}", std::process::id());
        let config = config(script, &id);
        let (prefix, global, options) = (Vec::new(), Vec::new(), Vec::new());
        Some(Self { directory, id, config, global, options, prefix, environment: Vec::new() })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// A directory (made with its parents) in the root file system.
    pub fn directory_inside(&self, path: &str) -> PathBuf {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn process(&mut self) -> &mut Value {
        &mut self.config["process"]
    }

    pub fn linux(&mut self) -> &mut Value {
        &mut self.config["linux"]
    }

    pub fn script(&mut self, script: &str) {
        self.config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    }

    /// A mount more, after the usual ones.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        let mount = json!({ "destination": destination, "type": kind, "source": source, "options": options });
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Takes a usual mount away.
    pub fn unmount(&mut self, destination: &str) {
        self.config["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != destination);
    }

    /// Puts `namespace` (`{"type": …, "path": …}`) in the place of the one of its type.
    pub fn namespace(&mut self, namespace: Value) {
        self.no_namespace(namespace["type"].as_str().unwrap());
        self.config["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
    }

    /// The container shares the host's namespace of this type.
    pub fn no_namespace(&mut self, kind: &str) {
        self.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != kind);
    }

    /// In all sets but the ambient one.
    pub fn capabilities(&mut self, names: &[&str]) {
        for set in ["bounding", "effective", "permitted"] {
            self.config["process"]["capabilities"][set] = json!(names);
        }
    }

    pub fn write_config(&self) {
        fs::write(self.path().join("config.json"), serde_json::to_vec_pretty(&self.config).unwrap()).unwrap();
    }

    /// `orlop runtime` with its state in the bundle's directory; `config.json` is written anew.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.write_config();
        let program = match std::env::var("ORLOP_TEST_RUNTIME") {
            Ok(other) => vec![other],
            Err(_) => vec![env!("CARGO_BIN_EXE_orlop").to_owned(), "runtime".to_owned()],
        };
        let mut words = self.prefix.iter().chain(&program);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("--root").arg(self.path().join("state"));
        command.args(&self.global).args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A call to its end, and to the end of what it writes; killed after a minute.
    #[track_caller]
    pub fn call(&self, arguments: &[&str]) -> Called {
        finish(self.command(arguments))
    }

    /// The output of a call that must succeed in silence.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.call(arguments).output()
    }

    /// What a call says that must fail.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> String {
        self.call(arguments).failed()
    }

    /// `verb`, the bundle's options, and the id.
    fn with_options<'a>(&'a self, verb: &[&'a str]) -> Vec<&'a str> {
        verb.iter().copied().chain(self.options.iter().map(String::as_str)).chain([self.id.as_str()]).collect()
    }

    /// Runs the container to its end.
    #[track_caller]
    pub fn run(&self) -> Called {
        self.call(&self.with_options(&["run"]))
    }

    /// The output of a container whose program succeeds.
    #[track_caller]
    pub fn output(&self) -> String {
        self.run().output()
    }

    /// The error of a container that cannot be made. It leaves nothing behind.
    #[track_caller]
    pub fn fails(&self) -> String {
        let text = self.run().failed();
        self.nothing_left();
        text
    }

    /// Makes the container; it waits for [`Bundle::start`]. Its program writes to nowhere. Returns its pid.
    #[track_caller]
    pub fn create(&self) -> i32 {
        self.begin(&["create", "--pid-file", "pid"])
    }

    /// Starts what [`Bundle::create`] made.
    #[track_caller]
    pub fn start(&self) {
        self.ok(&["start", &self.id]);
    }

    /// Runs the container in the background. Its program writes to nowhere. Returns its pid.
    #[track_caller]
    pub fn run_detached(&self) -> i32 {
        self.begin(&["run", "--detach", "--pid-file", "pid"])
    }

    #[track_caller]
    fn begin(&self, verb: &[&str]) -> i32 {
        let mut command = self.command(&self.with_options(verb));
        // What it writes goes to a file, since the container keeps it open.
        let errors = self.path().join("begin.stderr");
        command.stdout(Stdio::null()).stderr(fs::File::create(&errors).unwrap());
        let status = command.status().unwrap();
        assert!(status.success(), "{verb:?}: {status}: {}", fs::read_to_string(errors).unwrap());
        fs::read_to_string(self.path().join("pid")).unwrap().trim().parse().unwrap()
    }

    /// `exec` with a command, to its end.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> Called {
        self.call(&[&["exec", self.id.as_str()], command].concat())
    }

    /// `exec` of a process in JSON, to its end.
    #[track_caller]
    pub fn exec_process(&self, process: &Value) -> Called {
        fs::write(self.path().join("process.json"), process.to_string()).unwrap();
        self.call(&["exec", "--process", "process.json", &self.id])
    }

    /// What `state` prints.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    /// The `status` of the state.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    /// Waits for a status, for ten seconds.
    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        wait_until(&format!("the container is {status}"), || self.status() == status);
    }

    /// The cgroups of the container that are there, in all hierarchies.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
        let below = entries.map(|e| e.unwrap().path().join(&self.id));
        below.chain([root.join(&self.id)]).filter(|path| path.exists()).collect()
    }

    /// No cgroup and no state of the container is there any more.
    #[track_caller]
    pub fn nothing_left(&self) {
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        assert!(!self.path().join("state").join(&self.id).exists());
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let mut command = self.command(&["delete", "--force", &self.id]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Runs a command to its end and to the end of its output; after a minute it is killed, and the test fails.
#[track_caller]
pub fn finish(mut command: Command) -> Called {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        let mut pipe = pipe.unwrap();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|p| Box::new(p) as _));
    let stderr = read(child.stderr.take().map(|p| Box::new(p) as _));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Called { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Waits until something is so, for ten seconds.
#[track_caller]
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Busybox with its applets, and the directories that a root file system has.
pub fn make_rootfs(root: &Path) {
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_ascii_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    fs::write(root.join("etc/passwd"), users).unwrap();
}

/// The specification of [`Bundle::new`].
pub fn config(script: &str, id: &str) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.3.0",
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
            "cgroupsPath": format!("/{id}"),
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "network" }, { "type": "cgroup" },
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi",
                "/proc/acpi", "/not/there"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
