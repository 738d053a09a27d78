//! What the shim is for its pod: the namespaces, the init, /dev/shm.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::Server;
use super::agent::{Answer, Answered, failed, refuse};
use crate::shim::protocol::{
    ExitStatus, Failure, FailureKind, MAX_FDS, Reply, Setup, SetupFds, SetupFlags, decode_sysctls,
};
use crate::shim::sys;
use crate::shim::text::Text;
use crate::shim::wire::Fds;

/// As all runtimes have it; more is for a volume.
const SHM_SIZE: &str = "64m";

#[derive(Debug)]
pub(super) struct Pod {
    /// Where exit records are kept.
    state: OwnedFd,
    shm: Option<OwnedFd>,
    init: Option<Init>,
}

/// The init of the pod's PID namespace.
#[derive(Debug)]
struct Init {
    pid: i32,
    pidfd: OwnedFd,
    died: Option<ExitStatus>,
    /// The agent has not been told yet.
    due: bool,
}

impl Pod {
    pub fn state(&self) -> BorrowedFd<'_> {
        self.state.as_fd()
    }

    pub fn shm(&self) -> Option<BorrowedFd<'_>> {
        self.shm.as_ref().map(AsFd::as_fd)
    }

    pub fn init_pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().filter(|init| init.died.is_none()).map(|init| init.pidfd.as_fd())
    }

    pub fn init_died(&self) -> Option<ExitStatus> {
        self.init.as_ref()?.died
    }

    /// Takes note of a death, if it was the init's.
    pub fn ended(&mut self, pid: i32, status: ExitStatus, tell: bool) -> bool {
        match &mut self.init {
            Some(init) if init.pid == pid && init.died.is_none() => {
                (init.died, init.due) = (Some(status), tell);
                true
            }
            _ => false,
        }
    }

    /// The init's death, if the agent is to be told of it now.
    pub fn take_due_death(&mut self) -> Option<ExitStatus> {
        let init = self.init.as_mut().filter(|init| init.due)?;
        init.due = false;
        init.died
    }

    /// A clone of the mount for /dev/shm, for one container. Made here and not by its child, as older kernels clone a
    /// mount only in the mount namespace that it is in.
    pub fn clone_shm(&self) -> rustix::io::Result<Option<OwnedFd>> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        self.shm.as_ref().map(|shm| rustix::mount::open_tree(shm, "", flags)).transpose()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(init) = self.init_pidfd() {
            // Its death signal would do it as well, but then nobody here would reap it.
            let _ = pidfd_send_signal(init, Signal::KILL);
            let _ = waitid(WaitId::PidFd(init), WaitIdOptions::EXITED);
        }
    }
}

/// The descriptors of a setup, by kind.
struct Given {
    state: Option<OwnedFd>,
    net: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    shm: Option<OwnedFd>,
}

impl Server {
    pub(super) fn set_up<'p>(&mut self, setup: &Setup<'p>, mut fds: Fds) -> Answered<'p> {
        if self.pod.is_some() {
            return Err(refuse(FailureKind::Exists, "the shim has had its setup"));
        }
        let kinds = SetupFds::from_bits_retain(setup.fds);
        let flags = SetupFlags::from_bits_retain(setup.flags);
        let known = SetupFds::all().contains(kinds) && SetupFlags::all().contains(flags);
        let wanted = kinds.bits().count_ones() as usize + usize::from(setup.cgroups);
        if !known || wanted > MAX_FDS || fds.len() != wanted {
            return Err(refuse(FailureKind::Invalid, "flags and descriptors of the setup are not what they say"));
        }
        let mut take = |kind| if kinds.contains(kind) { fds.take() } else { None };
        let given = Given {
            state: take(SetupFds::STATE),
            net: take(SetupFds::NET),
            ipc: take(SetupFds::IPC),
            uts: take(SetupFds::UTS),
            shm: take(SetupFds::SHM),
        };
        if given.state.is_none() {
            return Err(refuse(FailureKind::Invalid, "the state directory did not come along"));
        }
        while let Some(cgroup) = fds.take() {
            rustix::io::write(&cgroup, b"0").map_err(failed("enter a cgroup"))?;
        }
        enter_namespaces(&given, flags)?;
        if flags.contains(SetupFlags::NEW_UTS) {
            rustix::system::sethostname(setup.hostname.as_bytes()).map_err(failed("set the hostname"))?;
        }
        write_sysctls(setup.sysctls, &given, flags)?;
        let oom_score_adj = set_oom_score_adj(setup.oom_score_adj);
        let shm = if flags.contains(SetupFlags::NEW_SHM) {
            Some(new_shm().map_err(failed("make a tmpfs for /dev/shm"))?)
        } else {
            given.shm
        };
        let init = match flags.contains(SetupFlags::POD_PID) {
            true => Some(sys::fork_init().map_err(failed("fork the init of the PID namespace"))?),
            false => None,
        };
        let init = init.map(|(pid, pidfd)| Init { pid, pidfd, died: None, due: false });
        let pid = init.as_ref().map_or(0, |init| init.pid as u32);
        self.pod = given.state.map(|state| Pod { state, shm, init });
        Ok(Answer::Reply(Reply::Configured { init: pid, oom_score_adj }))
    }
}

