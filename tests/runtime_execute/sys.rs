//! fork(2), for a process with one thread.
#![allow(unsafe_code)]

/// Runs `body` in a child with one thread, and says whether it succeeded.
pub fn in_child(body: impl FnOnce()) -> bool {
    // SAFETY: fork(2) of the C library, which leaves its own locks usable in the child; the harness's other thread
    // only waits for this one and holds none.
    match unsafe { libc::fork() } {
        0 => {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: _exit(2): the harness's code must not run twice.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waitpid(2) writes one integer.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            waited == pid && status == 0
        }
    }
}

/// A mount namespace for this process, so that what a test mounts is gone with it.
pub fn own_mounts() {
    // SAFETY: unshare(2) takes an integer, and no descriptors are unshared.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    use rustix::mount::{MountPropagationFlags, mount_change};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// Blocks one signal and ignores some others, as a shell or an agent may have done before us.
pub fn disturb_signals() {
    // SAFETY: signal(2) and sigprocmask(2) with a set on this stack.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGPIPE, libc::SIGQUIT, 40] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
