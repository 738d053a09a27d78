//! Every RPC of this version, there and back: the node is asked what was meant, and the reply says what it answered.

use std::time::Duration;

use orlop::cri::v1;
use orlop::node::types::*;
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::fake::Asked;
use crate::harness::{Wire, asked};
use crate::sample;

/// What later versions bring, and nothing else.
const LATER: [&str; 17] = [
    "StreamPodSandboxes",
    "StreamContainers",
    "StreamContainerStats",
    "StreamPodSandboxStats",
    "StreamPodSandboxMetrics",
    "StreamImages",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "Exec",
    "Attach",
    "PortForward",
    "CheckpointContainer",
    "CheckpointPod",
    "RestorePod",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
];

#[tokio::test]
async fn every_rpc_of_the_contract_is_routed() {
    let wire = Wire::new().await;
    let set = prost_types::FileDescriptorSet::decode(orlop::cri::DESCRIPTORS).unwrap();
    let mut seen = 0;
    for service in &set.file[0].service {
        for method in &service.method {
            let name = method.name();
            let path = format!("/runtime.v1.{}/{name}", service.name());
            let mut grpc = Grpc::new(wire.channel.clone());
            grpc.ready().await.unwrap();
            // All requests are empty messages to their codec: each field has its default.
            let codec = ProstCodec::<(), ()>::default();
            let answer = grpc.unary(Request::new(()), PathAndQuery::try_from(path).unwrap(), codec).await;
            let (code, message) = answer.map_or_else(|e| (e.code(), e.message().to_owned()), |_| (Code::Ok, "".into()));
            if LATER.contains(&name) {
                assert_eq!(code, Code::Unimplemented, "{name}");
                assert!(message.starts_with(&format!("{name} is not implemented")), "{name}: {message}");
            } else {
                assert!(matches!(code, Code::Ok | Code::InvalidArgument), "{name}: {code} {message}");
            }
            assert_eq!(wire.seen.take(), [(leak(name), code)]);
            seen += 1;
        }
    }
    assert_eq!(seen, 43);
}

fn leak(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}

#[tokio::test]
async fn pods_are_run_as_asked() {
    let mut wire = Wire::new().await;
    let answer = wire.runtime.run_pod_sandbox(sample::run_pod()).await.unwrap().into_inner();
    assert_eq!(answer.pod_sandbox_id, sample::POD);
    let Asked::RunPod(pod) = wire.node.only() else { panic!() };
    assert_eq!(
        pod.metadata,
        PodMetadata { name: "web".into(), uid: "7b5c-uid".into(), namespace: "default".into(), attempt: 2 }
    );
    assert_eq!((pod.hostname.as_str(), pod.runtime_handler.as_str()), ("web-0", "orlop"));
    assert_eq!(pod.log_directory, "/var/log/pods/default_web_7b5c-uid");
    let dns = pod.dns.unwrap();
    assert_eq!((dns.servers.len(), dns.searches.len(), dns.options), (2, 1, vec!["ndots:5".to_owned()]));
    assert_eq!(
        pod.port_mappings,
        [PortMapping { protocol: Protocol::Udp, container_port: 53, host_port: 5353, host_ip: "127.0.0.1".into() }]
    );
    assert_eq!(pod.labels, sample::labels());
    assert_eq!(pod.annotations, sample::labels());
    assert_eq!(pod.cgroup_parent, "/kubepods/burstable/pod7b5c-uid");
    assert_eq!(pod.sysctls, sample::map(&[("net.ipv4.ip_unprivileged_port_start", "0")]));
    assert_eq!(pod.overhead, pod.resources);
    let security = pod.security;
    assert_eq!(security.namespaces.pid, NamespaceMode::Container);
    assert_eq!(security.namespaces.network, NamespaceMode::Pod);
    let userns = security.namespaces.userns.unwrap();
    let mapping = IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
    assert_eq!((userns.pod, userns.uids, userns.gids), (true, vec![mapping], vec![mapping]));
    assert_eq!(security.selinux.unwrap().kind, "container_t");
    assert_eq!((security.run_as_user, security.run_as_group), (Some(1000), Some(1001)));
    assert_eq!((security.supplemental_groups, security.groups_policy), (vec![1002, 0], GroupsPolicy::Strict));
    assert_eq!(security.seccomp, Some(SecurityProfile::RuntimeDefault));
    assert_eq!(security.apparmor, Some(SecurityProfile::Localhost("mine".into())));
}

