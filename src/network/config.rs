//! What an operator can set about the pod network, with its defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The `[network]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Who gives pods their network: `cni`, `builtin` or `none`.
    pub kind: NetworkKind,
    /// Settings of `kind = "cni"`.
    pub cni: CniConfig,
    /// Settings of `kind = "builtin"`.
    pub builtin: BuiltinConfig,
}

/// Who gives pods their network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// The plugins that a CNI configuration names: what a cluster's network installs.
    #[default]
    Cni,
    /// A bridge of this machine, made by the agent itself without any plugin.
    Builtin,
    /// A namespace with nothing but loopback.
    None,
}

/// Which of a pod's addresses comes first in its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpPreference {
    /// The first IPv4 address, else the first IPv6 address.
    #[default]
    Ipv4,
    /// The first IPv6 address, else the first IPv4 address.
    Ipv6,
    /// The order in which the plugins reported them.
    Cni,
}

/// The `[network.cni]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CniConfig {
    /// Where network configurations (`*.conflist`, `*.conf`, `*.json`) are. The first valid one by name is used.
    /// The directory may appear later, be replaced, or be a symbolic link that is swapped.
    pub conf_dir: PathBuf,
    /// Where plugins are looked up, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// How many files of `conf_dir` are attached to a pod, by name. 1 is what Kubernetes expects: only the first. A
    /// further one gives the pod one more interface: `eth1`, `eth2` and so on. 0 takes all of them.
    pub max_conf_num: usize,
    /// Which of a pod's addresses is its primary one: `ipv4`, `ipv6` or `cni` (as the plugins order them).
    pub ip_pref: IpPreference,
    /// How long one execution of one plugin may take, in seconds; then it is killed and the operation fails.
    pub plugin_timeout_seconds: u64,
    /// Environment variables for plugins besides the `CNI_` ones and PATH. Nothing else of the agent's environment
    /// reaches them.
    pub env: BTreeMap<String, String>,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            max_conf_num: 1,
            ip_pref: IpPreference::Ipv4,
            plugin_timeout_seconds: 60,
            env: BTreeMap::new(),
        }
    }
}

/// The `[network.builtin]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuiltinConfig {
    /// The name of the bridge, at most 15 bytes. It is made when it is missing.
    pub bridge: String,
    /// The IPv4 subnet that pods get addresses of. Its first address is the bridge's, and the pods' gateway.
    pub subnet: Ipv4Net,
    /// An IPv6 subnet besides; `None` (leave it out) for IPv4 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// Take the node's pod CIDR instead of `subnet` (and `subnet6`) once the kubelet tells it.
    pub follow_pod_cidr: bool,
    /// Give packets from pods to elsewhere the node's address.
    pub masquerade: bool,
    /// Destinations that see the pods' own addresses nevertheless, such as the pod CIDRs of other nodes.
    pub no_masquerade: Vec<IpNet>,
    /// The MTU of pod interfaces; 0 takes that of the interface that the default route uses.
    pub mtu: u32,
    /// How many ready network namespaces are kept in advance; 0 makes each when it is asked for. One costs some
    /// 300 KiB of kernel memory.
    pub pool_size: usize,
}

impl Default for BuiltinConfig {
    fn default() -> Self {
        Self {
            bridge: "orlop0".to_owned(),
            subnet: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 88, 0, 0), 16),
            subnet6: None,
            follow_pod_cidr: true,
            masquerade: true,
            no_masquerade: Vec::new(),
            mtu: 0,
            pool_size: 16,
        }
    }
}
