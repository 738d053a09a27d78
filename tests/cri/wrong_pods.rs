//! RunPodSandbox with each field wrong in turn.

use orlop::cri::v1;
use orlop::cri::v1::*;

use crate::harness::Wire;
use crate::sample;
use crate::wrong_input::{big, many, one, refused, wrong};

fn pod(r: &mut RunPodSandboxRequest) -> &mut PodSandboxConfig {
    r.config.as_mut().unwrap()
}

fn linux(r: &mut RunPodSandboxRequest) -> &mut LinuxPodSandboxConfig {
    pod(r).linux.as_mut().unwrap()
}

fn pod_security(r: &mut RunPodSandboxRequest) -> &mut LinuxSandboxSecurityContext {
    linux(r).security_context.as_mut().unwrap()
}

fn userns(r: &mut RunPodSandboxRequest) -> &mut UserNamespace {
    pod_security(r).namespace_options.as_mut().unwrap().userns_options.as_mut().unwrap()
}

#[tokio::test]
async fn pods_names_and_paths() {
    let mut wire = Wire::new().await;
    wrong!(wire.runtime.run_pod_sandbox, sample::run_pod(), {
        "config": |r| r.config = None,
        "config.metadata": |r| pod(r).metadata = None,
        "config.metadata.name": |r| pod(r).metadata.as_mut().unwrap().name.clear(),
        "config.metadata.name": |r| pod(r).metadata.as_mut().unwrap().name = "a/b".into(),
        "config.metadata.name": |r| pod(r).metadata.as_mut().unwrap().name = "a\nb".into(),
        "config.metadata.name": |r| pod(r).metadata.as_mut().unwrap().name = big(256),
        "config.metadata.uid": |r| pod(r).metadata.as_mut().unwrap().uid.clear(),
        "config.metadata.uid": |r| pod(r).metadata.as_mut().unwrap().uid = "../x".into(),
        "config.metadata.namespace": |r| pod(r).metadata.as_mut().unwrap().namespace.clear(),
        "config.metadata.namespace": |r| pod(r).metadata.as_mut().unwrap().namespace = "a\0".into(),
        "runtime_handler": |r| r.runtime_handler = "a b".into(),
        "runtime_handler": |r| r.runtime_handler = big(256),
        "config.hostname": |r| pod(r).hostname = big(65),
        "config.hostname": |r| pod(r).hostname = "a b".into(),
        "config.hostname": |r| pod(r).hostname = "web\n127.0.0.1 evil".into(),
        "config.log_directory": |r| pod(r).log_directory = "logs".into(),
        "config.log_directory": |r| pod(r).log_directory = "/var/log/../../etc".into(),
        "config.log_directory": |r| pod(r).log_directory = "/var\0".into(),
        "config.log_directory": |r| pod(r).log_directory = format!("/{}", big(4096)),
        "config.labels": |r| pod(r).labels = one("", "x"),
        "config.labels": |r| pod(r).labels = one(&big(1025), "x"),
        "config.labels": |r| pod(r).labels = many(300_000),
        "config.annotations": |r| pod(r).annotations = one("", ""),
        "config.annotations": |r| pod(r).annotations = many(1_100_000),
        "config.windows": |r| pod(r).windows = Some(Default::default()),
        "config.linux.cgroup_parent": |r| linux(r).cgroup_parent = "/kubepods/../..".into(),
        "config.linux.cgroup_parent": |r| linux(r).cgroup_parent = "/a\0".into(),
        "config.linux.cgroup_parent": |r| linux(r).cgroup_parent = "/a\nb".into(),
        "config.linux.sysctls": |r| linux(r).sysctls = one("net", "1"),
        "config.linux.sysctls": |r| linux(r).sysctls = one("net/../../../etc/passwd", "1"),
        "config.linux.sysctls": |r| linux(r).sysctls = one("", "1"),
        "config.linux.sysctls": |r| linux(r).sysctls = one("net.core.somaxconn", "1\0"),
        "config.linux.sysctls": |r| linux(r).sysctls = one("net.core.somaxconn", &big(4097)),
        "config.linux.overhead.memory_limit_in_bytes": |r| {
            linux(r).overhead.as_mut().unwrap().memory_limit_in_bytes = -1;
        },
        "config.linux.resources.cpu_shares": |r| linux(r).resources.as_mut().unwrap().cpu_shares = -2,
    });
}

