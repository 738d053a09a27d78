//! What ADD answers, in every version of the spec (CNI spec 1.1, section 5).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::network::IpPreference;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Success {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    /// Before 0.3.0.
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
}

/// The addresses of a result that belong to an interface of the pod. An address without an interface is the pod's.
pub(super) fn addresses(result: &Value, interface: &str) -> Result<Vec<IpAddr>, String> {
    let success: Success = serde_json::from_value(result.clone()).map_err(|error| format!("its result: {error}"))?;
    let ours = |ip: &Ip| match ip.interface.and_then(|index| success.interfaces.get(index)) {
        Some(found) => found.name == interface && !found.sandbox.is_empty(),
        None => true,
    };
    let old = [&success.ip4, &success.ip6].into_iter().flatten().map(|ip| ip.ip.as_str());
    let new = success.ips.iter().filter(|ip| ours(ip)).map(|ip| ip.address.as_str());
    old.chain(new).map(parse).collect()
}

/// An address, with the prefix length that it should have or without.
fn parse(text: &str) -> Result<IpAddr, String> {
    let net = text.parse::<IpNet>().map(|net| net.addr());
    net.or_else(|_| text.parse()).map_err(|_| format!("its result has the address {text:?}"))
}

/// Puts the primary address first; the others keep their order.
pub(super) fn prefer(mut addresses: Vec<IpAddr>, preference: IpPreference) -> Vec<IpAddr> {
    let wanted = match preference {
        IpPreference::Ipv4 => addresses.iter().position(IpAddr::is_ipv4),
        IpPreference::Ipv6 => addresses.iter().position(IpAddr::is_ipv6),
        IpPreference::Cni => None,
    };
    if let Some(wanted) = wanted {
        addresses[..=wanted].rotate_right(1);
    }
    addresses
}
