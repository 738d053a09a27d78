//! The bundle of a container, from its start to its end.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::warn;

use super::ExternalRuntime;
use crate::image::rootfs;
use crate::node::container::Container;
use crate::node::error::{NodeError, Result};
use crate::node::index::Node;
use crate::node::pod::Pod;
use crate::node::records;

/// The directory of bundles in a pod's state.
pub(in crate::node) const DIRECTORY: &str = "bundles";
/// The file in which a runtime leaves a process id.
pub(super) const PID_FILE: &str = "pid";
/// The socket that a runtime sends a terminal to.
pub(super) const CONSOLE: &str = "console.sock";
/// How long a runtime may take to forget a container.
const DELETION: Duration = Duration::from_secs(20);

/// The files that are given to one `create`.
#[derive(Debug)]
pub(super) struct Bundle {
    pub path: PathBuf,
    pub directory: File,
}

impl Bundle {
    /// Makes it, with its root filesystem mounted.
    pub fn make(path: PathBuf, spec: &Spec, root: &rootfs::Writable<'_>) -> Result<Self> {
        let failed = |cause: &dyn std::fmt::Display| NodeError::internal(format!("bundle {}", path.display()), cause);
        records::make_dir(&path, 0o700).map_err(|cause| failed(&cause))?;
        let config = serde_json::to_vec(spec).map_err(|cause| failed(&cause))?;
        fs::write(path.join("config.json"), config).map_err(|cause| failed(&cause))?;
        let rootfs = path.join("rootfs");
        records::make_dir(&rootfs, 0o700).map_err(|cause| failed(&cause))?;
        root.attach(&rootfs).map_err(|cause| failed(&cause))?;
        let directory = File::open(&path).map_err(|cause| failed(&cause))?;
        Ok(Self { path, directory })
    }

    /// Makes the directory of a command: below the container's bundle, without a root filesystem.
    pub fn make_for_exec(path: PathBuf, process: &Process) -> Result<Self> {
        let failed = |cause: &dyn std::fmt::Display| NodeError::internal(path.display(), cause);
        records::make_dir(&path, 0o700).map_err(|cause| failed(&cause))?;
        let text = serde_json::to_vec(process).map_err(|cause| failed(&cause))?;
        fs::write(path.join("process.json"), text).map_err(|cause| failed(&cause))?;
        let directory = File::open(&path).map_err(|cause| failed(&cause))?;
        Ok(Self { path, directory })
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log.json")
    }

    /// Listens for the terminal. By way of the descriptor, as paths of sockets are short; the runtime is told a name in
    /// its working directory for the same reason.
    pub fn listen(&self) -> Result<OwnedFd> {
        let listen = || -> rustix::io::Result<OwnedFd> {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            let path = format!("/proc/self/fd/{}/{CONSOLE}", self.directory.as_raw_fd());
            rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
            rustix::net::listen(&socket, 1)?;
            Ok(socket)
        };
        listen().map_err(|cause| NodeError::internal(format!("console socket in {}", self.path.display()), cause))
    }
}

impl Node {
    pub(in crate::node) fn bundle_of(&self, container: &Container) -> PathBuf {
        self.inner.dirs.pod_state(&container.record.pod_id).join(DIRECTORY).join(container.id())
    }

    /// Takes away all that an external runtime and its bundle keep of a container that has ended, or never began. It may
    /// have been done before; there is nothing to do for a container of the built-in runtime.
    pub(in crate::node) async fn clear_external(&self, pod: &Pod, container: &Container) -> Result<()> {
        let Some(runtime) = &pod.external else { return Ok(()) };
        let _turn = container.clearing.lock().await;
        let bundle = self.bundle_of(container);
        if bundle.exists() || runtime.root.join(container.id()).exists() {
            delete(runtime, container.id()).await;
            super::remove_everywhere(&container.record.cgroup);
        }
        remove(&bundle)
    }

    /// Removes what runtimes remember of containers that no record claims.
    pub(in crate::node) async fn sweep_external(&self) -> usize {
        let mut found = 0;
        for runtime in self.inner.handlers.with_own_roots() {
            for id in records::names(&runtime.root) {
                if is_id(&id) && self.find_container(&id).is_err() {
                    warn!(handler = %runtime.handler, %id, "a container that no record claims is deleted from its runtime");
                    delete(runtime, &id).await;
                    found += 1;
                }
            }
        }
        found
    }
}

/// Ids of ours; runtimes may keep other files in their root.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A runtime that does not forget does not keep the container: its processes are dead, and what is left is a file.
async fn delete(runtime: &ExternalRuntime, id: &str) {
    let Err(cause) = runtime.run(None, &["delete", "--force", id], DELETION).await else { return };
    let left = runtime.root.join(id);
    if !left.exists() {
        // It had not come to know of it.
        return;
    }
    warn!(%id, %cause, "the runtime did not delete a container; its record is removed");
    if let Err(cause) = records::remove_tree(&left) {
        warn!(%id, %cause, "it could not be removed");
    }
}

/// Unmounts and removes one bundle, which may be gone already.
fn remove(bundle: &Path) -> Result<()> {
    let rootfs = bundle.join("rootfs");
    use rustix::io::Errno;
    match unmount(&rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => records::remove_tree(bundle),
        Err(cause) => Err(NodeError::internal(format!("unmounting {}", rootfs.display()), io::Error::from(cause))),
    }
}

/// Unmounts and removes all bundles in the state of a pod.
pub(in crate::node) fn remove_all(pod_state: &Path) -> Result<()> {
    let bundles = pod_state.join(DIRECTORY);
    records::names(&bundles).iter().try_for_each(|id| remove(&bundles.join(id)))
}
