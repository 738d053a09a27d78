//! The Unix socket that kubelets connect to: made with the right owner, taken over only from the dead.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use thiserror::Error;

/// What the socket is called before it takes its place.
const FRESH: &str = ".new";
/// Bytes of a path: with [`FRESH`] and its end it must fit into `sockaddr_un` (unix(7)).
const PATH_LIMIT: usize = 107 - FRESH.len();
/// The group may talk to the runtime, which is as good as being root; nobody else may.
const SOCKET_MODE: u32 = 0o660;
/// Others may pass through, for the sockets of other services below it, but not look.
const PARENT_MODE: u32 = 0o711;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Why the socket could not be made.
#[derive(Debug, Error)]
pub enum SocketError {
    #[error("socket {}: the path is longer than the {PATH_LIMIT} bytes that a Unix socket takes", .0.display())]
    TooLong(PathBuf),
    #[error("socket {}: the path must be absolute and name a file", .0.display())]
    NotAbsolute(PathBuf),
    #[error("socket {}: something else is there, and it is no socket; move it away", .0.display())]
    NotASocket(PathBuf),
    #[error("socket {}: another process answers there; stop it first, or configure another path", .0.display())]
    InUse(PathBuf),
    #[error("socket {}: {what}: {source}", .path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

/// A listening socket. Dropping it removes the file, if it is still this one's.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of the socket's file.
    file: (u64, u64),
    /// Held as long as the socket is served: two agents that start at once must not both think the other is dead.
    _lock: File,
}

impl Socket {
    /// Listens at `path`, mode 0660. Parents that are missing are made, mode 0711. A socket that a dead process left is
    /// replaced in one step, so that at no time a path is there that cannot be connected to or has another mode.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute()) else {
            return Err(SocketError::NotAbsolute(path.to_owned()));
        };
        let failed = |what| move |source| SocketError::Io { path: path.to_owned(), what, source };
        if path.as_os_str().len() > PATH_LIMIT {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let mut fresh = name.to_owned();
        fresh.push(FRESH);
        let fresh = parent.join(fresh);
        make_parents(parent).map_err(failed("making its directory"))?;
        let lock = lock(path)?;
        let stale = match fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
            Ok(_) if answers(path).map_err(failed("trying it"))? => return Err(SocketError::InUse(path.to_owned())),
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed("looking at it")(error)),
        };
        // Under the lock, so a leftover of this name is from a process that died between these lines.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing a leftover")(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed("binding"))?;
        fs::set_permissions(&fresh, Permissions::from_mode(SOCKET_MODE)).map_err(failed("setting its mode"))?;
        // std's own backlog is 128; a burst of clients would be refused.
        rustix::net::listen(listener.as_fd(), BACKLOG).map_err(|e| failed("listening")(e.into()))?;
        listener.set_nonblocking(true).map_err(failed("listening"))?;
        let meta = fs::symlink_metadata(&fresh).map_err(failed("looking at it"))?;
        fs::rename(&fresh, path).map_err(failed("putting it in its place"))?;
        if stale {
            tracing::info!(socket = %path.display(), "replaced the socket of a process that is gone");
        }
        Ok(Self { listener: Some(listener), path: path.to_owned(), file: (meta.dev(), meta.ino()), _lock: lock })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, once.
    pub(super) fn take(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "could not remove the socket");
        }
    }
}

/// Whether a process listens at `path`, also one that is too busy to accept.
fn answers(path: &Path) -> io::Result<bool> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock file beside the socket. It stays when the process ends: removing it would race with the next taker.
fn lock(path: &Path) -> Result<File, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |what| move |source| SocketError::Io { path: path.to_owned(), what, source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(name)
        .map_err(failed("opening its lock file"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(failed("locking its lock file")(error.into())),
    }
}

/// Makes what is missing of `directory`, each level with [`PARENT_MODE`] whatever the umask.
fn make_parents(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_parents(parent)?;
    }
    match DirBuilder::new().mode(PARENT_MODE).create(directory) {
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(PARENT_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
