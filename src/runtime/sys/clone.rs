//! clone3(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct clone_args` of include/uapi/linux/sched.h, in its third version.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How to fork.
pub(in crate::runtime) struct Clone3<'a> {
    /// `CLONE_NEW*`.
    pub flags: u64,
    /// A directory of cgroup v2 to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Who one is after the fork.
pub(in crate::runtime) enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

impl Clone3<'_> {
    /// Forks. The caller has one thread.
    pub fn fork(&self) -> io::Result<Forked> {
        self.fork_with(0, libc::SIGCHLD as u64)
    }

    /// Forks a child whose parent is that of the caller, which is sent the same signal as for the caller.
    pub fn fork_sibling(&self) -> io::Result<Forked> {
        self.fork_with(libc::CLONE_PARENT as u64, 0)
    }

    fn fork_with(&self, more: u64, exit_signal: u64) -> io::Result<Forked> {
        let mut pidfd: i32 = -1;
        let mut args = CloneArgs {
            flags: self.flags | more | CLONE_PIDFD,
            pidfd: &raw mut pidfd as u64,
            exit_signal,
            ..CloneArgs::default()
        };
        if let Some(directory) = self.cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = directory.as_raw_fd() as u64;
        }
        // SAFETY: clone3(2) with no CLONE_VM and no stack is fork: the child has a copy of all memory. The caller has
        // one thread (the contract of this function), so no lock of the copy is held by a thread that is not there.
        // `args` and `pidfd` live through the call.
        let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
        match result {
            0 => Ok(Forked::Child),
            // SAFETY: the kernel has just put this descriptor there for us, and nobody else has it.
            1.. => Ok(Forked::Parent { pid: result as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
