//! What the node answers: the views of pods, containers, images and their statistics that `cri` turns into replies.
//!
//! Times are nanoseconds since the epoch, 0 for "not yet"; sizes are bytes; CPU times are nanoseconds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::types::*;

/// One pod, as `ListPodSandbox` and `PodSandboxStatus` show it.
#[derive(Clone, Debug)]
pub struct PodView {
    pub id: String,
    pub metadata: PodMetadata,
    pub state: PodState,
    pub created_at: i64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub runtime_handler: String,
    pub namespaces: NamespaceOptions,
    /// The primary address first; empty for a pod in the host's network and for one that is not ready.
    pub ips: Vec<IpAddr>,
}

/// One container, as `ListContainers` and `ContainerStatus` show it.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub id: String,
    pub pod_id: String,
    pub config: std::sync::Arc<ContainerConfig>,
    pub state: ContainerState,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// The image's id, the same that `Image.id` has.
    pub image_id: String,
    /// `repository@digest` of what was pulled, or the image's id where there is none.
    pub image_ref: String,
    /// Absolute, or empty.
    pub log_path: String,
    /// The limits in force.
    pub resources: Option<Resources>,
    /// The user that the process has.
    pub user: Option<UserView>,
    /// The Linux number of the signal that StopContainer sends first.
    pub stop_signal: i32,
    /// 0 unless running.
    pub pid: i32,
    pub runtime_handler: String,
}

/// `ContainerUser`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserView {
    pub uid: i64,
    pub gid: i64,
    pub groups: Vec<i64>,
}

/// What selects pods; an empty filter takes them all. All that is set must match.
#[derive(Clone, Debug, Default)]
pub struct PodFilter {
    /// A whole id or its beginning.
    pub id: Option<String>,
    pub state: Option<PodState>,
    pub labels: BTreeMap<String, String>,
}

/// What selects containers.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    pub id: Option<String>,
    pub state: Option<ContainerState>,
    pub pod_id: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// One image.
#[derive(Clone, Debug)]
pub struct ImageView {
    /// `sha256:…` of the image's config.
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Bytes of its layers on disk, each counted once, and of its documents. Never 0.
    pub size: u64,
    /// The image's numeric user, or its name.
    pub uid: Option<i64>,
    pub username: String,
    pub pinned: bool,
    /// What the verbose status adds.
    pub info: BTreeMap<String, String>,
}

/// One filesystem that images or containers use.
#[derive(Clone, Debug, Default)]
pub struct FsUsage {
    pub timestamp: i64,
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// What a command in a container printed, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Credentials that came with a pull (`AuthConfig`).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PullAuth {
    pub username: String,
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

impl std::fmt::Debug for PullAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullAuth").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// CPU of a container or a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuView {
    pub timestamp: i64,
    /// Nanoseconds of all cores since the beginning.
    pub usage: u64,
    /// Nanocores over the time since the last reading; `None` until there are two.
    pub nano_cores: Option<u64>,
    pub psi: Option<PsiView>,
}

/// Memory of a container or a pod, in bytes; `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryView {
    pub timestamp: i64,
    pub working_set: u64,
    /// The limit less the working set, when there is a limit.
    pub available: Option<u64>,
    pub usage: u64,
    pub rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub swap: Option<SwapView>,
    pub psi: Option<PsiView>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapView {
    pub usage: u64,
    pub available: Option<u64>,
}

/// `some` and `full` lines of a pressure file: totals in nanoseconds, averages in percent times 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PsiView {
    pub some: PsiLine,
    pub full: PsiLine,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PsiLine {
    pub total: u64,
    pub avg10: u64,
    pub avg60: u64,
    pub avg300: u64,
}

/// What `ContainerStats` says of one container.
#[derive(Clone, Debug)]
pub struct ContainerStatsView {
    pub id: String,
    pub metadata: ContainerMetadata,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `None` for a container that does not run.
    pub cpu: Option<CpuView>,
    pub memory: Option<MemoryView>,
    pub io_psi: Option<PsiView>,
    pub writable_layer: Option<FsUsage>,
}

/// Counters of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceView {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// What `PodSandboxStats` says of one pod.
#[derive(Clone, Debug)]
pub struct PodStatsView {
    pub id: String,
    pub metadata: PodMetadata,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub timestamp: i64,
    pub cpu: Option<CpuView>,
    pub memory: Option<MemoryView>,
    pub io_psi: Option<PsiView>,
    /// The default interface first.
    pub interfaces: Vec<InterfaceView>,
    pub process_count: Option<u64>,
    pub containers: Vec<ContainerStatsView>,
}

/// One condition of `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub ready: bool,
    /// A CamelCase word when not ready, as `NetworkPluginNotReady`.
    pub reason: String,
    pub message: String,
}

/// A runtime handler and what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandlerView {
    pub name: String,
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

/// What `Status` says.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    pub conditions: Vec<Condition>,
    pub handlers: Vec<HandlerView>,
    pub supplemental_groups_policy: bool,
    /// JSON texts by name; only when the request is verbose.
    pub info: BTreeMap<String, String>,
}

/// How cgroups are driven; what `RuntimeConfig` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    Systemd,
    Cgroupfs,
}