fn enter_namespaces(given: &Given, flags: SetupFlags) -> Result<(), Failure<'static>> {
    let enter = |fd: &Option<OwnedFd>, kind, what| match fd {
        Some(fd) => sys::enter(fd.as_fd(), kind).map_err(failed(what)),
        None => Ok(()),
    };
    enter(&given.net, libc::CLONE_NEWNET, "enter the network namespace")?;
    enter(&given.ipc, libc::CLONE_NEWIPC, "enter the IPC namespace")?;
    enter(&given.uts, libc::CLONE_NEWUTS, "enter the UTS namespace")?;
    let mut new = 0;
    if flags.contains(SetupFlags::NEW_IPC) {
        new |= libc::CLONE_NEWIPC;
    }
    if flags.contains(SetupFlags::NEW_UTS) {
        new |= libc::CLONE_NEWUTS;
    }
    match new {
        0 => Ok(()),
        new => sys::unshare(new).map_err(failed("make namespaces")),
    }
}

/// The kernel shows each process the sysctls of its own namespaces, so they are written from within. The agent has
/// checked them; here it is only made sure that none reaches the host.
fn write_sysctls<'p>(sysctls: &'p [u8], given: &Given, flags: SetupFlags) -> Result<(), Failure<'p>> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let own_ipc = given.ipc.is_some() || flags.contains(SetupFlags::NEW_IPC);
    let own_uts = given.uts.is_some() || flags.contains(SetupFlags::NEW_UTS);
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/proc/sys", directory, Mode::empty()).map_err(failed("open /proc/sys"))?;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    for (path, value) in decode_sysctls(sysctls) {
        let path = std::str::from_utf8(path).unwrap_or("a sysctl whose name is not text");
        let own = match namespace_of(path) {
            libc::CLONE_NEWNET => given.net.is_some(),
            libc::CLONE_NEWIPC => own_ipc,
            libc::CLONE_NEWUTS => own_uts,
            _ => false,
        };
        if !own {
            return Err(refuse(FailureKind::Invalid, path));
        }
        let file = rustix::fs::openat2(&root, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), within);
        file.and_then(|file| rustix::io::write(file, value)).map_err(failed(path))?;
    }
    Ok(())
}

/// The kind of namespace that a sysctl belongs to; 0: none.
fn namespace_of(path: &str) -> i32 {
    const IPC: [&str; 4] = ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"];
    if path.starts_with("net/") {
        libc::CLONE_NEWNET
    } else if IPC.iter().any(|prefix| path.starts_with(prefix)) {
        libc::CLONE_NEWIPC
    } else if path == "kernel/domainname" || path == "kernel/hostname" {
        libc::CLONE_NEWUTS
    } else {
        0
    }
}

/// Comes as near to it as is permitted, and says what it is then. Lowering takes CAP_SYS_RESOURCE.
pub(super) fn set_oom_score_adj(wanted: Option<i16>) -> i16 {
    const PATH: &str = "/proc/self/oom_score_adj";
    let Ok(file) = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { return 0 };
    if let Some(wanted) = wanted {
        let mut text = Text::<8>::new();
        text.add(if wanted < 0 { "-" } else { "" }).number(wanted.unsigned_abs().into());
        // Not permitted: it stays what it is, and the caller is told.
        let _ = rustix::io::write(&file, text.as_str().as_bytes());
    }
    let mut text = [0; 8];
    let n = rustix::io::pread(&file, &mut text, 0).unwrap_or(0);
    std::str::from_utf8(&text[..n]).ok().and_then(|text| text.trim_end().parse().ok()).unwrap_or(0)
}

fn new_shm() -> rustix::io::Result<OwnedFd> {
    let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(tmpfs.as_fd(), "source", "shm")?;
    rustix::mount::fsconfig_set_string(tmpfs.as_fd(), "size", SHM_SIZE)?;
    rustix::mount::fsconfig_set_string(tmpfs.as_fd(), "mode", "1777")?;
    rustix::mount::fsconfig_create(tmpfs.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

#[cfg(test)]
mod tests;