#[tokio::test]
async fn a_bare_pod_is_enough() {
    let mut wire = Wire::new().await;
    let metadata = sample::pod_request().metadata;
    let config = Some(v1::PodSandboxConfig { metadata, ..Default::default() });
    wire.runtime.run_pod_sandbox(v1::RunPodSandboxRequest { config, ..Default::default() }).await.unwrap();
    asked!(wire, Asked::RunPod(pod) => {
        assert_eq!(pod, PodConfig { metadata: pod.metadata.clone(), ..Default::default() });
    });
}

#[tokio::test]
async fn pods_are_stopped_removed_and_shown() {
    let mut wire = Wire::new().await;
    let pod_sandbox_id = sample::POD.to_owned();
    let runtime = &mut wire.runtime;
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await.unwrap();
    asked!(wire, Asked::StopPod(id) => assert_eq!(id, sample::POD));
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await.unwrap();
    asked!(wire, Asked::RemovePod(id) => assert_eq!(id, sample::POD));

    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.clone(), verbose: false };
    let answer = runtime.pod_sandbox_status(request.clone()).await.unwrap().into_inner();
    asked!(wire, Asked::PodStatus(id) => assert_eq!(id, sample::POD));
    assert!(answer.info.is_empty());
    assert!(answer.timestamp >= before && answer.timestamp < before + 60_000_000_000);
    assert_eq!(answer.containers_statuses.len(), 1);
    assert_eq!(answer.containers_statuses[0].id, sample::CONTAINER);
    let status = answer.status.unwrap();
    assert_eq!((status.id.as_str(), status.created_at), (sample::POD, 1_700_000_000_000_000_001));
    assert_eq!(status.metadata, sample::pod_request().metadata);
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!((status.labels, status.annotations), (sample::labels(), sample::labels()));
    assert_eq!(status.runtime_handler, "orlop");
    let network = status.network.unwrap();
    assert_eq!(network.ip, "10.1.2.3");
    assert_eq!(network.additional_ips, [v1::PodIp { ip: "fd00::3".into() }]);
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!((options.network(), options.pid()), (v1::NamespaceMode::Pod, v1::NamespaceMode::Container));

    let verbose = v1::PodSandboxStatusRequest { verbose: true, ..request };
    let answer = wire.runtime.pod_sandbox_status(verbose).await.unwrap().into_inner();
    assert_eq!(answer.info["info"], r#"{"pid":1}"#);
}

#[tokio::test]
async fn pods_are_listed_by_every_filter() {
    let mut wire = Wire::new().await;
    let items = wire.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    asked!(wire, Asked::ListPods(f) => assert!(f.id.is_none() && f.state.is_none() && f.labels.is_empty()));
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].id.as_str(), items[0].runtime_handler.as_str()), (sample::POD, "orlop"));
    assert_eq!((&items[0].labels, &items[0].annotations), (&sample::labels(), &sample::labels()));
    let request = v1::ListPodSandboxRequest { filter: Some(sample::pod_filter()) };
    wire.runtime.list_pod_sandbox(request).await.unwrap();
    asked!(wire, Asked::ListPods(f) => {
        assert_eq!((f.id.as_deref(), f.state), (Some("0123"), Some(PodState::NotReady)));
        assert_eq!(f.labels, sample::labels());
    });
}

