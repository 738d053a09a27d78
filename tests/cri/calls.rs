//! Callers that give up, and a server that ends.

use std::time::Duration;

use orlop::cri::v1;
use tonic::{Code, Request};

use crate::fake::{Asked, Ends};
use crate::harness::Wire;
use crate::sample;

/// A request that is given up after a moment, by its deadline.
fn brief<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_millis(40));
    request
}

#[tokio::test]
async fn what_changes_the_node_runs_to_its_end() {
    let mut wire = Wire::new().await;
    wire.node.hold(true);
    let container_id = || sample::CONTAINER.to_owned();
    let pod_sandbox_id = || sample::POD.to_owned();
    let image = || Some(sample::image_spec());
    let runtime = &mut wire.runtime;
    let codes = [
        runtime.run_pod_sandbox(brief(sample::run_pod())).await.unwrap_err(),
        runtime
            .stop_pod_sandbox(brief(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id() }))
            .await
            .unwrap_err(),
        runtime
            .remove_pod_sandbox(brief(v1::RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id() }))
            .await
            .unwrap_err(),
        runtime.create_container(brief(sample::create_container())).await.unwrap_err(),
        runtime.start_container(brief(v1::StartContainerRequest { container_id: container_id() })).await.unwrap_err(),
        runtime
            .stop_container(brief(v1::StopContainerRequest { container_id: container_id(), timeout: 9 }))
            .await
            .unwrap_err(),
        runtime.remove_container(brief(v1::RemoveContainerRequest { container_id: container_id() })).await.unwrap_err(),
        runtime
            .exec_sync(brief(v1::ExecSyncRequest { container_id: container_id(), cmd: vec!["a".into()], timeout: 0 }))
            .await
            .unwrap_err(),
        runtime
            .reopen_container_log(brief(v1::ReopenContainerLogRequest { container_id: container_id() }))
            .await
            .unwrap_err(),
        wire.images.remove_image(brief(v1::RemoveImageRequest { image: image() })).await.unwrap_err(),
    ];
    for status in &codes {
        // The generated client has a clock of its own, which says Cancelled if it is first.
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    }
    assert_eq!(wire.node.asked().len(), codes.len());
    assert_eq!(wire.node.ends(), Ends::default());
    // Each was told to the observer once, as what it was to its caller.
    let mut seen = wire.seen.take();
    while seen.len() < codes.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        seen.extend(wire.seen.take());
    }
    let late = |code: &Code| matches!(code, Code::DeadlineExceeded | Code::Cancelled);
    assert!(seen.iter().all(|(_, code)| late(code)), "{seen:?}");
    wire.node.hold(false);
    let ends = wire.node.until(|ends| ends.finished + ends.dropped == codes.len()).await;
    assert_eq!(ends, Ends { finished: codes.len(), dropped: 0 });
    assert_eq!((seen.len(), wire.seen.take()), (codes.len(), Vec::new()));
}

#[tokio::test]
async fn a_cancelled_call_does_not_stop_its_operation() {
    let wire = Wire::new().await;
    wire.node.hold(true);
    let mut runtime = wire.runtime.clone();
    let call = tokio::spawn(async move { runtime.run_pod_sandbox(sample::run_pod()).await });
    wire.node.until_asked().await;
    call.abort();
    let _ = call.await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(wire.node.ends(), Ends::default());
    wire.node.hold(false);
    assert_eq!(wire.node.until(|e| e.finished + e.dropped == 1).await, Ends { finished: 1, dropped: 0 });
}

#[tokio::test]
async fn a_cancelled_pull_gives_up_its_interest() {
    let wire = Wire::new().await;
    wire.node.hold(true);
    let mut images = wire.images.clone();
    let call = tokio::spawn(async move { images.pull_image(sample::pull()).await });
    wire.node.until_asked().await;
    call.abort();
    let _ = call.await;
    assert_eq!(wire.node.until(|e| e.finished + e.dropped == 1).await, Ends { finished: 0, dropped: 1 });
    let seen = loop {
        match wire.seen.take() {
            seen if seen.is_empty() => tokio::time::sleep(Duration::from_millis(1)).await,
            seen => break seen,
        }
    };
    assert_eq!(seen, [("PullImage", Code::Cancelled)]);
}

#[tokio::test]
async fn the_end_waits_for_operations_and_takes_no_new_ones() {
    let mut wire = Wire::new().await;
    wire.node.hold(true);
    let mut runtime = wire.runtime.clone();
    let call = tokio::spawn(async move { runtime.run_pod_sandbox(sample::run_pod()).await });
    wire.node.until_asked().await;
    assert!(matches!(wire.node.only(), Asked::RunPod(_)));
    wire.stop();
    let socket = wire.dir.path().join("orlop.sock");
    // The listener goes first.
    while tokio::net::UnixStream::connect(&socket).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(wire.is_serving());
    let node = wire.node.clone();
    node.hold(false);
    // The caller that waited still gets its answer.
    assert_eq!(call.await.unwrap().unwrap().into_inner().pod_sandbox_id, sample::POD);
    wire.ended().await;
    assert_eq!(node.ends(), Ends { finished: 1, dropped: 0 });
    assert!(!socket.exists());
}

#[tokio::test]
async fn the_end_waits_for_an_operation_whose_caller_is_gone() {
    let mut wire = Wire::new().await;
    wire.node.hold(true);
    wire.runtime.clone().run_pod_sandbox(brief(sample::run_pod())).await.unwrap_err();
    wire.stop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(wire.is_serving());
    let node = wire.node.clone();
    node.hold(false);
    wire.ended().await;
    assert_eq!(node.ends(), Ends { finished: 1, dropped: 0 });
}

#[tokio::test]
async fn a_pull_does_not_hold_up_the_end() {
    let mut wire = Wire::new().await;
    wire.node.hold(true);
    let mut images = wire.images.clone();
    let call = tokio::spawn(async move { images.pull_image(sample::pull()).await });
    wire.node.until_asked().await;
    wire.stop();
    wire.ended().await;
    call.abort();
}

/// A kubelet that stops many pods at once, and a slow disk: many calls on one connection, each given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_calls_given_up_does_not_cost_the_connection() {
    let wire = Wire::new().await;
    wire.node.hold(true);
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let mut runtime = wire.runtime.clone();
            tokio::spawn(async move { runtime.run_pod_sandbox(sample::run_pod()).await })
        })
        .collect();
    let mut asked = 0;
    while asked < calls.len() {
        asked += wire.node.asked().len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    calls.iter().for_each(|call| call.abort());
    wire.runtime.clone().version(v1::VersionRequest::default()).await.unwrap();
    wire.node.hold(false);
    let ends = wire.node.until(|e| e.finished + e.dropped == 1000).await;
    assert_eq!(ends.dropped, 0);
}
