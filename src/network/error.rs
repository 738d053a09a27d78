//! What can go wrong with a pod's network.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::cni::CniError;
use super::netlink::NetlinkError;
use super::{NotReady, Protocol};

/// Why a pod has no network, or cannot lose it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Nobody can give a pod its network now; the same request may succeed later.
    #[error("the pod network is not ready: {0}")]
    NotReady(NotReady),
    /// The settings contradict themselves or the machine.
    #[error("network configuration: {0}")]
    Config(String),
    /// The bridge's subnet is in use on this machine already.
    #[error(
        "subnet {subnet} of the pods overlaps {other}, which {device} has; set network.builtin.subnet to a free one"
    )]
    SubnetTaken { subnet: IpNet, other: IpNet, device: String },
    /// Every address belongs to a pod.
    #[error(
        "no address is free in {subnet}: {used} are in use; remove pods or configure a larger network.builtin.subnet"
    )]
    SubnetFull { subnet: IpNet, used: usize },
    /// Another pod has the port.
    #[error("host port {host_port}/{protocol}{} is taken by pod {owner}", on(host_ip))]
    HostPortTaken { protocol: Protocol, host_port: u16, host_ip: Option<IpAddr>, owner: String },
    /// A port mapping that cannot be.
    #[error("port mapping {host_port} -> {container_port}/{protocol}: {reason}")]
    PortMapping { protocol: Protocol, host_port: u16, container_port: u16, reason: String },
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Kernel { step: String, source: io::Error },
    /// A file of ours cannot be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A CNI plugin or configuration is at fault.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The thread that makes namespaces is gone.
    #[error("the network thread has ended; restart the agent")]
    ThreadGone,
}

fn on(host_ip: &Option<IpAddr>) -> String {
    host_ip.map(|ip| format!(" on {ip}")).unwrap_or_default()
}

impl NetworkError {
    pub(super) fn kernel(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel { step: step.into(), source: source.into() }
    }

    /// A failed netlink request, in the words of the object it was for.
    pub(super) fn netlink(object: &str) -> impl FnOnce(NetlinkError) -> Self {
        move |error| {
            let kind = error.errno().map_or(io::ErrorKind::Other, |code| io::Error::from_raw_os_error(code).kind());
            Self::Kernel { step: object.to_owned(), source: io::Error::new(kind, error) }
        }
    }

    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }
}