#[tokio::test]
async fn containers_are_created_as_asked() {
    let mut wire = Wire::new().await;
    let answer = wire.runtime.create_container(sample::create_container()).await.unwrap().into_inner();
    assert_eq!(answer.container_id, sample::CONTAINER);
    let Asked::CreateContainer(pod_id, c, pod) = wire.node.only() else { panic!() };
    assert_eq!(pod_id, sample::POD);
    assert_eq!(pod.unwrap().metadata.name, "web");
    assert_eq!(c.metadata, ContainerMetadata { name: "nginx".into(), attempt: 1 });
    assert_eq!(c.image.user_specified_image, "docker.io/library/nginx:1.27");
    assert_eq!(c.command, ["/bin/sh", "-c"]);
    assert_eq!(c.args, ["exec nginx", ""]);
    assert_eq!((c.working_dir.as_str(), c.log_path.as_str()), ("/srv", "nginx/1.log"));
    assert_eq!(c.envs[1], EnvVar { key: "RAW".into(), value: vec![0xff, 0xfe, b'\n', b'='] });
    assert_eq!(c.mounts[0].propagation, Propagation::HostToContainer);
    assert_eq!(c.mounts[0].mount_options, ["noexec", "nosuid"]);
    assert_eq!((c.mounts[0].uid_mappings.len(), c.mounts[0].gid_mappings.len()), (1, 1));
    assert!(c.mounts[0].selinux_relabel && c.mounts[1].readonly && c.mounts[1].recursive_read_only);
    assert_eq!(c.mounts[1].image.as_ref().unwrap().image, sample::IMAGE);
    assert_eq!(c.mounts[1].image_sub_path, "share/doc");
    let device = Device { container_path: "/dev/fuse".into(), host_path: "/dev/fuse".into(), permissions: "rw".into() };
    assert_eq!(c.devices, [device]);
    assert_eq!((c.labels, c.annotations), (sample::labels(), sample::labels()));
    assert!(c.stdin && c.stdin_once && c.tty);
    assert_eq!(c.cdi_devices, ["vendor.com/gpu=0"]);
    assert_eq!(c.stop_signal, Some(libc::SIGQUIT));
    let resources = c.resources.unwrap();
    assert_eq!(
        (resources.cpu_period, resources.cpu_quota, resources.cpu_shares),
        (Some(100_000), Some(50_000), Some(512))
    );
    assert_eq!((resources.memory_limit, resources.memory_swap_limit), (Some(64 << 20), Some(64 << 20)));
    assert_eq!((resources.oom_score_adj, resources.cpuset_cpus.as_str()), (937, "0-1,3"));
    assert_eq!(resources.hugepage_limits, [HugepageLimit { page_size: "2MB".into(), limit: 0 }]);
    assert_eq!(resources.unified["memory.oom.group"], "1");
    let s = c.security;
    assert_eq!(s.capabilities.add, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(
        (s.capabilities.drop, s.capabilities.add_ambient),
        (vec!["ALL".into()], vec!["NET_BIND_SERVICE".into()])
    );
    assert_eq!((s.namespaces.pid, s.namespaces.target_id.as_str()), (NamespaceMode::Target, sample::CONTAINER));
    assert_eq!((s.run_as_user, s.run_as_group, s.supplemental_groups), (Some(0), Some(7), vec![5]));
    assert!(s.no_new_privs && s.readonly_rootfs && !s.privileged);
    assert_eq!((s.masked_paths, s.readonly_paths), (vec!["/proc/kcore".into()], vec!["/proc/sys".into()]));
    assert_eq!(s.seccomp, Some(SecurityProfile::Localhost("/etc/seccomp.json".into())));
    assert_eq!(s.apparmor, Some(SecurityProfile::Unconfined));
}

#[tokio::test]
async fn unset_stays_unset() {
    let mut wire = Wire::new().await;
    let full = sample::container_request();
    let image = Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() });
    let linux = Some(v1::LinuxContainerConfig { resources: Some(Default::default()), security_context: None });
    let config = Some(v1::ContainerConfig { metadata: full.metadata, image, linux, ..Default::default() });
    let request = v1::CreateContainerRequest { pod_sandbox_id: "p".into(), config, sandbox_config: None };
    wire.runtime.create_container(request).await.unwrap();
    let Asked::CreateContainer(_, c, None) = wire.node.only() else { panic!() };
    assert_eq!(c.resources, Some(Resources::default()));
    assert_eq!(c.security, ContainerSecurity::default());
    assert_eq!((c.stop_signal, c.command.len(), c.envs.len()), (None, 0, 0));
}

