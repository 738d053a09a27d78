//! The built-in network: a bridge, made and kept by the agent itself.
//!
//! A pod's link is a veth pair whose node end is a port of the bridge. Addresses come from a subnet ([`addresses`]),
//! the way out and host ports are nftables rules ([`rules`]), and namespaces come from a pool that one thread
//! fills ([`worker`]). The kernel is the only state there is besides the records of the pods: after a restart,
//! [`Builtin::recover`] puts both together again.

mod addresses;
mod bridge;
mod ports;
mod rules;
#[cfg(test)]
mod tests;
//mod tests;
mod worker;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use addresses::{Addresses, Owner, PodAddress, Subnets, address_of};
use worker::{Prepared, Shared, State, Waiter};

use super::netlink::{Conntrack, Nft, Route};
use super::{
    BuiltinConfig, HostPort, NetworkError, NetworkRecord, NotReady, PodNetwork, PodNetworkRequest, Protocol, Provider,
};

/// The built-in network of this node.
#[derive(Debug)]
pub(super) struct Builtin {
    shared: Arc<Shared>,
    sockets: Mutex<Sockets>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Where the kubelet's pod CIDR is remembered.
    file: PathBuf,
}

/// Netlink sockets of the callers; the thread has its own.
#[derive(Debug)]
struct Sockets {
    route: Route,
    nft: Nft,
    conntrack: Conntrack,
}

impl Sockets {
    /// Has senders that never pause reach the pods that these ports lead to now.
    fn forget_flows(&mut self, ports: impl Iterator<Item = HostPort>) {
        for port in ports.filter(|port| port.protocol == Protocol::Udp) {
            if let Err(error) = self.conntrack.forget(port.protocol.number(), port.host_port) {
                tracing::warn!(port = port.host_port, %error, "UDP flows of before keep their way");
            }
        }
    }
}

/// The file that remembers the pod CIDR.
#[derive(Serialize, Deserialize)]
struct PodCidr {
    subnet: Ipv4Net,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subnet6: Option<Ipv6Net>,
}

impl Builtin {
    /// Makes the bridge. Pods can have a network after [`Builtin::recover`].
    pub fn open(config: &BuiltinConfig, root: &Path) -> Result<Self, NetworkError> {
        bridge::check_name(&config.bridge)?;
        let file = root.join("network").join("pod-cidr.json");
        let remembered = if config.follow_pod_cidr { read(&file) } else { None };
        let subnets = match remembered {
            Some(PodCidr { subnet, subnet6 }) => Subnets::new(subnet, subnet6)?,
            None => Subnets::new(config.subnet, config.subnet6)?,
        };
        let mut route = Route::open().map_err(NetworkError::netlink("the built-in network"))?;
        let nft = Nft::open().map_err(NetworkError::netlink("the built-in network"))?;
        let conntrack = Conntrack::open().map_err(NetworkError::netlink("the built-in network"))?;
        let bridge = bridge::ensure(&mut route, config, subnets)?;
        let shared = Shared::new(config.clone(), Addresses::new(subnets), bridge)
            .map_err(|error| NetworkError::kernel("the built-in network", error))?;
        let shared = Arc::new(shared);
        let thread = worker::start(Arc::clone(&shared))?;
        Ok(Self { shared, sockets: Mutex::new(Sockets { route, nft, conntrack }), thread: Some(thread), file })
    }

