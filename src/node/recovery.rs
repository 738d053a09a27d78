//! From the records and the living shims back to memory: what an agent does first.
//!
//! A record is the truth about what was asked for; a living shim is the truth about what runs. Where they do not
//! meet, the end is recorded and what is left is ended. What no record claims is removed.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::container::{Container, Phase};
use super::error::Result;
use super::index::Node;
use super::pod::Pod;
use super::records::{self, ContainerRecord, ExitRecord, PodRecord, StartedRecord};
use super::types::PodState;
use super::{exits, launch};
use crate::network::NetworkRecord;
use crate::shim::client::{ProcessInfo, ShimClient, ShimError, ShimEvent};
use crate::shim::protocol::ProcessState;

type Events = mpsc::UnboundedReceiver<ShimEvent>;

/// How often, and with what pause, a stranger's shim is asked to end once its processes were killed.
const STRANGER_TRIES: u32 = 100;
const STRANGER_PAUSE: Duration = Duration::from_millis(5);

/// How often, and with what pause, a start under way is waited for.
const SETTLE_TRIES: u32 = 1000;
const SETTLE_PAUSE: Duration = Duration::from_millis(2);

/// What an agent found when it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub pods: usize,
    pub containers: usize,
    /// Pods that were ready, and whose shim is gone.
    pub lost_shims: usize,
    /// Directories, mounts and shims that no record claimed.
    pub leftovers: usize,
}

impl Node {
    /// Brings back all that there was. Nothing is served before it is done.
    pub(super) async fn recover(&self) -> Result<Recovered> {
        let mut found = Recovered::default();
        self.load_pods(&mut found);
        let lost = self.load_containers(&mut found);
        self.remove_orphans(&mut found).await;
        for pod in self.all_pods() {
            found.lost_shims += usize::from(!self.recover_pod(&pod).await);
        }
        let live: Vec<(String, NetworkRecord)> =
            self.all_pods().into_iter().filter_map(|pod| Some((pod.id.clone(), pod.live().network.clone()?))).collect();
        if let Err(failure) = self.inner.network.recover(&live).await {
            warn!(%failure, "the network could not be brought into line with the pods");
        }
        self.sweep(&mut found).await;
        found.leftovers += self.sweep_external().await;
        if !lost.is_empty() {
            self.sweep_cgroups(lost).await;
        }
        if found != Recovered::default() {
            info!(
                pods = found.pods,
                containers = found.containers,
                lost_shims = found.lost_shims,
                leftovers = found.leftovers,
                "recovered"
            );
        }
        // A second recovery does not happen: a node is opened once.
        let _ = self.inner.recovered.set(found);
        Ok(found)
    }

    fn load_pods(&self, found: &mut Recovered) {
        for id in records::names(&self.inner.dirs.pods()) {
            let dir = self.inner.dirs.pod(&id);
            match records::read::<PodRecord>(&dir.join("pod.json")) {
                Ok(Some(record)) if record.version <= records::VERSION && record.id == id => {
                    let pod = Pod::new(record);
                    pod.live().stopping = dir.join("stopped.json").exists();
                    pod.live().network = records::read(&dir.join("network.json")).unwrap_or_default();
                    self.insert_pod(Arc::new(pod));
                    found.pods += 1;
                }
                other => {
                    let why = other.err().map_or("no usable record".to_owned(), |failure| failure.message);
                    warn!(%id, why, "a pod that power loss or another version left is removed");
                    // The sweep ends what may be left of it, for nobody claims it now.
                    let _ = records::remove_tree(&dir);
                    found.leftovers += 1;
                }
            }
        }
    }

    /// Gives the ids of those that have no usable record.
    fn load_containers(&self, found: &mut Recovered) -> Vec<String> {
        let mut lost = Vec::new();
        for id in records::names(&self.inner.dirs.containers()) {
            let dir = self.inner.dirs.container(&id);
            match records::read::<ContainerRecord>(&dir.join("container.json")) {
                Ok(Some(record)) if record.version <= records::VERSION && record.id == id => {
                    let phase = self.recorded_phase(&dir, &id);
                    let lease = self.inner.images.lease_layers(&record.layers);
                    let container = Container::new(record, phase);
                    match lease {
                        Ok(lease) => container.hold(lease),
                        Err(cause) => warn!(%id, %cause, "a container has lost a layer of its image"),
                    }
                    self.insert_container(Arc::new(container));
                    found.containers += 1;
                }
                other => {
                    let why = other.err().map_or("no usable record".to_owned(), |failure| failure.message);
                    warn!(%id, why, "a container that was never made whole is removed");
                    let _ = records::remove_tree(&dir);
                    found.leftovers += 1;
                    lost.push(id);
                }
            }
        }
        lost
    }

