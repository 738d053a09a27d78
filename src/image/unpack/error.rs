//! Why a layer was not unpacked.

use std::io;

use crate::image::digest::Digest;

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the tar header at byte {offset} is invalid: {reason}")]
    Header { offset: u64, reason: &'static str },
    #[error("the tar entry at byte {offset} has the unknown type {:?}", char::from(*.flag))]
    Type { offset: u64, flag: u8 },
    #[error("the extended header (PAX) at byte {offset} is invalid: {reason}")]
    Pax { offset: u64, reason: &'static str },
    #[error("the map of the sparse file at byte {offset} is invalid: {reason}")]
    Sparse { offset: u64, reason: &'static str },
    #[error("the extended header at byte {offset} has {size} bytes, more than the {limit} that are accepted")]
    MetaSize { offset: u64, size: u64, limit: u64 },
    #[error("the tar stream ends in the middle of an entry, at byte {offset}")]
    Truncated { offset: u64 },
}

/// Why a layer was not unpacked. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("entry {path:?}: {reason}")]
    Entry { path: String, reason: &'static str },
    #[error("entry {path:?}: cannot {action}: {source}")]
    Disk { path: String, action: &'static str, source: io::Error },
    #[error("the {kind} stream is damaged: {reason}")]
    Compression { kind: &'static str, reason: String },
    #[error(
        "the layer is compressed with {0}, which the image specification does not know; gzip and zstd are supported"
    )]
    Unsupported(&'static str),
    #[error("{what} would be {found}, more than the limit of {limit}")]
    Limit { what: &'static str, found: u64, limit: u64 },
    #[error("the file system has only {available} bytes free, and {reserve} have to stay so")]
    DiskFull { available: u64, reserve: u64 },
    #[error("{what} is {found}, not {expected}")]
    Digest { what: &'static str, expected: Digest, found: Digest },
    #[error("the blob has {found} bytes, not {expected}")]
    Size { expected: u64, found: u64 },
    #[error("cannot {action}: {source}")]
    Io { action: &'static str, source: io::Error },
}

impl UnpackError {
    pub(crate) fn entry(path: &[u8], reason: &'static str) -> Self {
        Self::Entry { path: shown(path), reason }
    }

    pub(crate) fn disk(path: &[u8], action: &'static str, error: impl Into<io::Error>) -> Self {
        Self::Disk { path: shown(path), action, source: error.into() }
    }

    pub(crate) fn io(action: &'static str, error: impl Into<io::Error>) -> Self {
        Self::Io { action, source: error.into() }
    }
}

/// A path from a layer, as far as an error message should carry it.
fn shown(path: &[u8]) -> String {
    const MOST: usize = 256;
    let text = String::from_utf8_lossy(&path[..path.len().min(MOST)]).into_owned();
    if path.len() > MOST { text + "…" } else { text }
}

/// The pipe between the threads carries our own errors as io errors; this unwraps them.
impl From<io::Error> for UnpackError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Io { action: "read the layer", source },
        }
    }
}

impl From<UnpackError> for io::Error {
    fn from(error: UnpackError) -> Self {
        Self::other(error)
    }
}
