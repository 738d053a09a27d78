//! What happens when a container or a shim ends.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::container::{Container, Phase};
use super::ids;
use super::index::Node;
use super::pod::Pod;
use super::records::{self, ExitRecord};
use super::types::PodState;
use crate::shim::client::{ShimEvent, ShimEventKind};
use crate::shim::protocol::{self, EXIT_SUFFIX};

impl Node {
    /// Follows the events of a pod's shim until the shim is gone.
    pub(super) fn watch(&self, pod: Arc<Pod>, mut events: mpsc::UnboundedReceiver<ShimEvent>) {
        let node = self.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event.kind {
                    ShimEventKind::Exited { id, exec: true, status, .. } => node.exec_exited(&pod, &id, status).await,
                    ShimEventKind::Exited { id, status, finished_at, .. } => {
                        let exit = Exit { code: status.code(), started_at: 0, finished_at: nanoseconds(finished_at) };
                        node.container_exited(&pod, &id, exit).await;
                    }
                    ShimEventKind::PodInitDied { status } => {
                        warn!(pod = %pod.label(), %status, "the first process of the pod's PID namespace has died");
                        pod.live().state = PodState::NotReady;
                    }
                    ShimEventKind::Warning { id, message, errno, .. } => {
                        let cause = std::io::Error::from_raw_os_error(errno);
                        warn!(pod = %pod.label(), %id, "{message}: {cause}");
                    }
                    ShimEventKind::Gone { died: true } => break,
                    ShimEventKind::Gone { died: false } => {
                        // The connection broke, not the shim: begin again as after a restart.
                        warn!(pod = %pod.label(), "the connection to the pod's shim broke; connecting again");
                        Box::pin(node.recover_pod(&pod)).await;
                        return;
                    }
                }
            }
            node.shim_gone(&pod).await;
        });
    }

    /// A container ended and its shim says how.
    pub(super) async fn container_exited(&self, pod: &Arc<Pod>, id: &str, seen: Exit) {
        let Ok(container) = self.find_container(id) else { return };
        if matches!(container.phase(), Phase::Exited(_)) {
            return;
        }
        let oom = self.oom_killed(&container);
        if Self::shares_pids(&container) {
            self.kill_cgroup(&container).await;
        }
        let started_at = match container.phase() {
            Phase::Running { started_at, .. } => started_at,
            _ => seen.started_at,
        };
        let exit = ExitRecord {
            started_at,
            finished_at: seen.finished_at,
            exit_code: seen.code,
            reason: reason(seen.code, oom).to_owned(),
            message: String::new(),
        };
        info!(pod = %pod.label(), container = %container.config.metadata.name, code = exit.exit_code, reason = %exit.reason, "container has ended");
        self.record_exit(&container, exit);
        if let Some(shim) = pod.shim()
            && let Err(cause) = shim.forget(id).await
        {
            warn!(%id, %cause, "the shim did not take note that an exit is recorded");
        }
        self.clear_ended(pod, &container).await;
    }

    /// Takes away what a container that has ended does not need any more: its cgroup, and what an external runtime keeps.
    pub(super) async fn clear_ended(&self, pod: &Arc<Pod>, container: &Arc<Container>) {
        if pod.external.is_none() {
            return self.remove_cgroup(container).await;
        }
        // That takes a program to be run, for which the pod's other events need not wait.
        let (node, pod, container) = (self.clone(), pod.clone(), container.clone());
        tokio::spawn(async move {
            if let Err(failure) = node.clear_external(&pod, &container).await {
                warn!(id = %container.id(), %failure, "the bundle of a container that has ended stays until it is removed");
            }
            node.remove_cgroup(&container).await;
        });
    }

    /// Writes the end down, then tells those who wait. The first end counts, and it counts even when the disk does not
    /// take it.
    pub(super) fn record_exit(&self, container: &Arc<Container>, exit: ExitRecord) {
        if matches!(container.phase(), Phase::Exited(_)) {
            return;
        }
        let path = self.inner.dirs.container(container.id()).join("exit.json");
        if let Err(failure) = records::write(&path, &exit) {
            error!(id = %container.id(), %failure, "the end of a container could not be recorded");
        }
        container.end(exit);
        if let Err(failure) = records::remove(&self.inner.dirs.started(container.id())) {
            warn!(id = %container.id(), %failure, "a stale record stays");
        }
    }

    /// The shim is gone. If nobody asked it to go, its containers are ended with it: nobody could say how they end.
    async fn shim_gone(&self, pod: &Arc<Pod>) {
        pod.live().shim = None;
        self.inner.execs.give_up(&pod.id);
        let was_ready = {
            let mut live = pod.live();
            std::mem::replace(&mut live.state, PodState::NotReady) == PodState::Ready
        };
        if was_ready && !pod.live().stopping {
            error!(pod = %pod.label(), id = %pod.id, "the pod's shim has died; its containers are ended");
        }
        for container in self.containers_of(&pod.id) {
            if matches!(container.phase(), Phase::Running { .. } | Phase::Starting) {
                self.end_without_shim(&container, Some(pod)).await;
            }
        }
    }

    /// Ends what is left of a container whose shim is gone, and records what is known of its end.
    pub(super) async fn end_without_shim(&self, container: &Arc<Container>, pod: Option<&Arc<Pod>>) {
        self.kill_cgroup(container).await;
        let exit = match pod.and_then(|pod| self.exit_left_behind(pod, container)) {
            Some(exit) => exit,
            None => lost(container, "the pod's shim died"),
        };
        self.record_exit(container, exit);
        match pod {
            Some(pod) => self.clear_ended(pod, container).await,
            None => self.remove_cgroup(container).await,
        }
    }

    /// What the shim wrote of a container's end before it was gone itself.
    fn exit_left_behind(&self, pod: &Pod, container: &Arc<Container>) -> Option<ExitRecord> {
        let name = format!("{}{EXIT_SUFFIX}", container.id());
        let text = std::fs::read_to_string(self.inner.dirs.pod_state(&pod.id).join(name)).ok()?;
        let left = protocol::ExitRecord::parse(&text)?;
        let code = left.status.code();
        Some(ExitRecord {
            started_at: nanoseconds(left.started_at),
            finished_at: nanoseconds(left.finished_at),
            exit_code: code,
            reason: reason(code, self.oom_killed(container)).to_owned(),
            message: String::new(),
        })
    }

    /// Whether the kernel killed a process of the container for want of memory. Read before the cgroup goes.
    fn oom_killed(&self, container: &Container) -> bool {
        self.cgroup_of(container).is_some_and(|cgroup| cgroup.oom_kills().unwrap_or(0) > 0)
    }

    /// Kills all that is in a container's cgroup.
    pub(super) async fn kill_cgroup(&self, container: &Arc<Container>) {
        let Some(cgroup) = self.cgroup_of(container) else { return };
        let killed = tokio::task::spawn_blocking(move || cgroup.kill()).await;
        if let Ok(Err(cause)) = killed {
            warn!(id = %container.id(), %cause, "the container's cgroup could not be emptied");
        }
    }

    /// Removes a container's cgroup, if there is one.
    pub(super) async fn remove_cgroup(&self, container: &Arc<Container>) {
        let Some(cgroup) = self.cgroup_of(container) else { return };
        container.live().cgroup = None;
        let removed = tokio::task::spawn_blocking(move || cgroup.remove()).await;
        if let Ok(Err(cause)) = removed {
            warn!(id = %container.id(), %cause, "the container's cgroup could not be removed");
        }
    }

    /// The cgroup in memory, or the one of the record if it is there: after a restart.
    fn cgroup_of(&self, container: &Container) -> Option<Arc<crate::runtime::cgroup::Cgroup>> {
        if let Some(cgroup) = container.live().cgroup.clone() {
            return Some(cgroup);
        }
        super::launch::open_cgroup(&self.inner.cgroups, &container.record.cgroup).map(Arc::new)
    }
}

/// How a container ended, as its shim saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub code: i32,
    /// 0 where the shim did not say.
    pub started_at: i64,
    pub finished_at: i64,
}

/// CRI's times are signed.
pub(super) fn nanoseconds(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// The words that kubelets know.
fn reason(code: i32, oom: bool) -> &'static str {
    match (oom, code) {
        (true, code) if code != 0 => "OOMKilled",
        (_, 0) => "Completed",
        _ => "Error",
    }
}

/// The end of a container that nobody saw.
pub(super) fn lost(container: &Container, message: &str) -> ExitRecord {
    let started_at = match container.phase() {
        Phase::Running { started_at, .. } => started_at,
        _ => 0,
    };
    ExitRecord {
        started_at,
        finished_at: ids::now(),
        exit_code: 255,
        reason: "Unknown".to_owned(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn reasons_are_those_that_kubelets_know() {
        assert_eq!(super::reason(0, false), "Completed");
        assert_eq!(super::reason(1, false), "Error");
        assert_eq!(super::reason(137, true), "OOMKilled");
        // A helper process was killed, and the first one went on to a good end.
        assert_eq!(super::reason(0, true), "Completed");
    }
}
