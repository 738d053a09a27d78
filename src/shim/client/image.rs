//! The shim's program, out of the agent into one sealed memfd.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

/// Built by the build script for a static target of its own.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/orlop-shim"));

/// The program of the shim, ready to be executed. One is made when the agent starts and serves all pods, so that they
/// share its pages; nobody, a container with `/proc/<shim>/exe` open included, can change it.
#[derive(Debug)]
pub struct ShimImage {
    memfd: OwnedFd,
}

impl ShimImage {
    /// Copies the program into a memfd and seals it.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = match rustix::fs::memfd_create("orlop-shim", flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 every memfd is executable, and the flag unknown.
            Err(Errno::INVAL) => rustix::fs::memfd_create("orlop-shim", flags)?,
            other => other?,
        };
        let mut rest = PROGRAM;
        while !rest.is_empty() {
            let n = rustix::io::retry_on_intr(|| rustix::io::write(&memfd, rest))?;
            rest = &rest[n..];
        }
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
        Ok(Self { memfd })
    }

    /// A path that executes it, valid in a child of this process until its descriptors are closed.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.memfd.as_raw_fd())
    }
}
