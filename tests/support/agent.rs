//! A real agent in a network namespace of its own, with its own directories, for tests of the whole.
//!
//! The namespace has nothing but loopback, on which a registry of the test listens too, so no test touches the
//! machine's network. Everything is removed when the value is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use orlop::cri::v1;
use orlop::cri::v1::image_service_client::ImageServiceClient;
use orlop::cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint, Uri};

/// Runs a test in a network namespace of its own, loopback up, with all that it starts.
pub fn in_netns<F: std::future::Future>(test: impl FnOnce() -> F) -> F::Output {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
    // One thread: every connection and every child is of this namespace.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test())
}

/// Runs a command that must succeed, and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An agent and what belongs to it.
#[derive(Debug)]
pub struct Agent {
    pub dir: PathBuf,
    child: Option<Child>,
}

impl Agent {
    /// Starts an agent with the built-in network. `extra` is added to its configuration.
    pub async fn start(extra: &str) -> Self {
        Self::start_with(&format!("kind = \"builtin\"\n{extra}")).await
    }

    /// Starts an agent with this as its `[network]` section, and what comes after it.
    pub async fn start_with(network: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orlop-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // On a disk that is no overlay itself: an overlay's upper directory cannot be on one.
        let base = std::env::var_os("ORLOP_TEST_DIR").unwrap_or_else(|| "/var/tmp".into());
        let dir = Path::new(&base).join(name);
        fs::create_dir_all(&dir).unwrap();
        let driver = if systemd() { "[runtime]\ncgroup_driver = \"systemd\"\n" } else { "" };
        let config = format!(
            "{driver}[paths]\nroot = \"{dir}/root\"\nstate = \"{dir}/run\"\nsocket = \"{dir}/orlop.sock\"\n\
             [metrics]\naddress = \"\"\n[network]\n{network}\n",
            dir = dir.display()
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let mut agent = Self { dir, child: None };
        agent.spawn().await;
        agent
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("orlop.sock")
    }

    /// Starts the process and waits until it answers.
    pub async fn spawn(&mut self) {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.dir.join("agent.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_orlop"))
            .args(["serve", "--config"])
            .arg(self.dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(mut client) = self.try_runtime().await
                && client.version(v1::VersionRequest::default()).await.is_ok()
            {
                return;
            }
            assert!(Instant::now() < deadline, "the agent does not answer; it says:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The process of the agent.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map(Child::id).unwrap()
    }

    /// `kill -9`, and waits until it is dead.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// `kill -9` and a new start.
    pub async fn restart(&mut self) {
        self.kill();
        self.spawn().await;
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let socket = self.socket();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connect).await
    }

    async fn try_runtime(&self) -> Result<RuntimeServiceClient<Channel>, tonic::transport::Error> {
        Ok(RuntimeServiceClient::new(self.channel().await?).max_decoding_message_size(16 << 20))
    }

    pub async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.try_runtime().await.unwrap()
    }

    pub async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await.unwrap()).max_decoding_message_size(16 << 20)
    }

    /// What is left on the machine of this agent's pods: mounts, cgroups, links, shims, files of state.
    pub fn leftovers(&self) -> Vec<String> {
        let dir = self.dir.display().to_string();
        let mut left = Vec::new();
        // Of this thread: some tests have a mount namespace of their own.
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount: {line}")));
        let links = run(Command::new("ip").args(["-o", "link"]));
        left.extend(links.lines().filter(|line| line.contains("veth")).map(|line| format!("link: {line}")));
        let handlers = fs::read_dir(self.dir.join("run/handlers")).into_iter().flatten().flatten();
        let mut dirs: Vec<PathBuf> = handlers.map(|entry| entry.path()).collect();
        dirs.extend(["run/pods", "run/containers", "root/pods", "root/containers"].map(|sub| self.dir.join(sub)));
        for sub in dirs {
            let entries = fs::read_dir(sub).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("file: {}", entry.path().display())));
        }
        left.extend(cgroups_under(&self.cgroup()).into_iter().map(|path| format!("cgroup: {}", path.display())));
        left
    }

    /// Nothing of a pod is left, once the kernel has cleared away what goes by itself. Links of namespaces that are ready
    /// for the next pods are no leftovers.
    pub async fn assert_clean(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut left = self.leftovers();
            left.retain(|what| !what.starts_with("link"));
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left over: {left:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The cgroup parent for pods of this agent's tests.
    pub fn cgroup(&self) -> String {
        let name = self.dir.file_name().unwrap().to_string_lossy().into_owned();
        if systemd() { slice(&name) } else { format!("/{name}") }
    }
}

/// Whether the agents are to have their cgroups made by systemd (`ORLOP_TEST_CGROUP_DRIVER=systemd`).
pub fn systemd() -> bool {
    std::env::var_os("ORLOP_TEST_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// The cgroup of the pod `name` below that of an agent.
pub fn cgroup_of_pod(agent: &str, name: &str) -> String {
    match agent.rsplit('/').next().and_then(|last| last.strip_suffix(".slice")) {
        Some(stem) => slice(&format!("{stem}-{}", name.replace('-', "_"))),
        None => format!("{agent}/{name}"),
    }
}

/// The path of the slice `name`, with those above it.
fn slice(name: &str) -> String {
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("/{}.slice", &name[..end])).collect()
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the agent said ---\n{}", self.log());
        }
        self.kill();
        // Shims outlive their agent by design; those of this test carry its directory in their open files.
        for entry in fs::read_dir(self.dir.join("run/pods")).into_iter().flatten().flatten() {
            end_shim(&entry.file_name().to_string_lossy());
        }
        std::thread::sleep(Duration::from_millis(50));
        for entry in fs::read_dir(self.dir.join("run/pods")).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(entry.path().join("shm"), rustix::mount::UnmountFlags::DETACH);
        }
        let mut groups = cgroups_under(&self.cgroup());
        groups.reverse();
        for group in groups {
            let _ = fs::remove_dir(group);
        }
        for hierarchy in hierarchies() {
            let _ = fs::remove_dir(hierarchy.join(self.cgroup().trim_start_matches('/')));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Kills the shim of a pod, if one runs.
pub fn end_shim(pod_id: &str) {
    if let Some(pid) = shim_of(pod_id) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// The process of a pod's shim.
pub fn shim_of(pod_id: &str) -> Option<rustix::process::Pid> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0);
        if words.next() == Some(b"orlop-shim") && words.next() == Some(pod_id.as_bytes()) {
            return rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
        }
    }
    None
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let groups = mounts.lines().filter(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")));
    groups.filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect()
}

/// All cgroups below a path, in all hierarchies, parents first.
fn cgroups_under(path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next: Vec<PathBuf> =
        hierarchies().into_iter().map(|hierarchy| hierarchy.join(path.trim_start_matches('/'))).collect();
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
                next.push(entry.path());
            }
        }
    }
    found
}
