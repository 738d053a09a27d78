//! The life of a pod: run, stop, remove.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::error::{ErrorKind, NodeError, Result};
use super::ids;
use super::index::Node;
use super::pod::{Pod, has_labels};
use super::records::{self, PodRecord, StoppedRecord};
use super::types::{NamespaceMode, PodConfig, PodState};
use super::views::{ContainerView, PodFilter, PodView};
use super::{files, launch};
use crate::network::{NetworkRecord, PodNetworkRequest};
use crate::shim::client::{NamespaceSource, SetupRequest, ShimClient, ShimError, ShmSource};

/// As kubelets ask it for what a pod stands on.
const SHIM_OOM_SCORE_ADJ: i16 = -998;
/// How long a shim may take to end.
const SHIM_PATIENCE: Duration = Duration::from_secs(5);

/// Where the shared memory of a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// It is the host's.
    Host,
    /// The shim holds it, mounted nowhere: nothing of it can be left over.
    Shim,
    /// Mounted in the pod's state, where the kernel or the pod's runtime cannot do better.
    HostMount,
}

impl Node {
    /// `RunPodSandbox`: makes a pod and gives its id. A second call with the same metadata joins the first, or gets
    /// the id of the pod that the first one made.
    pub async fn run_pod(&self, config: PodConfig) -> Result<String> {
        self.known_handler(&config.runtime_handler)?;
        let key = config.metadata.clone();
        self.inner.pods_in_flight.run(key, || self.make_pod(config)).await
    }

    fn known_handler(&self, handler: &str) -> Result<()> {
        if self.inner.handlers.knows(handler) {
            return Ok(());
        }
        let known = self.inner.handlers.names().collect::<Vec<_>>().join(", ");
        Err(NodeError::invalid(format!("no runtime for handler \"{handler}\" is configured; there are: {known}")))
    }

    async fn make_pod(&self, config: PodConfig) -> Result<String> {
        let same = self.all_pods().into_iter().find(|pod| pod.config.metadata == config.metadata);
        if let Some(same) = same {
            if same.live().state == PodState::Ready && same.config == config {
                return Ok(same.id.clone());
            }
            // It failed or has ended, and the caller asks for the very same pod again: it takes its place.
            self.remove_pod(&same.id).await?;
        }
        let id = ids::new_id()?;
        let record = PodRecord {
            version: records::VERSION,
            created_at: ids::now(),
            external: self.inner.handlers.runtime(&config.runtime_handler).cloned(),
            made_cgroups: launch::missing_cgroups(&self.inner.cgroups, &self.parent_path(&config)?)?,
            scope: self.new_scope(&config, &id)?,
            id,
            config,
        };
        let dir = self.inner.dirs.pod(&record.id);
        records::make_dir(&dir, 0o700).map_err(|cause| NodeError::internal(dir.display(), cause))?;
        records::write(&dir.join("pod.json"), &record)?;
        let pod = Arc::new(Pod::new(record));
        if let Err(failure) = self.start_pod(&pod).await {
            self.undo_pod(&pod).await;
            return Err(failure);
        }
        pod.live().state = PodState::Ready;
        self.insert_pod(pod.clone());
        info!(pod = %pod.label(), id = %pod.id, "pod is ready");
        Ok(pod.id.clone())
    }