/// What kubelets before the seccomp and apparmor fields sent.
#[tokio::test]
#[allow(deprecated)]
async fn the_deprecated_profiles_are_understood() {
    let mut wire = Wire::new().await;
    let local = |text: &str| Some(SecurityProfile::Localhost(text.into()));
    let cases = [
        ("", "", None, None),
        (
            "runtime/default",
            "runtime/default",
            Some(SecurityProfile::RuntimeDefault),
            Some(SecurityProfile::RuntimeDefault),
        ),
        ("docker/default", "", Some(SecurityProfile::RuntimeDefault), None),
        ("unconfined", "unconfined", Some(SecurityProfile::Unconfined), Some(SecurityProfile::Unconfined)),
        ("localhost//etc/s.json", "localhost/a", local("/etc/s.json"), local("a")),
    ];
    for (seccomp, apparmor, expected_seccomp, expected_apparmor) in cases {
        let mut request = sample::create_container();
        let security = request.config.as_mut().unwrap().linux.as_mut().unwrap().security_context.as_mut().unwrap();
        (security.seccomp, security.apparmor) = (None, None);
        (security.seccomp_profile_path, security.apparmor_profile) = (seccomp.into(), apparmor.into());
        wire.runtime.create_container(request).await.unwrap();
        let Asked::CreateContainer(_, c, _) = wire.node.only() else { panic!() };
        assert_eq!((c.security.seccomp, c.security.apparmor), (expected_seccomp, expected_apparmor), "{seccomp}");
    }
}

#[tokio::test]
async fn containers_are_started_stopped_removed() {
    let mut wire = Wire::new().await;
    let container_id = sample::CONTAINER.to_owned();
    let runtime = &mut wire.runtime;
    runtime.start_container(v1::StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
    asked!(wire, Asked::StartContainer(id) => assert_eq!(id, sample::CONTAINER));
    for timeout in [0, 30, i64::MAX] {
        let request = v1::StopContainerRequest { container_id: container_id.clone(), timeout };
        runtime.stop_container(request).await.unwrap();
        asked!(wire, Asked::StopContainer(id, t) => assert_eq!((id.as_str(), t), (sample::CONTAINER, timeout)));
    }
    runtime.remove_container(v1::RemoveContainerRequest { container_id: container_id.clone() }).await.unwrap();
    asked!(wire, Asked::RemoveContainer(id) => assert_eq!(id, sample::CONTAINER));
    runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id }).await.unwrap();
    asked!(wire, Asked::ReopenLog(id) => assert_eq!(id, sample::CONTAINER));
}

