//! clone3 into a cgroup, for the tests of version 2.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

/// linux/sched.h; the constant of libc has the wrong width.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts `sh -c script` with CLONE_INTO_CGROUP and returns its pid; or the error of clone3.
pub fn spawn_into(directory: BorrowedFd<'_>, script: &str) -> Result<i32, std::io::Error> {
    let words = ["/bin/sh", "-c", script].map(|word| CString::new(word).unwrap());
    let mut argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    // SAFETY: all-zero is a valid clone_args, see clone(2).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = directory.as_raw_fd() as u64;
    // SAFETY: clone3(2) without CLONE_VM is a fork: the child has its own copy of everything. It only calls
    // async-signal-safe functions on what was made before the fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        // SAFETY: argv is a null-terminated array of pointers to strings that live on; execve(2), _exit(2).
        unsafe {
            let environment = [c"PATH=/usr/bin:/bin".as_ptr(), std::ptr::null()];
            libc::execve(argv[0], argv.as_ptr(), environment.as_ptr());
            libc::_exit(127);
        }
    }
    if pid < 0 { Err(std::io::Error::last_os_error()) } else { Ok(pid as i32) }
}

/// Waits for a child: its exit code, or its signal as a negative number.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: waitpid(2) writes to `status` only.
        let done = unsafe { libc::waitpid(pid, &mut status, 0) };
        if done == pid {
            break;
        }
        assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
    }
    if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
