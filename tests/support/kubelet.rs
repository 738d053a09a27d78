//! What a kubelet says to a CRI socket, in few words.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use orlop::cri::v1;
use orlop::cri::v1::image_service_client::ImageServiceClient;
use orlop::cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::agent::Agent;

/// A client of an agent that makes pods with names, logs and cgroups of the test.
#[derive(Debug)]
pub struct Kubelet {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    pub image: String,
    /// The runtime handler of the pods that it makes.
    pub handler: String,
    logs: PathBuf,
    cgroup: String,
}

impl Kubelet {
    /// `image` is what containers run unless they are told otherwise.
    pub async fn new(agent: &Agent, image: &str) -> Self {
        Self {
            runtime: agent.runtime().await,
            images: agent.images().await,
            image: image.to_owned(),
            handler: String::new(),
            logs: agent.dir.join("logs"),
            cgroup: agent.cgroup(),
        }
    }

    /// Connects again, after the agent was restarted.
    pub async fn reconnect(&mut self, agent: &Agent) {
        (self.runtime, self.images) = (agent.runtime().await, agent.images().await);
    }

    pub async fn pull(&mut self, image: &str) -> Result<String, Status> {
        let image = Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() });
        let request = v1::PullImageRequest { image, ..Default::default() };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }

    /// A pod's configuration as a kubelet makes it, with a PID namespace for each container.
    pub fn pod(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "test".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: super::agent::cgroup_of_pod(&self.cgroup, name),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub fn container(&self, name: &str, command: &[&str]) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn run_pod(&mut self, config: &v1::PodSandboxConfig) -> Result<String, Status> {
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: self.handler.clone() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub async fn create(
        &mut self,
        pod: &str,
        config: v1::ContainerConfig,
        pod_config: &v1::PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    pub async fn start(&mut self, id: &str) -> Result<(), Status> {
        self.runtime.start_container(v1::StartContainerRequest { container_id: id.to_owned() }).await.map(|_| ())
    }

    /// Creates and starts a container.
    pub async fn run(
        &mut self,
        pod: &str,
        config: v1::ContainerConfig,
        pod_config: &v1::PodSandboxConfig,
    ) -> Result<String, Status> {
        let id = self.create(pod, config, pod_config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    pub async fn status(&mut self, id: &str) -> Result<v1::ContainerStatus, Status> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        Ok(self.runtime.container_status(request).await?.into_inner().status.expect("a status"))
    }

    pub async fn pod_status(&mut self, id: &str) -> Result<v1::PodSandboxStatusResponse, Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        Ok(self.runtime.pod_sandbox_status(request).await?.into_inner())
    }

    /// The status of a container once it has ended.
    pub async fn ended(&mut self, id: &str) -> v1::ContainerStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status(id).await.unwrap();
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "container {id} does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command; its exit code, stdout and stderr.
    pub async fn exec(&mut self, id: &str, command: &[&str]) -> Result<(i32, String, String), Status> {
        self.exec_for(id, command, 10).await
    }

    /// The same, with a time limit in seconds.
    pub async fn exec_for(
        &mut self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<(i32, String, String), Status> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        };
        let reply = self.runtime.exec_sync(request).await?.into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((reply.exit_code, text(reply.stdout), text(reply.stderr)))
    }

    /// What a command in a shell prints, which must succeed.
    pub async fn sh(&mut self, id: &str, script: &str) -> String {
        let (code, out, err) = self.exec(id, &["sh", "-c", script]).await.unwrap();
        assert_eq!(code, 0, "{script}: {err}{out}");
        out.trim_end().to_owned()
    }

    pub async fn stop(&mut self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.runtime.stop_container(request).await.map(|_| ())
    }

    pub async fn remove(&mut self, id: &str) -> Result<(), Status> {
        self.runtime.remove_container(v1::RemoveContainerRequest { container_id: id.to_owned() }).await.map(|_| ())
    }

    pub async fn stop_pod(&mut self, id: &str) -> Result<(), Status> {
        self.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.map(|_| ())
    }

    pub async fn remove_pod(&mut self, id: &str) -> Result<(), Status> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.remove_pod_sandbox(request).await.map(|_| ())
    }

    /// Stops and removes a pod with all that is in it.
    pub async fn end_pod(&mut self, id: &str) {
        self.stop_pod(id).await.unwrap();
        self.remove_pod(id).await.unwrap();
    }

    /// The lines of a container's log, without times: stream, tag, text.
    pub fn log(&self, pod: &str, container: &str) -> Vec<(String, String, String)> {
        let path = self.logs.join(pod).join(format!("{container}.log"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                let time = parts.next().unwrap_or_default();
                assert!(time.len() > 20 && time.contains('T'), "{line:?} does not begin with a time");
                let mut next = || parts.next().unwrap_or_default().to_owned();
                (next(), next(), next())
            })
            .collect()
    }
}

/// The namespaces of an ordinary pod.
pub fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() }
}

/// The code of a call that must fail.
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.expect_err("a failure").code()
}
