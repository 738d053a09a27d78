//! A node that keeps no pods but remembers what it was asked: enough for a client to talk to.
//!
//! A container with the command `exit N` ends at once with that code; any other runs until it is stopped.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orlop::cri::backend::{Backend, Info};
use orlop::node::error::{NodeError, Result};
use orlop::node::types::*;
use orlop::node::views::*;

#[derive(Clone, Default)]
pub struct Remembering(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    requests: usize,
    next_id: u64,
    pods: BTreeMap<String, (PodConfig, PodView)>,
    containers: BTreeMap<String, ContainerView>,
    images: Vec<String>,
}

/// The id that the node gives an image.
pub fn image_id(name: &str) -> String {
    format!("sha256:{}", hex_of(name.bytes().map(u64::from).sum()))
}

fn hex_of(number: u64) -> String {
    format!("{:016x}{:048}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

impl Remembering {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        let mut memory = self.0.lock().unwrap();
        memory.requests += 1;
        memory
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.0.lock().unwrap().requests
    }

    /// Writes a line to the log of the container called `name`.
    pub fn log(&self, name: &str, line: &str) {
        append(&self.log_path(name), line);
    }

    /// Moves the log of the container called `name` away, as a kubelet does, and begins a new one.
    pub fn rotate(&self, name: &str) {
        let path = self.log_path(name);
        std::fs::rename(&path, format!("{path}.20261124")).unwrap();
        std::fs::File::create(&path).unwrap();
    }

    fn log_path(&self, name: &str) -> String {
        let memory = self.0.lock().unwrap();
        memory.containers.values().find(|c| c.config.metadata.name == name).unwrap().log_path.clone()
    }
}

fn append(path: &str, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "2026-11-24T08:00:00.000000000Z stdout F {line}").unwrap();
}

impl Memory {
    fn id(&mut self) -> String {
        self.next_id += 1;
        hex_of(self.next_id)
    }

    fn container(&mut self, id: &str) -> Result<&mut ContainerView> {
        self.containers.get_mut(id).ok_or_else(|| NodeError::not_found("container", id))
    }
}

fn end(container: &mut ContainerView, code: i32) {
    container.state = ContainerState::Exited;
    container.finished_at = now();
    container.exit_code = code;
    container.reason = if code == 0 { "Completed".to_owned() } else { "Error".to_owned() };
}

