//! The node: what there is, and how to find it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::container::Container;
use super::error::{NodeError, Result};
use super::exec::Execs;
use super::external::Handlers;
use super::images::Pulls;
use super::joins::Joins;
use super::pod::Pod;
use super::records::Dirs;
use super::recovery::Recovered;
use super::seccomp::Filters;
use super::settings::Settings;
use super::types::{ContainerMetadata, PodMetadata};
use crate::image::pull::Puller;
use crate::image::store::Store;
use crate::network::Network;
use crate::runtime::cgroup;
use crate::shim::client::ShimImage;

/// Pods and containers of this machine. Cheap to clone; all clones are one node.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) inner: Arc<Inner>,
}

/// The parts of a node.
#[derive(Debug)]
pub(super) struct Inner {
    pub settings: Settings,
    pub dirs: Dirs,
    pub host_name: String,
    pub pods: RwLock<HashMap<String, Arc<Pod>>>,
    pub containers: RwLock<HashMap<String, Arc<Container>>>,
    pub pods_in_flight: Joins<PodMetadata, String>,
    pub containers_in_flight: Joins<(String, ContainerMetadata), String>,
    pub starts_in_flight: Joins<String, ()>,
    pub cgroups: cgroup::Host,
    /// Set where systemd makes the cgroups.
    pub systemd: Option<cgroup::systemd::Systemd>,
    pub network: Network,
    pub shim_image: ShimImage,
    /// Shims can hold the pods' shared memory themselves (Linux 6.15).
    pub shims_hold_memory: bool,
    pub images: Store,
    pub puller: Puller,
    pub registry: crate::registry::Client,
    pub pulls: Pulls,
    pub filters: Filters,
    pub handlers: Handlers,
    pub execs: Execs,
    pub recovered: OnceLock<Recovered>,
    /// Held as long as the node is open.
    pub _lock: std::fs::File,
}

impl Node {
    /// The pod of an id, or of the beginning of one that no other shares.
    pub(super) fn find_pod(&self, id: &str) -> Result<Arc<Pod>> {
        let pods = self.inner.pods.read().unwrap_or_else(PoisonError::into_inner);
        find(&pods, id).cloned().ok_or_else(|| NodeError::not_found("pod sandbox", id))
    }

    /// The container of an id, or of the beginning of one that no other shares.
    pub(super) fn find_container(&self, id: &str) -> Result<Arc<Container>> {
        let containers = self.inner.containers.read().unwrap_or_else(PoisonError::into_inner);
        find(&containers, id).cloned().ok_or_else(|| NodeError::not_found("container", id))
    }

    /// The pod that a container is in.
    pub(super) fn pod_of(&self, container: &Container) -> Result<Arc<Pod>> {
        self.find_pod(&container.record.pod_id)
    }

    pub(super) fn all_pods(&self) -> Vec<Arc<Pod>> {
        self.inner.pods.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn all_containers(&self) -> Vec<Arc<Container>> {
        self.inner.containers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The containers of a pod, the oldest first.
    pub(super) fn containers_of(&self, pod_id: &str) -> Vec<Arc<Container>> {
        let mut found = self.all_containers();
        found.retain(|container| container.record.pod_id == pod_id);
        found.sort_by_key(|container| container.record.created_at);
        found
    }

    pub(super) fn insert_pod(&self, pod: Arc<Pod>) {
        self.inner.pods.write().unwrap_or_else(PoisonError::into_inner).insert(pod.id.clone(), pod);
    }

    pub(super) fn forget_pod(&self, id: &str) {
        self.inner.pods.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(super) fn insert_container(&self, container: Arc<Container>) {
        let mut containers = self.inner.containers.write().unwrap_or_else(PoisonError::into_inner);
        containers.insert(container.id().to_owned(), container);
    }

    pub(super) fn forget_container(&self, id: &str) {
        self.inner.containers.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// An exact match, or the only one that begins with `id`.
fn find<'a, T>(all: &'a HashMap<String, T>, id: &str) -> Option<&'a T> {
    if let Some(found) = all.get(id) {
        return Some(found);
    }
    if id.is_empty() || id.len() >= 64 {
        return None;
    }
    let mut matches = all.iter().filter(|(key, _)| key.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, found)), None) => Some(found),
        _ => None,
    }
}
