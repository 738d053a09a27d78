#![allow(unsafe_code)]
//! tokio's watch over a descriptor, which only an owner of the descriptor may ask for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor, for what is asked for only: each event is a wake-up.
pub(super) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is a valid descriptor, and nothing replaces or closes it inside the AsyncFd (epoll_ctl(2)).
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}
