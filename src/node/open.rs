//! Opening a node: its parts are made, and what there was before is found again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::error::{ErrorKind, NodeError, Result};
use super::external::Handlers;
use super::index::{Inner, Node};
use super::records::Dirs;
use super::settings::Settings;
use super::views::CgroupDriver;
use crate::network::Network;
use crate::runtime::cgroup;
use crate::runtime::cgroup::systemd::Systemd;
use crate::shim::client::{ShimImage, detached_mounts_can_be_cloned};

impl Node {
    /// Opens the node of these directories. When it returns, every pod and container that a former agent left is
    /// known again, and what nobody claims is gone. Only one agent can have a node open.
    pub async fn open(settings: Settings) -> Result<Self> {
        let systemd = match settings.cgroup_driver {
            CgroupDriver::Cgroupfs => None,
            CgroupDriver::Systemd => Some(ask_systemd().await?),
        };
        let dirs = Dirs { root: settings.root.clone(), state: settings.state.clone() };
        dirs.prepare().map_err(|cause| NodeError::internal(format!("preparing {}", dirs.root.display()), cause))?;
        let lock = lock(&dirs.root.join("lock"))?;
        let cgroups = cgroup::Host::detect().map_err(|cause| NodeError::internal("cgroups of this machine", cause))?;
        let network = Network::open(&settings.network, &settings.root, &settings.state)
            .await
            .map_err(|cause| NodeError::internal("pod network", cause))?;
        let registry = crate::registry::Client::new(settings.registry.clone())
            .map_err(|cause| NodeError::internal("registry client", cause))?;
        let shim_image = ShimImage::new().map_err(|cause| NodeError::internal("the shim's program", cause))?;
        let (images, puller) = super::images::open_store(&settings)?;
        let node = Self {
            inner: Arc::new(Inner {
                dirs,
                host_name: host_name(),
                pods: Default::default(),
                containers: Default::default(),
                pods_in_flight: Default::default(),
                containers_in_flight: Default::default(),
                starts_in_flight: Default::default(),
                cgroups,
                systemd,
                network,
                shim_image,
                shims_hold_memory: detached_mounts_can_be_cloned(),
                images,
                puller,
                registry,
                pulls: Default::default(),
                filters: Default::default(),
                handlers: Handlers::new(&settings),
                execs: Default::default(),
                recovered: Default::default(),
                _lock: lock,
                settings,
            }),
        };
        node.learn_features();
        node.recover().await?;
        node.inner.images.collect_garbage();
        Ok(node)
    }
}

/// The machine's systemd, once it has answered.
async fn ask_systemd() -> Result<Systemd> {
    let asked = tokio::task::spawn_blocking(|| Systemd::system().check().map(|()| Systemd::system()));
    let asked = asked.await.map_err(|cause| NodeError::internal("cgroup_driver = \"systemd\"", cause))?;
    asked
        .map_err(|cause| NodeError::new(ErrorKind::FailedPrecondition, format!("cgroup_driver = \"systemd\": {cause}")))
}

/// Holds the node for this process until it ends, however it ends.
fn lock(path: &Path) -> Result<File> {
    let failed = |cause: &dyn std::fmt::Display| NodeError::internal(path.display(), cause);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|cause| failed(&cause))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let message =
                format!("another agent holds {}; stop it first, or give this one another root", path.display());
            Err(NodeError::new(ErrorKind::FailedPrecondition, message))
        }
        Err(cause) => Err(failed(&cause)),
    }
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
