//! The nftables table of the built-in network: masquerade, host ports and the guard of the node's loopback.
//!
//! The rules are fixed; a pod's ports are elements of maps, so that a new connection costs a look-up however many
//! ports there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::addresses::PodAddress;
use crate::network::netlink::{Base, DataType, Hook, Meta, R0, Register, Rule, Transaction, Verdict};
use crate::network::{HostPort, Protocol};

pub(super) const TABLE: &str = "orlop";

const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_SOURCE: i32 = 100;

/// Where a look-up puts what it found; a key takes up to six registers from the first on.
const FOUND: Register = Register(R0.0 + 8);
const SCRATCH: Register = Register(R0.0 + 15);

/// What differs between the two versions of IP.
struct Family {
    address: DataType,
    number: i32,
    netfilter: u8,
    words: u32,
    source: u32,
    destination: u32,
    /// Destination (address, protocol, port) at the node to (address, port) of the pod.
    at: &'static str,
    /// The same for every address of the node.
    any: &'static str,
    /// Where mappings lead to.
    targets: &'static str,
}

const V4: Family = Family {
    address: DataType::Ipv4Address,
    number: libc::AF_INET,
    netfilter: 2,
    words: 1,
    source: 12,
    destination: 16,
    at: "ports4_at",
    any: "ports4",
    targets: "targets4",
};

const V6: Family = Family {
    address: DataType::Ipv6Address,
    number: libc::AF_INET6,
    netfilter: 10,
    words: 4,
    source: 8,
    destination: 24,
    at: "ports6_at",
    any: "ports6",
    targets: "targets6",
};

/// What the rules depend on.
#[derive(Debug)]
pub(super) struct Policy<'a> {
    pub bridge: &'a str,
    /// Every subnet that pods have addresses of.
    pub nets: &'a [IpNet],
    pub masquerade: bool,
    pub no_masquerade: &'a [IpNet],
}

/// The whole table with these ports in it, in place of the one that may be there.
pub(super) fn table(policy: &Policy<'_>, ports: &[(PodAddress, HostPort)]) -> Transaction<'static> {
    let mut transaction = Transaction::new(TABLE);
    // Deleting a table that is not there would fail, adding one that is there does not.
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    transaction.add_chain("host_ports");
    for family in [&V4, &V6] {
        let port = [DataType::Protocol, DataType::Port];
        let data = [family.address, DataType::Port];
        let full = [family.address, DataType::Protocol, DataType::Port];
        transaction.add_set(family.at, &full, &data);
        transaction.add_set(family.any, &port, &data);
        transaction.add_set(family.targets, &full, &[]);
        translate(&mut transaction, family);
    }
    transaction.add_base_chain("guard", "filter", Hook::Prerouting, PRIORITY_RAW);
    guard(&mut transaction, policy.bridge);
    transaction.add_base_chain("prerouting", "nat", Hook::Prerouting, PRIORITY_DESTINATION);
    transaction.add_base_chain("output", "nat", Hook::Output, PRIORITY_DESTINATION);
    for chain in ["prerouting", "output"] {
        transaction.add_rule(chain, |rule| {
            rule.verdict(Verdict::Jump("host_ports"));
        });
    }
    transaction.add_base_chain("postrouting", "nat", Hook::Postrouting, PRIORITY_SOURCE);
    postrouting(&mut transaction, policy);
    add_ports(&mut transaction, ports);
    transaction
}

/// A transaction that maps more ports.
pub(super) fn map(ports: &[(PodAddress, HostPort)]) -> Transaction<'static> {
    let mut transaction = Transaction::new(TABLE);
    add_ports(&mut transaction, ports);
    transaction
}

/// A transaction that maps these ports no longer.
pub(super) fn unmap(ports: &[(PodAddress, HostPort)]) -> Transaction<'static> {
    let mut transaction = Transaction::new(TABLE);
    for (set, elements) in elements(ports) {
        transaction.delete_elements(set, &elements);
    }
    transaction
}

fn add_ports(transaction: &mut Transaction<'_>, ports: &[(PodAddress, HostPort)]) {
    for (set, elements) in elements(ports) {
        transaction.add_elements(set, &elements);
    }
}

/// Connections to a mapped port of the node go to the pod.
fn translate(transaction: &mut Transaction<'_>, family: &Family) {
    // A mapping of one address comes before one of all.
    transaction.add_rule("host_ports", |rule| {
        is(rule, family);
        full_key(rule, family);
        rule.lookup(family.at, R0, Some(FOUND));
        rule.destination_nat(family.number, FOUND, FOUND.plus(family.words));
    });
    transaction.add_rule("host_ports", |rule| {
        is(rule, family);
        rule.meta(Meta::TransportProtocol, R0).payload(Base::Transport, 2, 2, R0.plus(1));
        rule.lookup(family.any, R0, Some(FOUND));
        // What is only routed through this node is not for its ports.
        rule.destination_is_local(SCRATCH);
        rule.destination_nat(family.number, FOUND, FOUND.plus(family.words));
    });
}

