//! The client side of the CRI socket.

use std::future::Future;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::usage;
use crate::cri::v1;
use crate::cri::v1::image_service_client::ImageServiceClient;
use crate::cri::v1::runtime_service_client::RuntimeServiceClient;

/// A list of a busy node is larger than the 4 MiB that the transport takes by default; this is what kubelets allow.
const MAX_MESSAGE: usize = 16 << 20;

/// Where the agent is.
#[derive(Clone, Debug, Args)]
pub(super) struct EndpointArgs {
    /// The agent's CRI socket
    #[arg(long, env = "ORLOP_ENDPOINT", default_value = "unix:///run/orlop/orlop.sock", value_name = "URL")]
    endpoint: String,
}

impl EndpointArgs {
    /// The path of the socket.
    ///
    /// # Errors
    /// The endpoint is not a Unix socket.
    pub(super) fn socket(&self) -> anyhow::Result<PathBuf> {
        let path = self.endpoint.strip_prefix("unix://").unwrap_or(&self.endpoint);
        if !path.starts_with('/') {
            return Err(usage(format!("the endpoint \"{}\" is not unix:///PATH", self.endpoint)));
        }
        Ok(PathBuf::from(path))
    }

    /// Connects.
    ///
    /// # Errors
    /// Nothing listens there, or this user may not open it.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let socket = self.socket()?;
        let path = socket.clone();
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The transport wraps the cause; asking first gives the plain one.
        drop(UnixStream::connect(&socket).await.with_context(|| {
            format!(
                "no agent answers on {}; start one with `orlop serve`, or name another socket with --endpoint",
                socket.display()
            )
        })?);
        // The host of the URI becomes :authority; the kubelet's is "localhost" too.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
        Ok(Client {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        })
    }
}

/// Both services of one agent.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) runtime: RuntimeServiceClient<Channel>,
    pub(super) images: ImageServiceClient<Channel>,
}

impl Client {
    pub(super) async fn pods(&mut self) -> anyhow::Result<Vec<v1::PodSandbox>> {
        let request = v1::ListPodSandboxRequest::default();
        Ok(self.runtime.list_pod_sandbox(request).await.map_err(refused)?.into_inner().items)
    }

    pub(super) async fn containers(&mut self) -> anyhow::Result<Vec<v1::Container>> {
        let request = v1::ListContainersRequest::default();
        Ok(self.runtime.list_containers(request).await.map_err(refused)?.into_inner().containers)
    }

    /// # Errors
    /// The agent does not know the container, or knows nothing of it.
    pub(super) async fn container_status(&mut self, id: &str) -> anyhow::Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.container_status(request).await.map_err(refused)?.into_inner();
        answer.status.with_context(|| format!("the agent gave no status of container {id}"))
    }

    pub(super) async fn pod_status(&mut self, id: &str) -> anyhow::Result<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime.pod_sandbox_status(request).await.map_err(refused)?.into_inner();
        answer.status.with_context(|| format!("the agent gave no status of pod {id}"))
    }
}

/// The agent's refusal, as it said it.
pub(super) fn refused(status: Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::anyhow!("the agent answered {:?}", status.code()),
        message => anyhow::anyhow!("{message}"),
    }
}

/// Runs a client command; one thread is enough for it.
pub(super) fn block_on(command: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the event loop cannot start")?;
    runtime.block_on(command)
}