    pub fn status(&self) -> Result<(), NotReady> {
        let state = self.shared.lock();
        if state.stop || self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished) {
            return Err(NotReady::plugin("the network thread has ended; restart the agent"));
        }
        if !state.recovered {
            return Err(NotReady::plugin("the built-in network is starting"));
        }
        match &state.failure {
            Some(failure) => Err(NotReady::plugin(failure.clone())),
            None => Ok(()),
        }
    }

    pub async fn setup(&self, request: &mut PodNetworkRequest) -> Result<PodNetwork, NetworkError> {
        let v6 = {
            let state = self.shared.lock();
            if !state.recovered {
                return Err(NetworkError::NotReady(NotReady::plugin("the built-in network is starting")));
            }
            state.addresses.subnets().v6().is_some()
        };
        let host_ports = ports::parse(&request.port_mappings, v6)?;
        let Prepared { netns, counters, lease } = self.take(request).await?;
        let address = lease.address;
        self.assign(&request.id, address, &host_ports)?;
        lease.keep();
        let provider = Provider::Builtin { link: address.link(), host_ports };
        Ok(PodNetwork {
            netns,
            record: NetworkRecord { ips: address.ips().collect(), netns_path: None, provider },
            counters,
        })
    }

    /// A namespace of the pool, or one made now.
    async fn take(&self, request: &mut PodNetworkRequest) -> Result<Prepared, NetworkError> {
        let given = request.netns.take();
        let receiver = {
            let mut state = self.shared.lock();
            if state.stop {
                return Err(NetworkError::ThreadGone);
            }
            let ready = if given.is_none() { state.ready.pop_front() } else { None };
            match ready {
                Some(prepared) => {
                    drop(state);
                    self.shared.wake();
                    return Ok(prepared);
                }
                None => {
                    let (reply, receiver) = oneshot::channel();
                    state.waiters.push_back(Waiter { given, reply });
                    receiver
                }
            }
        };
        self.shared.wake();
        receiver.await.map_err(|_| NetworkError::ThreadGone)?
    }

    /// Both locks, always in this order.
    fn lock(&self) -> (MutexGuard<'_, Sockets>, MutexGuard<'_, State>) {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        (sockets, self.shared.lock())
    }

    /// Enters a pod into the books and maps its ports.
    fn assign(&self, id: &str, address: PodAddress, host_ports: &[HostPort]) -> Result<(), NetworkError> {
        if host_ports.is_empty() {
            self.shared.lock().addresses.assign(address.v4, id);
            return Ok(());
        }
        let (mut sockets, mut state) = self.lock();
        state.ports.claim(id, address, host_ports)?;
        let mapped: Vec<_> = host_ports.iter().map(|port| (address, *port)).collect();
        let result = match sockets.nft.commit(rules::map(&mapped)) {
            // The table is gone: somebody flushed all rules. Bring it back with everything in it.
            Err(error) if error.is_absent() => self.shared.write_table(&mut sockets.nft, &state),
            other => other.map_err(NetworkError::netlink("mapping host ports")),
        };
        match &result {
            Ok(()) => {
                state.addresses.assign(address.v4, id);
                sockets.forget_flows(host_ports.iter().copied());
            }
            Err(_) => drop(state.ports.release(id)),
        }
        result
    }

    /// Undoes a setup. The link goes with the namespace, once its last holder lets it go.
    pub fn teardown(&self, id: &str, record: &NetworkRecord) -> Result<(), NetworkError> {
        let (mut sockets, mut state) = self.lock();
        let released = state.ports.release(id);
        let result = if released.is_empty() {
            Ok(())
        } else {
            match sockets.nft.commit(rules::unmap(&released)) {
                // Gone already, by whatever hand; whether all is as it should be is seen from a fresh table.
                Err(error) if error.is_absent() => self.shared.write_table(&mut sockets.nft, &state),
                other => other.map_err(NetworkError::netlink("unmapping host ports")),
            }
        };
        sockets.forget_flows(released.iter().map(|(_, port)| *port));
        // An address that belongs to another, or to the pool again, was let go by an earlier call.
        if let Some(address) = record_address(record)
            && matches!(state.addresses.owner(address), Some(Owner::Pod { id: owner, .. }) if owner == id)
        {
            self.shared.retire(&mut state, address);
        }
        drop(state);
        self.shared.wake();
        result
    }

    /// Puts books, links and rules in accordance with the pods that there are.
    pub fn recover(&self, live: &[(String, NetworkRecord)]) -> Result<(), NetworkError> {
        let (mut sockets, mut state) = self.lock();
        let links = sockets.route.links().map_err(NetworkError::netlink("the pods' links"))?;
        let bridge_nets = bridge::nets(&mut sockets.route, state.bridge.index)?;
        let mut claimed = Vec::new();
        for (id, record) in live {
            let (Some(v4), Provider::Builtin { host_ports, .. }) = (record_address(record), &record.provider) else {
                continue;
            };
            let v6 = record.ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
            state.addresses.assign(v4, id);
            claimed.push(v4);
            if let Err(error) = state.ports.claim(id, PodAddress { v4, v6 }, host_ports) {
                tracing::error!(pod = id, %error, "a host port of a running pod is lost");
            }
        }
        let now = Instant::now();
        let present: Vec<Ipv4Addr> = links.iter().filter_map(|link| address_of(&link.name)).collect();
        for address in &present {
            if !claimed.contains(address) {
                state.addresses.retire_found(*address, now);
            }
        }
        for address in claimed.iter().filter(|address| !present.contains(address)) {
            state.addresses.link_gone(*address);
        }
        let wanted: Vec<IpNet> = state.addresses.subnets().gateways().collect();
        let mut nets = wanted.clone();
        for net in bridge_nets.into_iter().filter(|net| !wanted.contains(net)) {
            if claimed.iter().any(|address| net.contains(&IpAddr::V4(*address))) {
                nets.push(net);
            } else {
                let removed = sockets.route.delete_address(state.bridge.index, net);
                removed.map_err(NetworkError::netlink("a former address of the bridge"))?;
            }
        }
        state.nets = nets;
        self.shared.write_table(&mut sockets.nft, &state)?;
        state.recovered = true;
        drop(state);
        self.shared.wake();
        Ok(())
    }

    /// Takes the subnets that the kubelet tells, for pods to come.
    pub fn update_pod_cidr(&self, cidr: &str) -> Result<(), NetworkError> {
        if !self.shared.config.follow_pod_cidr || cidr.trim().is_empty() {
            return Ok(());
        }
        let subnets = parse_pod_cidr(cidr)?;
        let (mut sockets, mut state) = self.lock();
        if state.addresses.subnets() == subnets {
            return Ok(());
        }
        let bridge = bridge::ensure(&mut sockets.route, &self.shared.config, subnets)?;
        let known = PodCidr { subnet: subnets.v4(), subnet6: subnets.v6() };
        write(&self.file, &known)?;
        let new: Vec<IpNet> = subnets.gateways().filter(|net| !state.nets.contains(net)).collect();
        state.nets.extend(new);
        state.bridge = bridge;
        state.addresses.set_subnets(subnets);
        let former = std::mem::take(&mut state.ready);
        let written = if state.recovered { self.shared.write_table(&mut sockets.nft, &state) } else { Ok(()) };
        drop(state);
        drop(former);
        self.shared.wake();
        written
    }
}

