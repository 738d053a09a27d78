//! A manifest to the requests of CRI: what a kubelet would make of it. Pure but for the questions in [`Surroundings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::expand::expand;
use super::manifest::{
    Container, ContainerSecurity, DnsConfig, DnsPolicy, MountPropagation, Pod, Protocol, ResourceRequirements, Scalar,
    SeccompKind, SeccompProfile, VolumeMount,
};
use super::quantity;
use crate::cri::v1::security_profile::ProfileType;
use crate::cri::v1::{
    self, Capability, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, SecurityProfile,
};
use crate::node::spec::{default_masked_paths, default_readonly_paths};

/// Grace period of a container in seconds, under the name that kubelets use.
pub(super) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// CPU shares of one CPU, and the least that the kernel takes.
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
/// Microseconds of a CPU period.
const PERIOD: i64 = 100_000;

/// What the manifest does not say.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) uid: String,
    /// The directory of this pod: its logs and emptyDirs.
    pub(super) dir: PathBuf,
    /// The node's resolv.conf.
    pub(super) host_resolv_conf: String,
}

impl Surroundings {
    pub(super) fn log_directory(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(super) fn empty_dir(&self, volume: &str) -> PathBuf {
        self.dir.join("volumes").join(volume)
    }
}

/// The sandbox of the pod.
///
/// # Errors
/// A field cannot be used; the message names it.
pub(super) fn sandbox(pod: &Pod, around: &Surroundings) -> anyhow::Result<PodSandboxConfig> {
    let spec = &pod.spec;
    let all = || spec.containers.iter().chain(&spec.init_containers);
    let ports = all().flat_map(|container| &container.ports).map(|port| PortMapping {
        protocol: match port.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
            Protocol::Sctp => v1::Protocol::Sctp,
        } as i32,
        container_port: i32::from(port.container_port),
        host_port: i32::from(port.host_port),
        host_ip: port.host_ip.clone(),
    });
    let hostname = match (&spec.hostname, spec.host_network) {
        // It shares the host's; a kubelet says nothing, and most runtimes refuse to set it.
        (_, true) => String::new(),
        (Some(name), false) => name.clone(),
        (None, false) => pod.metadata.name.clone(),
    };
    let security = &spec.security_context;
    let mut labels = pod.metadata.labels.clone();
    labels.extend(identity(pod, around));
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.metadata.name.clone(),
            uid: around.uid.clone(),
            namespace: pod.metadata.namespace.clone(),
            attempt: 0,
        }),
        // The kernel takes 64 bytes; a kubelet cuts a pod's name at 63.
        hostname: hostname.chars().take(63).collect(),
        log_directory: around.log_directory().display().to_string(),
        dns_config: dns(spec.dns_policy, spec.dns_config.as_ref(), &around.host_resolv_conf)?,
        port_mappings: if spec.host_network { Vec::new() } else { ports.collect() },
        labels,
        annotations: pod.metadata.annotations.clone(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                run_as_user: security.run_as_user.map(|value| Int64Value { value }),
                run_as_group: security.run_as_group.map(|value| Int64Value { value }),
                supplemental_groups: groups(pod),
                privileged: all().any(|container| container.security_context.privileged),
                seccomp: Some(seccomp(security.seccomp_profile.as_ref())?),
                ..LinuxSandboxSecurityContext::default()
            }),
            sysctls: security.sysctls.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
            ..LinuxPodSandboxConfig::default()
        }),
        windows: None,
    })
}

