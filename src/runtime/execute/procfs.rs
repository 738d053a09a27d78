//! A procfs that nothing lies on: neither a mount nor a file system that only looks like one.
//!
//! What is written there decides how a container is confined, so it must reach the kernel and nothing else
//! (CVE-2019-16884, CVE-2025-52881).

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2};
use rustix::io::Errno;

use super::mounts::new_filesystem;

/// `PROC_SUPER_MAGIC`.
pub(super) const MAGIC: i64 = 0x9fa0;
/// The inode of the root of every procfs.
const ROOT: u64 = 1;

/// The root of a procfs.
#[derive(Debug)]
pub(super) struct Procfs(OwnedFd);

impl Procfs {
    /// A new one that is mounted nowhere; where that is not allowed (in a user namespace under something that covers
    /// parts of /proc, or for a runtime that is itself confined) that of the host, as long as it is in reach.
    pub fn private() -> Result<Self, Errno> {
        match new_filesystem(b"proc", b"proc", &[], 0) {
            Ok(root) => Ok(Self(root)),
            Err(_) => Self::of_host(),
        }
    }

    /// /proc, verified. For before the root is left.
    pub fn of_host() -> Result<Self, Errno> {
        let root = openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let genuine = fstatfs(&root)?.f_type as i64 == MAGIC && fstat(&root)?.st_ino == ROOT;
        if genuine { Ok(Self(root)) } else { Err(Errno::NOSYS) }
    }

    /// Opens a file beneath the root; nothing that is mounted inside is entered, and no link of a descriptor followed.
    pub fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}