impl Backend for Remembering {
    async fn run_pod(&self, config: PodConfig) -> Result<String> {
        let mut memory = self.memory();
        let id = memory.id();
        let view = PodView {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: PodState::Ready,
            created_at: now(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: config.runtime_handler.clone(),
            namespaces: config.security.namespaces.clone(),
            ips: vec![IpAddr::from([10, 0, 0, 1])],
        };
        memory.pods.insert(id.clone(), (config, view));
        Ok(id)
    }

    async fn stop_pod(&self, id: &str) -> Result<()> {
        let mut memory = self.memory();
        if let Some((_, pod)) = memory.pods.get_mut(id) {
            pod.state = PodState::NotReady;
        }
        Ok(())
    }

    async fn remove_pod(&self, id: &str) -> Result<()> {
        let mut memory = self.memory();
        memory.pods.remove(id);
        memory.containers.retain(|_, container| container.pod_id != id);
        Ok(())
    }

    async fn pod_status(&self, id: &str) -> Result<(PodView, Vec<ContainerView>, Info)> {
        let memory = self.memory();
        let (_, pod) = memory.pods.get(id).ok_or_else(|| NodeError::not_found("pod", id))?;
        Ok((pod.clone(), Vec::new(), Info::new()))
    }

    async fn list_pods(&self, _: PodFilter) -> Result<Vec<PodView>> {
        Ok(self.memory().pods.values().map(|(_, pod)| pod.clone()).collect())
    }

    async fn create_container(&self, pod_id: &str, config: ContainerConfig, _: Option<PodConfig>) -> Result<String> {
        let mut memory = self.memory();
        let id = memory.id();
        let directory = memory.pods[pod_id].0.log_directory.clone();
        let view = ContainerView {
            id: id.clone(),
            pod_id: pod_id.to_owned(),
            state: ContainerState::Created,
            created_at: now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image_id: image_id(&config.image.image),
            image_ref: image_id(&config.image.image),
            log_path: format!("{directory}/{}", config.log_path),
            resources: None,
            user: None,
            stop_signal: 15,
            pid: 0,
            runtime_handler: String::new(),
            config: Arc::new(config),
        };
        memory.containers.insert(id.clone(), view);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let mut memory = self.memory();
        let container = memory.container(id)?;
        container.state = ContainerState::Running;
        container.started_at = now();
        append(&container.log_path, "started");
        if let [exit, code] = container.config.command.as_slice()
            && exit == "exit"
        {
            let code = code.parse().unwrap();
            end(container, code);
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, _: i64) -> Result<()> {
        if let Ok(container) = self.memory().container(id)
            && container.state == ContainerState::Running
        {
            end(container, 137);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.memory().containers.remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<(ContainerView, Info)> {
        Ok((self.memory().container(id)?.clone(), Info::new()))
    }

    async fn list_containers(&self, _: ContainerFilter) -> Result<Vec<ContainerView>> {
        Ok(self.memory().containers.values().cloned().collect())
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, _: Option<Duration>) -> Result<ExecOutput> {
        self.memory().container(id)?;
        let exit_code = match command.as_slice() {
            [exit, code] if exit == "exit" => code.parse().unwrap(),
            _ => 0,
        };
        Ok(ExecOutput { stdout: format!("{}\n", command.join(" ")).into_bytes(), stderr: Vec::new(), exit_code })
    }

    async fn reopen_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStatsView> {
        self.memory().container(id).map(|container| stats(container))
    }

    async fn list_container_stats(&self, _: ContainerFilter) -> Result<Vec<ContainerStatsView>> {
        Ok(self.memory().containers.values().map(stats).collect())
    }

    async fn pod_stats(&self, id: &str) -> Result<PodStatsView> {
        Err(NodeError::not_found("pod", id))
    }

    async fn list_pod_stats(&self, _: PodFilter) -> Result<Vec<PodStatsView>> {
        let interface = InterfaceView { name: "eth0".to_owned(), rx_bytes: 7, tx_bytes: 8, ..InterfaceView::default() };
        let view = |pod: &PodView| PodStatsView {
            id: pod.id.clone(),
            metadata: pod.metadata.clone(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            timestamp: now(),
            cpu: None,
            memory: None,
            io_psi: None,
            interfaces: vec![interface.clone()],
            process_count: Some(2),
            containers: Vec::new(),
        };
        Ok(self.memory().pods.values().map(|(_, pod)| view(pod)).collect())
    }

    async fn status(&self, _: bool) -> Result<NodeStatus> {
        Ok(NodeStatus::default())
    }

    async fn runtime_config(&self) -> Result<CgroupDriver> {
        Ok(CgroupDriver::Cgroupfs)
    }

    async fn update_runtime_config(&self, _: Option<String>) -> Result<()> {
        Ok(())
    }

    async fn pull_image(&self, image: ImageSpec, _: Option<PullAuth>, _: Option<PodConfig>) -> Result<String> {
        if image.image.contains("missing") {
            return Err(NodeError::not_found("no such image:", &image.image));
        }
        self.memory().images.push(image.image.clone());
        Ok(image_id(&image.image))
    }

    async fn image_status(&self, image: ImageSpec) -> Result<Option<ImageView>> {
        Ok(self.memory().images.iter().find(|name| **name == image.image).map(|name| view(name)))
    }

    async fn list_images(&self, _: Option<ImageSpec>) -> Result<Vec<ImageView>> {
        Ok(self.memory().images.iter().map(|name| view(name)).collect())
    }

    async fn remove_image(&self, image: ImageSpec) -> Result<()> {
        self.memory().images.retain(|name| *name != image.image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<(Vec<FsUsage>, Vec<FsUsage>)> {
        Ok((Vec::new(), Vec::new()))
    }
}

fn view(name: &str) -> ImageView {
    ImageView {
        id: image_id(name),
        repo_tags: vec![name.to_owned()],
        repo_digests: Vec::new(),
        size: 1000,
        uid: None,
        username: String::new(),
        pinned: false,
        info: BTreeMap::new(),
    }
}

/// A quarter of a CPU, found by a client from two readings; a mebibyte.
fn stats(container: &ContainerView) -> ContainerStatsView {
    let timestamp = now();
    let usage = (timestamp - container.started_at) as u64 / 4;
    ContainerStatsView {
        id: container.id.clone(),
        metadata: container.config.metadata.clone(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cpu: Some(CpuView { timestamp, usage, nano_cores: None, psi: None }),
        memory: Some(MemoryView { timestamp, working_set: 1 << 20, ..MemoryView::default() }),
        io_psi: None,
        writable_layer: None,
    }
}