#[tokio::test]
async fn a_containers_status_has_all_that_kubelets_read() {
    let mut wire = Wire::new().await;
    let request = v1::ContainerStatusRequest { container_id: sample::CONTAINER.into(), verbose: true };
    let answer = wire.runtime.container_status(request.clone()).await.unwrap().into_inner();
    asked!(wire, Asked::ContainerStatus(id) => assert_eq!(id, sample::CONTAINER));
    assert_eq!(answer.info["info"], r#"{"pid":1}"#);
    let s = answer.status.unwrap();
    assert_eq!(s.metadata, Some(v1::ContainerMetadata { name: "nginx".into(), attempt: 1 }));
    assert_eq!((s.state(), s.exit_code, s.reason.as_str()), (v1::ContainerState::ContainerExited, 137, "OOMKilled"));
    assert_eq!((s.created_at, s.started_at, s.finished_at), (1, 2, 3));
    // People see the name from the manifest, not the id that the kubelet created with.
    assert_eq!(s.image.as_ref().unwrap().image, "docker.io/library/nginx:1.27");
    assert_eq!((s.image_id.as_str(), s.image_ref.as_str()), (sample::IMAGE, "docker.io/library/nginx@sha256:bb"));
    assert_eq!(s.stop_signal(), v1::Signal::Sigterm);
    assert_eq!((&s.labels, &s.annotations), (&sample::labels(), &sample::labels()));
    assert_eq!((s.mounts.len(), s.mounts[0].container_path.as_str()), (1, "/dev/termination-log"));
    assert_eq!(s.mounts[0].propagation(), v1::MountPropagation::PropagationBidirectional);
    assert_eq!(s.log_path, "/var/log/pods/x/nginx/1.log");
    assert_eq!(s.message, "too much");
    let user = s.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1001, vec![5, 7]));
    let limits = s.resources.unwrap().linux.unwrap();
    assert_eq!((limits.cpu_quota, limits.cpu_period, limits.memory_limit_in_bytes), (50_000, 0, 64 << 20));
    assert_eq!(limits.hugepage_limits, [v1::HugepageLimit { page_size: "2MB".into(), limit: 9 }]);
    let quiet = v1::ContainerStatusRequest { verbose: false, ..request };
    assert!(wire.runtime.container_status(quiet).await.unwrap().into_inner().info.is_empty());
}

#[tokio::test]
async fn containers_are_listed_by_every_filter() {
    let mut wire = Wire::new().await;
    let request = v1::ListContainersRequest { filter: Some(sample::container_filter()) };
    let items = wire.runtime.list_containers(request).await.unwrap().into_inner().containers;
    asked!(wire, Asked::ListContainers(f) => {
        assert_eq!((f.id.as_deref(), f.pod_id.as_deref()), (Some("fedc"), Some(sample::POD)));
        assert_eq!((f.state, f.labels), (Some(ContainerState::Exited), sample::labels()));
    });
    assert_eq!((items[0].pod_sandbox_id.as_str(), items[0].image_id.as_str()), (sample::POD, sample::IMAGE));
    assert_eq!(items[0].labels, sample::labels());
    wire.runtime.list_containers(v1::ListContainersRequest::default()).await.unwrap();
    asked!(wire, Asked::ListContainers(f) => {
        assert!(f.id.is_none() && f.pod_id.is_none() && f.state.is_none() && f.labels.is_empty());
    });
}

#[tokio::test]
async fn a_command_is_run_within_its_time() {
    let mut wire = Wire::new().await;
    let cmd = vec!["cat".to_owned(), String::new()];
    let request = v1::ExecSyncRequest { container_id: sample::CONTAINER.into(), cmd, timeout: 0 };
    let answer = wire.runtime.exec_sync(request.clone()).await.unwrap().into_inner();
    assert_eq!((answer.stdout.as_ref(), answer.stderr.as_ref(), answer.exit_code), (&[0xff, 0][..], &b"no"[..], 3));
    asked!(wire, Asked::ExecSync(id, cmd, t) => {
        assert_eq!((id.as_str(), cmd.len(), t), (sample::CONTAINER, 2, None));
    });
    let timed = v1::ExecSyncRequest { timeout: 7, ..request.clone() };
    wire.runtime.exec_sync(timed).await.unwrap();
    asked!(wire, Asked::ExecSync(_, _, t) => assert_eq!(t, Some(Duration::from_secs(7))));
    // A command without a time limit ends with its caller's.
    let mut limited = Request::new(request);
    limited.set_timeout(Duration::from_secs(9));
    wire.runtime.exec_sync(limited).await.unwrap();
    asked!(wire, Asked::ExecSync(_, _, t) => assert_eq!(t, Some(Duration::from_secs(9))));
}
