//! The merged view of an image, for reading in it and copying out of it.
//!
//! The view is an overlay mount that is attached nowhere: it has no path, other processes never see it, and it is gone when
//! its descriptor is closed. Paths are resolved with the view for a root (`openat2`, `RESOLVE_IN_ROOT`), so that symlinks of
//! the image lead to places in the image. Nothing that an image may hold is opened but regular files and directories.

mod attach;
mod copy;
mod mount;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use attach::{attach, directory};
pub use copy::copy_up;

/// Why an image's content could not be read or copied.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("cannot mount the layers of the image: {0}")]
    Mount(io::Error),
    #[error("image path {path:?}: cannot {action}: {source}")]
    Path { path: PathBuf, action: &'static str, source: io::Error },
    #[error("image path {path:?} has {size} bytes, more than the {limit} that are read")]
    TooLarge { path: PathBuf, size: u64, limit: u64 },
    #[error("image path {0:?} is no regular file")]
    NotAFile(PathBuf),
    #[error("image path {0:?} is no directory")]
    NotADirectory(PathBuf),
    #[error("image path {path:?}: cannot {action} in its copy: {source}")]
    Copy { path: PathBuf, action: &'static str, source: io::Error },
}

impl RootfsError {
    fn path(path: &Path, action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Path { path: path.to_owned(), action, source: source.into() }
    }
}

/// The root filesystem of a container that is mounted on the host, for runtimes that take a directory.
#[derive(Clone, Copy, Debug)]
pub struct Writable<'a> {
    /// Layer directories, the topmost first.
    pub lowers: &'a [PathBuf],
    pub upper: &'a Path,
    /// Empty, and on the filesystem of `upper`.
    pub work: &'a Path,
}

impl Writable<'_> {
    /// Mounts it on an existing directory. The caller keeps the layers and unmounts it; it can be mounted once.
    pub fn attach(&self, target: &Path) -> Result<(), RootfsError> {
        mount::writable(self, target).map_err(|cause| RootfsError::Mount(cause.into()))
    }
}

/// The merged layers of an image, read-only.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
}

impl View {
    /// Of lower directories, the topmost first, as [`super::store::Image::lowers`] has them.
    pub fn open<P: AsRef<Path>>(lowers: impl IntoIterator<Item = P>) -> Result<Self, RootfsError> {
        let lowers: Vec<PathBuf> = lowers.into_iter().map(|lower| lower.as_ref().to_owned()).collect();
        mount::merged(&lowers).map(|root| Self { root }).map_err(RootfsError::Mount)
    }

    /// Reads a regular file of at most `limit` bytes. `None` if there is none.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RootfsError> {
        let Some((found, kind)) = self.find(path)? else { return Ok(None) };
        if kind != FileType::RegularFile {
            return Err(RootfsError::NotAFile(path.to_owned()));
        }
        let fail = |error: io::Error| RootfsError::path(path, "read", error);
        let file = reopen(&found, OFlags::RDONLY).map_err(|error| fail(error.into()))?;
        let mut bytes = Vec::new();
        // A size that was told beforehand need not be true.
        File::from(file).take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > limit {
            let size = fs::fstat(&found).map_or(limit + 1, |stat| stat.st_size.cast_unsigned());
            return Err(RootfsError::TooLarge { path: path.to_owned(), size, limit });
        }
        Ok(Some(bytes))
    }

    /// A descriptor (`O_PATH`) of what a path of the image leads to, and what that is. `None` if there is nothing.
    fn find(&self, path: &Path) -> Result<Option<(OwnedFd, FileType)>, RootfsError> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let found = match fs::openat2(&self.root, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(RootfsError::path(path, "open", error)),
        };
        let stat = fs::fstat(&found).map_err(|error| RootfsError::path(path, "read the kind of", error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // A single layer is seen as it is, with its whiteouts.
        let whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        Ok((!whiteout).then_some((found, kind)))
    }
}

/// Opens for reading what an `O_PATH` descriptor stands for.
fn reopen(found: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
}

#[cfg(test)]
mod tests;
