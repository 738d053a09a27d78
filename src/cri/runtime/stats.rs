//! Statistics of pods and containers.

use tonic::Status;

use crate::cri::backend::Backend;
use crate::cri::convert::{filter, stats};
use crate::cri::runtime_service::Runtime;
use crate::cri::v1::*;
use crate::cri::validate::{At, id};

type Answer<T> = Result<T, Status>;

impl<B: Backend> Runtime<B> {
    pub(in crate::cri) async fn stats_of_container(
        &self,
        request: ContainerStatsRequest,
    ) -> Answer<ContainerStatsResponse> {
        id(&request.container_id).at("container_id")?;
        let view = self.node.container_stats(&request.container_id).await?;
        Ok(ContainerStatsResponse { stats: Some(stats::container(view)) })
    }

    pub(in crate::cri) async fn stats_of_containers(
        &self,
        request: ListContainerStatsRequest,
    ) -> Answer<ListContainerStatsResponse> {
        let views = self.node.list_container_stats(filter::container_stats(request.filter)?).await?;
        Ok(ListContainerStatsResponse { stats: views.into_iter().map(stats::container).collect() })
    }

    pub(in crate::cri) async fn stats_of_pod(
        &self,
        request: PodSandboxStatsRequest,
    ) -> Answer<PodSandboxStatsResponse> {
        id(&request.pod_sandbox_id).at("pod_sandbox_id")?;
        let view = self.node.pod_stats(&request.pod_sandbox_id).await?;
        Ok(PodSandboxStatsResponse { stats: Some(stats::pod(view)) })
    }

    pub(in crate::cri) async fn stats_of_pods(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let views = self.node.list_pod_stats(filter::pod_stats(request.filter)?).await?;
        Ok(ListPodSandboxStatsResponse { stats: views.into_iter().map(stats::pod).collect() })
    }
}