/// One container of the pod.
///
/// # Errors
/// A field cannot be used; the message names it.
pub(super) fn container(pod: &Pod, container: &Container, around: &Surroundings) -> anyhow::Result<ContainerConfig> {
    let name = &container.name;
    let mut values = BTreeMap::new();
    for variable in &container.env {
        let value = expand(&variable.value, &values);
        values.insert(variable.name.clone(), value);
    }
    let expanded = |texts: &[String]| texts.iter().map(|text| expand(text, &values)).collect();
    let envs = container.env.iter().map(|variable| KeyValue {
        key: variable.name.clone(),
        value: values.get(&variable.name).cloned().unwrap_or_default().into(),
    });
    let mounts: Result<Vec<Mount>, _> =
        container.volume_mounts.iter().map(|mount| volume(pod, mount, around)).collect();
    let grace = pod.spec.termination_grace_period_seconds.unwrap_or(30);
    let mut labels = identity(pod, around);
    labels.insert("io.kubernetes.container.name".to_owned(), name.clone());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.clone(), attempt: 0 }),
        image: Some(ImageSpec {
            image: container.image.clone(),
            user_specified_image: container.image.clone(),
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone(),
        envs: envs.collect(),
        mounts: mounts.with_context(|| format!("container {name}"))?,
        labels,
        annotations: BTreeMap::from([(GRACE.to_owned(), grace.to_string())]),
        log_path: format!("{name}/0.log"),
        stdin: container.stdin,
        tty: container.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(&container.resources).with_context(|| format!("container {name}"))?),
            security_context: Some(security(pod, &container.security_context)?),
        }),
        ..ContainerConfig::default()
    })
}

fn identity(pod: &Pod, around: &Surroundings) -> BTreeMap<String, String> {
    [
        ("io.kubernetes.pod.name", &pod.metadata.name),
        ("io.kubernetes.pod.namespace", &pod.metadata.namespace),
        ("io.kubernetes.pod.uid", &around.uid),
    ]
    .map(|(key, value)| (key.to_owned(), value.clone()))
    .into()
}

