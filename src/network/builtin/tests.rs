//! The books of addresses and ports.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::addresses::{Addresses, Owner, Subnets, address_of};
use super::{parse_pod_cidr, ports};
use crate::network::{HostPort, NetworkError, PortMapping, Protocol};

fn addresses(subnet: &str) -> Addresses {
    Addresses::new(Subnets::new(subnet.parse().unwrap(), None).unwrap())
}

#[test]
fn addresses_go_round_and_come_back_late() {
    let mut book = addresses("10.0.0.0/29");
    let first: Vec<Ipv4Addr> = (0..5).map(|_| book.take().unwrap().v4).collect();
    assert_eq!(first.iter().map(|ip| ip.octets()[3]).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    assert!(matches!(book.take(), Err(NetworkError::SubnetFull { used: 5, .. })));
    book.assign(first[1], "a");
    book.retire(first[1], Instant::now());
    assert!(book.take().is_err(), "not before its link is gone");
    assert!(book.link_gone(first[1]));
    assert_eq!(book.take().unwrap().v4, first[1]);
}

#[test]
fn a_link_may_go_before_its_pod() {
    let mut book = addresses("10.0.0.0/24");
    let address = book.take().unwrap().v4;
    book.assign(address, "a");
    assert!(!book.link_gone(address), "the pod still has it");
    assert!(matches!(book.owner(address), Some(Owner::Pod { .. })));
    assert!(!book.retire(address, Instant::now()), "nothing is waited for");
    assert_eq!(book.owner(address), None);
    // Events that were lost are made up for.
    let (kept, gone) = (book.take().unwrap().v4, book.take().unwrap().v4);
    book.retire(kept, Instant::now());
    book.retire(gone, Instant::now());
    book.keep_links(&[kept]);
    assert!(book.owner(kept).is_some() && book.owner(gone).is_none());
}

#[test]
fn links_are_named_after_addresses() {
    let address = addresses("10.88.0.0/16").take().unwrap();
    assert_eq!(address.link(), "orlop0a580002");
    assert_eq!(address_of(&address.link()), Some(address.v4));
    for other in ["orlop0", "orlop0a58000", "orlop0a5800020", "orlopzzzzzzzz", "eth0", "orlop"] {
        assert_eq!(address_of(other), None, "{other}");
    }
}

#[test]
fn subnets_must_hold_pods() {
    for (v4, v6) in [("10.0.0.0/30", None), ("0.0.0.0/0", None), ("10.0.0.0/16", Some("fd00::/120"))] {
        assert!(Subnets::new(v4.parse().unwrap(), v6.map(|v6| v6.parse().unwrap())).is_err(), "{v4} {v6:?}");
    }
    let both = parse_pod_cidr("10.1.2.0/24, fd00:1::/64").unwrap();
    let gateways: Vec<String> = both.gateways().map(|net| net.to_string()).collect();
    assert_eq!(gateways, ["10.1.2.1/24", "fd00:1::1/64"]);
    for bad in ["fd00::/64", "10.0.0.0/24,10.1.0.0/24", "x", "10.0.0.0/24,", "10.0.0.0/33"] {
        assert!(parse_pod_cidr(bad).is_err(), "{bad}");
    }
}

fn mapping(protocol: Protocol, host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol, container_port, host_port, host_ip: host_ip.to_owned() }
}

#[test]
fn mappings_are_checked() {
    use Protocol::{Tcp, Udp};
    let fine = [
        mapping(Tcp, "", 80, 8080),
        mapping(Tcp, "", 80, 8080),
        mapping(Udp, "", 80, 8080),
        mapping(Tcp, "", 0, 9),
        mapping(Tcp, "192.0.2.1", 81, 1),
        mapping(Tcp, "192.0.2.2", 81, 2),
    ];
    assert_eq!(ports::parse(&fine, false).unwrap().len(), 4);
    let bad = [
        vec![mapping(Tcp, "", 80, 0)],
        vec![mapping(Tcp, "localhost", 80, 80)],
        vec![mapping(Tcp, "::", 80, 80)],
        vec![mapping(Tcp, "", 80, 1), mapping(Tcp, "192.0.2.1", 80, 2)],
        vec![mapping(Tcp, "0.0.0.0", 80, 1), mapping(Tcp, "192.0.2.1", 80, 2)],
    ];
    for mappings in bad {
        assert!(matches!(ports::parse(&mappings, false), Err(NetworkError::PortMapping { .. })), "{mappings:?}");
    }
    assert!(ports::parse(&[mapping(Tcp, "::", 80, 80), mapping(Tcp, "0.0.0.0", 80, 80)], true).is_ok());
}

#[test]
fn a_port_has_one_owner() {
    let mut book = ports::Ports::default();
    let pod = addresses("10.0.0.0/24").take().unwrap();
    let port = |host_port, ip: Option<&str>| HostPort {
        protocol: Protocol::Tcp,
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port: 80,
    };
    book.claim("a", pod, &[port(80, Some("192.0.2.1")), port(81, None)]).unwrap();
    book.claim("b", pod, &[port(80, Some("192.0.2.2"))]).unwrap();
    for taken in [port(80, None), port(80, Some("0.0.0.0")), port(80, Some("192.0.2.2")), port(81, Some("192.0.2.9"))] {
        let error = book.claim("c", pod, &[port(82, None), taken]).unwrap_err();
        assert!(matches!(error, NetworkError::HostPortTaken { .. }), "{error}");
    }
    book.claim("c", pod, &[port(82, None), port(80, Some("::"))]).unwrap();
    assert_eq!(book.release("a").len(), 2);
    assert_eq!(book.release("a").len(), 0);
    assert_eq!(book.all().len(), 3);
}
