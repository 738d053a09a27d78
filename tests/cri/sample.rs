//! Requests that are right in every field, and views with something in every field.

use std::collections::BTreeMap;
use std::sync::Arc;

use orlop::cri::v1;
use orlop::node::types::*;
use orlop::node::views::*;

pub const POD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const CONTAINER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
pub const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn ids(container_id: u32) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id: 65_536, container_id, length: 65_536 }]
}

/// Odd but legal: what is in labels and annotations must come back byte for byte.
pub fn labels() -> BTreeMap<String, String> {
    map(&[
        ("io.kubernetes.pod.name", "web"),
        ("app", ""),
        ("ünïcode/ключ", "値\n\t\"quoted\" \\ \u{0}nul"),
        ("json", r#"{"a":[1,2,3]}"#),
    ])
}

pub fn pod_request() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "7b5c-uid".to_owned(),
            namespace: "default".to_owned(),
            attempt: 2,
        }),
        hostname: "web-0".to_owned(),
        log_directory: "/var/log/pods/default_web_7b5c-uid".to_owned(),
        dns_config: Some(v1::DnsConfig {
            servers: strings(&["10.96.0.10", "fe80::1%eth0"]),
            searches: strings(&["default.svc.cluster.local"]),
            options: strings(&["ndots:5"]),
        }),
        port_mappings: vec![v1::PortMapping {
            protocol: v1::Protocol::Udp.into(),
            container_port: 53,
            host_port: 5353,
            host_ip: "127.0.0.1".to_owned(),
        }],
        labels: labels(),
        annotations: labels(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/pod7b5c-uid".to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container.into(),
                    userns_options: Some(v1::UserNamespace {
                        mode: v1::NamespaceMode::Pod.into(),
                        uids: ids(0),
                        gids: ids(0),
                    }),
                    ..Default::default()
                }),
                selinux_options: Some(selinux()),
                run_as_user: int(1000),
                run_as_group: int(1001),
                supplemental_groups: vec![1002, 0],
                supplemental_groups_policy: v1::SupplementalGroupsPolicy::Strict.into(),
                seccomp: Some(profile(v1::security_profile::ProfileType::RuntimeDefault, "")),
                apparmor: Some(profile(v1::security_profile::ProfileType::Localhost, "localhost/mine")),
                ..Default::default()
            }),
            sysctls: map(&[("net.ipv4.ip_unprivileged_port_start", "0")]),
            overhead: Some(resources()),
            resources: Some(resources()),
        }),
        windows: None,
    }
}

fn selinux() -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: "system_u".to_owned(),
        role: "system_r".to_owned(),
        r#type: "container_t".to_owned(),
        level: "s0:c1,c2".to_owned(),
    }
}

fn profile(kind: v1::security_profile::ProfileType, local: &str) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: local.to_owned() }
}

pub fn resources() -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 937,
        cpuset_cpus: "0-1,3".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".to_owned(), limit: 0 }],
        unified: map(&[("memory.oom.group", "1"), ("io.max", "8:0 rbps=1\n8:16 rbps=2")]),
        memory_swap_limit_in_bytes: 64 << 20,
    }
}

pub fn run_pod() -> v1::RunPodSandboxRequest {
    v1::RunPodSandboxRequest { config: Some(pod_request()), runtime_handler: "orlop".to_owned() }
}

