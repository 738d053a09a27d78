//! The life of pods and containers, through the CRI socket of a real agent.

#![allow(clippy::unwrap_used)] // It is all test code.

mod support;

use std::time::{Duration, Instant};

use orlop::cri::v1;
use serde_json::json;
use support::agent::{Agent, in_netns};
use support::kubelet::{Kubelet, code};
use support::registry::TestRegistry;
use tonic::Code;

/// An agent, a registry with the test image in it, and a client. The image is pulled.
async fn rig() -> (Agent, TestRegistry, Kubelet) {
    rig_with(json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin", "FROM=image"] })).await
}

async fn rig_with(config: serde_json::Value) -> (Agent, TestRegistry, Kubelet) {
    let registry = TestRegistry::start().expect("docker-registry");
    let image = support::image::busybox(config).push(&registry, "test/busybox", "1").await;
    let agent = Agent::start("").await;
    let mut kubelet = Kubelet::new(&agent, &image).await;
    kubelet.pull(&image).await.unwrap();
    (agent, registry, kubelet)
}

#[test]
fn a_pod_lives_and_leaves_nothing() {
    in_netns(|| async {
        let (agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("life");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let status = kubelet.pod_status(&pod).await.unwrap().status.unwrap();
        assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
        assert!(status.created_at > 0);
        let ip = status.network.unwrap().ip;
        assert!(!ip.is_empty());

        let spec = kubelet.container("main", &[]);
        let id = kubelet.create(&pod, spec, &config).await.unwrap();
        let created = kubelet.status(&id).await.unwrap();
        assert_eq!(created.state(), v1::ContainerState::ContainerCreated);
        assert_eq!((created.started_at, created.finished_at), (0, 0));
        kubelet.start(&id).await.unwrap();
        let running = kubelet.status(&id).await.unwrap();
        assert_eq!(running.state(), v1::ContainerState::ContainerRunning);
        assert!(running.started_at >= running.created_at);
        assert_eq!(
            kubelet.sh(&id, "hostname; echo $FROM; echo $$ >/dev/null; cat /etc/hostname").await,
            "life\nimage\nlife"
        );
        assert_eq!(kubelet.sh(&id, "cat /proc/1/comm").await, "sleep");
        assert!(kubelet.sh(&id, "ip -4 addr show eth0").await.contains(&ip));

        kubelet.stop(&id, 0).await.unwrap();
        let ended = kubelet.status(&id).await.unwrap();
        assert_eq!((ended.state(), ended.exit_code), (v1::ContainerState::ContainerExited, 137));
        assert_eq!(ended.reason, "Error");
        assert!(ended.finished_at >= ended.started_at);
        kubelet.remove(&id).await.unwrap();
        assert_eq!(code(kubelet.status(&id).await), Code::NotFound);
        kubelet.stop_pod(&pod).await.unwrap();
        let status = kubelet.pod_status(&pod).await.unwrap().status.unwrap();
        assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
        kubelet.remove_pod(&pod).await.unwrap();
        assert_eq!(code(kubelet.pod_status(&pod).await), Code::NotFound);
        agent.assert_clean().await;
    });
}

#[test]
fn stop_and_remove_may_be_repeated_and_need_nothing_to_be_there() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        for id in ["0123456789abcdef", &"f".repeat(64)] {
            kubelet.stop(id, 1).await.unwrap();
            kubelet.remove(id).await.unwrap();
            kubelet.stop_pod(id).await.unwrap();
            kubelet.remove_pod(id).await.unwrap();
        }
        let config = kubelet.pod("twice");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let spec = kubelet.container("main", &[]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        for _ in 0..2 {
            kubelet.stop(&id, 0).await.unwrap();
        }
        for _ in 0..2 {
            kubelet.stop_pod(&pod).await.unwrap();
        }
        for _ in 0..2 {
            kubelet.remove(&id).await.unwrap();
        }
        for _ in 0..2 {
            kubelet.remove_pod(&pod).await.unwrap();
        }
    });
}

