//! The part of a Kubernetes Pod manifest that `orlop run` understands, in the names of the Kubernetes API.
//!
//! Every struct refuses a field that it does not have: a volume or a probe that would silently be missing is worse
//! than an error that names it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pod {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
    /// kubectl writes an empty one.
    #[serde(default, rename = "status")]
    pub(super) _status: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(default = "default_namespace")]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    /// kubectl writes it, mostly null.
    #[serde(default, rename = "creationTimestamp")]
    pub(super) _creation_timestamp: Option<IgnoredAny>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) init_containers: Vec<Container>,
    #[serde(default)]
    pub(super) volumes: Vec<Volume>,
    pub(super) restart_policy: Option<RestartPolicy>,
    pub(super) termination_grace_period_seconds: Option<i64>,
    pub(super) hostname: Option<String>,
    #[serde(default)]
    pub(super) host_network: bool,
    #[serde(default, rename = "hostPID")]
    pub(super) host_pid: bool,
    #[serde(default, rename = "hostIPC")]
    pub(super) host_ipc: bool,
    #[serde(default)]
    pub(super) share_process_namespace: bool,
    #[serde(default)]
    pub(super) dns_policy: DnsPolicy,
    pub(super) dns_config: Option<DnsConfig>,
    #[serde(default)]
    pub(super) security_context: PodSecurity,
    pub(super) runtime_class_name: Option<String>,
}

/// Accepted, but nothing restarts a container: that is the kubelet's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Without a cluster, `ClusterFirst` is the same as `Default`: what the node uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum DnsPolicy {
    #[default]
    ClusterFirst,
    ClusterFirstWithHostNet,
    Default,
    None,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DnsConfig {
    #[serde(default)]
    pub(super) nameservers: Vec<String>,
    #[serde(default)]
    pub(super) searches: Vec<String>,
    #[serde(default)]
    pub(super) options: Vec<DnsOption>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsOption {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodSecurity {
    pub(super) run_as_user: Option<i64>,
    pub(super) run_as_group: Option<i64>,
    #[serde(default)]
    pub(super) run_as_non_root: bool,
    pub(super) fs_group: Option<u32>,
    #[serde(default)]
    pub(super) supplemental_groups: Vec<i64>,
    pub(super) seccomp_profile: Option<SeccompProfile>,
    #[serde(default)]
    pub(super) sysctls: Vec<Sysctl>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SeccompProfile {
    #[serde(rename = "type")]
    pub(super) kind: SeccompKind,
    /// An absolute path, for `Localhost`.
    pub(super) localhost_profile: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum SeccompKind {
    RuntimeDefault,
    Unconfined,
    Localhost,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sysctl {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) working_dir: String,
    #[serde(default)]
    pub(super) env: Vec<EnvVar>,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    #[serde(default)]
    pub(super) volume_mounts: Vec<VolumeMount>,
    #[serde(default)]
    pub(super) resources: ResourceRequirements,
    #[serde(default)]
    pub(super) security_context: ContainerSecurity,
    pub(super) image_pull_policy: Option<PullPolicy>,
    #[serde(default)]
    pub(super) stdin: bool,
    #[serde(default)]
    pub(super) tty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvVar {
    pub(super) name: String,
    #[serde(default)]
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Port {
    /// Only for readers of the manifest.
    #[serde(default, rename = "name")]
    pub(super) _name: String,
    pub(super) container_port: u16,
    #[serde(default)]
    pub(super) host_port: u16,
    #[serde(default, rename = "hostIP")]
    pub(super) host_ip: String,
    #[serde(default)]
    pub(super) protocol: Protocol,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VolumeMount {
    pub(super) name: String,
    pub(super) mount_path: String,
    #[serde(default)]
    pub(super) read_only: bool,
    #[serde(default)]
    pub(super) mount_propagation: MountPropagation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum MountPropagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) empty_dir: Option<EmptyDir>,
    pub(super) host_path: Option<HostPath>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmptyDir {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostPath {
    pub(super) path: String,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResourceRequirements {
    #[serde(default)]
    pub(super) limits: BTreeMap<String, Scalar>,
    #[serde(default)]
    pub(super) requests: BTreeMap<String, Scalar>,
}

/// A quantity: `500m` and `"1"` are strings, a bare 1 is a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Integer(i64),
    Float(f64),
    Text(String),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContainerSecurity {
    #[serde(default)]
    pub(super) privileged: bool,
    #[serde(default)]
    pub(super) capabilities: Capabilities,
    pub(super) run_as_user: Option<i64>,
    pub(super) run_as_group: Option<i64>,
    pub(super) run_as_non_root: Option<bool>,
    #[serde(default)]
    pub(super) read_only_root_filesystem: bool,
    pub(super) allow_privilege_escalation: Option<bool>,
    pub(super) seccomp_profile: Option<SeccompProfile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capabilities {
    #[serde(default)]
    pub(super) add: Vec<String>,
    #[serde(default)]
    pub(super) drop: Vec<String>,
}