    /// What the records alone say.
    fn recorded_phase(&self, dir: &Path, id: &str) -> Phase {
        if let Ok(Some(exit)) = records::read::<ExitRecord>(&dir.join("exit.json")) {
            return Phase::Exited(exit);
        }
        match records::read::<StartedRecord>(&self.inner.dirs.started(id)) {
            Ok(Some(started)) => Phase::Running { started_at: started.at, pid: started.pid },
            _ => Phase::Created,
        }
    }

    /// Connects to the shim that an earlier agent left.
    async fn reconnect(&self, pod_id: &str) -> std::result::Result<(ShimClient, Events), ShimError> {
        let dir = self.inner.dirs.pod_state(pod_id);
        let dir = File::open(&dir).map_err(|source| ShimError::Io {
            pod: pod_id.to_owned(),
            what: "open its directory",
            source,
        })?;
        let (events, told) = mpsc::unbounded_channel();
        Ok((ShimClient::connect(pod_id, dir.as_fd(), events).await?, told))
    }

    /// Removes containers whose pod's record was lost.
    async fn remove_orphans(&self, found: &mut Recovered) {
        for container in self.all_containers() {
            if self.pod_of(&container).is_ok() {
                continue;
            }
            warn!(id = %container.id(), pod = %container.record.pod_id, "a container of a pod that no record claims is removed");
            found.leftovers += 1;
            self.end_without_shim(&container, None).await;
            if let Err(failure) = self.remove_in_turn(&container).await {
                warn!(id = %container.id(), %failure, "it could not be removed");
            }
        }
    }

    /// Where a container's record was lost, nobody knows where its cgroup is: it is looked for by its name, the id.
    async fn sweep_cgroups(&self, lost: Vec<String>) {
        let host = self.inner.cgroups.clone();
        let swept = tokio::task::spawn_blocking(move || {
            for path in launch::cgroups_named(&host, &lost) {
                let Some(cgroup) = launch::open_cgroup(&host, &path) else { continue };
                warn!(path, "a cgroup that no record claims is removed");
                if let Err(cause) = cgroup.kill().and_then(|()| cgroup.remove()) {
                    warn!(path, %cause, "it could not be removed");
                }
                // The pod's own, if that record was lost as well: nothing is in it then.
                if let Some(parent) = cgroup.path().parent().and_then(|parent| host.open(&parent).ok()) {
                    let _ = parent.remove_if_empty();
                }
            }
        });
        // A panic there is in the log; the rest of the recovery does not depend on it.
        let _ = swept.await;
    }

    /// Brings a pod into line with its shim. False if it should have one and has none.
    pub(super) async fn recover_pod(&self, pod: &Arc<Pod>) -> bool {
        let (shim, events) = match self.reconnect(&pod.id).await {
            Ok(connected) => connected,
            Err(cause) => {
                let expected = !pod.live().stopping;
                if expected {
                    warn!(pod = %pod.label(), id = %pod.id, %cause, "the pod's shim is gone");
                }
                pod.live().state = PodState::NotReady;
                for container in self.containers_of(&pod.id) {
                    self.recover_lost(pod, &container).await;
                }
                return !expected;
            }
        };
        let shim = Arc::new(shim);
        let processes = settled(&shim).await.unwrap_or_else(|cause| {
            warn!(pod = %pod.label(), %cause, "the pod's shim does not say what runs");
            Vec::new()
        });
        let mut processes: HashMap<String, ProcessInfo> =
            processes.into_iter().map(|process| (process.id.clone(), process)).collect();
        {
            let whole = pod.host_network() || pod.live().network.is_some();
            let mut live = pod.live();
            live.shim = Some(shim.clone());
            if shim.hello().is_some_and(|hello| hello.configured && !hello.init_died) && whole && !live.stopping {
                live.state = PodState::Ready;
            }
        }
        for container in self.containers_of(&pod.id) {
            let process = processes.remove(container.id());
            self.recover_container(pod, &container, process).await;
        }
        self.end_strangers(pod, &shim, processes).await;
        self.watch(pod.clone(), events);
        true
    }

