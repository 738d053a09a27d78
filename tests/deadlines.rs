//! A deadline that passes in the middle of an operation ends the waiting, not the operation; the retry gets its result.

#![allow(clippy::unwrap_used)] // It is all test code.

mod support;

use std::time::Duration;

use orlop::cri::v1;
use serde_json::json;
use support::agent::{Agent, in_netns};
use support::kubelet::Kubelet;
use support::registry::TestRegistry;
use tonic::{Code, Request};

fn hasty<T>(message: T, micros: u64) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_micros(micros));
    request
}

/// Deadlines that pass at different moments of an operation that takes milliseconds.
const MOMENTS: [u64; 8] = [100, 300, 600, 1000, 1500, 2500, 4000, 8000];

#[test]
fn every_operation_can_be_retried_after_its_deadline() {
    in_netns(|| async {
        let registry = TestRegistry::start().expect("docker-registry");
        let config = json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"] });
        let image = support::image::busybox(config).push(&registry, "test/busybox", "1").await;
        let agent = Agent::start("").await;
        let mut kubelet = Kubelet::new(&agent, &image).await;
        let mut cut = 0;
        for (round, micros) in MOMENTS.into_iter().enumerate() {
            let spec = v1::ImageSpec { image: image.clone(), ..Default::default() };
            let request = v1::PullImageRequest { image: Some(spec.clone()), ..Default::default() };
            cut += passed(kubelet.images.pull_image(hasty(request, micros)).await);
            kubelet.pull(&image).await.unwrap();

            let config = kubelet.pod(&format!("pod{round}"));
            let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
            cut += passed(kubelet.runtime.run_pod_sandbox(hasty(request, micros)).await);
            let pod = kubelet.run_pod(&config).await.unwrap();

            let request = v1::CreateContainerRequest {
                pod_sandbox_id: pod.clone(),
                config: Some(kubelet.container("main", &[])),
                sandbox_config: Some(config.clone()),
            };
            cut += passed(kubelet.runtime.create_container(hasty(request.clone(), micros)).await);
            let id = kubelet.runtime.create_container(request).await.unwrap().into_inner().container_id;
            let all = kubelet.runtime.list_containers(v1::ListContainersRequest::default()).await.unwrap();
            assert_eq!(all.into_inner().containers.len(), 1, "the retry joined the first request");

            let request = v1::StartContainerRequest { container_id: id.clone() };
            cut += passed(kubelet.runtime.start_container(hasty(request.clone(), micros)).await);
            match kubelet.runtime.start_container(request).await {
                Ok(_) => {}
                // The first one was through already.
                Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
            }
            assert_eq!(kubelet.status(&id).await.unwrap().state(), v1::ContainerState::ContainerRunning);
            assert_eq!(kubelet.sh(&id, "echo works").await, "works");

            let request = v1::ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".into()], timeout: 5 };
            cut += passed(kubelet.runtime.exec_sync(hasty(request, micros)).await);

            let request = v1::StopContainerRequest { container_id: id.clone(), timeout: 0 };
            cut += passed(kubelet.runtime.stop_container(hasty(request, micros)).await);
            kubelet.stop(&id, 0).await.unwrap();

            let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
            cut += passed(kubelet.runtime.stop_pod_sandbox(hasty(request, micros)).await);
            kubelet.stop_pod(&pod).await.unwrap();

            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.clone() };
            cut += passed(kubelet.runtime.remove_pod_sandbox(hasty(request, micros)).await);
            kubelet.remove_pod(&pod).await.unwrap();

            kubelet.images.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await.unwrap();
        }
        assert!(cut > 5, "only {cut} deadlines passed: the test does not test what it says");
        agent.assert_clean().await;
    });
}

/// 1 if the deadline passed first.
fn passed<T>(result: Result<T, tonic::Status>) -> u32 {
    match result {
        Ok(_) => 0,
        Err(status) => {
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
            1
        }
    }
}
