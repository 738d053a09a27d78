//! What a process does to itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// setns(2): `namespace` is a namespace, or the pidfd of a process whose namespaces of `kinds` are entered.
pub(in crate::runtime) fn setns(namespace: BorrowedFd<'_>, kinds: u32) -> io::Result<()> {
    // SAFETY: setns(2) takes two integers; the descriptor is open as long as it is borrowed.
    if unsafe { libc::setns(namespace.as_raw_fd(), kinds as i32) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// _exit(2): nothing of the parent's copy is run or flushed.
pub(in crate::runtime) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) does not return, and touches no memory of ours.
    unsafe { libc::_exit(code) }
}
