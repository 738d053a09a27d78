//! Containers: create, start, stop, remove, status, list, run a command, reopen the log.

use std::time::Duration;

use tonic::Status;

use crate::cri::backend::Backend;
use crate::cri::convert::{container, filter, pod, seconds, status};
use crate::cri::runtime_service::Runtime;
use crate::cri::v1::*;
use crate::cri::validate::{At, Invalid, id, required};

type Answer<T> = Result<T, Status>;

impl<B: Backend> Runtime<B> {
    pub(in crate::cri) async fn create_container(
        &self,
        request: CreateContainerRequest,
    ) -> Answer<CreateContainerResponse> {
        id(&request.pod_sandbox_id).at("pod_sandbox_id")?;
        let config = required(request.config).and_then(container::container_config).at("config")?;
        let pod = request.sandbox_config.map(|c| pod::pod_config(c, String::new())).transpose().at("sandbox_config")?;
        let (node, pod_id) = (self.node.clone(), request.pod_sandbox_id);
        let container_id =
            self.operations.run(async move { node.create_container(&pod_id, config, pod).await }).await?;
        Ok(CreateContainerResponse { container_id })
    }

    pub(in crate::cri) async fn start_container(
        &self,
        request: StartContainerRequest,
    ) -> Answer<StartContainerResponse> {
        id(&request.container_id).at("container_id")?;
        let node = self.node.clone();
        self.operations.run(async move { node.start_container(&request.container_id).await }).await?;
        Ok(StartContainerResponse {})
    }

    pub(in crate::cri) async fn stop_container(&self, request: StopContainerRequest) -> Answer<StopContainerResponse> {
        id(&request.container_id).at("container_id")?;
        seconds(request.timeout).at("timeout")?;
        let node = self.node.clone();
        let stop = async move { node.stop_container(&request.container_id, request.timeout).await };
        self.operations.run(stop).await?;
        Ok(StopContainerResponse {})
    }

    pub(in crate::cri) async fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Answer<RemoveContainerResponse> {
        id(&request.container_id).at("container_id")?;
        let node = self.node.clone();
        self.operations.run(async move { node.remove_container(&request.container_id).await }).await?;
        Ok(RemoveContainerResponse {})
    }

    pub(in crate::cri) async fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Answer<ContainerStatusResponse> {
        id(&request.container_id).at("container_id")?;
        let (view, info) = self.node.container_status(&request.container_id).await?;
        Ok(ContainerStatusResponse {
            status: Some(status::container_status(view)),
            info: if request.verbose { info } else { Default::default() },
        })
    }

    pub(in crate::cri) async fn list_containers(
        &self,
        request: ListContainersRequest,
    ) -> Answer<ListContainersResponse> {
        let containers = self.node.list_containers(filter::containers(request.filter)?).await?;
        Ok(ListContainersResponse { containers: containers.into_iter().map(status::container_item).collect() })
    }

    /// `limit` is the caller's deadline. It ends a command that has no time limit of its own: nobody would read the
    /// result, and a command that is not ended stays in the container for ever.
    pub(in crate::cri) async fn exec_sync_within(
        &self,
        request: ExecSyncRequest,
        limit: Option<Duration>,
    ) -> Answer<ExecSyncResponse> {
        id(&request.container_id).at("container_id")?;
        let timeout = match seconds(request.timeout).at("timeout")? {
            0 => limit,
            seconds => Some(Duration::from_secs(seconds)),
        };
        let command = container::arguments(request.cmd).at("cmd")?;
        if command.first().is_none_or(String::is_empty) {
            return Err(Invalid::of("cmd", "is missing").into());
        }
        let (node, id) = (self.node.clone(), request.container_id);
        let output = self.operations.run(async move { node.exec_sync(&id, command, timeout).await }).await?;
        Ok(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
    }

    pub(in crate::cri) async fn reopen_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Answer<ReopenContainerLogResponse> {
        id(&request.container_id).at("container_id")?;
        let node = self.node.clone();
        self.operations.run(async move { node.reopen_log(&request.container_id).await }).await?;
        Ok(ReopenContainerLogResponse {})
    }
}
