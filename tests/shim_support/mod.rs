//! A shim of its own for each test.
#![allow(clippy::unwrap_used, dead_code)]

pub mod container;

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use orlop::shim::client::{
    NamespaceSource, SetupDone, SetupRequest, ShimClient, ShimEvent, ShimEventKind, ShimImage, ShmSource,
};
use rustix::process::Pid;
use tokio::sync::mpsc;

/// Longer than anything here takes on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn image() -> &'static ShimImage {
    static IMAGE: OnceLock<ShimImage> = OnceLock::new();
    IMAGE.get_or_init(|| ShimImage::new().unwrap())
}

/// True if the test can run; tells why not otherwise.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can start a shim");
    }
    root
}

pub struct Pod {
    pub directory: tempfile::TempDir,
    pub client: ShimClient,
    pub events: mpsc::UnboundedReceiver<ShimEvent>,
    kept: RefCell<Vec<Rc<tempfile::TempDir>>>,
}

impl Pod {
    /// A shim that has not been told anything.
    pub fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let log = File::options().append(true).create(true).open(directory.path().join("shim.log")).unwrap();
        let fd = open_dir(directory.path());
        let client = ShimClient::spawn(image(), "test-pod", fd.as_fd(), Some(log.as_fd()), sender).unwrap();
        Self { directory, client, events, kept: RefCell::default() }
    }

    /// A shim on the host's network, with IPC, UTS and /dev/shm of its own.
    pub async fn new() -> Self {
        let pod = Self::bare();
        pod.set_up(SetupRequest { ipc: NamespaceSource::New, uts: NamespaceSource::New, ..pod.plain().request() })
            .await;
        pod
    }

    /// Keeps a root file system as long as the pod.
    pub fn keep(&self, rootfs: &Rc<tempfile::TempDir>) {
        self.kept.borrow_mut().push(Rc::clone(rootfs));
    }

    pub fn plain(&self) -> Plain {
        Plain { state: open_dir(self.directory.path()) }
    }

    pub async fn set_up(&self, request: SetupRequest<'_>) -> SetupDone {
        self.client.setup(request).await.unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The next event, of any kind.
    pub async fn event(&mut self) -> ShimEventKind {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("no event came").unwrap();
        assert_eq!(&*event.pod, "test-pod");
        event.kind
    }

    /// Ends the connection, as the death of an agent does. The shim has noticed when this returns.
    pub async fn disconnect(&mut self) {
        let pid = self.client.pid();
        let before = descriptors(pid);
        self.client.disconnect();
        until(|| descriptors(pid) < before).await;
    }

    /// Connects anew, as an agent does that was started again.
    pub async fn reconnect(&mut self) {
        let (sender, events) = mpsc::unbounded_channel();
        let fd = open_dir(self.directory.path());
        self.client = ShimClient::connect("test-pod", fd.as_fd(), sender).await.unwrap();
        self.events = events;
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Nothing outlives its test, however that ends.
        let pid = self.client.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let _ = self.client.kill();
        for child in children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
        let log = std::fs::read_to_string(self.path("shim.log")).unwrap_or_default();
        if !log.is_empty() {
            eprintln!("the shim said: {log}");
        }
    }
}

/// Keeps open what the simplest setup needs.
pub struct Plain {
    pub state: OwnedFd,
}

impl Plain {
    pub fn request(&self) -> SetupRequest<'_> {
        SetupRequest {
            state: self.state.as_fd(),
            net: None,
            ipc: NamespaceSource::Host,
            uts: NamespaceSource::Host,
            hostname: "test-pod",
            pod_pid: false,
            shm: ShmSource::None,
            sysctls: &[],
            oom_score_adj: None,
            cgroups: &[],
        }
    }
}

pub fn open_dir(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// A number of kibibytes out of a file like `smaps_rollup` or `status`.
pub fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Waits for something that comes true soon.
pub async fn until(mut true_now: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !true_now() {
        assert!(start.elapsed() < PATIENCE, "it did not come true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
