//! `RuntimeService`: every RPC of the contract by name, and what stands behind it.
//!
//! The work is in [`super::runtime`], a file a subject. Here it is decided that a call is observed, and which RPCs this
//! version does not have: kubelets fall back to others when they read Unimplemented.

use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::backend::Backend;
use super::error::unimplemented;
use super::observe::{Observer, deadline, observe};
use super::operations::Operations;
use super::v1::runtime_service_server::RuntimeService;
use super::v1::*;

/// The service of pods and containers.
#[derive(Clone)]
pub struct Runtime<B> {
    pub(super) node: B,
    pub(super) operations: Operations,
    observer: Arc<dyn Observer>,
}

impl<B> std::fmt::Debug for Runtime<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl<B: Backend> Runtime<B> {
    /// The service in front of `node`.
    pub fn new(node: B, operations: Operations, observer: Arc<dyn Observer>) -> Self {
        Self { node, operations, observer }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// One RPC: the handler named is given the message, and how it ends is observed.
macro_rules! answer {
    ($service:ident, $rpc:literal, $request:ident, $handler:ident) => {{
        let limit = deadline(&$request);
        observe(&*$service.observer, $rpc, limit, $service.$handler($request.into_inner())).await
    }};
}
pub(super) use answer;

/// One RPC that a later version has.
macro_rules! later {
    ($service:ident, $rpc:literal) => {
        observe(&*$service.observer, $rpc, None, async { Err(unimplemented($rpc)) }).await
    };
}
pub(super) use later;

#[tonic::async_trait]
impl<B: Backend> RuntimeService for Runtime<B> {
    async fn version(&self, request: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer!(self, "Version", request, version)
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        answer!(self, "RunPodSandbox", request, run_pod)
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        answer!(self, "StopPodSandbox", request, stop_pod)
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        answer!(self, "RemovePodSandbox", request, remove_pod)
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        answer!(self, "PodSandboxStatus", request, pod_status)
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        answer!(self, "ListPodSandbox", request, list_pods)
    }

    async fn stream_pod_sandboxes(
        &self,
        _: Request<StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxesResponse>> {
        later!(self, "StreamPodSandboxes")
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        answer!(self, "CreateContainer", request, create_container)
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        answer!(self, "StartContainer", request, start_container)
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        answer!(self, "StopContainer", request, stop_container)
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        answer!(self, "RemoveContainer", request, remove_container)
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        answer!(self, "ListContainers", request, list_containers)
    }

    async fn stream_containers(
        &self,
        _: Request<StreamContainersRequest>,
    ) -> Answer<BoxStream<StreamContainersResponse>> {
        later!(self, "StreamContainers")
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        answer!(self, "ContainerStatus", request, container_status)
    }

    async fn update_container_resources(
        &self,
        _: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        later!(self, "UpdateContainerResources")
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        answer!(self, "ReopenContainerLog", request, reopen_log)
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let limit = deadline(&request);
        observe(&*self.observer, "ExecSync", limit, self.exec_sync_within(request.into_inner(), limit)).await
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Answer<ExecResponse> {
        later!(self, "Exec")
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Answer<AttachResponse> {
        later!(self, "Attach")
    }

    async fn port_forward(&self, _: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        later!(self, "PortForward")
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        answer!(self, "ContainerStats", request, stats_of_container)
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        answer!(self, "ListContainerStats", request, stats_of_containers)
    }

    async fn stream_container_stats(
        &self,
        _: Request<StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<StreamContainerStatsResponse>> {
        later!(self, "StreamContainerStats")
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        answer!(self, "PodSandboxStats", request, stats_of_pod)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        answer!(self, "ListPodSandboxStats", request, stats_of_pods)
    }

    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxStatsResponse>> {
        later!(self, "StreamPodSandboxStats")
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        answer!(self, "UpdateRuntimeConfig", request, take_runtime_config)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        answer!(self, "Status", request, node_status)
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        later!(self, "CheckpointContainer")
    }

    async fn checkpoint_pod(&self, _: Request<CheckpointPodRequest>) -> Answer<CheckpointPodResponse> {
        later!(self, "CheckpointPod")
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        later!(self, "RestorePod")
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<BoxStream<ContainerEventResponse>> {
        later!(self, "GetContainerEvents")
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        later!(self, "ListMetricDescriptors")
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        later!(self, "ListPodSandboxMetrics")
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxMetricsResponse>> {
        later!(self, "StreamPodSandboxMetrics")
    }

    async fn runtime_config(&self, request: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        answer!(self, "RuntimeConfig", request, give_runtime_config)
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        later!(self, "UpdatePodSandboxResources")
    }
}
