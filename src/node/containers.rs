//! The life of a container: create, start, stop, remove.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::container::{Container, Phase};
use super::error::{ErrorKind, NodeError, Result};
use super::index::Node;
use super::pod::{Pod, has_labels};
use super::records::{self, ContainerRecord, ExitRecord, StartedRecord};
use super::types::{ContainerConfig, NamespaceMode, PodConfig, PodState};
use super::views::{ContainerFilter, ContainerView};
use super::{ids, launch, spec};

/// How long a process may take to be gone after SIGKILL before the caller is told that it does not go.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Node {
    /// `CreateContainer`: checks and records a container; nothing runs yet. A second call with the same metadata gets
    /// the id of the first.
    pub async fn create_container(
        &self,
        pod_id: &str,
        config: ContainerConfig,
        _pod_config: Option<PodConfig>,
    ) -> Result<String> {
        let pod = self.find_pod(pod_id)?;
        let key = (pod.id.clone(), config.metadata.clone());
        self.inner.containers_in_flight.run(key, || self.make_container(&pod, config)).await
    }

    async fn make_container(&self, pod: &Arc<Pod>, mut config: ContainerConfig) -> Result<String> {
        let _turn = pod.queue.lock().await;
        self.usable(pod)?;
        self.name_volumes(&mut config)?;
        let same = self.containers_of(&pod.id).into_iter().find(|other| other.config.metadata == config.metadata);
        if let Some(same) = same {
            if *same.config == config && same.phase() == Phase::Created {
                return Ok(same.id().to_owned());
            }
            let message = format!(
                "container \"{}\" (attempt {}) of pod {} exists already as {}; remove it, or raise the attempt",
                config.metadata.name,
                config.metadata.attempt,
                pod.label(),
                same.id()
            );
            return Err(NodeError::new(ErrorKind::AlreadyExists, message));
        }
        let id = ids::new_id()?;
        let dir = self.inner.dirs.container(&id);
        let made = self.record_container(pod, &id, config).await;
        match made {
            Ok(container) => {
                info!(pod = %pod.label(), container = %container.config.metadata.name, %id, "container is created");
                self.insert_container(Arc::new(container));
                Ok(id)
            }
            Err(failure) => {
                if let Err(left) = records::remove_tree(&dir) {
                    warn!(%id, failure = %left, "a container that was not made left files behind");
                }
                Err(failure)
            }
        }
    }

    fn usable(&self, pod: &Pod) -> Result<()> {
        let live = pod.live();
        if live.stopping || live.state != PodState::Ready {
            let message =
                format!("pod {} ({}) is not ready; containers run only in a pod that is", pod.label(), pod.id);
            return Err(NodeError::new(ErrorKind::FailedPrecondition, message));
        }
        Ok(())
    }

    async fn record_container(&self, pod: &Arc<Pod>, id: &str, config: ContainerConfig) -> Result<Container> {
        self.check_namespaces(pod, &config)?;
        let image = self.image_for(&config.image)?;
        let lease = self.inner.images.lease(&image);
        let mut lease = lease.map_err(|cause| NodeError::internal(format!("image {}", image.id), cause))?;
        let user = self.resolve_user(&image, &config).await?;
        let defaults = super::images::defaults(&image);
        let dir = self.inner.dirs.container(id);
        launch::make_container_dirs(&dir)?;
        let volumes = self.make_volumes(&image, &dir, &config).await?;
        let image_volumes = self.mount_volumes(pod, &config, &mut lease)?;
        let stop_signal = spec::stop_signal(&config, &defaults.stop_signal)?;
        let log_path = launch::log_path(&pod.config, &config);
        let record = ContainerRecord {
            version: records::VERSION,
            id: id.to_owned(),
            pod_id: pod.id.clone(),
            created_at: ids::now(),
            image_id: image.id.to_string(),
            image_ref: super::images::image_ref(&image),
            image: defaults,
            user,
            log_path,
            stop_signal,
            layers: lease.layers().to_vec(),
            lowers: image.lowers(),
            volumes,
            image_volumes,
            cgroup: self.container_cgroup(pod, id),
            config,
        };
        // What can be wrong with the request shows now, not when it is started.
        let (_, environment) = self.build_spec(pod, &record, &record.config)?;
        self.check_external(pod, &record.config, &environment).await?;
        records::write(&dir.join("container.json"), &record)?;
        let container = Container::new(record, Phase::Created);
        container.hold(lease);
        Ok(container)
    }

    fn check_namespaces(&self, pod: &Pod, config: &ContainerConfig) -> Result<()> {
        let own = &config.security.namespaces;
        if config.security.privileged && !pod.config.security.privileged {
            let message = format!("container \"{}\" is privileged, but its pod is not", config.metadata.name);
            return Err(NodeError::invalid(message));
        }
        if own.pid == NamespaceMode::Target {
            let target = self.find_container(&own.target_id)?;
            if target.record.pod_id != pod.id {
                let message = format!("container {} is not of pod {}", own.target_id, pod.label());
                return Err(NodeError::invalid(message));
            }
        }
        Ok(())
    }

    /// `StartContainer`. A failure ends the container with exit code 128 and the reason StartError.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let container = self.find_container(id)?;
        let key = container.id().to_owned();
        self.inner.starts_in_flight.run(key, || self.start_once(container)).await
    }

    async fn start_once(&self, container: Arc<Container>) -> Result<()> {
        let pod = self.pod_of(&container)?;
        let _turn = pod.queue.lock().await;
        // It may have been removed while this waited for its turn.
        self.find_container(container.id())?;
        let phase = container.phase();
        if phase != Phase::Created {
            let message =
                format!("container {} is {:?}; only a created one can be started", container.id(), container.state());
            return Err(NodeError::new(ErrorKind::FailedPrecondition, message));
        }
        self.usable(&pod)?;
        container.live().phase = Phase::Starting;
        match self.launch(&pod, &container).await {
            Ok(started) => {
                let mut live = container.live();
                // It may have ended before this task came to know that it began.
                if live.phase == Phase::Starting {
                    live.phase = Phase::Running { started_at: started.at, pid: started.pid };
                    drop(live);
                    records::write(&self.inner.dirs.started(container.id()), &started)?;
                }
                info!(pod = %pod.label(), container = %container.config.metadata.name, id = %container.id(), "container is started");
                Ok(())
            }
            Err(failure) => {
                warn!(pod = %pod.label(), container = %container.config.metadata.name, %failure, "container did not start");
                // If it was the connection that failed, the process may be there all the same.
                self.kill_cgroup(&container).await;
                let exit = ExitRecord {
                    started_at: 0,
                    finished_at: ids::now(),
                    exit_code: 128,
                    reason: "StartError".to_owned(),
                    message: failure.message.clone(),
                };
                self.record_exit(&container, exit);
                self.clear_ended(&pod, &container).await;
                Err(failure)
            }
        }
    }

    async fn launch(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<StartedRecord> {
        let shim = pod.shim().ok_or_else(|| {
            NodeError::new(ErrorKind::FailedPrecondition, format!("pod {} has no shim any more", pod.label()))
        })?;
        if let Some(runtime) = &pod.external {
            return self.launch_external(runtime, pod, container, &shim).await;
        }
        let plan = self.build_launch(pod, container)?;
        let started = shim.start(plan.request(container)).await.map_err(|cause| {
            let kind = if cause.start_stage().is_some() { ErrorKind::FailedPrecondition } else { ErrorKind::Internal };
            NodeError::new(kind, format!("container \"{}\": {cause}", container.config.metadata.name))
        })?;
        let pid = i32::try_from(started.pid).unwrap_or_default();
        Ok(StartedRecord { at: super::exits::nanoseconds(started.started_at), pid })
    }

    /// `StopContainer`: the stop signal, then SIGKILL after `timeout` seconds; returns when the end is recorded. A
    /// container that is gone or has ended is stopped. The shortest of several timeouts counts.
    pub async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        let Ok(container) = self.find_container(id) else { return Ok(()) };
        match container.phase() {
            // What never ran has nothing to stop; it can still be started or removed.
            Phase::Exited(_) | Phase::Created => return Ok(()),
            Phase::Starting | Phase::Running { .. } => {}
        }
        if timeout > 0 {
            let first = !std::mem::replace(&mut container.live().stop_sent, true);
            if first {
                self.send_stop_signal(&container).await;
            }
            let grace = Duration::from_secs(timeout.unsigned_abs());
            if tokio::time::timeout(grace, container.wait()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(&container).await
    }

    async fn send_stop_signal(&self, container: &Arc<Container>) {
        let signal = container.record.stop_signal;
        if let Some(runtime) = self.pod_of(container).ok().and_then(|pod| pod.external.clone()) {
            match self.signal_external(&runtime, container, signal).await {
                Ok(()) => return,
                Err(cause) => warn!(id = %container.id(), signal, %cause, "the runtime did not hand on a signal"),
            }
        }
        self.signal(container, signal).await;
    }

    /// Sends a signal to the container's first process. That it is gone is no failure: its end is on its way.
    pub(super) async fn signal(&self, container: &Arc<Container>, signal: i32) {
        let shim = self.pod_of(container).ok().and_then(|pod| pod.shim());
        if let Some(shim) = shim
            && let Err(cause) = shim.signal(container.id(), signal).await
        {
            warn!(id = %container.id(), signal, %cause, "signal was not delivered");
        }
    }

    /// SIGKILL, and everything in the container's cgroup after a while; returns when the end is recorded.
    pub(super) async fn kill(&self, container: &Arc<Container>) -> Result<()> {
        self.signal(container, libc::SIGKILL).await;
        if tokio::time::timeout(Duration::from_secs(2), container.wait()).await.is_ok() {
            return Ok(());
        }
        self.kill_cgroup(container).await;
        if tokio::time::timeout(KILL_PATIENCE, container.wait()).await.is_ok() {
            return Ok(());
        }
        let shim_is_gone = self.pod_of(container).ok().and_then(|pod| pod.shim()).is_none();
        if shim_is_gone {
            self.record_exit(container, super::exits::lost(container, "its end was not seen"));
            return Ok(());
        }
        let message = format!(
            "container {} does not end: a process of it has been hanging in the kernel since SIGKILL; see cgroup {}",
            container.id(),
            container.record.cgroup
        );
        Err(NodeError::new(ErrorKind::DeadlineExceeded, message))
    }

    /// Ends all containers of a pod, side by side.
    pub(super) async fn end_containers(&self, pod: &Arc<Pod>) -> Result<()> {
        let mut ending = tokio::task::JoinSet::new();
        for container in self.containers_of(&pod.id) {
            if matches!(container.phase(), Phase::Running { .. } | Phase::Starting) {
                let node = self.clone();
                ending.spawn(async move { node.kill(&container).await });
            }
        }
        while let Some(ended) = ending.join_next().await {
            ended.map_err(|cause| NodeError::internal(format!("ending pod {}", pod.label()), cause))??;
        }
        Ok(())
    }

    /// `RemoveContainer`: ends it if need be, and removes all that there is of it. Its log stays: it is the kubelet's.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let Ok(container) = self.find_container(id) else { return Ok(()) };
        let Ok(pod) = self.pod_of(&container) else { return self.remove_in_turn(&container).await };
        let _turn = pod.queue.lock().await;
        if self.find_container(container.id()).is_err() {
            return Ok(());
        }
        self.remove_in_turn(&container).await
    }

    pub(super) async fn remove_in_turn(&self, container: &Arc<Container>) -> Result<()> {
        if !matches!(container.phase(), Phase::Created | Phase::Exited(_)) {
            self.kill(container).await?;
        }
        if let Ok(pod) = self.pod_of(container) {
            self.clear_external(&pod, container).await?;
        }
        self.remove_cgroup(container).await;
        records::remove(&self.inner.dirs.started(container.id()))?;
        let dir = self.inner.dirs.container(container.id());
        let small = !dir.join("volumes").exists();
        remove_dir(&dir, small).await?;
        self.forget_container(container.id());
        if let Some(lease) = container.live().lease.take() {
            // Layers of an image that was removed go with their last container.
            lease.release();
        }
        info!(container = %container.config.metadata.name, id = %container.id(), "container is removed");
        Ok(())
    }

    /// `ContainerStatus`.
    pub fn container_status(&self, id: &str) -> Result<ContainerView> {
        let container = self.find_container(id)?;
        Ok(self.view_of(&container))
    }

    fn view_of(&self, container: &Container) -> ContainerView {
        let handler = self.pod_of(container).map(|pod| pod.config.runtime_handler.clone()).unwrap_or_default();
        container.view(&handler)
    }

    /// `ListContainers`, the newest first.
    pub fn list_containers(&self, filter: &ContainerFilter) -> Vec<ContainerView> {
        let mut views: Vec<_> = self.matching(filter).iter().map(|container| self.view_of(container)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.created_at));
        views
    }

    pub(super) fn matching(&self, filter: &ContainerFilter) -> Vec<Arc<Container>> {
        let mut containers = self.all_containers();
        containers.retain(|container| {
            filter.id.as_ref().is_none_or(|id| container.id().starts_with(id.as_str()))
                && filter.pod_id.as_ref().is_none_or(|id| container.record.pod_id.starts_with(id.as_str()))
                && filter.state.is_none_or(|state| container.state() == state)
                && has_labels(&container.config.labels, &filter.labels)
        });
        containers
    }

    /// `ReopenContainerLog`: the log goes on in a new file of the same name.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.find_container(id)?;
        let not_running = || {
            let message = format!("container {id} does not run; only the log of a running one can be reopened");
            NodeError::new(ErrorKind::FailedPrecondition, message)
        };
        if !container.is_running() {
            return Err(not_running());
        }
        if container.record.log_path.is_empty() {
            return Ok(());
        }
        let shim = self.pod_of(&container)?.shim().ok_or_else(not_running)?;
        let file = launch::open_log(Path::new(&container.record.log_path))?;
        let done = shim.reopen_log(container.id(), file.as_fd()).await;
        done.map_err(|cause| NodeError::internal(format!("reopening the log of {id}"), cause))
    }

    /// Whether leftovers of a container outlive its first process: not in a PID namespace of its own.
    pub(super) fn shares_pids(container: &Container) -> bool {
        container.config.security.namespaces.pid != NamespaceMode::Container
    }
}

/// Removes the directory of a container. Big ones are removed off the runtime's threads.
async fn remove_dir(dir: &Path, small: bool) -> Result<()> {
    if small {
        return records::remove_tree(dir);
    }
    let dir = dir.to_path_buf();
    let removed = tokio::task::spawn_blocking(move || records::remove_tree(&dir)).await;
    removed.map_err(|cause| NodeError::internal("removing a container", cause))?
}
