//! Pods: run, stop, remove, status, list.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::Status;

use crate::cri::backend::Backend;
use crate::cri::convert::{filter, pod, status};
use crate::cri::runtime_service::Runtime;
use crate::cri::v1::*;
use crate::cri::validate::{At, id, required};

type Answer<T> = Result<T, Status>;

impl<B: Backend> Runtime<B> {
    pub(in crate::cri) async fn run_pod(&self, request: RunPodSandboxRequest) -> Answer<RunPodSandboxResponse> {
        let handler = pod::runtime_handler(request.runtime_handler).at("runtime_handler")?;
        let config = required(request.config).and_then(|c| pod::pod_config(c, handler)).at("config")?;
        let node = self.node.clone();
        let pod_sandbox_id = self.operations.run(async move { node.run_pod(config).await }).await?;
        Ok(RunPodSandboxResponse { pod_sandbox_id })
    }

    pub(in crate::cri) async fn stop_pod(&self, request: StopPodSandboxRequest) -> Answer<StopPodSandboxResponse> {
        id(&request.pod_sandbox_id).at("pod_sandbox_id")?;
        let node = self.node.clone();
        self.operations.run(async move { node.stop_pod(&request.pod_sandbox_id).await }).await?;
        Ok(StopPodSandboxResponse {})
    }

    pub(in crate::cri) async fn remove_pod(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Answer<RemovePodSandboxResponse> {
        id(&request.pod_sandbox_id).at("pod_sandbox_id")?;
        let node = self.node.clone();
        self.operations.run(async move { node.remove_pod(&request.pod_sandbox_id).await }).await?;
        Ok(RemovePodSandboxResponse {})
    }

    pub(in crate::cri) async fn pod_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Answer<PodSandboxStatusResponse> {
        id(&request.pod_sandbox_id).at("pod_sandbox_id")?;
        // Taken before the node is asked: a state that seems newer than it is would make a kubelet drop an event.
        let timestamp = now();
        let (view, containers, info) = self.node.pod_status(&request.pod_sandbox_id).await?;
        Ok(PodSandboxStatusResponse {
            status: Some(status::pod_status(view)),
            info: if request.verbose { info } else { Default::default() },
            containers_statuses: containers.into_iter().map(status::container_status).collect(),
            timestamp,
        })
    }

    pub(in crate::cri) async fn list_pods(&self, request: ListPodSandboxRequest) -> Answer<ListPodSandboxResponse> {
        let pods = self.node.list_pods(filter::pods(request.filter)?).await?;
        Ok(ListPodSandboxResponse { items: pods.into_iter().map(status::pod_item).collect() })
    }
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
