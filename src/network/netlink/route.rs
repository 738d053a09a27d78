//! Links, addresses, routes and neighbours (rtnetlink).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::IpNet;

use super::{Attributes, Batch, Header, NetlinkError, Socket, attributes};
use crate::netlink::{link_message, u16_of, u32_of, u64_of};
use crate::network::InterfaceCounters;

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const UP: u32 = libc::IFF_UP as u32;

/// Multicast group of link changes, as a bit of the bind mask.
const GROUP_LINK: u32 = 1 << (libc::RTNLGRP_LINK - 1);
// Constants of linux/if_link.h and linux/veth.h that libc lacks.
const VETH_INFO_PEER: u16 = 1;
const RTM_GETSTATS: u16 = 94;
const STATS_LINK_64: u16 = 1;
const STATS_FILTER_LINK_64: u32 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
/// Leave virtual functions out; link statistics come anyway.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// An rtnetlink socket.
#[derive(Debug)]
pub(in crate::network) struct Route(Socket);

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network) struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth` and so on; empty for hardware.
    pub kind: String,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    pub mtu: u32,
}

/// What happened to a link.
#[derive(Debug)]
pub(in crate::network) enum LinkEvent {
    Gone(Link),
    Changed,
}

/// An address of an interface, or the destination of a route and the interface that it leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) struct Address {
    pub link: u32,
    pub net: IpNet,
}

/// A veth pair to make: one end a port of a bridge here, the other in another namespace.
#[derive(Debug)]
pub(in crate::network) struct Veth<'a> {
    pub name: &'a str,
    pub bridge: u32,
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: [u8; 6],
    pub peer_namespace: BorrowedFd<'a>,
}

impl Route {
    /// The index of loopback, in every namespace.
    pub const LOOPBACK: u32 = 1;

    /// A socket in the namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(None, 0)?))
    }

    /// A socket that is told of every change of a link; see [`Route::events`].
    pub fn watch_links() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(None, GROUP_LINK)?))
    }

    /// Every link event that waits. True: some were lost, look for yourself.
    pub fn events(&mut self, mut each: impl FnMut(LinkEvent)) -> Result<bool, NetlinkError> {
        self.0.drain(|header, payload| match header.kind {
            // The bridge itself tells with family AF_BRIDGE that a port left it, before the link goes.
            libc::RTM_DELLINK if payload.first() == Some(&(libc::AF_UNSPEC as u8)) => {
                if let Some(link) = parse_link(payload) {
                    each(LinkEvent::Gone(link));
                }
            }
            _ => each(LinkEvent::Changed),
        })
    }

    /// The link of a name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_GETLINK, 0, 0, 0, 0).string(libc::IFLA_IFNAME, name);
        batch.u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        let mut found = None;
        match self.send("looking a link up", batch, |_, payload| found = parse_link(payload)) {
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_GETLINK, DUMP, 0, 0, 0).u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        let mut links = Vec::new();
        self.0.dump("listing links", &mut batch, |_, payload| links.extend(parse_link(payload)))?;
        Ok(links)
    }

    /// All addresses.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETADDR, DUMP).raw(&[0; 8]);
        let mut addresses = Vec::new();
        self.0.dump("listing addresses", &mut batch, |_, payload| addresses.extend(parse_address(payload)))?;
        Ok(addresses)
    }

    /// The routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETROUTE, DUMP).raw(&[0; 12]);
        let mut routes = Vec::new();
        self.0.dump("listing routes", &mut batch, |_, payload| routes.extend(parse_route(payload)))?;
        Ok(routes)
    }

    /// The links of this socket's namespace: index, name, whether it is loopback.
    pub fn names(&mut self) -> Result<Vec<(u32, String, bool)>, NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_GETLINK, DUMP, 0, 0, 0).u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        let mut names = Vec::new();
        self.0.dump("listing links", &mut batch, |_, payload| names.extend(parse_name(payload)))?;
        Ok(names)
    }

    /// Byte and packet counters of every link of this socket's namespace, by index. A full link message would be ten
    /// times as long.
    pub fn counters(&mut self) -> Result<Vec<(u32, InterfaceCounters)>, NetlinkError> {
        let mut batch = Batch::new();
        // `struct if_stats_msg`, asking for the plain counters only.
        batch.message(RTM_GETSTATS, DUMP).raw(&[0; 8]).raw(&STATS_FILTER_LINK_64.to_ne_bytes());
        let mut counters = Vec::new();
        self.0.dump("reading counters", &mut batch, |_, payload| counters.extend(parse_counters(payload)))?;
        Ok(counters)
    }

    /// Makes a bridge, without spanning tree and so forwarding at once.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_NEWLINK, CREATE, 0, 0, 0).string(libc::IFLA_IFNAME, name);
        batch.attribute(libc::IFLA_ADDRESS, &mac).u32(libc::IFLA_MTU, mtu);
        batch.nest(libc::IFLA_LINKINFO, |batch| {
            batch.string(libc::IFLA_INFO_KIND, "bridge");
            batch.nest(libc::IFLA_INFO_DATA, |batch| {
                batch.u32(IFLA_BR_STP_STATE, 0);
            });
        });
        self.send("making the bridge", batch, |_, _| {})
    }

    /// Sets the hardware address and MTU of a link.
    pub fn set_link(&mut self, index: u32, mac: [u8; 6], mtu: u32) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_NEWLINK, 0, index, 0, 0).attribute(libc::IFLA_ADDRESS, &mac);
        batch.u32(libc::IFLA_MTU, mtu);
        self.send("setting up the bridge", batch, |_, _| {})
    }

    /// Makes a link a port of a bridge, as [`Route::add_veth`] does.
    pub fn set_master(&mut self, name: &str, bridge: u32) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_NEWLINK, 0, 0, 0, 0).string(libc::IFLA_IFNAME, name);
        batch.u32(libc::IFLA_MASTER, bridge);
        port_messages(&mut batch, name);
        self.send("joining the bridge", batch, |_, _| {})
    }

    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_NEWLINK, 0, index, UP, UP);
        self.send("bringing a link up", batch, |_, _| {})
    }

    /// Brings loopback up.
    pub fn loopback_up(&mut self) -> Result<(), NetlinkError> {
        self.set_up(Self::LOOPBACK)
    }

    /// Makes a veth pair whose near end is an up port of a bridge, in hairpin mode: what a pod sends to itself by way
    /// of a service comes back to it. The near end gets no IPv6 address of its own.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_NEWLINK, CREATE, 0, 0, 0).string(libc::IFLA_IFNAME, veth.name);
        batch.u32(libc::IFLA_MTU, veth.mtu).u32(libc::IFLA_MASTER, veth.bridge);
        batch.nest(libc::IFLA_LINKINFO, |batch| {
            batch.string(libc::IFLA_INFO_KIND, "veth");
            batch.nest(libc::IFLA_INFO_DATA, |batch| {
                batch.nest(VETH_INFO_PEER, |batch| {
                    batch.raw(&[0; 16]).string(libc::IFLA_IFNAME, veth.peer_name);
                    batch.attribute(libc::IFLA_ADDRESS, &veth.peer_mac).u32(libc::IFLA_MTU, veth.mtu);
                    batch.u32(libc::IFLA_NET_NS_FD, veth.peer_namespace.as_raw_fd() as u32);
                });
            });
        });
        self.send("making a veth pair", batch, |_, _| {})?;
        // Not in the same batch: the kernel would carry it out even where the creation failed, on another's link.
        let mut batch = Batch::new();
        port_messages(&mut batch, veth.name);
        match self.send("setting up a bridge port", batch, |_, _| {}) {
            // A kernel without IPv6 refuses the second message; the port is up all the same.
            Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => Ok(()),
            other => other,
        }
    }

    /// In a pod's namespace: loopback and the interface up, its index.
    pub fn pod_links_up(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_NEWLINK, 0, Self::LOOPBACK, UP, UP);
        link_message(&mut batch, libc::RTM_NEWLINK, 0, 0, UP, UP).string(libc::IFLA_IFNAME, name);
        link_message(&mut batch, libc::RTM_GETLINK, 0, 0, 0, 0).string(libc::IFLA_IFNAME, name);
        batch.u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        let mut index = None;
        self.send("bringing the pod's links up", batch, |_, payload| index = parse_link(payload).map(|l| l.index))?;
        index.ok_or(NetlinkError::Malformed { what: "bringing the pod's links up" })
    }

    /// In a pod's namespace: addresses, and a default route by each gateway, whose hardware address is told so that
    /// nobody has to ask for it.
    pub fn pod_addresses(
        &mut self,
        link: u32,
        addresses: &[(IpNet, IpAddr)],
        gateway_mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        for (address, gateway) in addresses {
            address_message(&mut batch, libc::RTM_NEWADDR, CREATE, link, *address);
            neighbour_message(&mut batch, link, *gateway, gateway_mac);
            default_route_message(&mut batch, link, *gateway);
        }
        self.send("giving the pod its address", batch, |_, _| {})
    }

    /// Adds an address; one that is there already is fine.
    pub fn add_address(&mut self, link: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        address_message(&mut batch, libc::RTM_NEWADDR, REPLACE, link, address);
        self.send("adding an address", batch, |_, _| {})
    }

    pub fn delete_address(&mut self, link: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        address_message(&mut batch, libc::RTM_DELADDR, 0, link, address);
        self.send("removing an address", batch, |_, _| {})
    }

    /// Deletes a link and waits until it is gone: some 30 ms for a veth. A missing link is fine.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        link_message(&mut batch, libc::RTM_DELLINK, 0, 0, 0, 0).string(libc::IFLA_IFNAME, name);
        match self.send("deleting a link", batch, |_, _| {}) {
            Err(error) if error.is_absent() => Ok(()),
            other => other,
        }
    }

    /// Only the last message asks for an acknowledgement; refusals come for every one.
    fn send(
        &mut self,
        what: &'static str,
        mut batch: Batch,
        answer: impl FnMut(Header, &[u8]),
    ) -> Result<(), NetlinkError> {
        batch.acknowledge();
        self.0.transact(what, &mut batch, answer)
    }
}

impl AsFd for Route {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a port of a bridge what a pod's should be.
fn port_messages(batch: &mut Batch, name: &str) {
    link_message(batch, libc::RTM_NEWLINK, 0, 0, 0, 0).string(libc::IFLA_IFNAME, name);
    batch.nest(libc::IFLA_LINKINFO, |batch| {
        batch.string(libc::IFLA_INFO_SLAVE_KIND, "bridge");
        batch.nest(libc::IFLA_INFO_SLAVE_DATA, |batch| {
            batch.u8(IFLA_BRPORT_MODE, 1);
        });
    });
    link_message(batch, libc::RTM_NEWLINK, 0, 0, 0, 0).string(libc::IFLA_IFNAME, name);
    batch.nest(libc::IFLA_AF_SPEC, |batch| {
        batch.nest(libc::AF_INET6 as u16, |batch| {
            batch.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_NONE);
        });
    });
    link_message(batch, libc::RTM_NEWLINK, 0, 0, UP, UP).string(libc::IFLA_IFNAME, name);
}

/// `struct ifaddrmsg`. IPv6 addresses are usable at once: nobody else can have one of our subnet.
fn address_message(batch: &mut Batch, kind: u16, flags: u16, link: u32, address: IpNet) {
    let (family, octets) = octets(address.addr());
    let mut fixed = [family, address.prefix_len(), 0, 0, 0, 0, 0, 0];
    if family == libc::AF_INET6 as u8 {
        fixed[2] = libc::IFA_F_NODAD as u8;
    }
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    batch.message(kind, flags).raw(&fixed);
    batch.attribute(libc::IFA_LOCAL, &octets).attribute(libc::IFA_ADDRESS, &octets);
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        batch.attribute(libc::IFA_BROADCAST, &net.broadcast().octets());
    }
}

/// `struct rtmsg`.
fn default_route_message(batch: &mut Batch, link: u32, gateway: IpAddr) {
    let (family, octets) = octets(gateway);
    let fixed = [
        family,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    batch.message(libc::RTM_NEWROUTE, CREATE).raw(&fixed);
    batch.attribute(libc::RTA_GATEWAY, &octets).u32(libc::RTA_OIF, link);
}

/// `struct ndmsg`.
fn neighbour_message(batch: &mut Batch, link: u32, address: IpAddr, mac: [u8; 6]) {
    let (family, octets) = octets(address);
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    batch.message(libc::RTM_NEWNEIGH, REPLACE).raw(&fixed);
    batch.attribute(libc::NDA_DST, &octets).attribute(libc::NDA_LLADDR, &mac);
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

fn ip(family: u8, octets: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))),
        libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))),
        _ => None,
    }
}

fn link_attributes(payload: &[u8]) -> Option<(u32, Attributes<'_>)> {
    Some((u32_of(payload.get(4..)?)?, attributes(payload.get(16..)?)))
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let (index, attributes) = link_attributes(payload)?;
    let info = attributes.nested(libc::IFLA_LINKINFO);
    Some(Link {
        index,
        name: attributes.string(libc::IFLA_IFNAME)?.to_owned(),
        kind: info.and_then(|info| info.string(libc::IFLA_INFO_KIND)).unwrap_or_default().to_owned(),
        master: attributes.u32(libc::IFLA_MASTER),
        mtu: attributes.u32(libc::IFLA_MTU).unwrap_or_default(),
    })
}

fn parse_address(payload: &[u8]) -> Option<Address> {
    let attributes = attributes(payload.get(8..)?);
    let octets = attributes.get(libc::IFA_LOCAL).or_else(|| attributes.get(libc::IFA_ADDRESS))?;
    let net = IpNet::new(ip(payload[0], octets)?, payload[1]).ok()?;
    Some(Address { link: u32_of(&payload[4..])?, net })
}

fn parse_route(payload: &[u8]) -> Option<Address> {
    let attributes = attributes(payload.get(12..)?);
    let table = attributes.u32(libc::RTA_TABLE).unwrap_or(u32::from(payload[4]));
    if table != u32::from(libc::RT_TABLE_MAIN) || payload[7] != libc::RTN_UNICAST {
        return None;
    }
    let any = match i32::from(payload[0]) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let destination = attributes.get(libc::RTA_DST).map_or(Some(any), |octets| ip(payload[0], octets))?;
    Some(Address { link: attributes.u32(libc::RTA_OIF)?, net: IpNet::new(destination, payload[1]).ok()? })
}

fn parse_name(payload: &[u8]) -> Option<(u32, String, bool)> {
    let (index, attributes) = link_attributes(payload)?;
    let loopback = u16_of(payload.get(2..)?)? == libc::ARPHRD_LOOPBACK;
    Some((index, attributes.string(libc::IFLA_IFNAME)?.to_owned(), loopback))
}

fn parse_counters(payload: &[u8]) -> Option<(u32, InterfaceCounters)> {
    let index = u32_of(payload.get(4..)?)?;
    let statistics = attributes(payload.get(12..)?).get(STATS_LINK_64)?;
    // `struct rtnl_link_stats64`, all of it u64.
    let field = |number: usize| statistics.get(number * 8..).and_then(u64_of).unwrap_or_default();
    let counters = InterfaceCounters {
        name: String::new(),
        loopback: false,
        rx_packets: field(0),
        tx_packets: field(1),
        rx_bytes: field(2),
        tx_bytes: field(3),
        rx_errors: field(4),
        tx_errors: field(5),
        rx_dropped: field(6),
        tx_dropped: field(7),
    };
    Some((index, counters))
}
