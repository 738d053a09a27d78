//! A layer's stream to a directory that overlayfs can use as a lower one.
//!
//! Nothing compressed is kept. A layer has two threads: one inflates, the other hashes both streams, reads the tar and
//! writes the files, straight from the buffers that were inflated into; a third keeps the disk busy meanwhile. Inflating bounds a pull (about 420 MB/s a core, a
//! quarter of what hashing does), so it has a thread for itself.
//!
//! What a layer says is not trusted: see [`tree`] and [`disk`] for how paths stay inside, [`Limits`] for how much it may
//! take. A digest is known only at the end of a stream, so until then all is in a directory that nobody else looks at.

mod apply;
mod disk;
mod error;
mod flush;
mod header;
mod inflate;
mod pax;
mod pipeline;
mod reader;
mod sparse;
mod sys;
mod tree;
mod xattr;

use std::os::fd::BorrowedFd;

use super::digest::Digest;

pub use apply::Applied;
pub use error::{TarError, UnpackError};
pub use pipeline::{Job, Unpacked, start};

/// How much a layer may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed layer, and of a sparse file with its holes.
    pub layer_bytes: u64,
    /// Uncompressed bytes for each compressed one, where the layer is larger than [`Limits::ratio_from`]. Gzip can reach
    /// 1032, zstd far more; real layers stay below 100.
    pub ratio: u64,
    /// Bytes up to which the ratio is not looked at.
    pub ratio_from: u64,
    /// Entries of a layer.
    pub entries: u64,
    /// Bytes of the file system that stay free.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 256 << 30, ratio: 250, ratio_from: 1 << 30, entries: 8 << 20, reserve: 128 << 20 }
    }
}

impl Limits {
    pub(crate) fn check(&self, what: &'static str, found: u64, limit: u64) -> Result<(), UnpackError> {
        if found > limit { Err(UnpackError::Limit { what, found, limit }) } else { Ok(()) }
    }

    /// Looks at what was inflated so far.
    fn check_inflated(&self, compressed: u64, inflated: u64) -> Result<(), UnpackError> {
        self.check("the size of the uncompressed layer", inflated, self.layer_bytes)?;
        if inflated <= self.ratio_from {
            return Ok(());
        }
        self.check("the ratio of compression", inflated / compressed.max(1), self.ratio)
    }

    fn check_free(&self, directory: BorrowedFd<'_>) -> Result<(), UnpackError> {
        let stat = rustix::fs::fstatvfs(directory).map_err(|error| UnpackError::io("read the free space", error))?;
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        if available < self.reserve {
            return Err(UnpackError::DiskFull { available, reserve: self.reserve });
        }
        Ok(())
    }
}

/// Gives memory that unpacking freed back to the system. To be called when no layer is being unpacked; takes milliseconds.
pub fn trim_memory() {
    sys::trim_heap();
}

/// What a layer has to be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Of the blob, as the manifest has it.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Of the uncompressed tar, as the config has it.
    pub diff_id: Digest,
}

#[cfg(test)]
mod hostile_tests;
