//! A pod in memory: what was asked for, and what there is of it now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::external::ExternalRuntime;
use super::rate::CpuRate;
use super::records::{PodRecord, PodScope};
use super::types::{NamespaceMode, PodConfig, PodState};
use super::views::PodView;
use crate::network::{InterfaceReader, NetworkRecord};
use crate::runtime::cgroup::Cgroup;
use crate::shim::client::ShimClient;

/// One pod.
#[derive(Debug)]
pub struct Pod {
    pub id: String,
    pub created_at: i64,
    pub made_cgroups: Vec<String>,
    pub scope: Option<PodScope>,
    pub config: PodConfig,
    /// What runs its containers, if it is not the built-in runtime.
    pub external: Option<ExternalRuntime>,
    /// Operations on a pod run one after the other.
    pub queue: tokio::sync::Mutex<()>,
    live: Mutex<PodLive>,
}

/// What changes in a pod's life.
#[derive(Debug, Default)]
pub struct PodLive {
    pub state: PodState,
    pub network: Option<NetworkRecord>,
    pub shim: Option<Arc<ShimClient>>,
    /// Reads the counters of the pod's interfaces; keeps the network namespace, so it goes before that does.
    pub counters: Option<InterfaceReader>,
    pub cpu: CpuRate,
    /// The pod's own cgroup, once it was needed.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Set by Stop: from then on nothing is started in it.
    pub stopping: bool,
}

impl Pod {
    pub fn new(record: PodRecord) -> Self {
        Self {
            id: record.id,
            created_at: record.created_at,
            made_cgroups: record.made_cgroups,
            scope: record.scope,
            config: record.config,
            external: record.external,
            queue: tokio::sync::Mutex::default(),
            live: Mutex::default(),
        }
    }

    pub fn live(&self) -> MutexGuard<'_, PodLive> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn shim(&self) -> Option<Arc<ShimClient>> {
        self.live().shim.clone()
    }

    pub fn host_network(&self) -> bool {
        self.config.security.namespaces.network == NamespaceMode::Node
    }

    /// "namespace/name", for messages.
    pub fn label(&self) -> String {
        format!("{}/{}", self.config.metadata.namespace, self.config.metadata.name)
    }

    pub fn view(&self) -> PodView {
        let live = self.live();
        let ips = match (&live.network, live.state) {
            (Some(network), PodState::Ready) => network.ips.clone(),
            _ => Vec::new(),
        };
        PodView {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: live.state,
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.config.runtime_handler.clone(),
            namespaces: self.config.security.namespaces.clone(),
            ips,
        }
    }
}

/// Whether all of `wanted` is in `labels`.
pub fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
