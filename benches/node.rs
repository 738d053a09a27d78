//! The figures of docs/performance.md: what a kubelet's calls cost, against any CRI v1 endpoint.
//!
//! `make bench` sets the stage (a registry, an image, an agent) and runs it; by hand:
//!
//!     ORLOP_ENDPOINT=unix:///run/orlop/orlop.sock BENCH_IMAGE=127.0.0.1:5000/demo/web:1 cargo bench --bench node
//!
//! | variable | meaning |
//! |---|---|
//! | ORLOP_ENDPOINT | the socket |
//! | BENCH_IMAGE | an image with `true` and `sleep` that can be pulled |
//! | BENCH_NETWORK | `host` for pods in the host's network |
//! | BENCH_ROUNDS, BENCH_PODS, BENCH_PARALLEL | 30 lifecycles one by one, then 50 pods, 8 at a time |
//! | BENCH_AGENT | the agent's pid: its memory and CPU, and those of the shims, are measured too |
//!
//! A pod is measured from RunPodSandbox to the answer of StartContainer. Every call is made as a kubelet makes it, on
//! one connection. The first lifecycle is not counted.

#[path = "node/family.rs"]
mod family;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use orlop::cri::v1::image_service_client::ImageServiceClient;
use orlop::cri::v1::runtime_service_client::RuntimeServiceClient;
use orlop::cri::v1::security_profile::ProfileType;
use orlop::cri::v1::*;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Semaphore};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Times = BTreeMap<&'static str, Vec<Duration>>;

#[derive(Clone)]
struct Bench {
    runtime: RuntimeServiceClient<Channel>,
    image: String,
    host_network: bool,
    logs: Arc<tempfile::TempDir>,
    times: Arc<Mutex<Times>>,
}

fn variable(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Ok(endpoint) = env::var("ORLOP_ENDPOINT") else {
        println!("skipped: ORLOP_ENDPOINT names no agent; `make bench` starts one");
        return Ok(());
    };
    let path = endpoint.trim_start_matches("unix://").to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
    let image = env::var("BENCH_IMAGE").map_err(|_| "BENCH_IMAGE is not set")?;
    let spec = ImageSpec { image: image.clone(), ..ImageSpec::default() };
    let pull = PullImageRequest { image: Some(spec), ..PullImageRequest::default() };
    ImageServiceClient::new(channel.clone()).pull_image(pull).await?;
    let bench = Bench {
        runtime: RuntimeServiceClient::new(channel).max_decoding_message_size(16 << 20),
        image,
        host_network: env::var("BENCH_NETWORK").is_ok_and(|kind| kind == "host"),
        logs: Arc::new(tempfile::tempdir()?),
        times: Arc::default(),
    };
    let agent: Option<u32> = env::var("BENCH_AGENT").ok().and_then(|pid| pid.parse().ok());

    bench.one_by_one(variable("BENCH_ROUNDS", 30)).await?;
    let before = agent.map(family::read);
    let mut report = String::new();
    let load = bench.burst(variable("BENCH_PODS", 50), variable("BENCH_PARALLEL", 8), &mut report).await?;
    bench.questions(&load).await?;
    if let (Some(agent), Some(before)) = (agent, before) {
        report.push_str(&family::idle(agent, &before, load.len()).await);
    }
    let apart = bench.apart();
    for (pod, container) in &load {
        apart.stop(pod, container).await?;
    }

    println!("{:<24} {:>9} {:>9} {:>9} {:>5}", "call", "p50 ms", "p95 ms", "max ms", "n");
    for (name, times) in bench.times.lock().await.iter_mut() {
        times.sort_unstable();
        let at = |quantile: f64| times[(quantile * (times.len() - 1) as f64).round() as usize].as_secs_f64() * 1000.0;
        println!("{name:<24} {:>9.2} {:>9.2} {:>9.2} {:>5}", at(0.5), at(0.95), at(1.0), times.len());
    }
    print!("{report}");
    Ok(())
}

impl Bench {
    /// The same, whose times are not counted with the others.
    fn apart(&self) -> Self {
        Self { times: Arc::default(), ..self.clone() }
    }

    async fn one_by_one(&self, rounds: usize) -> Result<(), Failure> {
        for round in 0..=rounds {
            let (pod, container) = self.start(&format!("one-{round}")).await?;
            self.stop(&pod, &container).await?;
            if round == 0 {
                self.times.lock().await.clear();
            }
        }
        Ok(())
    }