pub fn container_request() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "nginx".to_owned(), attempt: 1 }),
        image: Some(image_spec()),
        command: strings(&["/bin/sh", "-c"]),
        args: strings(&["exec nginx", ""]),
        working_dir: "/srv".to_owned(),
        envs: vec![
            v1::KeyValue { key: "PATH".to_owned(), value: b"/bin".to_vec() },
            v1::KeyValue { key: "RAW".to_owned(), value: vec![0xff, 0xfe, b'\n', b'='] },
        ],
        mounts: vec![
            v1::Mount {
                container_path: "/etc/hosts".to_owned(),
                host_path: "/var/lib/kubelet/pods/7b5c-uid/etc-hosts".to_owned(),
                propagation: v1::MountPropagation::PropagationHostToContainer.into(),
                uid_mappings: ids(0),
                gid_mappings: ids(0),
                selinux_relabel: true,
                mount_options: strings(&["noexec", "nosuid"]),
                ..Default::default()
            },
            v1::Mount {
                container_path: "/data".to_owned(),
                image: Some(image_spec()),
                image_sub_path: "share/doc".to_owned(),
                readonly: true,
                recursive_read_only: true,
                ..Default::default()
            },
        ],
        devices: vec![v1::Device {
            container_path: "/dev/fuse".to_owned(),
            host_path: "/dev/fuse".to_owned(),
            permissions: "rw".to_owned(),
        }],
        labels: labels(),
        annotations: labels(),
        log_path: "nginx/1.log".to_owned(),
        stdin: true,
        stdin_once: true,
        tty: true,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources()),
            security_context: Some(v1::LinuxContainerSecurityContext {
                capabilities: Some(v1::Capability {
                    add_capabilities: strings(&["NET_ADMIN", "cap_sys_time"]),
                    drop_capabilities: strings(&["ALL"]),
                    add_ambient_capabilities: strings(&["NET_BIND_SERVICE"]),
                }),
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Target.into(),
                    target_id: CONTAINER.to_owned(),
                    ..Default::default()
                }),
                selinux_options: Some(selinux()),
                run_as_user: int(0),
                run_as_group: int(7),
                supplemental_groups: vec![5],
                no_new_privs: true,
                readonly_rootfs: true,
                masked_paths: strings(&["/proc/kcore"]),
                readonly_paths: strings(&["/proc/sys"]),
                seccomp: Some(profile(v1::security_profile::ProfileType::Localhost, "/etc/seccomp.json")),
                apparmor: Some(profile(v1::security_profile::ProfileType::Unconfined, "")),
                ..Default::default()
            }),
        }),
        windows: None,
        cdi_devices: vec![v1::CdiDevice { name: "vendor.com/gpu=0".to_owned() }],
        stop_signal: v1::Signal::Sigquit.into(),
    }
}

pub fn create_container() -> v1::CreateContainerRequest {
    v1::CreateContainerRequest {
        pod_sandbox_id: POD.to_owned(),
        config: Some(container_request()),
        sandbox_config: Some(pod_request()),
    }
}

pub fn image_spec() -> v1::ImageSpec {
    v1::ImageSpec {
        image: IMAGE.to_owned(),
        annotations: map(&[("a", "b")]),
        user_specified_image: "docker.io/library/nginx:1.27".to_owned(),
        runtime_handler: "orlop".to_owned(),
        image_ref: IMAGE.to_owned(),
    }
}

pub fn pull() -> v1::PullImageRequest {
    v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: "registry.local/nginx:1".to_owned(), ..Default::default() }),
        auth: Some(v1::AuthConfig {
            username: "me".to_owned(),
            password: "secret".to_owned(),
            auth: "bWU6c2VjcmV0".to_owned(),
            server_address: "registry.local".to_owned(),
            identity_token: "it".to_owned(),
            registry_token: "rt".to_owned(),
        }),
        sandbox_config: Some(pod_request()),
    }
}

pub fn container_filter() -> v1::ContainerFilter {
    v1::ContainerFilter {
        id: "fedc".to_owned(),
        state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerExited.into() }),
        pod_sandbox_id: POD.to_owned(),
        label_selector: labels(),
    }
}

pub fn pod_filter() -> v1::PodSandboxFilter {
    v1::PodSandboxFilter {
        id: "0123".to_owned(),
        state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxNotready.into() }),
        label_selector: labels(),
    }
}

pub fn pod() -> PodView {
    PodView {
        id: POD.to_owned(),
        metadata: PodMetadata {
            name: "web".to_owned(),
            uid: "7b5c-uid".to_owned(),
            namespace: "default".to_owned(),
            attempt: 2,
        },
        state: PodState::Ready,
        created_at: 1_700_000_000_000_000_001,
        labels: labels(),
        annotations: labels(),
        runtime_handler: "orlop".to_owned(),
        namespaces: NamespaceOptions { pid: NamespaceMode::Container, ..Default::default() },
        ips: vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()],
    }
}

