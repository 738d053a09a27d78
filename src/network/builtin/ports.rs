//! Which pod has which port of the node.

use std::collections::HashMap;
use std::net::IpAddr;

use super::addresses::PodAddress;
use crate::network::{HostPort, NetworkError, PortMapping, Protocol};

/// The book of host ports.
#[derive(Debug, Default)]
pub(super) struct Ports {
    owners: HashMap<(Protocol, u16), Vec<Claim>>,
}

#[derive(Debug)]
struct Claim {
    port: HostPort,
    pod: PodAddress,
    id: String,
}

/// Checks the mappings of a pod and brings them into the form that is kept. Those without a host port ask for nothing.
pub(super) fn parse(mappings: &[PortMapping], v6: bool) -> Result<Vec<HostPort>, NetworkError> {
    let mut ports: Vec<HostPort> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let refuse = |reason: String| NetworkError::PortMapping {
            protocol: mapping.protocol,
            host_port: mapping.host_port,
            container_port: mapping.container_port,
            reason,
        };
        if mapping.container_port == 0 {
            return Err(refuse("the container port is 0".to_owned()));
        }
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| refuse(format!("host IP {text:?} is not an address")))?),
        };
        if host_ip.is_some_and(|ip| ip.is_ipv6()) && !v6 {
            return Err(refuse("the pod has no IPv6 address; set network.builtin.subnet6".to_owned()));
        }
        let port = HostPort {
            protocol: mapping.protocol,
            host_ip,
            host_port: mapping.host_port,
            container_port: mapping.container_port,
        };
        if let Some(other) = ports.iter().find(|other| overlap(other, &port)) {
            if *other == port {
                continue;
            }
            return Err(refuse(format!("the pod maps this host port to {} already", other.container_port)));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Whether a packet could be meant for both.
fn overlap(a: &HostPort, b: &HostPort) -> bool {
    let addresses = match (a.host_ip, b.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified()),
    };
    a.protocol == b.protocol && a.host_port == b.host_port && addresses
}

impl Ports {
    /// Claims ports for a pod: all of them or none.
    pub fn claim(&mut self, id: &str, pod: PodAddress, ports: &[HostPort]) -> Result<(), NetworkError> {
        for port in ports {
            let claims = self.owners.get(&(port.protocol, port.host_port));
            let taken = claims.into_iter().flatten().find(|claim| claim.id != id && overlap(&claim.port, port));
            if let Some(claim) = taken {
                return Err(NetworkError::HostPortTaken {
                    protocol: port.protocol,
                    host_port: port.host_port,
                    host_ip: port.host_ip,
                    owner: claim.id.clone(),
                });
            }
        }
        for port in ports {
            let claim = Claim { port: *port, pod, id: id.to_owned() };
            self.owners.entry((port.protocol, port.host_port)).or_default().push(claim);
        }
        Ok(())
    }

    /// Frees the ports of a pod, and returns those that it had.
    pub fn release(&mut self, id: &str) -> Vec<(PodAddress, HostPort)> {
        let mut released = Vec::new();
        self.owners.retain(|_, claims| {
            claims.retain(|claim| {
                if claim.id == id {
                    released.push((claim.pod, claim.port));
                }
                claim.id != id
            });
            !claims.is_empty()
        });
        released
    }

    /// Every mapped port.
    pub fn all(&self) -> Vec<(PodAddress, HostPort)> {
        self.owners.values().flatten().map(|claim| (claim.pod, claim.port)).collect()
    }
}
