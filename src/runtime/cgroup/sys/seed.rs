//! A process that does nothing, for as long as it is wanted.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

/// The process with which a scope begins. It ends when this value is dropped, and with the thread that made it.
#[derive(Debug)]
pub struct Seed {
    pid: Pid,
}

impl Seed {
    /// Forks it.
    pub fn new() -> Result<Self, Errno> {
        let parent = getpid();
        // SAFETY: fork(2). The child calls nothing but what is async-signal-safe, and never returns.
        match unsafe { libc::fork() } {
            0 => wait_for_the_end(parent.as_raw_nonzero().get()),
            pid => match Pid::from_raw(pid) {
                Some(pid) if pid.as_raw_nonzero().get() > 0 => Ok(Self { pid }),
                _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
            },
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

/// What the child does: it holds nothing of its parent's, and ends with it.
fn wait_for_the_end(parent: i32) -> ! {
    // SAFETY: prctl(2), getppid(2), setsid(2), close_range(2), pause(2) and _exit(2) with plain numbers; all may be
    // called after fork(2), and no memory of the parent's is touched.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::getppid() != parent {
            libc::_exit(0);
        }
        libc::setsid();
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        loop {
            libc::pause();
        }
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        // It may have been killed with the rest of its cgroup; it is ours to reap in any case.
        let _ = kill_process(self.pid, Signal::KILL);
        while matches!(waitpid(Some(self.pid), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}