#[tokio::test]
async fn pods_networks() {
    let mut wire = Wire::new().await;
    fn dns(r: &mut RunPodSandboxRequest) -> &mut DnsConfig {
        pod(r).dns_config.as_mut().unwrap()
    }
    fn port(r: &mut RunPodSandboxRequest) -> &mut PortMapping {
        &mut pod(r).port_mappings[0]
    }
    wrong!(wire.runtime.run_pod_sandbox, sample::run_pod(), under "config.", {
        "dns_config.servers[1]": |r| dns(r).servers[1] = "1.1.1.1\nnameserver 6.6.6.6".into(),
        "dns_config.servers[0]": |r| dns(r).servers[0].clear(),
        "dns_config.searches[0]": |r| dns(r).searches[0] = "a b".into(),
        "dns_config.searches[0]": |r| dns(r).searches[0] = big(256),
        "dns_config.options[0]": |r| dns(r).options[0] = "ndots:5\0".into(),
        "port_mappings[0].protocol": |r| port(r).protocol = 3,
        "port_mappings[0].protocol": |r| port(r).protocol = -1,
        "port_mappings[0].container_port": |r| port(r).container_port = 0,
        "port_mappings[0].container_port": |r| port(r).container_port = -1,
        "port_mappings[0].container_port": |r| port(r).container_port = 65_536,
        "port_mappings[0].host_port": |r| port(r).host_port = -5,
        "port_mappings[0].host_port": |r| port(r).host_port = 70_000,
        "port_mappings[0].host_ip": |r| port(r).host_ip = "localhost".into(),
        "port_mappings[0].host_ip": |r| port(r).host_ip = "1.2.3".into(),
        "port_mappings": |r| { let port = port(r).clone(); pod(r).port_mappings = vec![port; 20_000] },
    });
}

#[tokio::test]
async fn pods_security() {
    let mut wire = Wire::new().await;
    fn namespaces(r: &mut RunPodSandboxRequest) -> &mut NamespaceOption {
        pod_security(r).namespace_options.as_mut().unwrap()
    }
    let id = |value| Some(Int64Value { value });
    wrong!(wire.runtime.run_pod_sandbox, sample::run_pod(), under "config.linux.security_context.", {
        "run_as_user": |r| pod_security(r).run_as_user = id(-1),
        "run_as_user": |r| pod_security(r).run_as_user = id(u32::MAX.into()),
        "run_as_group": |r| pod_security(r).run_as_group = id(1 << 40),
        "supplemental_groups[1]": |r| pod_security(r).supplemental_groups[1] = -7,
        "supplemental_groups": |r| pod_security(r).supplemental_groups = vec![1; 70_000],
        "supplemental_groups_policy": |r| pod_security(r).supplemental_groups_policy = 2,
        "seccomp.profile_type": |r| pod_security(r).seccomp.as_mut().unwrap().profile_type = 3,
        "seccomp.localhost_ref": |r| pod_security(r).seccomp.as_mut().unwrap().localhost_ref = "/x".into(),
        "seccomp.localhost_ref": |r| pod_security(r).seccomp.as_mut().unwrap().profile_type = 2,
        "apparmor.localhost_ref": |r| pod_security(r).apparmor.as_mut().unwrap().localhost_ref.clear(),
        "apparmor.localhost_ref": |r| pod_security(r).apparmor.as_mut().unwrap().localhost_ref = "a\nb".into(),
        "selinux_options.type": |r| pod_security(r).selinux_options.as_mut().unwrap().r#type = "a\0b".into(),
        "namespace_options.network": |r| namespaces(r).network = 9,
        "namespace_options.network": |r| namespaces(r).network = v1::NamespaceMode::Container.into(),
        "namespace_options.ipc": |r| namespaces(r).ipc = v1::NamespaceMode::Target.into(),
        "namespace_options.pid": |r| namespaces(r).pid = -1,
        "namespace_options.pid": |r| {
            namespaces(r).pid = v1::NamespaceMode::Target.into();
            namespaces(r).target_id = sample::CONTAINER.into();
        },
        "namespace_options.target_id": |r| namespaces(r).target_id = sample::CONTAINER.into(),
        "namespace_options.userns_options.mode": |r| userns(r).mode = v1::NamespaceMode::Container.into(),
        "namespace_options.userns_options.mode": |r| userns(r).mode = v1::NamespaceMode::Target.into(),
        "namespace_options.userns_options.mode": |r| userns(r).mode = 17,
        "namespace_options.userns_options.uids": |r| userns(r).mode = v1::NamespaceMode::Node.into(),
        "namespace_options.userns_options.uids": |r| userns(r).uids.clear(),
        "namespace_options.userns_options.gids": |r| { let more = userns(r).gids[0]; userns(r).gids.push(more) },
        "namespace_options.userns_options.uids": |r| userns(r).uids[0].container_id = 1,
        "namespace_options.userns_options.uids[0].length": |r| userns(r).uids[0].length = 0,
        "namespace_options.userns_options.gids[0].length": |r| userns(r).gids[0].host_id = u32::MAX,
    });
}