impl Drop for Builtin {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The IPv4 address that a record of ours stands for.
fn record_address(record: &NetworkRecord) -> Option<Ipv4Addr> {
    match &record.provider {
        Provider::Builtin { link, .. } => address_of(link),
        _ => None,
    }
}

/// `10.1.2.0/24`, or with an IPv6 one after a comma.
fn parse_pod_cidr(cidr: &str) -> Result<Subnets, NetworkError> {
    let (mut v4, mut v6) = (None, None);
    for part in cidr.split(',').map(str::trim) {
        match part.parse::<IpNet>() {
            Ok(IpNet::V4(net)) if v4.is_none() => v4 = Some(net),
            Ok(IpNet::V6(net)) if v6.is_none() => v6 = Some(net),
            _ => return Err(NetworkError::Config(format!("pod CIDR {cidr:?} is not one network of each family"))),
        }
    }
    let v4 = v4.ok_or_else(|| NetworkError::Config(format!("pod CIDR {cidr:?} has no IPv4 network")))?;
    Subnets::new(v4, v6)
}

fn read(file: &Path) -> Option<PodCidr> {
    let text = std::fs::read(file).ok()?;
    match serde_json::from_slice(&text) {
        Ok(known) => Some(known),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the remembered pod CIDR is unreadable and not used");
            None
        }
    }
}

fn write(file: &Path, known: &PodCidr) -> Result<(), NetworkError> {
    let text = serde_json::to_vec_pretty(known).map_err(|error| NetworkError::file(file)(error.into()))?;
    super::write_whole(file, &text).map_err(NetworkError::file(file))
}
