//! The one socket option that no safe wrapper covers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets a boolean option of level SOL_NETLINK.
pub(super) fn enable(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: setsockopt(2) reads `size` bytes at the pointer, which is a live c_int of that size; the descriptor is
    // borrowed and so open (netlink(7), SOL_NETLINK).
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
