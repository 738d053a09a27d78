//! The pod network: CNI client and the built-in bridge.
//!
//! A pod gets a network namespace with loopback up, and in one of two ways an interface `eth0` in it: by CNI plugins
//! ([`cni`]), or by the agent itself ([`builtin`]). [`Network`] is either of them behind one face, or `none`.
//!
//! What a pod was given is in its [`NetworkRecord`], a plain value that the caller keeps with the pod. It is all that
//! [`Network::teardown`] and [`Network::recover`] need, after a restart too. Nothing here knows of CRI.

mod builtin;
mod cni;
mod config;
mod error;
mod interfaces;
mod namespace;
mod netlink;
mod types;

pub use cni::CniError;
pub use config::{BuiltinConfig, CniConfig, IpPreference, NetworkConfig, NetworkKind};
pub use error::NetworkError;
pub use interfaces::{InterfaceCounters, InterfaceReader};
pub use types::{
    Attachment, Dns, HostPort, NetworkRecord, NotReady, PodNetwork, PodNetworkRequest, PortMapping, Protocol, Provider,
};

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use builtin::Builtin;
use cni::Cni;

/// The network of this node's pods.
#[derive(Debug)]
pub struct Network {
    kind: Kind,
    /// Whatever is configured now, pods that CNI plugins attached are detached by them.
    cni: Cni,
}

#[derive(Debug)]
enum Kind {
    Cni,
    Builtin(Builtin),
    None,
}

impl Network {
    /// Prepares the node. Pods can have a network after [`Network::recover`].
    ///
    /// `root` keeps what outlives a reboot, `state` what does not.
    pub async fn open(config: &NetworkConfig, root: &Path, state: &Path) -> Result<Self, NetworkError> {
        let cni = Cni::open(&config.cni, root, state);
        let kind = match config.kind {
            NetworkKind::Cni => {
                cni.warm_up().await;
                Kind::Cni
            }
            NetworkKind::Builtin => Kind::Builtin(Builtin::open(&config.builtin, root)?),
            NetworkKind::None => Kind::None,
        };
        Ok(Self { kind, cni })
    }

    /// Whether a pod can have a network now.
    ///
    /// Of CNI plugins that know STATUS the answer is at most as old as the call before this one, but for two seconds.
    pub fn status(&self) -> Result<(), NotReady> {
        match &self.kind {
            Kind::Cni => self.cni.status(),
            Kind::Builtin(builtin) => builtin.status(),
            Kind::None => Ok(()),
        }
    }

    /// Gives a pod its network. After a failure, nothing of it is left.
    ///
    /// Once begun it is to be run to its end: a dropped future leaves what [`Network::recover`] finds.
    pub async fn setup(&self, mut request: PodNetworkRequest) -> Result<PodNetwork, NetworkError> {
        match &self.kind {
            Kind::Cni => self.cni.setup(&mut request).await,
            Kind::Builtin(builtin) => builtin.setup(&mut request).await,
            Kind::None => {
                let netns = namespace::prepare(request.netns.take(), None)?;
                let counters = InterfaceReader::open(netns.as_fd())?;
                let record = NetworkRecord { ips: Vec::new(), netns_path: None, provider: Provider::None };
                Ok(PodNetwork { netns, record, counters })
            }
        }
    }

    /// Takes a pod's network away. Idempotent; works after a restart, and with the namespace gone.
    ///
    /// The caller lets go of the namespace (descriptors, processes, [`InterfaceReader`]) before or soon after. After an
    /// error the same call may succeed later; [`Network::abandon`] gives up.
    pub async fn teardown(&self, request: &PodNetworkRequest, record: &NetworkRecord) -> Result<(), NetworkError> {
        match (&self.kind, &record.provider) {
            (_, Provider::Cni { .. }) => self.cni.teardown(&request.id, record).await,
            (Kind::Builtin(builtin), Provider::Builtin { .. }) => builtin.teardown(&request.id, record),
            // Of a former configuration: its link goes with the namespace.
            (_, Provider::Builtin { .. } | Provider::None) => Ok(()),
        }
    }

    /// For a pod that has to go though [`Network::teardown`] keeps failing: its namespace is let go, and what plugins
    /// have to undo is tried again at the next start.
    pub fn abandon(&self, request: &PodNetworkRequest, record: &NetworkRecord) -> Result<(), NetworkError> {
        match &record.provider {
            Provider::Cni { .. } => self.cni.abandon(&request.id, record),
            Provider::Builtin { .. } | Provider::None => Ok(()),
        }
    }

    /// Whether a pod's network is as it was made (CNI CHECK); without CNI there is nobody to ask.
    pub async fn check(&self, request: &PodNetworkRequest, record: &NetworkRecord) -> Result<(), NetworkError> {
        self.cni.check(&request.id, record).await
    }

    /// To be called once after [`Network::open`] with every pod that still has a network: their addresses and ports
    /// are theirs again, and what no pod claims is removed. What takes plugins goes on in the background.
    pub async fn recover(&self, live: &[(String, NetworkRecord)]) -> Result<(), NetworkError> {
        self.cni.recover(live);
        match &self.kind {
            Kind::Builtin(builtin) => builtin.recover(live),
            Kind::Cni | Kind::None => Ok(()),
        }
    }

    /// The node's pod CIDR, as the kubelet tells it; only the built-in network cares.
    pub async fn update_pod_cidr(&self, cidr: &str) -> Result<(), NetworkError> {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.update_pod_cidr(cidr),
            Kind::Cni | Kind::None => Ok(()),
        }
    }
}

/// Writes a file whole: a reader sees the old content or the new one. No fsync: what is lost in a power failure, the
/// pods are lost with.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}