/// The bridge routes 127.0.0.0/8, so that the node's own connections to 127.0.0.1 reach pods. No pod may use that:
/// services that listen on loopback only trust whoever reaches them.
fn guard(transaction: &mut Transaction<'_>, bridge: &str) {
    for offset in [V4.source, V4.destination] {
        transaction.add_rule("guard", |rule| {
            is(rule, &V4);
            rule.meta(Meta::InputName, R0).equal(R0, &interface(bridge));
            rule.payload(Base::Network, offset, 4, R0);
            within(rule, R0, IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)));
            rule.verdict(Verdict::Drop);
        });
    }
}

fn postrouting(transaction: &mut Transaction<'_>, policy: &Policy<'_>) {
    const CHAIN: &str = "postrouting";
    // From the node's 127.0.0.1 to a mapped port: the pod could not answer that address.
    transaction.add_rule(CHAIN, |rule| {
        is(rule, &V4);
        rule.meta(Meta::OutputName, R0).equal(R0, &interface(policy.bridge));
        rule.payload(Base::Network, V4.source, 4, R0);
        within(rule, R0, IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)));
        rule.masquerade();
    });
    // From a pod by a port of the node to a pod: the answer would take the short way and not be translated back.
    for net in policy.nets {
        transaction.add_rule(CHAIN, |rule| {
            let family = family(net);
            is(rule, family);
            rule.destination_translated(SCRATCH);
            rule.payload(Base::Network, family.source, family.words * 4, R0);
            within(rule, R0, *net);
            full_key(rule, family);
            rule.lookup(family.targets, R0, None).masquerade();
        });
    }
    if !policy.masquerade {
        return;
    }
    let multicast = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
    ];
    for net in policy.nets.iter().chain(policy.no_masquerade).chain(&multicast) {
        transaction.add_rule(CHAIN, |rule| {
            let family = family(net);
            is(rule, family);
            rule.payload(Base::Network, family.destination, family.words * 4, R0);
            within(rule, R0, *net);
            rule.verdict(Verdict::Return);
        });
    }
    for net in policy.nets {
        transaction.add_rule(CHAIN, |rule| {
            let family = family(net);
            is(rule, family);
            rule.payload(Base::Network, family.source, family.words * 4, R0);
            within(rule, R0, *net);
            rule.meta(Meta::OutputName, R0).not_equal(R0, &interface(policy.bridge));
            rule.masquerade();
        });
    }
}

fn family(net: &IpNet) -> &'static Family {
    match net {
        IpNet::V4(_) => &V4,
        IpNet::V6(_) => &V6,
    }
}

fn is(rule: &mut Rule<'_>, family: &Family) {
    rule.meta(Meta::NetworkProtocol, R0).equal(R0, &[family.netfilter]);
}

/// Destination address, protocol and port, from the first register on.
fn full_key(rule: &mut Rule<'_>, family: &Family) {
    rule.payload(Base::Network, family.destination, family.words * 4, R0);
    rule.meta(Meta::TransportProtocol, R0.plus(family.words));
    rule.payload(Base::Transport, 2, 2, R0.plus(family.words + 1));
}

/// Matches when the address in the register is one of the net.
fn within(rule: &mut Rule<'_>, register: Register, net: IpNet) {
    rule.mask(register, &octets(net.netmask())).equal(register, &octets(net.network()));
}

/// An interface's name as rules compare it: with all its bytes.
fn interface(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut padded = [0; libc::IFNAMSIZ];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A set's name, and elements of it: a key, and for maps its data.
type SetElements = (&'static str, Vec<(Vec<u8>, Vec<u8>)>);

/// The elements that ports are, by set.
fn elements(ports: &[(PodAddress, HostPort)]) -> Vec<SetElements> {
    let sets = [V4.at, V4.any, V4.targets, V6.at, V6.any, V6.targets];
    let mut elements: Vec<_> = sets.into_iter().map(|set| (set, Vec::new())).collect();
    let mut add = |set, element| {
        let (_, list) = elements.iter_mut().find(|(name, _)| *name == set).expect("every set is in the list");
        if !list.contains(&element) {
            list.push(element);
        }
    };
    for (pod, port) in ports {
        for ip in pod.ips() {
            let family = if ip.is_ipv4() { &V4 } else { &V6 };
            if port.host_ip.is_some_and(|host| host.is_ipv4() != ip.is_ipv4()) {
                continue;
            }
            let data = [octets(ip), number(port.container_port)].concat();
            match port.host_ip {
                Some(host) if !host.is_unspecified() => {
                    add(family.at, ([octets(host), key(port.protocol, port.host_port)].concat(), data));
                }
                _ => add(family.any, (key(port.protocol, port.host_port), data)),
            }
            add(family.targets, ([octets(ip), key(port.protocol, port.container_port)].concat(), Vec::new()));
        }
    }
    elements.retain(|(_, list)| !list.is_empty());
    elements
}

/// Protocol and port, a register each.
fn key(protocol: Protocol, port: u16) -> Vec<u8> {
    [vec![protocol.number(), 0, 0, 0], number(port)].concat()
}

/// A port in network byte order, in a register.
fn number(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}
