//! Nothing is lost when anything dies: the agent is killed in the middle of everything, and shims too.

#![allow(clippy::unwrap_used)] // It is all test code.

mod support;

use std::time::{Duration, Instant};

use orlop::cri::v1;
use serde_json::json;
use support::agent::{Agent, end_shim, in_netns, shim_of};
use support::kubelet::Kubelet;
use support::registry::TestRegistry;

async fn rig() -> (Agent, TestRegistry, Kubelet) {
    let registry = TestRegistry::start().expect("docker-registry");
    let config = json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"] });
    let image = support::image::busybox(config).push(&registry, "test/busybox", "1").await;
    let agent = Agent::start("").await;
    let mut kubelet = Kubelet::new(&agent, &image).await;
    kubelet.pull(&image).await.unwrap();
    (agent, registry, kubelet)
}

const COUNTING: &str = "i=0; while [ $i -lt 150 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 4";

#[test]
fn a_killed_agent_finds_pods_containers_logs_and_exit_codes_again() {
    in_netns(|| async {
        let (mut agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("keep");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let ip = kubelet.pod_status(&pod).await.unwrap().status.unwrap().network.unwrap().ip;
        let spec = kubelet.container("steady", &[]);
        let steady = kubelet.run(&pod, spec, &config).await.unwrap();
        let spec = kubelet.container("counting", &["sh", "-c", COUNTING]);
        let counting = kubelet.run(&pod, spec, &config).await.unwrap();
        let spec = kubelet.container("created", &[]);
        let created = kubelet.create(&pod, spec, &config).await.unwrap();
        let spec = kubelet.container("done", &["sh", "-c", "exit 9"]);
        let done = kubelet.run(&pod, spec, &config).await.unwrap();
        let before = kubelet.ended(&done).await;
        let steady_before = kubelet.status(&steady).await.unwrap();

        agent.kill();
        // The container ends, and its log goes on, while nobody is there.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        agent.spawn().await;
        kubelet.reconnect(&agent).await;

        let status = kubelet.pod_status(&pod).await.unwrap().status.unwrap();
        assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
        assert_eq!(status.network.unwrap().ip, ip);
        assert_eq!(kubelet.status(&done).await.unwrap(), before);
        assert_eq!(kubelet.status(&steady).await.unwrap(), steady_before);
        let ended = kubelet.ended(&counting).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (4, "Error"));
        assert!(ended.started_at > 0 && ended.finished_at > ended.started_at + 1_000_000_000);
        let log = kubelet.log("keep", "counting");
        assert_eq!(log.len(), 150);
        assert!(log.iter().enumerate().all(|(at, line)| line.2 == at.to_string()));
        // Operations go on.
        assert_eq!(kubelet.sh(&steady, "echo alive").await, "alive");
        kubelet.start(&created).await.unwrap();
        let spec = kubelet.container("new", &[]);
        kubelet.run(&pod, spec, &config).await.unwrap();
        kubelet.stop(&steady, 0).await.unwrap();
        assert_eq!(kubelet.status(&steady).await.unwrap().exit_code, 137);
        kubelet.end_pod(&pod).await;
        agent.assert_clean().await;
    });
}

