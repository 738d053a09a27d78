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
