//! A container in memory: what was asked for, and what there is of it now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::rate::CpuRate;
use super::records::{ContainerRecord, ExitRecord};
use super::types::{ContainerConfig, ContainerState, Resources};
use super::views::{ContainerView, UserView};
use crate::image::store::Lease;
use crate::runtime::cgroup::Cgroup;

/// One container.
#[derive(Debug)]
pub struct Container {
    /// Without its configuration, which is in `config`.
    pub record: ContainerRecord,
    pub config: Arc<ContainerConfig>,
    live: Mutex<ContainerLive>,
    /// Held by who takes away what an external runtime keeps of it.
    pub clearing: tokio::sync::Mutex<()>,
    /// Turns true when the container has ended, once.
    ended: watch::Sender<bool>,
}

/// What changes in a container's life.
#[derive(Debug, Default)]
pub struct ContainerLive {
    pub phase: Phase,
    pub cgroup: Option<Arc<Cgroup>>,
    /// The limits in force.
    pub resources: Option<Resources>,
    /// Whether the stop signal was sent: it is sent once.
    pub stop_sent: bool,
    pub cpu: CpuRate,
    /// When the writable layer was looked through, its bytes and its inodes.
    pub written: Option<(i64, u64, u64)>,
    /// Nanoseconds until it is looked through again.
    pub walk_pause: i64,
    /// Keeps the image's layers.
    pub lease: Option<Lease>,
}

/// Where a container is in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Created,
    Starting,
    Running {
        started_at: i64,
        pid: i32,
    },
    Exited(ExitRecord),
}

impl Container {
    pub fn new(mut record: ContainerRecord, phase: Phase) -> Self {
        let config = Arc::new(std::mem::take(&mut record.config));
        let live = ContainerLive { resources: config.resources.clone(), phase, ..ContainerLive::default() };
        let ended = watch::Sender::new(matches!(live.phase, Phase::Exited(_)));
        Self { record, config, live: Mutex::new(live), clearing: Default::default(), ended }
    }

    pub fn id(&self) -> &str {
        &self.record.id
    }

    pub fn live(&self) -> MutexGuard<'_, ContainerLive> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the layers that the container stands on as long as the container.
    pub fn hold(&self, lease: Lease) {
        self.live().lease = Some(lease);
    }

    pub fn phase(&self) -> Phase {
        self.live().phase.clone()
    }

    pub fn is_running(&self) -> bool {
        matches!(self.live().phase, Phase::Running { .. })
    }

    /// Records the end. The first one counts.
    pub fn end(&self, exit: ExitRecord) -> bool {
        let mut live = self.live();
        if matches!(live.phase, Phase::Exited(_)) {
            return false;
        }
        live.phase = Phase::Exited(exit);
        drop(live);
        self.ended.send_replace(true);
        true
    }

    /// Waits until the container has ended.
    pub async fn wait(&self) {
        // The sender lives as long as `self`, so this cannot fail before the value is true.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub fn state(&self) -> ContainerState {
        match self.live().phase {
            Phase::Created | Phase::Starting => ContainerState::Created,
            Phase::Running { .. } => ContainerState::Running,
            Phase::Exited(_) => ContainerState::Exited,
        }
    }

    pub fn view(&self, runtime_handler: &str) -> ContainerView {
        let live = self.live();
        let record = &self.record;
        let mut view = ContainerView {
            id: record.id.clone(),
            pod_id: record.pod_id.clone(),
            config: self.config.clone(),
            state: ContainerState::Created,
            created_at: record.created_at,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image_id: record.image_id.clone(),
            image_ref: record.image_ref.clone(),
            log_path: record.log_path.clone(),
            resources: live.resources.clone(),
            user: Some(UserView {
                uid: i64::from(record.user.uid),
                gid: i64::from(record.user.gid),
                groups: record.user.groups.iter().copied().map(i64::from).collect(),
            }),
            stop_signal: record.stop_signal,
            pid: 0,
            runtime_handler: runtime_handler.to_owned(),
        };
        match &live.phase {
            Phase::Created | Phase::Starting => {}
            Phase::Running { started_at, pid } => {
                (view.state, view.started_at, view.pid) = (ContainerState::Running, *started_at, *pid);
            }
            Phase::Exited(exit) => {
                view.state = ContainerState::Exited;
                (view.started_at, view.finished_at) = (exit.started_at, exit.finished_at);
                view.exit_code = exit.exit_code;
                (view.reason, view.message) = (exit.reason.clone(), exit.message.clone());
            }
        }
        view
    }
}
