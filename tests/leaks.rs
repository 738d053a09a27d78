//! A thousand pods come and go, and nothing stays: no mount, cgroup, namespace, link, process, descriptor, file, address.

#![allow(clippy::unwrap_used)] // It is all test code.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use support::agent::{Agent, in_netns, run};
use support::kubelet::Kubelet;
use support::registry::TestRegistry;

const PODS: usize = 1000;
const AT_ONCE: usize = 4;

#[test]
fn a_thousand_pods_leave_nothing() {
    in_netns(|| async {
        let registry = TestRegistry::start().expect("docker-registry");
        let config = json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"] });
        let image = support::image::busybox(config).push(&registry, "test/busybox", "1").await;
        // So few addresses that each is used again and again.
        let agent = Agent::start("[network.builtin]\nsubnet = \"10.88.0.0/26\"\npool_size = 4").await;
        let mut kubelet = Kubelet::new(&agent, &image).await;
        kubelet.pull(&image).await.unwrap();
        lifecycles(&agent, &image, 40).await;
        let before = settled(&agent, None).await;
        lifecycles(&agent, &image, PODS).await;
        let after = settled(&agent, Some(&before)).await;
        assert!(no_more(&after, &before), "before: {before:#?}, after: {after:#?}");
        agent.assert_clean().await;
    });
}

async fn lifecycles(agent: &Agent, image: &str, count: usize) {
    let mut workers = Vec::new();
    for worker in 0..AT_ONCE {
        let mut kubelet = Kubelet::new(agent, image).await;
        workers.push(async move {
            for round in 0..count / AT_ONCE {
                let config = kubelet.pod(&format!("w{worker}r{round}"));
                let pod = kubelet.run_pod(&config).await.unwrap();
                let spec = kubelet.container("main", &[]);
                let id = kubelet.run(&pod, spec, &config).await.unwrap();
                if round % 10 == 0 {
                    kubelet.exec(&id, &["true"]).await.unwrap();
                }
                if round % 2 == 0 {
                    kubelet.stop(&id, 0).await.unwrap();
                    kubelet.stop_pod(&pod).await.unwrap();
                }
                kubelet.remove_pod(&pod).await.unwrap();
            }
        });
    }
    futures_util::future::join_all(workers).await;
}

/// Whether nothing has become more. Less may be: an idle connection was closed.
fn no_more(after: &BTreeMap<&'static str, usize>, before: &BTreeMap<&'static str, usize>) -> bool {
    after.iter().all(|(what, count)| *count <= before[what])
}

/// What the agent and the machine hold, once the kernel has cleared away what goes by itself. With `goal`, as soon as
/// it is no more than that.
async fn settled(agent: &Agent, goal: Option<&BTreeMap<&'static str, usize>>) -> BTreeMap<&'static str, usize> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let held = held(agent);
        if goal.is_some_and(|goal| no_more(&held, goal)) || Instant::now() > deadline {
            return held;
        }
        if goal.is_none() && Instant::now() + Duration::from_secs(12) > deadline {
            return held;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn held(agent: &Agent) -> BTreeMap<&'static str, usize> {
    let count = |path: String| std::fs::read_dir(path).map_or(0, |entries| entries.count());
    let children = run(std::process::Command::new("ps").args(["-o", "ppid=", "-A"]));
    let parent = agent.pid().to_string();
    let links = run(std::process::Command::new("ip").args(["-o", "link"]));
    BTreeMap::from([
        ("descriptors", count(format!("/proc/{}/fd", agent.pid()))),
        ("children", children.lines().filter(|line| line.trim() == parent).count()),
        ("links", links.lines().count()),
        ("mounts", std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()),
        ("pods", count(format!("{}/root/pods", agent.dir.display()))),
        ("containers", count(format!("{}/root/containers", agent.dir.display()))),
        ("state", count(format!("{}/run/pods", agent.dir.display()))),
        ("network namespaces", namespaces()),
    ])
}

/// Network namespaces that processes of this machine are in.
fn namespaces() -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter_map(|entry| std::fs::read_link(entry.path().join("ns/net")).ok());
    found.collect::<std::collections::BTreeSet<_>>().len()
}