#[test]
fn a_killed_shim_takes_its_pod_down_within_a_second_and_leaves_nothing() {
    in_netns(|| async {
        let (agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("fall");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let other_config = kubelet.pod("other");
        let other = kubelet.run_pod(&other_config).await.unwrap();
        let mut ids = Vec::new();
        for name in ["a", "b"] {
            let spec = kubelet.container(name, &["sh", "-c", "trap '' TERM HUP; sleep 987654 & wait"]);
            ids.push(kubelet.run(&pod, spec, &config).await.unwrap());
        }
        // A command without a time limit is not waited for when nobody can tell of its end any more.
        let mut patient = Kubelet::new(&agent, "").await;
        let (id, killed) = (ids[0].clone(), pod.clone());
        let command = async move { patient.exec_for(&id, &["sleep", "1000"], 0).await };
        let kill = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            end_shim(&killed);
        };
        let began = Instant::now();
        let (interrupted, ()) = tokio::join!(command, kill);
        assert!(interrupted.is_err());
        loop {
            let reply = kubelet.pod_status(&pod).await.unwrap();
            let containers = reply.containers_statuses.iter();
            let ended = containers.filter(|one| one.state() == v1::ContainerState::ContainerExited).count();
            if reply.status.unwrap().state() == v1::PodSandboxState::SandboxNotready && ended == ids.len() {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(1), "{}", agent.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(running("987654"), 0);
        for id in &ids {
            assert_ne!(kubelet.status(id).await.unwrap().exit_code, 0);
            kubelet.stop(id, 5).await.unwrap();
        }
        assert_eq!(
            kubelet.pod_status(&other).await.unwrap().status.unwrap().state(),
            v1::PodSandboxState::SandboxReady
        );
        kubelet.end_pod(&pod).await;
        kubelet.end_pod(&other).await;
        agent.assert_clean().await;
    });
}

/// How many processes have a word in their command line.
fn running(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|command| command.split(|byte| *byte == 0).any(|part| part == word.as_bytes())).count()
}

#[test]
fn shim_and_agent_may_die_together() {
    in_netns(|| async {
        let (mut agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("both");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let spec = kubelet.container("ended", &["sh", "-c", "sleep 0.3; exit 6"]);
        let ended = kubelet.run(&pod, spec, &config).await.unwrap();
        let spec = kubelet.container("running", &["sleep", "976543"]);
        let running_id = kubelet.run(&pod, spec, &config).await.unwrap();
        agent.kill();
        tokio::time::sleep(Duration::from_millis(700)).await;
        end_shim(&pod);
        agent.spawn().await;
        kubelet.reconnect(&agent).await;
        let status = kubelet.pod_status(&pod).await.unwrap().status.unwrap();
        assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
        // The shim wrote this down before it died.
        assert_eq!(kubelet.status(&ended).await.unwrap().exit_code, 6);
        let lost = kubelet.status(&running_id).await.unwrap();
        assert_eq!((lost.state(), lost.exit_code), (v1::ContainerState::ContainerExited, 255));
        assert_eq!(running("976543"), 0);
        kubelet.end_pod(&pod).await;
        agent.assert_clean().await;
    });
}

#[test]
fn the_agent_may_be_killed_in_the_middle_of_anything() {
    in_netns(|| async {
        let (mut agent, _registry, mut kubelet) = rig().await;
        // Another moment of the pod's life each time.
        for round in 0..25_u64 {
            let config = kubelet.pod(&format!("round{round}"));
            let mut worker = Kubelet::new(&agent, &kubelet.image).await;
            let worker_config = config.clone();
            let work = tokio::spawn(async move {
                let pod = worker.run_pod(&worker_config).await?;
                let spec = worker.container("main", &["sh", "-c", "echo begun; sleep 1000"]);
                let id = worker.run(&pod, spec, &worker_config).await?;
                worker.exec(&id, &["true"]).await?;
                worker.stop(&id, 0).await?;
                worker.stop_pod(&pod).await?;
                worker.remove_pod(&pod).await
            });
            tokio::time::sleep(Duration::from_millis(round * 2)).await;
            agent.kill();
            let _ = work.await;
            agent.spawn().await;
            kubelet.reconnect(&agent).await;
            // Whatever there is now can be retried, used and removed.
            let pod = kubelet.run_pod(&config).await.unwrap_or_else(|cause| panic!("round {round}: {cause}"));
            let list = v1::ListContainersRequest::default();
            for left in kubelet.runtime.list_containers(list).await.unwrap().into_inner().containers {
                kubelet.stop(&left.id, 0).await.unwrap();
                kubelet.remove(&left.id).await.unwrap();
            }
            let spec = kubelet.container("main", &[]);
            let id = kubelet.run(&pod, spec, &config).await.unwrap();
            assert_eq!(kubelet.sh(&id, "echo works").await, "works", "round {round}");
            let list = v1::ListPodSandboxRequest::default();
            for left in kubelet.runtime.list_pod_sandbox(list).await.unwrap().into_inner().items {
                kubelet.end_pod(&left.id).await;
            }
            agent.assert_clean().await;
        }
    });
}

#[test]
fn a_corrupt_record_is_no_obstacle() {
    in_netns(|| async {
        let (mut agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("torn");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let spec = kubelet.container("main", &["sleep", "965432"]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        agent.kill();
        for file in [format!("root/pods/{pod}/pod.json"), format!("root/containers/{id}/container.json")] {
            std::fs::write(agent.dir.join(file), "{ torn").unwrap();
        }
        agent.spawn().await;
        kubelet.reconnect(&agent).await;
        assert!(shim_of(&pod).is_none(), "a shim that no record claims is ended");
        assert_eq!(running("965432"), 0);
        kubelet.end_pod(&pod).await;
        let pod = kubelet.run_pod(&config).await.unwrap();
        kubelet.end_pod(&pod).await;
        agent.assert_clean().await;
    });
}
