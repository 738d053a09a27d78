//! Pods on the network, through the CRI socket of a real agent with the built-in bridge.

#![allow(clippy::unwrap_used)] // It is all test code.

mod support;

use std::time::{Duration, Instant};

use orlop::cri::v1;
use serde_json::json;
use support::agent::{Agent, in_netns};
use support::kubelet::{Kubelet, code};
use support::registry::TestRegistry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

async fn rig() -> (Agent, TestRegistry, Kubelet) {
    let registry = TestRegistry::start().expect("docker-registry");
    let config = json!({ "Cmd": ["httpd", "-f", "-p", "80", "-h", "/var/www"], "Env": ["PATH=/bin"] });
    let image = support::image::busybox(config).push(&registry, "test/busybox", "1").await;
    let agent = Agent::start("").await;
    let mut kubelet = Kubelet::new(&agent, &image).await;
    kubelet.pull(&image).await.unwrap();
    (agent, registry, kubelet)
}

/// What an HTTP server at an address says, as soon as it says something.
async fn get(address: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match tokio::time::timeout(Duration::from_secs(2), try_get(address)).await {
            Ok(Ok(body)) => return body,
            failure => assert!(Instant::now() < deadline, "{address}: {failure:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn try_get(address: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let body = reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.filter(|_| reply.contains(" 200 OK")).ok_or_else(|| std::io::Error::other(reply))
}

#[test]
fn pods_reach_each_other_and_the_host_reaches_them() {
    in_netns(|| async {
        let (_agent, _registry, mut kubelet) = rig().await;
        let mut pods = Vec::new();
        for name in ["one", "two"] {
            let config = kubelet.pod(name);
            let pod = kubelet.run_pod(&config).await.unwrap();
            let spec = kubelet.container("web", &[]);
            let id = kubelet.run(&pod, spec, &config).await.unwrap();
            let ip = kubelet.pod_status(&pod).await.unwrap().status.unwrap().network.unwrap().ip;
            pods.push((pod, id, ip));
        }
        assert_ne!(pods[0].2, pods[1].2);
        assert_eq!(get(&format!("{}:80", pods[0].2)).await, "hello from orlop\n");
        let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {} 80 | tail -1", pods[1].2);
        assert_eq!(kubelet.sh(&pods[0].1, &fetch).await, "hello from orlop");
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pods[0].0.clone() };
        let stats = kubelet.runtime.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
        let interface = stats.linux.unwrap().network.unwrap().default_interface.unwrap();
        assert_eq!(interface.name, "eth0");
        assert!(interface.rx_bytes.unwrap().value > 100 && interface.tx_bytes.unwrap().value > 100);
        for (pod, ..) in pods {
            kubelet.end_pod(&pod).await;
        }
    });
}

#[test]
fn host_ports_lead_to_the_pod_and_belong_to_one_pod() {
    in_netns(|| async {
        let (mut agent, _registry, mut kubelet) = rig().await;
        let mut config = kubelet.pod("port");
        config.port_mappings = vec![v1::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
        let pod = kubelet.run_pod(&config).await.unwrap();
        let spec = kubelet.container("web", &[]);
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        // By the bridge's address, which is the host's.
        assert_eq!(get("10.88.0.1:8080").await, "hello from orlop\n");
        let mut other = kubelet.pod("clash");
        other.port_mappings = config.port_mappings.clone();
        let clash = kubelet.run_pod(&other).await.unwrap_err();
        assert!(clash.message().contains("8080"), "{clash}");
        agent.restart().await;
        kubelet.reconnect(&agent).await;
        assert_eq!(get("10.88.0.1:8080").await, "hello from orlop\n");
        assert!(kubelet.run_pod(&other).await.is_err(), "a restart forgets no port");
        assert_eq!(kubelet.sh(&id, "echo ok").await, "ok");
        kubelet.end_pod(&pod).await;
        let pod = kubelet.run_pod(&other).await.unwrap();
        kubelet.end_pod(&pod).await;
    });
}

#[test]
fn a_node_without_a_network_says_so_and_runs_pods_in_that_of_the_host() {
    in_netns(|| async {
        let registry = TestRegistry::start().expect("docker-registry");
        let config = json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"] });
        let image = support::image::busybox(config).push(&registry, "test/busybox", "1").await;
        let agent = Agent::start_with("kind = \"cni\"\n[network.cni]\nconf_dir = \"/nonexistent/net.d\"").await;
        let mut kubelet = Kubelet::new(&agent, &image).await;
        let status = kubelet.runtime.status(v1::StatusRequest::default()).await.unwrap().into_inner().status.unwrap();
        let condition = |kind: &str| status.conditions.iter().find(|one| one.r#type == kind).unwrap();
        assert!(condition("RuntimeReady").status);
        assert!(!condition("NetworkReady").status);
        assert_eq!(condition("NetworkReady").reason, "NetworkPluginNotReady");
        let config = kubelet.pod("refused");
        assert_eq!(code(kubelet.run_pod(&config).await), Code::Unavailable);
        let mut config = kubelet.pod("host");
        let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        linux.namespace_options.as_mut().unwrap().network = v1::NamespaceMode::Node.into();
        let pod = kubelet.run_pod(&config).await.unwrap();
        kubelet.end_pod(&pod).await;
    });
}

/// A plugin that gives an address, and never takes it back.
const STUBBORN: &str = r#"#!/bin/sh
case "$CNI_COMMAND" in
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.9.8.7/24","interface":0}]}' ;;
DEL) echo '{"cniVersion":"1.0.0","code":999,"msg":"not today"}'; exit 1 ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
esac
"#;

#[test]
fn a_pod_is_removed_though_its_network_cannot_be_given_back() {
    in_netns(|| async {
        let plugins = tempfile::tempdir().unwrap();
        let path = plugins.path().join("stubborn");
        std::fs::write(&path, STUBBORN).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let conf = r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"stubborn"}]}"#;
        std::fs::write(plugins.path().join("10-test.conflist"), conf).unwrap();
        let dir = plugins.path().display();
        let agent =
            Agent::start_with(&format!("kind = \"cni\"\n[network.cni]\nconf_dir = \"{dir}\"\nbin_dirs = [\"{dir}\"]"))
                .await;
        let mut kubelet = Kubelet::new(&agent, "").await;
        let config = kubelet.pod("stuck");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let status = kubelet.pod_status(&pod).await.unwrap().status.unwrap();
        assert_eq!(status.network.unwrap().ip, "10.9.8.7");
        let stopped = kubelet.stop_pod(&pod).await.unwrap_err();
        assert!(stopped.message().contains("not today"), "{stopped}");
        kubelet.remove_pod(&pod).await.unwrap();
        assert_eq!(code(kubelet.pod_status(&pod).await), Code::NotFound);
        agent.assert_clean().await;
    });
}
