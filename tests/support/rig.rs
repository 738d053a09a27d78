//! One pod of an agent, for tests of what a container is given.

use orlop::cri::v1;
use serde_json::json;

use super::agent::Agent;
use super::kubelet::Kubelet;
use super::registry::TestRegistry;

/// An agent with a registry, and a pod in it.
pub struct Rig {
    _registry: TestRegistry,
    pub kubelet: Kubelet,
    pub pod: String,
    pub config: v1::PodSandboxConfig,
    pub agent: Agent,
}

impl Rig {
    pub async fn new(image: serde_json::Value) -> Self {
        Self::with_pod(image, |_| {}).await
    }

    pub async fn with_pod(image: serde_json::Value, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Self {
        let registry = TestRegistry::start().expect("docker-registry");
        let image = super::image::busybox(image).push(&registry, "test/busybox", "1").await;
        let agent = Agent::start("").await;
        let mut kubelet = Kubelet::new(&agent, &image).await;
        kubelet.pull(&image).await.unwrap();
        let mut config = kubelet.pod("pod");
        change(&mut config);
        let pod = kubelet.run_pod(&config).await.unwrap();
        Self { _registry: registry, kubelet, pod, config, agent }
    }

    /// Runs a container that sleeps, changed as the test wants it.
    pub async fn run(&mut self, name: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> String {
        self.try_run(name, change).await.unwrap()
    }

    pub async fn try_run(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<String, tonic::Status> {
        let mut spec = self.kubelet.container(name, &["sleep", "1000"]);
        change(&mut spec);
        self.kubelet.run(&self.pod, spec, &self.config).await
    }

    pub async fn sh(&mut self, id: &str, script: &str) -> String {
        self.kubelet.sh(id, script).await
    }

    pub async fn end(mut self) {
        self.kubelet.end_pod(&self.pod).await;
    }
}

pub fn image() -> serde_json::Value {
    json!({ "Env": ["PATH=/bin"], "Cmd": ["sleep", "1000"] })
}

pub fn security(spec: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    spec.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

pub fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

pub fn mount(host: &std::path::Path, inside: &str) -> v1::Mount {
    v1::Mount { host_path: host.display().to_string(), container_path: inside.into(), ..Default::default() }
}