    /// Takes back what a failed start left. What cannot be taken back now stays listed as a pod that is not ready, so
    /// that it can be removed later.
    async fn undo_pod(&self, pod: &Arc<Pod>) {
        let undone = match self.tear_down(pod).await {
            Ok(()) => self.erase_pod(pod).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = undone {
            warn!(pod = %pod.label(), id = %pod.id, %failure, "a failed pod could not be taken back; it stays, not ready");
            self.insert_pod(pod.clone());
        }
    }

    /// Files, network and shim; the shim is spawned while the network is set up.
    async fn start_pod(&self, pod: &Arc<Pod>) -> Result<()> {
        let dir = self.inner.dirs.pod_state(&pod.id);
        let failed = |cause: &dyn std::fmt::Display| NodeError::internal(format!("pod {}", pod.label()), cause);
        records::make_dir(&dir, 0o700).map_err(|cause| failed(&cause))?;
        let state = File::open(&dir).map_err(|cause| failed(&cause))?;
        let (events, told) = mpsc::unbounded_channel();
        let prepare = async {
            files::write(&dir, &pod.config, &self.inner.host_name).map_err(|cause| failed(&cause))?;
            if self.memory_of(pod) == Memory::HostMount {
                launch::mount_shm(&dir)?;
            }
            let shim = ShimClient::spawn(&self.inner.shim_image, &pod.id, state.as_fd(), None, events);
            let shim = Arc::new(shim.map_err(|cause| failed(&cause))?);
            pod.live().shim = Some(shim.clone());
            let doors = self.enter_scope(pod, shim.pid()).await?;
            Ok::<_, NodeError>((shim, doors))
        };
        let (netns, prepared) = tokio::join!(self.attach(pod), prepare);
        let (shim, doors) = prepared?;
        self.set_up_shim(pod, &shim, &state, netns?, &doors).await.map_err(|cause| failed(&cause))?;
        self.watch(pod.clone(), told);
        Ok(())
    }

    /// Makes a new shim the one of this pod.
    async fn set_up_shim(
        &self,
        pod: &Pod,
        shim: &ShimClient,
        state: &File,
        netns: Option<OwnedFd>,
        doors: &[OwnedFd],
    ) -> std::result::Result<(), ShimError> {
        let namespaces = &pod.config.security.namespaces;
        let hostname = self.own_hostname(&pod.config);
        let sysctls = self.sysctls(&pod.config);
        let new_if = |new: bool| if new { NamespaceSource::New } else { NamespaceSource::Host };
        let setup = SetupRequest {
            state: state.as_fd(),
            net: netns.as_ref().map(AsFd::as_fd),
            ipc: new_if(namespaces.ipc != NamespaceMode::Node),
            uts: new_if(hostname.is_some()),
            hostname: hostname.as_deref().unwrap_or_default(),
            pod_pid: namespaces.pid == NamespaceMode::Pod,
            shm: if self.memory_of(pod) == Memory::Shim { ShmSource::New } else { ShmSource::None },
            sysctls: &sysctls.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(),
            oom_score_adj: Some(SHIM_OOM_SCORE_ADJ),
            cgroups: &doors.iter().map(AsFd::as_fd).collect::<Vec<_>>(),
        };
        shim.setup(setup).await.map(|_| ())
    }

    /// Where a new pod's shared memory comes from.
    fn memory_of(&self, pod: &Pod) -> Memory {
        match pod.config.security.namespaces.ipc {
            NamespaceMode::Node => Memory::Host,
            // Another runtime needs a path.
            _ if self.inner.shims_hold_memory && pod.external.is_none() => Memory::Shim,
            _ => Memory::HostMount,
        }
    }

    /// A pod in the host's network without a hostname of its own has the host's UTS namespace.
    fn own_hostname(&self, config: &PodConfig) -> Option<String> {
        if config.security.namespaces.network == NamespaceMode::Node {
            return None;
        }
        Some(if config.hostname.is_empty() { self.inner.host_name.clone() } else { config.hostname.clone() })
    }

    fn sysctls(&self, config: &PodConfig) -> Vec<(String, String)> {
        let mut sysctls = Vec::new();
        if config.security.namespaces.network != NamespaceMode::Node {
            let defaults = self.inner.settings.default_sysctls.iter();
            sysctls.extend(defaults.filter(|(key, _)| !config.sysctls.contains_key(key)).cloned());
        }
        sysctls.extend(config.sysctls.iter().map(|(key, value)| (key.clone(), value.clone())));
        sysctls.into_iter().map(|(key, value)| (sysctl_path(&key), value)).collect()
    }

    /// Sets the network up, unless the pod has the host's.
    async fn attach(&self, pod: &Arc<Pod>) -> Result<Option<OwnedFd>> {
        if pod.host_network() {
            return Ok(None);
        }
        let network = self.inner.network.setup(network_request(pod)).await.map_err(|cause| {
            NodeError::new(ErrorKind::Unavailable, format!("network of pod {}: {cause}", pod.label()))
        })?;
        {
            let mut live = pod.live();
            live.network = Some(network.record.clone());
            live.counters = Some(network.counters);
        }
        records::write(&self.inner.dirs.pod(&pod.id).join("network.json"), &network.record)?;
        Ok(Some(network.netns))
    }

    /// `StopPodSandbox`: ends the pod's containers and gives back what it holds. It may be called again, and for a pod
    /// that is gone.
    pub async fn stop_pod(&self, id: &str) -> Result<()> {
        let Ok(pod) = self.find_pod(id) else { return Ok(()) };
        let _turn = pod.queue.lock().await;
        if self.find_pod(&pod.id).is_err() {
            // It was removed while this waited for its turn.
            return Ok(());
        }
        self.stop_in_turn(&pod).await
    }

    pub(super) async fn stop_in_turn(&self, pod: &Arc<Pod>) -> Result<()> {
        pod.live().stopping = true;
        self.tear_down(pod).await?;
        let stopped = self.inner.dirs.pod(&pod.id).join("stopped.json");
        if !stopped.exists() {
            records::write(&stopped, &StoppedRecord { at: ids::now() })?;
            info!(pod = %pod.label(), id = %pod.id, "pod is stopped");
        }
        Ok(())
    }

    /// Each step is one that may have been done before.
    async fn tear_down(&self, pod: &Arc<Pod>) -> Result<()> {
        self.end_containers(pod).await?;
        let (network, shim) = {
            let mut live = pod.live();
            live.state = PodState::NotReady;
            live.counters = None;
            live.cgroup = None;
            (live.network.clone(), live.shim.take())
        };
        if let Some(shim) = shim {
            end_shim(pod, &shim).await?;
        }
        self.leave_scope(pod).await?;
        if let Some(record) = network {
            self.detach(pod, &record).await?;
        }
        for container in self.containers_of(&pod.id) {
            self.clear_external(pod, &container).await?;
        }
        let dir = self.inner.dirs.pod_state(&pod.id);
        launch::unmount_all(&dir)?;
        records::remove_tree(&dir)
    }

    async fn detach(&self, pod: &Arc<Pod>, record: &NetworkRecord) -> Result<()> {
        self.inner.network.teardown(&network_request(pod), record).await.map_err(|cause| {
            NodeError::new(ErrorKind::Unavailable, format!("giving back the network of pod {}: {cause}", pod.label()))
        })?;
        records::remove(&self.inner.dirs.pod(&pod.id).join("network.json"))?;
        pod.live().network = None;
        Ok(())
    }

    /// Lets go of a network whose teardown fails; plugins are asked again at the next start. If it was not the network
    /// that failed, the failure stays.
    fn abandon_network(&self, pod: &Arc<Pod>, failure: &NodeError) -> Result<()> {
        let Some(record) = pod.live().network.take() else { return Err(failure.clone()) };
        warn!(pod = %pod.label(), %failure, "the pod is removed without giving its network back");
        let abandoned = self.inner.network.abandon(&network_request(pod), &record);
        abandoned.map_err(|cause| NodeError::internal(format!("network of pod {}", pod.label()), cause))?;
        records::remove(&self.inner.dirs.pod(&pod.id).join("network.json"))
    }

    /// `RemovePodSandbox`: stops the pod, removes its containers and all that is recorded of it.
    pub async fn remove_pod(&self, id: &str) -> Result<()> {
        let Ok(pod) = self.find_pod(id) else { return Ok(()) };
        let _turn = pod.queue.lock().await;
        if self.find_pod(&pod.id).is_err() {
            return Ok(());
        }
        if let Err(failure) = self.stop_in_turn(&pod).await {
            // A network that cannot be given back now is no reason to keep the pod.
            self.abandon_network(&pod, &failure)?;
            self.stop_in_turn(&pod).await?;
        }
        for container in self.containers_of(&pod.id) {
            self.remove_in_turn(&container).await?;
        }
        self.erase_pod(&pod).await?;
        self.forget_pod(&pod.id);
        info!(pod = %pod.label(), id = %pod.id, "pod is removed");
        Ok(())
    }

    /// Removes what stays of a pod that holds nothing any more: cgroups that it brought, and last its records.
    async fn erase_pod(&self, pod: &Pod) -> Result<()> {
        self.remove_parents(pod).await;
        records::remove_tree(&self.inner.dirs.pod(&pod.id))
    }

    /// `PodSandboxStatus`: the pod and its containers, the oldest first.
    pub fn pod_status(&self, id: &str) -> Result<(PodView, Vec<ContainerView>)> {
        let pod = self.find_pod(id)?;
        let containers = self.containers_of(&pod.id);
        let views = containers.iter().map(|container| container.view(&pod.config.runtime_handler)).collect();
        Ok((pod.view(), views))
    }

    /// `ListPodSandbox`, the newest first.
    pub fn list_pods(&self, filter: &PodFilter) -> Vec<PodView> {
        let mut views: Vec<_> = self.matching_pods(filter).iter().map(|pod| pod.view()).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.created_at));
        views
    }

    pub(super) fn matching_pods(&self, filter: &PodFilter) -> Vec<Arc<Pod>> {
        let mut pods = self.all_pods();
        pods.retain(|pod| {
            filter.id.as_ref().is_none_or(|id| pod.id.starts_with(id.as_str()))
                && filter.state.is_none_or(|state| pod.live().state == state)
                && has_labels(&pod.config.labels, &filter.labels)
        });
        pods
    }
}

