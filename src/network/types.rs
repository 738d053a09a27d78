//! What callers say and get; the domain of this module.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::InterfaceReader;

/// A transport protocol of a port mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number in an IP header.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A port of the node that leads to one of the pod. A `host_port` of 0 asks for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// The address of the node that it is reachable at; empty for all.
    pub host_ip: String,
}

/// Name service settings of the pod, for plugins that ask for them (CNI capability `dns`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A pod that needs a network, or had one.
#[derive(Debug, Default)]
pub struct PodNetworkRequest {
    /// The id of the pod's sandbox: ASCII letters, digits, `_`, `.` and `-`.
    pub id: String,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub port_mappings: Vec<PortMapping>,
    pub annotations: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub dns: Option<Dns>,
    /// The cgroup of the pod as plugins know it (CNI capability `cgroupPath`); may be empty.
    pub cgroup_parent: String,
    /// A network namespace to fill, such as one that belongs to the pod's user namespace. `None`: make one.
    pub netns: Option<OwnedFd>,
}

/// A pod's network, ready to be used.
#[derive(Debug)]
pub struct PodNetwork {
    /// The namespace: loopback and `eth0` up, with addresses and routes.
    pub netns: OwnedFd,
    /// What to keep with the pod, for teardown and recovery.
    pub record: NetworkRecord,
    /// Reads the pod's counters. It keeps the namespace alive: drop it, like `netns`, before the teardown.
    pub counters: InterfaceReader,
}

/// What a pod was given. The caller keeps it on disk as long as the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The pod's addresses, its primary one first.
    pub ips: Vec<IpAddr>,
    /// Where the namespace is pinned. `None`: only descriptors and processes keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_path: Option<PathBuf>,
    /// Who gave it, and what it takes to undo that.
    #[serde(flatten)]
    pub provider: Provider,
}

/// Who gave a pod its network, and what it takes to undo that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "provider", rename_all = "lowercase")]
pub enum Provider {
    /// A namespace with nothing but loopback.
    None,
    /// The built-in bridge.
    Builtin {
        /// The node's end of the pod's link.
        link: String,
        /// Ports of the node that lead to the pod.
        host_ports: Vec<HostPort>,
    },
    /// CNI: details are in the cache files of these attachments.
    Cni { attachments: Vec<Attachment> },
}

/// One mapped port of the built-in network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// The node's address that it is reachable at; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// An interface of a pod that CNI plugins made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The name of the network in its configuration.
    pub network: String,
    /// The interface inside the pod.
    pub interface: String,
}

/// Why pods get no network now, in the words of a NetworkReady condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// A word for machines: `NetworkPluginNotReady` and the like.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

impl NotReady {
    /// The reason that kubelets know.
    pub(super) fn plugin(message: impl Into<String>) -> Self {
        Self { reason: "NetworkPluginNotReady".to_owned(), message: message.into() }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