#[test]
fn a_repeated_request_gets_the_result_of_the_first() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("again");
        let pod = kubelet.run_pod(&config).await.unwrap();
        assert_eq!(kubelet.run_pod(&config).await.unwrap(), pod);
        let spec = kubelet.container("main", &[]);
        let id = kubelet.create(&pod, spec.clone(), &config).await.unwrap();
        assert_eq!(kubelet.create(&pod, spec.clone(), &config).await.unwrap(), id);
        kubelet.start(&id).await.unwrap();
        assert_eq!(code(kubelet.start(&id).await), Code::FailedPrecondition);
        assert_eq!(code(kubelet.create(&pod, spec, &config).await), Code::AlreadyExists);
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn removing_a_pod_ends_what_runs_in_it() {
    in_netns(|| async {
        let (agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("all");
        let pod = kubelet.run_pod(&config).await.unwrap();
        for name in ["a", "b", "c"] {
            let spec = kubelet.container(name, &["sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"]);
            kubelet.run(&pod, spec, &config).await.unwrap();
        }
        kubelet.remove_pod(&pod).await.unwrap();
        let all = kubelet.runtime.list_containers(v1::ListContainersRequest::default()).await.unwrap().into_inner();
        assert!(all.containers.is_empty());
        agent.assert_clean().await;
    });
}

#[test]
fn exits_have_the_codes_and_reasons_that_kubelets_know() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("exits");
        let pod = kubelet.run_pod(&config).await.unwrap();
        for (name, script, exit, reason) in [
            ("good", "exit 0", 0, "Completed"),
            ("bad", "exit 7", 7, "Error"),
            ("killed", "kill -9 $$; sleep 5", 137, "Error"),
        ] {
            // A first process ignores signals of its own namespace: the one that is killed is its child.
            let script = if name == "killed" { "sh -c 'kill -9 $$'; exit $?" } else { script };
            let spec = kubelet.container(name, &["sh", "-c", script]);
            let id = kubelet.run(&pod, spec, &config).await.unwrap();
            let ended = kubelet.ended(&id).await;
            assert_eq!((ended.exit_code, ended.reason.as_str()), (exit, reason), "{name}");
        }
        let spec = kubelet.container("missing", &["/no/such/program"]);
        let id = kubelet.create(&pod, spec, &config).await.unwrap();
        let failure = kubelet.start(&id).await.unwrap_err();
        assert!(failure.message().contains("/no/such/program"), "{failure}");
        let ended = kubelet.status(&id).await.unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_str()), (128, "StartError"));
        assert!(ended.message.contains("no such file"), "{}", ended.message);
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn memory_beyond_the_limit_is_told_as_such() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("oom");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let mut spec = kubelet.container("eater", &["sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=64M count=1"]);
        let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 8 << 20, ..Default::default() };
        spec.linux.as_mut().unwrap().resources = Some(resources);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        let ended = kubelet.ended(&id).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn a_stop_signal_is_sent_once_and_then_the_other_one() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig_with(json!({ "Env": ["PATH=/bin"], "StopSignal": "SIGUSR1" })).await;
        let config = kubelet.pod("stop");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let gentle = "trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep 0.05; done";
        let spec = kubelet.container("gentle", &["sh", "-c", gentle]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        while kubelet.log("stop", "gentle").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kubelet.stop(&id, 10).await.unwrap();
        assert_eq!(kubelet.status(&id).await.unwrap().exit_code, 3);
        assert_eq!(kubelet.log("stop", "gentle").last().unwrap().2, "usr1");

        let spec = kubelet.container("stubborn", &["sh", "-c", "trap '' USR1 TERM; while :; do sleep 0.05; done"]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        let began = Instant::now();
        kubelet.stop(&id, 1).await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert_eq!(kubelet.status(&id).await.unwrap().exit_code, 137);
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn a_later_and_shorter_grace_takes_effect() {
    in_netns(|| async {
        let (agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("grace");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let spec = kubelet.container("stubborn", &["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        let mut patient = Kubelet::new(&agent, "").await;
        let patient_id = id.clone();
        let began = Instant::now();
        let patient = async move { patient.stop(&patient_id, 100).await };
        let hasty = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            kubelet.stop(&id, 1).await
        };
        let (first, second) = tokio::join!(patient, hasty);
        first.unwrap();
        second.unwrap();
        assert!(began.elapsed() < Duration::from_secs(20));
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn commands_say_what_they_print_and_how_they_end() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("exec");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let spec = kubelet.container("main", &[]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        let (exit, out, err) = kubelet.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"]).await.unwrap();
        assert_eq!((exit, out.as_str(), err.as_str()), (5, "out\n", "err\n"));
        let began = Instant::now();
        assert_eq!(code(kubelet.exec_for(&id, &["sleep", "100"], 1).await), Code::DeadlineExceeded);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(kubelet.sh(&id, "ps | grep -c '[s]leep 100$' || true").await, "0", "the command is killed");
        assert_eq!(kubelet.status(&id).await.unwrap().state(), v1::ContainerState::ContainerRunning);
        // A background process holds the output open: that is not waited for.
        let began = Instant::now();
        let (exit, out, _) = kubelet.exec(&id, &["sh", "-c", "sleep 8 & echo done"]).await.unwrap();
        assert_eq!((exit, out.as_str()), (0, "done\n"));
        assert!(began.elapsed() < Duration::from_secs(4));
        let (_, out, _) = kubelet.exec(&id, &["sh", "-c", "dd if=/dev/zero bs=1M count=20 2>/dev/null"]).await.unwrap();
        assert!(out.len() <= 16 << 20, "{}", out.len());
        assert!(kubelet.exec(&id, &["/no/such/program"]).await.is_err());
        kubelet.stop(&id, 0).await.unwrap();
        assert_eq!(code(kubelet.exec(&id, &["true"]).await), Code::FailedPrecondition);
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn logs_are_in_the_form_that_kubelets_read() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("logs");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let script = "echo one; echo two >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf tail";
        let spec = kubelet.container("main", &["sh", "-c", script]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        kubelet.ended(&id).await;
        let log = kubelet.log("logs", "main");
        assert!(log.contains(&("stdout".into(), "F".into(), "one".into())));
        assert!(log.contains(&("stderr".into(), "F".into(), "two".into())));
        assert_eq!(log.last().unwrap(), &("stdout".into(), "P".into(), "tail".into()));
        let long: Vec<_> = log.iter().filter(|line| line.2.starts_with('x')).collect();
        assert_eq!(long.iter().map(|line| line.2.len()).sum::<usize>(), 40_000);
        assert!(long.iter().all(|line| line.2.len() <= 16_384));
        assert!(long[..long.len() - 1].iter().all(|line| line.1 == "P") && long.last().unwrap().1 == "F");
        assert_eq!(kubelet.status(&id).await.unwrap().log_path, format!("{}/main.log", config.log_directory));
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn a_log_goes_on_in_a_new_file_when_it_is_reopened() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let config = kubelet.pod("rotate");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let spec = kubelet.container("main", &["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        let path = format!("{}/main.log", config.log_directory);
        tokio::time::sleep(Duration::from_millis(200)).await;
        std::fs::rename(&path, format!("{path}.old")).unwrap();
        let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
        kubelet.runtime.reopen_container_log(request.clone()).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(&path).unwrap().lines().count() < 3 {
            assert!(Instant::now() < deadline, "nothing comes into the new file");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        kubelet.stop(&id, 0).await.unwrap();
        let old = std::fs::read_to_string(format!("{path}.old")).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        let numbers =
            old.lines().chain(new.lines()).map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap());
        for (expected, number) in numbers.enumerate() {
            assert_eq!(number, expected as u32, "no line is lost or doubled");
        }
        let reopened = kubelet.runtime.reopen_container_log(request).await;
        assert_eq!(code(reopened), Code::FailedPrecondition);
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn lists_take_filters() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let mut pods = Vec::new();
        for name in ["one", "two"] {
            let mut config = kubelet.pod(name);
            config.labels.insert("name".into(), name.into());
            let pod = kubelet.run_pod(&config).await.unwrap();
            let mut spec = kubelet.container("main", &[]);
            spec.labels.insert("of".into(), name.into());
            let id = kubelet.run(&pod, spec, &config).await.unwrap();
            pods.push((pod, id));
        }
        let with = |filter: v1::PodSandboxFilter| v1::ListPodSandboxRequest { filter: Some(filter) };
        let mut list = async |filter| {
            let reply = kubelet.runtime.list_pod_sandbox(with(filter)).await.unwrap().into_inner();
            reply.items.into_iter().map(|pod| pod.id).collect::<Vec<_>>()
        };
        let (one, two) = (pods[0].0.clone(), pods[1].0.clone());
        assert_eq!(list(Default::default()).await, [two.clone(), one.clone()], "the newest first");
        let labels = [("name".to_owned(), "one".to_owned())].into();
        assert_eq!(
            list(v1::PodSandboxFilter { label_selector: labels, ..Default::default() }).await,
            std::slice::from_ref(&one)
        );
        assert_eq!(
            list(v1::PodSandboxFilter { id: one[..13].to_owned(), ..Default::default() }).await,
            std::slice::from_ref(&one)
        );
        let ready = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxNotready.into() };
        assert!(list(v1::PodSandboxFilter { state: Some(ready), ..Default::default() }).await.is_empty());
        let filter = v1::ContainerFilter { pod_sandbox_id: two.clone(), ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let reply = kubelet.runtime.list_containers(request).await.unwrap().into_inner();
        assert_eq!(reply.containers.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), [pods[1].1.clone()]);
        for (pod, _) in pods {
            kubelet.end_pod(&pod).await;
        }
    });
}
