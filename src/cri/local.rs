//! The node of this process behind the wire.

use std::time::Duration;

use super::backend::{Backend, Info};
use crate::node::Node;
use crate::node::error::Result;
use crate::node::types::{ContainerConfig, ImageSpec, PodConfig};
use crate::node::views::{
    CgroupDriver, ContainerFilter, ContainerStatsView, ContainerView, ExecOutput, FsUsage, ImageView, NodeStatus,
    PodFilter, PodStatsView, PodView, PullAuth,
};

impl Backend for Node {
    async fn run_pod(&self, config: PodConfig) -> Result<String> {
        Node::run_pod(self, config).await
    }

    async fn stop_pod(&self, id: &str) -> Result<()> {
        Node::stop_pod(self, id).await
    }

    async fn remove_pod(&self, id: &str) -> Result<()> {
        Node::remove_pod(self, id).await
    }

    async fn pod_status(&self, id: &str) -> Result<(PodView, Vec<ContainerView>, Info)> {
        let (pod, containers) = Node::pod_status(self, id)?;
        let info = self.pod_info(&pod.id);
        Ok((pod, containers, info))
    }

    async fn list_pods(&self, filter: PodFilter) -> Result<Vec<PodView>> {
        Ok(Node::list_pods(self, &filter))
    }

    async fn create_container(&self, pod_id: &str, config: ContainerConfig, pod: Option<PodConfig>) -> Result<String> {
        Node::create_container(self, pod_id, config, pod).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        Node::start_container(self, id).await
    }

    async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<()> {
        Node::stop_container(self, id, timeout_s).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        Node::remove_container(self, id).await
    }

    async fn container_status(&self, id: &str) -> Result<(ContainerView, Info)> {
        let view = Node::container_status(self, id)?;
        let info = self.container_info(&view.id);
        Ok((view, info))
    }

    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<ContainerView>> {
        Ok(Node::list_containers(self, &filter))
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecOutput> {
        Node::exec_sync(self, id, command, timeout).await
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        Node::reopen_log(self, id).await
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStatsView> {
        Node::container_stats(self, id)
    }

    async fn list_container_stats(&self, filter: ContainerFilter) -> Result<Vec<ContainerStatsView>> {
        Ok(Node::list_container_stats(self, &filter))
    }

    async fn pod_stats(&self, id: &str) -> Result<PodStatsView> {
        Node::pod_stats(self, id)
    }

    async fn list_pod_stats(&self, filter: PodFilter) -> Result<Vec<PodStatsView>> {
        Ok(Node::list_pod_stats(self, &filter))
    }

    async fn status(&self, verbose: bool) -> Result<NodeStatus> {
        Ok(Node::status(self, verbose).await)
    }

    async fn runtime_config(&self) -> Result<CgroupDriver> {
        Ok(Node::runtime_config(self))
    }

    async fn update_runtime_config(&self, pod_cidr: Option<String>) -> Result<()> {
        Node::update_runtime_config(self, pod_cidr).await
    }

    async fn pull_image(&self, image: ImageSpec, auth: Option<PullAuth>, _pod: Option<PodConfig>) -> Result<String> {
        Node::pull_image(self, image, auth).await
    }

    async fn image_status(&self, image: ImageSpec) -> Result<Option<ImageView>> {
        Ok(Node::image_status(self, &image))
    }

    async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<ImageView>> {
        Ok(Node::list_images(self, image.as_ref()))
    }

    async fn remove_image(&self, image: ImageSpec) -> Result<()> {
        Node::remove_image(self, &image).await
    }

    async fn image_fs_info(&self) -> Result<(Vec<FsUsage>, Vec<FsUsage>)> {
        Node::image_fs_info(self)
    }
}
