//! Network namespaces: made, entered and pinned.
//!
//! A thread's namespace is a property that sticks to it, so nothing here runs on a thread that does other work:
//! either on a thread that ends afterwards, or on the one thread of the built-in network that goes home by itself.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

use super::NetworkError;
use super::netlink::Route;

/// The namespace of the calling thread.
pub(super) fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Moves the calling thread into a new namespace and returns it.
pub(super) fn enter_new() -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    current()
}

/// Moves the calling thread into a namespace.
pub(super) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work` on a thread of its own, which ends with it.
pub(super) fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("orlop-netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread panicked"))
    })
}

/// A namespace with loopback up: a new one, or the one given. With `pin` the namespace is bound to that path, which
/// must not exist.
pub(super) fn prepare(given: Option<OwnedFd>, pin: Option<&Path>) -> Result<OwnedFd, NetworkError> {
    let step = |step: &'static str| move |error| NetworkError::kernel(step, error);
    on_thread(|| {
        let namespace = match given {
            Some(namespace) => enter(&namespace).map(|()| namespace).map_err(step("entering the network namespace"))?,
            None => enter_new().map_err(step("making a network namespace"))?,
        };
        let mut route = Route::open().map_err(NetworkError::netlink("loopback of the pod"))?;
        route.loopback_up().map_err(NetworkError::netlink("loopback of the pod"))?;
        if let Some(path) = pin {
            bind(path)?;
        }
        Ok(namespace)
    })
    .map_err(step("starting a thread"))?
}

/// Binds the namespace of the calling thread to a path.
fn bind(path: &Path) -> Result<(), NetworkError> {
    File::options().write(true).create_new(true).open(path).map_err(NetworkError::file(path))?;
    rustix::mount::mount_bind("/proc/thread-self/ns/net", path).map_err(|error| {
        let _ = std::fs::remove_file(path);
        NetworkError::kernel(format!("pinning the network namespace at {}", path.display()), error)
    })
}
/// Undoes a pin; one that is half done or gone already is fine.
pub(super) fn unpin(path: &Path) -> Result<(), NetworkError> {
    use rustix::io::Errno;
    // An interrupted predecessor may have bound twice.
    loop {
        match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW)
        {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(NetworkError::file(path)(error.into())),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetworkError::file(path)(error)),
        _ => Ok(()),
    }
}

/// Whether a path is a pinned namespace.
pub(super) fn is_pin(path: &Path) -> bool {
    const NSFS_MAGIC: u32 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u32 == NSFS_MAGIC)
}