    /// Starts many pods, some at a time; they stay as the load for what follows.
    async fn burst(&self, pods: usize, parallel: usize, report: &mut String) -> Result<Vec<(String, String)>, Failure> {
        let apart = self.apart();
        let limit = Arc::new(Semaphore::new(parallel));
        let began = Instant::now();
        let tasks: Vec<_> = (0..pods)
            .map(|number| {
                let (bench, limit) = (apart.clone(), Arc::clone(&limit));
                tokio::spawn(async move {
                    let _permit = limit.acquire_owned().await?;
                    bench.start(&format!("burst-{number}")).await
                })
            })
            .collect();
        let mut load = Vec::new();
        for task in tasks {
            load.push(task.await??);
        }
        let rate = pods as f64 / began.elapsed().as_secs_f64();
        writeln!(report, "{pods} pods, {parallel} at a time: {rate:.1} pods/s")?;
        Ok(load)
    }

    /// What a kubelet asks of a node with pods on it.
    async fn questions(&self, load: &[(String, String)]) -> Result<(), Failure> {
        let mut runtime = self.runtime.clone();
        for (_, container) in load.iter().cycle().take(40) {
            let request =
                ExecSyncRequest { container_id: container.clone(), cmd: vec!["true".to_owned()], timeout: 10 };
            let answer = self.time("exec_sync_true", runtime.exec_sync(request)).await?.into_inner();
            if answer.exit_code != 0 {
                return Err(format!("`true` ended with {}", answer.exit_code).into());
            }
        }
        for _ in 0..30 {
            self.time("list_containers", runtime.list_containers(ListContainersRequest::default())).await?;
            self.time("list_pod_sandbox", runtime.list_pod_sandbox(ListPodSandboxRequest::default())).await?;
            let request = ListContainerStatsRequest::default();
            self.time("list_container_stats", runtime.list_container_stats(request)).await?;
            let request = ListPodSandboxStatsRequest::default();
            self.time("list_pod_sandbox_stats", runtime.list_pod_sandbox_stats(request)).await?;
        }
        Ok(())
    }

    async fn time<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, tonic::Status> {
        let began = Instant::now();
        let answer = call.await;
        self.times.lock().await.entry(name).or_default().push(began.elapsed());
        answer
    }

    async fn start(&self, name: &str) -> Result<(String, String), Failure> {
        let (pod, container) = (self.pod(name)?, self.container());
        let mut runtime = self.runtime.clone();
        let began = Instant::now();
        let request = RunPodSandboxRequest { config: Some(pod.clone()), ..RunPodSandboxRequest::default() };
        let answer = self.time("run_pod_sandbox", runtime.run_pod_sandbox(request)).await?;
        let pod_sandbox_id = answer.into_inner().pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container),
            sandbox_config: Some(pod),
        };
        let answer = self.time("create_container", runtime.create_container(request)).await?;
        let container_id = answer.into_inner().container_id;
        let request = StartContainerRequest { container_id: container_id.clone() };
        self.time("start_container", runtime.start_container(request)).await?;
        self.times.lock().await.entry("pod_to_running").or_default().push(began.elapsed());
        Ok((pod_sandbox_id, container_id))
    }

    async fn stop(&self, pod: &str, container: &str) -> Result<(), Failure> {
        let mut runtime = self.runtime.clone();
        let request = StopContainerRequest { container_id: container.to_owned(), timeout: 0 };
        self.time("stop_container", runtime.stop_container(request)).await?;
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.time("stop_pod_sandbox", runtime.stop_pod_sandbox(request)).await?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.time("remove_pod_sandbox", runtime.remove_pod_sandbox(request)).await?;
        Ok(())
    }

    fn namespaces(&self) -> NamespaceOption {
        let network = if self.host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
        NamespaceOption { network: network as i32, pid: NamespaceMode::Container as i32, ..NamespaceOption::default() }
    }

    fn pod(&self, name: &str) -> Result<PodSandboxConfig, Failure> {
        let name = format!("bench-{}-{name}", std::process::id());
        let logs = self.logs.path().join(&name);
        std::fs::create_dir_all(&logs)?;
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: name.clone(),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            // A pod in the host's network has the host's name too.
            hostname: if self.host_network { String::new() } else { name },
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(self.namespaces()),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        })
    }

    fn container(&self) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: self.image.clone(), ..ImageSpec::default() }),
            command: vec!["sleep".to_owned(), "3600".to_owned()],
            log_path: "c.log".to_owned(),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_shares: 102,
                    memory_limit_in_bytes: 128 << 20,
                    ..LinuxContainerResources::default()
                }),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(self.namespaces()),
                    seccomp: Some(SecurityProfile {
                        profile_type: ProfileType::RuntimeDefault as i32,
                        ..SecurityProfile::default()
                    }),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }
}
