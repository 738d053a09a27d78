#![allow(clippy::unwrap_used)]
//! What a pod costs beyond its own processes.

mod shim_support;

use std::time::{Duration, Instant};

use orlop::shim::client::{ExecIo, NamespaceSource, SetupRequest, ShimEventKind};
use shim_support::container::*;
use shim_support::*;

const PODS: usize = 50;

/// Private memory of a shim, in KiB, that nothing may exceed. What its file has is shared by all.
const PROMISE: u64 = 32;

/// Mean Pss and Private_Dirty in KiB, once the shims have given back what they had for a moment.
async fn measure(what: &str, pods: &[Pod]) -> u64 {
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (mut pss, mut dirty) = (0, 0);
    for pod in pods {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.client.pid())).unwrap();
        pss += kib(&rollup, "Pss");
        dirty += kib(&rollup, "Private_Dirty");
    }
    let count = pods.len() as u64;
    println!("{count} shims, {what}: Pss {} KiB, Private_Dirty {} KiB each", pss / count, dirty / count);
    if std::env::var_os("SHIM_SMAPS").is_some() {
        println!("{}", std::fs::read_to_string(format!("/proc/{}/smaps", pods[7].client.pid())).unwrap());
    }
    dirty / count
}

/// How often the shims have waited for something, all together.
fn switches(pods: &[Pod]) -> u64 {
    let status = |pod: &Pod| std::fs::read_to_string(format!("/proc/{}/status", pod.client.pid())).unwrap();
    pods.iter().map(|pod| kib(&status(pod), "voluntary_ctxt_switches")).sum()
}

#[tokio::test]
async fn fifty_idle_shims_are_small() {
    if !busybox() {
        return;
    }
    let (mut pods, mut spawned, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PODS {
        let start = Instant::now();
        let pod = Pod::bare();
        spawned.push(start.elapsed());
        pod.set_up(SetupRequest { ipc: NamespaceSource::New, uts: NamespaceSource::New, ..pod.plain().request() })
            .await;
        ready.push(start.elapsed());
        pod.client.list().await.unwrap();
        pods.push(pod);
    }
    for (what, mut times) in [("spawned", spawned), ("set up", ready)] {
        times.sort();
        println!(
            "a shim is {what} after: best {:?}, p50 {:?}, p95 {:?}",
            times[0],
            times[PODS / 2],
            times[PODS * 95 / 100]
        );
    }
    let empty = measure("without containers", &pods).await;

    let container = Box1::shell("echo hello; exec sleep 1000");
    for pod in &mut pods {
        container.run(pod, "c1").await;
        let nothing = ExecIo::Fds { stdin: None, stdout: None, stderr: None };
        exec(pod, "e1", "c1", "true", nothing).await.unwrap();
        assert!(matches!(pod.event().await, ShimEventKind::Exited { exec: true, .. }));
        pod.client.forget("e1").await.unwrap();
    }
    let running = measure("a container and an exec each", &pods).await;
    // And they do nothing at all while nothing happens.
    let before = switches(&pods);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(switches(&pods), before, "idle shims were woken");
    assert!(empty <= PROMISE && running <= PROMISE, "{empty} and {running} KiB of {PROMISE}");
}
