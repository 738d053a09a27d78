//! The one system call of unpacking that has no safe wrapper.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Starts to write a file's dirty pages to disk, and does not wait for it.
///
/// It is only a hint: whatever it does not do, the sync before the layer is committed does, and reports errors too.
pub(super) fn start_writeback(fd: BorrowedFd<'_>) {
    // SAFETY: sync_file_range(2) takes no pointers; the descriptor is open for as long as it is borrowed.
    unsafe {
        libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}
