//! Whether the node can do its work, and what it is told about its surroundings.

use std::collections::BTreeMap;

use super::error::{ErrorKind, NodeError, Result};
use super::index::Node;
use super::types::{ContainerState, PodState};
use super::views::{CgroupDriver, Condition, HandlerView, NodeStatus};
use crate::runtime::cgroup::Version;
use crate::telemetry::Counts;

impl Node {
    /// `Status`.
    pub async fn status(&self, verbose: bool) -> NodeStatus {
        let runtime = Condition { kind: "RuntimeReady", ready: true, reason: String::new(), message: String::new() };
        let runtime = match self.runtime_works() {
            Ok(()) => runtime,
            Err(cause) => {
                Condition { ready: false, reason: "RuntimeNotReady".to_owned(), message: cause.to_string(), ..runtime }
            }
        };
        let network = match self.inner.network.status() {
            Ok(()) => Condition { kind: "NetworkReady", ready: true, reason: String::new(), message: String::new() },
            Err(cause) => {
                Condition { kind: "NetworkReady", ready: false, reason: cause.reason, message: cause.message }
            }
        };
        let mut info = BTreeMap::new();
        if verbose {
            info.insert("config".to_owned(), self.describe());
            info.insert("recovery".to_owned(), self.describe_recovery());
        }
        NodeStatus {
            conditions: vec![runtime, network],
            handlers: self.handlers(),
            supplemental_groups_policy: true,
            info,
        }
    }

    /// Records can be written, and the cgroups that were found at the start are still there.
    fn runtime_works(&self) -> Result<()> {
        let probe = self.inner.dirs.root.join("probe");
        std::fs::write(&probe, b"orlop").and_then(|()| std::fs::remove_file(&probe)).map_err(|cause| {
            NodeError::internal(format!("{} cannot be written to", self.inner.dirs.root.display()), cause)
        })?;
        std::fs::read_link("/proc/self/exe")
            .map_err(|cause| NodeError::internal("/proc is not mounted as it should be", cause))?;
        Ok(())
    }

    fn handlers(&self) -> Vec<HandlerView> {
        let handlers = &self.inner.handlers;
        let view = |name: &str| HandlerView {
            name: name.to_owned(),
            recursive_read_only_mounts: match handlers.runtime(name) {
                Some(_) => handlers.known_features(name).is_some_and(|features| features.recursive_read_only_mounts),
                None => true,
            },
            // Whatever a runtime can do, pods do not get user namespaces yet.
            user_namespaces: false,
        };
        std::iter::once("").chain(handlers.names()).map(view).collect()
    }

    /// What the handlers are, and what external runtimes say of themselves.
    fn describe_handlers(&self) -> serde_json::Value {
        let handlers = &self.inner.handlers;
        let describe = |name: &str| {
            let entry = handlers.runtime(name).map(|runtime| {
                serde_json::json!({
                    "path": runtime.path,
                    "args": runtime.args,
                    "root": runtime.root,
                    "features": handlers.known_features(name),
                })
            });
            (name.to_owned(), entry.unwrap_or_else(|| serde_json::json!({})))
        };
        handlers.names().map(describe).collect::<serde_json::Map<_, _>>().into()
    }

    fn describe(&self) -> String {
        let settings = &self.inner.settings;
        serde_json::json!({
            "root": settings.root,
            "state": settings.state,
            "cgroupDriver": match settings.cgroup_driver {
                CgroupDriver::Cgroupfs => "cgroupfs",
                CgroupDriver::Systemd => "systemd",
            },
            "cgroupVersion": if self.inner.cgroups.version() == Version::V2 { 2 } else { 1 },
            "network": settings.network,
            "handlers": self.describe_handlers(),
        })
        .to_string()
    }

    fn describe_recovery(&self) -> String {
        let found = self.inner.recovered.get().copied().unwrap_or_default();
        serde_json::json!({
            "pods": found.pods,
            "containers": found.containers,
            "lostShims": found.lost_shims,
            "removedLeftovers": found.leftovers,
        })
        .to_string()
    }

    /// `RuntimeConfig`: what is in force.
    pub fn runtime_config(&self) -> CgroupDriver {
        self.inner.settings.cgroup_driver
    }

    /// `UpdateRuntimeConfig`: the addresses that the cluster gave this node's pods.
    pub async fn update_runtime_config(&self, pod_cidr: Option<String>) -> Result<()> {
        let Some(cidr) = pod_cidr.filter(|cidr| !cidr.is_empty()) else { return Ok(()) };
        let updated = self.inner.network.update_pod_cidr(&cidr).await;
        updated.map_err(|cause| NodeError::new(ErrorKind::InvalidArgument, format!("pod CIDR \"{cidr}\": {cause}")))
    }

    /// Whether the agent can do its work at all; why not, if it cannot.
    pub fn healthy(&self) -> std::result::Result<(), String> {
        self.runtime_works().map_err(|cause| cause.to_string())
    }

    /// What there is, for metrics.
    pub fn counts(&self) -> Counts {
        let received = self.inner.registry.counters().snapshot().bytes_received;
        let mut counts = Counts { pulls_in_progress: self.pulls().len(), pulled_bytes: received, ..Counts::default() };
        for pod in self.all_pods() {
            let live = pod.live();
            match live.state {
                PodState::Ready => counts.pods_ready += 1,
                PodState::NotReady => counts.pods_not_ready += 1,
            }
            counts.shims += usize::from(live.shim.is_some());
        }
        for container in self.all_containers() {
            match container.state() {
                ContainerState::Created => counts.containers_created += 1,
                ContainerState::Running => counts.containers_running += 1,
                ContainerState::Exited => counts.containers_exited += 1,
                ContainerState::Unknown => counts.containers_unknown += 1,
            }
        }
        counts
    }
}
