//! What the wire needs of the node: one method an operation, in the domain's own types.
//!
//! The services are generic over it, so that the whole wire is tested without a pod. Ids and requests that reach a
//! backend are well formed; whether they name something that exists is the backend's to say.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use crate::node::error::Result;
use crate::node::types::{ContainerConfig, ImageSpec, PodConfig};
use crate::node::views::{
    CgroupDriver, ContainerFilter, ContainerStatsView, ContainerView, ExecOutput, FsUsage, ImageView, NodeStatus,
    PodFilter, PodStatsView, PodView, PullAuth,
};

/// JSON texts by name, what a verbose status adds.
pub type Info = BTreeMap<String, String>;

/// The operations of a node. Clones are handles of the same node.
///
/// A mutating operation is run to its end even when its caller is gone, so that its future is never dropped half way.
/// The exception is [`pull_image`](Backend::pull_image): dropping its future gives up this caller's interest.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Makes and starts a pod; its id. The same name and attempt again joins the first request or returns its pod.
    fn run_pod(&self, config: PodConfig) -> impl Future<Output = Result<String>> + Send;
    /// Stops a pod and all in it. An unknown pod is a stopped one.
    fn stop_pod(&self, id: &str) -> impl Future<Output = Result<()>> + Send;
    /// Stops and removes a pod. An unknown pod is a removed one.
    fn remove_pod(&self, id: &str) -> impl Future<Output = Result<()>> + Send;
    /// One pod with its containers; `NotFound` for an unknown one.
    fn pod_status(&self, id: &str) -> impl Future<Output = Result<(PodView, Vec<ContainerView>, Info)>> + Send;
    fn list_pods(&self, filter: PodFilter) -> impl Future<Output = Result<Vec<PodView>>> + Send;

    /// Makes a container in a pod; its id. `pod` is the pod's config as the caller knows it, if it sent one.
    fn create_container(
        &self,
        pod_id: &str,
        config: ContainerConfig,
        pod: Option<PodConfig>,
    ) -> impl Future<Output = Result<String>> + Send;
    fn start_container(&self, id: &str) -> impl Future<Output = Result<()>> + Send;
    /// Asks a container to stop and kills it after `timeout_s` seconds, at once for 0. An unknown one is a stopped one.
    fn stop_container(&self, id: &str, timeout_s: i64) -> impl Future<Output = Result<()>> + Send;
    /// Removes a container, killing it if it runs. An unknown one is a removed one.
    fn remove_container(&self, id: &str) -> impl Future<Output = Result<()>> + Send;
    /// One container; `NotFound` for an unknown one.
    fn container_status(&self, id: &str) -> impl Future<Output = Result<(ContainerView, Info)>> + Send;
    fn list_containers(&self, filter: ContainerFilter) -> impl Future<Output = Result<Vec<ContainerView>>> + Send;
    /// Runs a command in a running container. `None` waits for ever; else `DeadlineExceeded` once the time is over.
    fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<ExecOutput>> + Send;
    /// Opens a running container's log file again, after somebody has moved it away.
    fn reopen_log(&self, id: &str) -> impl Future<Output = Result<()>> + Send;

    fn container_stats(&self, id: &str) -> impl Future<Output = Result<ContainerStatsView>> + Send;
    fn list_container_stats(
        &self,
        filter: ContainerFilter,
    ) -> impl Future<Output = Result<Vec<ContainerStatsView>>> + Send;
    fn pod_stats(&self, id: &str) -> impl Future<Output = Result<PodStatsView>> + Send;
    fn list_pod_stats(&self, filter: PodFilter) -> impl Future<Output = Result<Vec<PodStatsView>>> + Send;

    /// The node's conditions and features; `info` is filled only when `verbose`.
    fn status(&self, verbose: bool) -> impl Future<Output = Result<NodeStatus>> + Send;
    fn runtime_config(&self) -> impl Future<Output = Result<CgroupDriver>> + Send;
    /// Takes the addresses that the cluster gave this node: one CIDR, or two with a comma between. `None` changes
    /// nothing.
    fn update_runtime_config(&self, pod_cidr: Option<String>) -> impl Future<Output = Result<()>> + Send;

    /// Brings an image; its id. `pod` is the pod that it is for, if the caller said so.
    fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<PullAuth>,
        pod: Option<PodConfig>,
    ) -> impl Future<Output = Result<String>> + Send;
    /// One image by id, tag or digest; `None` when it is not here.
    fn image_status(&self, image: ImageSpec) -> impl Future<Output = Result<Option<ImageView>>> + Send;
    /// All images, or the one that `image` names.
    fn list_images(&self, image: Option<ImageSpec>) -> impl Future<Output = Result<Vec<ImageView>>> + Send;
    /// Removes an image with all its names. An unknown one is a removed one.
    fn remove_image(&self, image: ImageSpec) -> impl Future<Output = Result<()>> + Send;
    /// The filesystems that hold images, and those that hold what containers write.
    fn image_fs_info(&self) -> impl Future<Output = Result<(Vec<FsUsage>, Vec<FsUsage>)>> + Send;
}
