//! Carries a plan out: one clone3, and a child that becomes the container's process or says why it did not.
//!
//! For single-threaded callers only (the shim, the command line): the child of the fork goes on in Rust, which a fork
//! of a process with threads could not. In the shim it goes on to the end. The command line is a program that is large,
//! and a file of the host: there the child executes the shim's program from memory, under the name `orlop-init`, as
//! soon as its descriptors are in place. The parent decodes nothing and allocates nothing for the plan; it reads what
//! happened from [`Spawned::status`] with [`read_status`].

mod child;
mod console;
mod context;
mod copy;
mod devices;
mod hide;
mod hooks;
mod host;
mod idmap;
mod listener;
mod lsm;
mod mounts;
mod namespaces;
mod netdev;
mod passwd;
mod process;
mod procfs;
mod program;
mod root;
mod stager;
mod staging;
mod status;
mod tree;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::plan::SpawnHeader;
use super::sys::clone::{Clone3, Forked};
use super::sys::process::setns;
pub use child::{INIT, init};
pub use hooks::{HookSettings, hook_state, run_all_hooks, run_hooks};
pub use host::spawn_host_program;
pub use listener::hand_over;
pub use status::{Listener, Notice, Report, Stage, go_on, read_answer, read_status};

/// The standard streams that the new process gets. With a terminal they are not used.
#[derive(Clone, Copy, Debug)]
pub struct Stdio3<'a> {
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

/// Descriptors that a plan needs beside its data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attached<'a> {
    /// The cgroup v2 directory for [`SpawnHeader::into_cgroup`].
    pub cgroup_dir: Option<BorrowedFd<'a>>,
    /// For [`SpawnHeader::join_pid_namespace`]: a PID namespace, or the pidfd of a process in it. An exec takes
    /// `target` when this is `None`.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// The pidfd of the container's init, for an exec.
    pub target: Option<BorrowedFd<'a>>,
    /// A tree that is mounted nowhere (open_tree(2) with `OPEN_TREE_CLONE`, fsmount(2)), for the mount of the plan whose
    /// source is [`MountSource::Attached`](super::plan::MountSource): the pod's /dev/shm. It is used up.
    pub shm: Option<BorrowedFd<'a>>,
    /// Where a container is created now and started later: a FIFO that is opened for reading and writing. The child
    /// reports [`Report::Ready`] when everything is made, and executes when it has read one byte.
    pub gate: Option<BorrowedFd<'a>>,
    /// With a gate: another FIFO, opened in the same way, for what goes wrong behind the gate, when whoever made the
    /// container is gone. Whoever starts it reads it with [`read_answer`]; it is closed when the program is executed.
    pub answer: Option<BorrowedFd<'a>>,
    /// The program that carries the plan out (`orlop-shim`, which becomes [`init`]), executed as soon as the child has
    /// its descriptors. `None`: the child does it itself, as it is that program already.
    pub init: Option<BorrowedFd<'a>>,
    /// So many descriptors from 3 on are left to the program.
    pub preserved: u32,
}

/// A child that is on its way to its program.
#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Read it with [`read_status`], blocking or after poll(2). Close-on-exec.
    pub status: OwnedFd,
}

/// Starts the process that `plan` (a memfd with an encoded [`Plan`](super::plan::Plan)) describes.
///
/// Returns as soon as the child is made; how it fares is read from [`Spawned::status`]. The caller must have one
/// thread only, and reaps the child.
pub fn spawn(header: &SpawnHeader, plan: BorrowedFd<'_>, io: Stdio3<'_>, fds: Attached<'_>) -> io::Result<Spawned> {
    let missing = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("no {what} was given to spawn"));
    let cgroup = match (header.into_cgroup, fds.cgroup_dir) {
        (true, None) => return Err(missing("cgroup directory")),
        (true, dir) => dir,
        (false, _) => None,
    };
    let pid_namespace = match (header.join_pid_namespace, fds.pid_namespace.or(fds.target)) {
        (true, None) => return Err(missing("PID namespace")),
        (true, fd) => fd,
        (false, _) => None,
    };
    let (status, reports) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;

    // The namespace of the caller's next children changes, that of the caller never.
    if let Some(namespace) = pid_namespace {
        own_pid_namespace()?;
        setns(namespace, libc::CLONE_NEWPID as u32)?;
    }
    let forked = Clone3 { flags: header.clone_flags, cgroup }.fork();
    if pid_namespace.is_some() && !matches!(forked, Ok(Forked::Child)) {
        setns(own_pid_namespace()?, libc::CLONE_NEWPID as u32)?;
    }
    match forked? {
        Forked::Child => {
            drop(status);
            child::run(plan, io, fds, reports)
        }
        Forked::Parent { pid, pidfd } => Ok(Spawned { pid, pidfd, status }),
    }
}

/// The caller's own PID namespace, opened once.
fn own_pid_namespace() -> io::Result<BorrowedFd<'static>> {
    static OWN: OnceLock<OwnedFd> = OnceLock::new();
    if OWN.get().is_none() {
        let fd = rustix::fs::open(
            "/proc/self/ns/pid",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let _ = OWN.set(fd);
    }
    OWN.get().map(AsFd::as_fd).ok_or_else(|| io::Error::other("own PID namespace is not open"))
}

/// Whether a descriptor was open already when this program was executed. All that it opens itself is close-on-exec.
pub fn is_inherited(number: u32) -> bool {
    super::sys::process::is_passed_on(number)
}

/// Sends a signal, by its number, to the process of a pidfd.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    super::sys::process::send_signal(process, signal)
}

/// The caller, and what it starts from now on, runs on these CPUs only: bit n of word m is CPU 64 m + n. None: as before.
pub fn run_on(cpus: &[u64]) -> io::Result<()> {
    if cpus.is_empty() { Ok(()) } else { super::sys::process::set_affinity(cpus) }
}

/// Whether a dead child that was not yet reaped never got as far as its program.
///
/// The status socket ends without a word when the program is executed, but also when the child is killed before that:
/// by the OOM killer, or by a kernel that kills every child cloned into a cgroup that `cgroup.kill` was written to
/// once. Ask when a child ended by SIGKILL right after its status did.
pub fn never_executed(pid: i32) -> io::Result<bool> {
    /// From include/linux/sched.h: forked but didn't exec.
    const PF_FORKNOEXEC: u64 = 0x40;
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has an unknown form"));
    // The name in parentheses may hold anything; flags are the seventh field after it.
    let end = stat.iter().rposition(|&b| b == b')').ok_or_else(unreadable)?;
    let rest = std::str::from_utf8(&stat[end + 1..]).map_err(|_| unreadable())?;
    let flags: u64 = rest.split_ascii_whitespace().nth(6).and_then(|f| f.parse().ok()).ok_or_else(unreadable)?;
    Ok(flags & PF_FORKNOEXEC != 0)
}