    /// Brings one container into line with what the shim says of it.
    async fn recover_container(&self, pod: &Arc<Pod>, container: &Arc<Container>, process: Option<ProcessInfo>) {
        match (container.phase(), process) {
            (Phase::Exited(_), process) => {
                // The end was recorded, and the agent died before it told the shim.
                if let (Some(_), Some(shim)) = (process, pod.shim()) {
                    let _ = shim.forget(container.id()).await;
                }
                self.clear_ended(pod, container).await;
            }
            (_, Some(process)) => {
                let cgroup = launch::open_cgroup(&self.inner.cgroups, &container.record.cgroup).map(Arc::new);
                let started_at = exits::nanoseconds(process.started_at);
                let pid = i32::try_from(process.pid).unwrap_or_default();
                {
                    let mut live = container.live();
                    live.cgroup = cgroup;
                    live.phase = Phase::Running { started_at, pid };
                }
                if let Some(status) = process.status {
                    let finished_at = exits::nanoseconds(process.finished_at);
                    let exit = exits::Exit { code: status.code(), started_at, finished_at };
                    self.container_exited(pod, container.id(), exit).await;
                    return;
                }
                let started = StartedRecord { at: started_at, pid };
                if let Err(failure) = records::write(&self.inner.dirs.started(container.id()), &started) {
                    warn!(id = %container.id(), %failure, "a start could not be recorded");
                }
            }
            (Phase::Created, None) => self.clear_ended(pod, container).await,
            (_, None) => self.end_without_shim(container, Some(pod)).await,
        }
    }

    /// A container whose pod has no shim.
    async fn recover_lost(&self, pod: &Arc<Pod>, container: &Arc<Container>) {
        match container.phase() {
            Phase::Created | Phase::Exited(_) => {
                if launch::open_cgroup(&self.inner.cgroups, &container.record.cgroup).is_some() {
                    // It may have been on its way up when everything died.
                    self.kill_cgroup(container).await;
                }
                self.clear_ended(pod, container).await;
            }
            _ => self.end_without_shim(container, Some(pod)).await,
        }
    }

    /// Containers that no record claims are ended; execs of an agent that died have nobody to report to.
    async fn end_strangers(&self, pod: &Arc<Pod>, shim: &Arc<ShimClient>, strangers: HashMap<String, ProcessInfo>) {
        for (id, process) in strangers {
            if process.status.is_some() {
                let _ = shim.forget(&id).await;
                continue;
            }
            if process.target.is_none() {
                warn!(pod = %pod.label(), %id, "a container that no record claims is ended");
            }
            let _ = shim.signal(&id, libc::SIGKILL).await;
        }
    }

    /// Removes what no record claims: state of pods that are gone, with their shims and mounts.
    async fn sweep(&self, found: &mut Recovered) {
        let pods_dir = self.inner.dirs.state.join("pods");
        for id in records::names(&pods_dir) {
            let known = self.inner.pods.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id);
            if known {
                continue;
            }
            found.leftovers += 1;
            warn!(%id, "state of a pod that no record claims is removed");
            let dir = pods_dir.join(&id);
            if let Ok((shim, _events)) = self.reconnect(&id).await {
                end_stranger(&shim).await;
            }
            if let Err(failure) = launch::unmount_all(&dir).and_then(|()| records::remove_tree(&dir)) {
                warn!(%id, %failure, "it could not be removed");
            }
        }
        let started = self.inner.dirs.state.join("containers");
        for name in records::names(&started) {
            let id = name.trim_end_matches(".json");
            if self.find_container(id).is_err() {
                let _ = records::remove(&started.join(&name));
            }
        }
    }
}

/// What a shim runs, once nothing is on its way to its program any more: a start that fails leaves nothing to be
/// told of.
async fn settled(shim: &ShimClient) -> std::result::Result<Vec<ProcessInfo>, ShimError> {
    let mut processes = shim.list().await?;
    for _ in 0..SETTLE_TRIES {
        if processes.iter().all(|process| process.state != ProcessState::Starting) {
            break;
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
        processes = shim.list().await?;
    }
    Ok(processes)
}

/// Ends a shim that no record claims, and first what runs in it, so that nothing outlives it even for a moment.
async fn end_stranger(shim: &ShimClient) {
    for process in shim.list().await.unwrap_or_default() {
        let _ = shim.signal(&process.id, libc::SIGKILL).await;
    }
    for _ in 0..STRANGER_TRIES {
        if shim.shutdown().await.is_ok() {
            return;
        }
        tokio::time::sleep(STRANGER_PAUSE).await;
    }
    if shim.kill().is_ok() {
        let _ = shim.wait_death().await;
    }
}