fn namespaces(pod: &Pod) -> NamespaceOption {
    let node_or = |host: bool, otherwise: NamespaceMode| if host { NamespaceMode::Node } else { otherwise } as i32;
    let pid = if pod.spec.share_process_namespace { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: node_or(pod.spec.host_network, NamespaceMode::Pod),
        pid: node_or(pod.spec.host_pid, pid),
        ipc: node_or(pod.spec.host_ipc, NamespaceMode::Pod),
        ..NamespaceOption::default()
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let security = &pod.spec.security_context;
    security.supplemental_groups.iter().copied().chain(security.fs_group.map(i64::from)).collect()
}

/// `None`: the runtime gives the pod the node's resolv.conf.
fn dns(policy: DnsPolicy, config: Option<&DnsConfig>, host: &str) -> anyhow::Result<Option<v1::DnsConfig>> {
    let config = match (policy, config) {
        (DnsPolicy::None, None) => bail!("spec.dnsPolicy None needs spec.dnsConfig.nameservers"),
        (_, None) => return Ok(None),
        (_, Some(config)) => config,
    };
    let mut dns = if policy == DnsPolicy::None { v1::DnsConfig::default() } else { resolv_conf(host) };
    dns.servers.extend(config.nameservers.iter().cloned());
    dns.searches.extend(config.searches.iter().cloned());
    for option in &config.options {
        dns.options.push(match &option.value {
            Some(value) => format!("{}:{value}", option.name),
            None => option.name.clone(),
        });
    }
    if dns.servers.is_empty() {
        bail!("spec.dnsConfig.nameservers is empty, and nothing else gives the pod a name server");
    }
    Ok(Some(dns))
}

fn resolv_conf(text: &str) -> v1::DnsConfig {
    let mut dns = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next();
        let words = words.map(str::to_owned);
        match first {
            Some("nameserver") => dns.servers.extend(words.take(1)),
            // The last one of several counts.
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

fn volume(pod: &Pod, mount: &VolumeMount, around: &Surroundings) -> anyhow::Result<Mount> {
    let name = &mount.name;
    let volume = pod.spec.volumes.iter().find(|volume| volume.name == *name);
    let volume = volume.with_context(|| format!("volumeMounts: spec.volumes has no \"{name}\""))?;
    let host_path = match (&volume.empty_dir, &volume.host_path) {
        (Some(_), None) => around.empty_dir(name),
        (None, Some(host)) => PathBuf::from(&host.path),
        _ => bail!("volume \"{name}\" must have either emptyDir or hostPath"),
    };
    if !Path::new(&mount.mount_path).is_absolute() {
        bail!("volumeMounts: mountPath \"{}\" of \"{name}\" is not absolute", mount.mount_path);
    }
    let propagation = match mount.mount_propagation {
        MountPropagation::None => v1::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    Ok(Mount {
        container_path: mount.mount_path.clone(),
        host_path: host_path.display().to_string(),
        readonly: mount.read_only,
        propagation: propagation as i32,
        ..Mount::default()
    })
}

fn resources(wanted: &ResourceRequirements) -> anyhow::Result<LinuxContainerResources> {
    for (field, map) in [("limits", &wanted.limits), ("requests", &wanted.requests)] {
        if let Some(name) = map.keys().find(|name| !matches!(name.as_str(), "cpu" | "memory")) {
            bail!("resources.{field}.{name} is not supported by `orlop run`; cpu and memory are");
        }
    }
    let get = |field: &str, map: &BTreeMap<String, Scalar>, name: &str, scale: i64| -> anyhow::Result<Option<i64>> {
        let Some(text) = map.get(name).map(Scalar::to_string) else { return Ok(None) };
        let value = quantity::parse(&text, scale).filter(|value| *value >= 0);
        value.map(Some).with_context(|| format!("resources.{field}.{name}: \"{text}\" is not a quantity"))
    };
    let cpu_limit = get("limits", &wanted.limits, "cpu", 1000)?;
    // What is limited and not requested is requested as much.
    let cpu_request = get("requests", &wanted.requests, "cpu", 1000)?.or(cpu_limit);
    let memory = get("limits", &wanted.limits, "memory", 1)?;
    get("requests", &wanted.requests, "memory", 1)?;
    Ok(LinuxContainerResources {
        cpu_shares: cpu_request.map_or(MIN_SHARES, |milli| (milli * SHARES_PER_CPU / 1000).max(MIN_SHARES)),
        cpu_period: cpu_limit.map_or(0, |_| PERIOD),
        // Less than a hundredth of a CPU is not a quota that the kernel takes.
        cpu_quota: cpu_limit.map_or(0, |milli| (milli * PERIOD / 1000).max(1000)),
        memory_limit_in_bytes: memory.unwrap_or_default(),
        ..LinuxContainerResources::default()
    })
}

fn security(pod: &Pod, context: &ContainerSecurity) -> anyhow::Result<LinuxContainerSecurityContext> {
    let of_pod = &pod.spec.security_context;
    // As a kubelet asks for a container that is not privileged.
    let hide = |paths: fn() -> Vec<String>| if context.privileged { Vec::new() } else { paths() };
    let profile = context.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let seccomp = if context.privileged { unconfined() } else { seccomp(profile)? };
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: context.capabilities.add.clone(),
            drop_capabilities: context.capabilities.drop.clone(),
            ..Capability::default()
        }),
        privileged: context.privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: context.run_as_user.or(of_pod.run_as_user).map(|value| Int64Value { value }),
        run_as_group: context.run_as_group.or(of_pod.run_as_group).map(|value| Int64Value { value }),
        readonly_rootfs: context.read_only_root_filesystem,
        supplemental_groups: groups(pod),
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths: hide(default_masked_paths),
        readonly_paths: hide(default_readonly_paths),
        seccomp: Some(seccomp),
        ..LinuxContainerSecurityContext::default()
    })
}

fn unconfined() -> SecurityProfile {
    SecurityProfile { profile_type: ProfileType::Unconfined as i32, ..SecurityProfile::default() }
}

/// Where the manifest says nothing, the runtime's default profile: there is no old workload here to keep running.
fn seccomp(profile: Option<&SeccompProfile>) -> anyhow::Result<SecurityProfile> {
    let Some(profile) = profile else {
        return Ok(SecurityProfile { profile_type: ProfileType::RuntimeDefault as i32, ..SecurityProfile::default() });
    };
    let (kind, path) = match (profile.kind, &profile.localhost_profile) {
        (SeccompKind::RuntimeDefault, _) => (ProfileType::RuntimeDefault, String::new()),
        (SeccompKind::Unconfined, _) => (ProfileType::Unconfined, String::new()),
        (SeccompKind::Localhost, Some(path)) if path.starts_with('/') => (ProfileType::Localhost, path.clone()),
        (SeccompKind::Localhost, _) => {
            bail!("seccompProfile.localhostProfile: `orlop run` wants an absolute path")
        }
    };
    Ok(SecurityProfile { profile_type: kind as i32, localhost_ref: path })
}
