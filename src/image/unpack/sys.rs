//! What unpacking needs of the system and has no safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// Starts to write a file's dirty pages to disk, and does not wait until they are there.
///
/// It is only a hint: whatever it does not do, the sync before the layer is committed does, and reports errors too.
pub(super) fn start_writeback(fd: &impl AsFd) {
    // SAFETY: sync_file_range(2) takes no pointers; the descriptor is open for as long as it is borrowed.
    unsafe {
        libc::sync_file_range(fd.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Memory that goes back to the system when it is dropped. An allocator would keep some of it, and an agent that pulled an
/// image once would stay large.
#[derive(Debug)]
pub(super) struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone, as a Box<[u8]>'s does.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Zeroed memory; `len` is not 0.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: mmap(2) of new anonymous memory at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { start, len })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mmap(2) gave `len` readable, initialised bytes, which stay until the value is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and writable; the exclusive borrow makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: munmap(2) of exactly what mmap(2) gave; no borrow of it can be left.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.len);
        }
    }
}

/// Gives memory that was freed back to the system: decoders and network buffers leave a good deal of it in the allocator.
pub(super) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