pub fn container() -> ContainerView {
    let config = ContainerConfig {
        metadata: ContainerMetadata { name: "nginx".to_owned(), attempt: 1 },
        image: ImageSpec {
            image: IMAGE.to_owned(),
            user_specified_image: "docker.io/library/nginx:1.27".to_owned(),
            ..Default::default()
        },
        labels: labels(),
        annotations: labels(),
        mounts: vec![Mount {
            container_path: "/dev/termination-log".to_owned(),
            host_path: "/var/lib/kubelet/pods/x".to_owned(),
            propagation: Propagation::Bidirectional,
            ..Default::default()
        }],
        ..Default::default()
    };
    ContainerView {
        id: CONTAINER.to_owned(),
        pod_id: POD.to_owned(),
        config: Arc::new(config),
        state: ContainerState::Exited,
        created_at: 1,
        started_at: 2,
        finished_at: 3,
        exit_code: 137,
        reason: "OOMKilled".to_owned(),
        message: "too much".to_owned(),
        image_id: IMAGE.to_owned(),
        image_ref: "docker.io/library/nginx@sha256:bb".to_owned(),
        log_path: "/var/log/pods/x/nginx/1.log".to_owned(),
        resources: Some(Resources {
            cpu_quota: Some(50_000),
            memory_limit: Some(64 << 20),
            oom_score_adj: 937,
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit: 9 }],
            ..Default::default()
        }),
        user: Some(UserView { uid: 1000, gid: 1001, groups: vec![5, 7] }),
        stop_signal: 15,
        pid: 0,
        runtime_handler: "orlop".to_owned(),
    }
}

pub fn image() -> ImageView {
    ImageView {
        id: IMAGE.to_owned(),
        repo_tags: strings(&["docker.io/library/nginx:1.27"]),
        repo_digests: strings(&["docker.io/library/nginx@sha256:bb"]),
        size: 1234,
        uid: Some(0),
        username: String::new(),
        pinned: true,
        info: map(&[("imageSpec", "{}")]),
    }
}

pub fn fs(mountpoint: &str) -> FsUsage {
    FsUsage { timestamp: 5, mountpoint: mountpoint.to_owned(), used_bytes: 6, inodes_used: 7 }
}

fn psi(total: u64) -> PsiView {
    PsiView { some: PsiLine { total, avg10: 150, avg60: 25, avg300: 1 }, full: PsiLine { total, ..Default::default() } }
}

fn cpu() -> CpuView {
    CpuView { timestamp: 11, usage: 12, nano_cores: Some(13), psi: Some(psi(14)) }
}

fn memory() -> MemoryView {
    MemoryView {
        timestamp: 21,
        working_set: 22,
        available: Some(23),
        usage: 24,
        rss: 25,
        page_faults: 26,
        major_page_faults: 27,
        swap: Some(SwapView { usage: 28, available: None }),
        psi: Some(psi(29)),
    }
}

pub fn container_stats() -> ContainerStatsView {
    ContainerStatsView {
        id: CONTAINER.to_owned(),
        metadata: ContainerMetadata { name: "nginx".to_owned(), attempt: 1 },
        labels: labels(),
        annotations: labels(),
        cpu: Some(cpu()),
        memory: Some(memory()),
        io_psi: Some(psi(30)),
        writable_layer: Some(fs("/containers")),
    }
}

pub fn pod_stats() -> PodStatsView {
    let interface = |name: &str, n| InterfaceView {
        name: name.to_owned(),
        rx_bytes: n,
        rx_errors: n + 1,
        tx_bytes: n + 2,
        tx_errors: n + 3,
    };
    PodStatsView {
        id: POD.to_owned(),
        metadata: pod().metadata,
        labels: labels(),
        annotations: labels(),
        timestamp: 41,
        cpu: Some(cpu()),
        memory: Some(memory()),
        io_psi: Some(psi(42)),
        interfaces: vec![interface("eth0", 50), interface("eth1", 60)],
        process_count: Some(3),
        containers: vec![container_stats()],
    }
}

pub fn node_status() -> NodeStatus {
    NodeStatus {
        conditions: vec![
            Condition { kind: "RuntimeReady", ready: true, reason: String::new(), message: String::new() },
            Condition {
                kind: "NetworkReady",
                ready: false,
                reason: "NetworkPluginNotReady".to_owned(),
                message: "no CNI config".to_owned(),
            },
        ],
        handlers: vec![HandlerView {
            name: "orlop".to_owned(),
            recursive_read_only_mounts: true,
            user_namespaces: false,
        }],
        supplemental_groups_policy: true,
        info: BTreeMap::new(),
    }
}