/// The orderly end of a shim, or the other one.
pub(super) async fn end_shim(pod: &Pod, shim: &ShimClient) -> Result<()> {
    let ended = tokio::time::timeout(SHIM_PATIENCE, shim.shutdown()).await;
    if matches!(ended, Ok(Ok(()))) {
        return Ok(());
    }
    let failed = |cause| NodeError::internal(format!("ending the shim of pod {}", pod.label()), cause);
    shim.kill().map_err(failed)?;
    match tokio::time::timeout(SHIM_PATIENCE, shim.wait_death()).await {
        Ok(died) => died.map_err(failed),
        Err(_) => {
            let message = format!("the shim of pod {} (process {}) does not end", pod.label(), shim.pid());
            Err(NodeError::new(ErrorKind::DeadlineExceeded, message))
        }
    }
}

/// The path below /proc/sys of a sysctl that is named with dots or with slashes: the first separator tells which.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// What the network needs to know of a pod.
pub(super) fn network_request(pod: &Pod) -> PodNetworkRequest {
    let config = &pod.config;
    PodNetworkRequest {
        id: pod.id.clone(),
        name: config.metadata.name.clone(),
        namespace: config.metadata.namespace.clone(),
        uid: config.metadata.uid.clone(),
        port_mappings: config.port_mappings.iter().filter_map(launch::port_mapping).collect(),
        annotations: config.annotations.clone(),
        labels: config.labels.clone(),
        dns: config.dns.as_ref().map(launch::network_dns),
        cgroup_parent: config.cgroup_parent.clone(),
        netns: None,
    }
}
