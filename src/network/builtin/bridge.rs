//! The bridge itself, and what the node must be set to for it.

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;

use super::addresses::Subnets;
use crate::network::netlink::Route;
use crate::network::{BuiltinConfig, NetworkError};

/// The bridge as pods need to know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bridge {
    pub index: u32,
    pub mac: [u8; 6],
    pub mtu: u32,
}

const DEFAULT_MTU: u32 = 1500;

/// Refuses names that the kernel or a path in /proc would not take.
pub(super) fn check_name(name: &str) -> Result<(), NetworkError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..libc::IFNAMSIZ).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(());
    }
    let rule = "must be 1 to 15 letters, digits, '-' or '_'";
    Err(NetworkError::Config(format!("bridge {name:?}: the name {rule}")))
}

/// Makes the bridge or brings an existing one into shape. What is right already is left alone.
pub(super) fn ensure(route: &mut Route, config: &BuiltinConfig, subnets: Subnets) -> Result<Bridge, NetworkError> {
    let name = &config.bridge;
    let failed = || NetworkError::netlink(name);
    let found = route.link(name).map_err(failed())?;
    let found = match found {
        Some(link) if link.kind != "bridge" => {
            let kind = if link.kind.is_empty() { "another kind of" } else { &link.kind };
            let problem =
                format!("{name} is {kind} interface, not a bridge; set network.builtin.bridge to another name");
            return Err(NetworkError::Config(problem));
        }
        found => found,
    };
    refuse_taken(route, subnets, found.as_ref().map(|link| link.index))?;
    let mtu = if config.mtu == 0 { default_mtu(route).map_err(failed())? } else { config.mtu };
    let mac = mac(name);
    let index = match found {
        Some(link) => {
            route.set_link(link.index, mac, mtu).map_err(failed())?;
            link.index
        }
        None => {
            route.add_bridge(name, mac, mtu).map_err(failed())?;
            let link = route.link(name).map_err(failed())?;
            link.ok_or_else(|| NetworkError::kernel(name, io::Error::from_raw_os_error(libc::ENODEV)))?.index
        }
    };
    sysctls(name, subnets.v6().is_some())?;
    route.set_up(index).map_err(failed())?;
    for gateway in subnets.gateways() {
        route.add_address(index, gateway).map_err(failed())?;
    }
    Ok(Bridge { index, mac, mtu })
}

/// The bridge's hardware address: always the same, for pods are told it once. Left to itself, a bridge takes the lowest
/// of its ports', which would change as pods come and go.
fn mac(name: &str) -> [u8; 6] {
    // FNV-1a; a locally administered prefix that no pod has.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    [0x0e, 0x58, a, b, c, d]
}

/// The networks of the bridge's addresses, link-local ones aside.
pub(super) fn nets(route: &mut Route, bridge: u32) -> Result<Vec<IpNet>, NetworkError> {
    let addresses = route.addresses().map_err(NetworkError::netlink("the bridge's addresses"))?;
    let own = addresses.into_iter().filter(|address| address.link == bridge).map(|address| address.net);
    Ok(own.filter(|net| !link_local(net)).collect())
}

fn link_local(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// Refuses a subnet that the node reaches by another interface.
fn refuse_taken(route: &mut Route, subnets: Subnets, bridge: Option<u32>) -> Result<(), NetworkError> {
    let failed = || NetworkError::netlink("the node's addresses and routes");
    let mut others = route.addresses().map_err(failed())?;
    others.extend(route.routes().map_err(failed())?);
    // A default route leads everywhere and takes nothing.
    others.retain(|other| Some(other.link) != bridge && other.net.prefix_len() != 0);
    for subnet in subnets.nets() {
        let overlaps = |other: &IpNet| subnet.contains(&other.network()) || other.contains(&subnet.network());
        if let Some(other) = others.iter().find(|other| overlaps(&other.net)) {
            let links = route.links().map_err(failed())?;
            let device = links.into_iter().find(|link| link.index == other.link);
            let device = device.map_or_else(|| format!("interface {}", other.link), |link| link.name);
            return Err(NetworkError::SubnetTaken { subnet, other: other.net.trunc(), device });
        }
    }
    Ok(())
}

/// The MTU of the interface that the default route uses.
fn default_mtu(route: &mut Route) -> Result<u32, crate::network::netlink::NetlinkError> {
    let default = route.routes()?.into_iter().find(|route| route.net.prefix_len() == 0);
    let Some(default) = default else { return Ok(DEFAULT_MTU) };
    let link = route.links()?.into_iter().find(|link| link.index == default.link);
    Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
}

/// Forwarding between pods and elsewhere; on the bridge, no router but the node itself, and 127.0.0.1 to host ports.
fn sysctls(bridge: &str, v6: bool) -> Result<(), NetworkError> {
    set("net/ipv4/ip_forward", "1")?;
    set(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    if v6 {
        set("net/ipv6/conf/all/forwarding", "1")?;
        set(&format!("net/ipv6/conf/{bridge}/accept_ra"), "0")?;
        // Without its link-local address the node cannot ask for pods, and checking that would take a second.
        set(&format!("net/ipv6/conf/{bridge}/accept_dad"), "0")?;
        set(&format!("net/ipv6/conf/{bridge}/disable_ipv6"), "0")
    } else {
        ignore_missing(set(&format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1"))
    }
}

/// In a pod's namespace: without an address of ours the interface has no IPv6 at all; with one, no pod can make
/// itself the router of others, and an address is usable at once.
pub(super) fn pod_sysctls(interface: &str, v6: bool) -> Result<(), NetworkError> {
    if v6 {
        set(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
        set(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")
    } else {
        ignore_missing(set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1"))
    }
}

/// A kernel without IPv6 has no such setting, and needs none.
fn ignore_missing(result: Result<(), NetworkError>) -> Result<(), NetworkError> {
    match result {
        Err(NetworkError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a setting unless it has that value: it may be right and read-only.
fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = PathBuf::from("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(NetworkError::file(path))
}
