//! Which pod has which address.
//!
//! An address is one number in the subnet; a pod with IPv6 has the same number in both. Numbers are handed out in a
//! circle, so that one comes back as late as possible, and never before the kernel is done with the link that had it:
//! the link's name is made of the address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::network::NetworkError;

/// The subnets that new pods get addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnets {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

/// A pod's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodAddress {
    pub v4: Ipv4Addr,
    pub v6: Option<Ipv6Addr>,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A namespace of the pool, or one that is being made.
    Pool,
    /// A pod.
    Pod { id: String, link_gone: bool },
    /// Nobody any more, but the link is still there. It is deleted by force at `deadline`.
    Dying { deadline: Instant },
}

/// The book of addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    subnets: Subnets,
    owners: HashMap<Ipv4Addr, Owner>,
    next: u32,
}

impl Subnets {
    /// Checks that the subnets can hold pods.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<Self, NetworkError> {
        let (v4, v6) = (v4.trunc(), v6.map(|v6| v6.trunc()));
        if !(8..=29).contains(&v4.prefix_len()) {
            return Err(NetworkError::Config(format!("subnet {v4}: the prefix length must be between 8 and 29")));
        }
        if let Some(v6) = v6
            && u32::from(128 - v6.prefix_len()) < u32::from(32 - v4.prefix_len())
        {
            return Err(NetworkError::Config(format!("subnet6 {v6} has fewer addresses than subnet {v4}")));
        }
        Ok(Self { v4, v6 })
    }

    pub fn v4(self) -> Ipv4Net {
        self.v4
    }

    pub fn v6(self) -> Option<Ipv6Net> {
        self.v6
    }

    pub fn nets(self) -> impl Iterator<Item = IpNet> {
        std::iter::once(IpNet::V4(self.v4)).chain(self.v6.map(IpNet::V6))
    }

    /// The bridge's addresses with their prefixes: the first of each subnet.
    pub fn gateways(self) -> impl Iterator<Item = IpNet> {
        let gateway = self.at(1);
        gateway.ips().zip(self.nets()).filter_map(|(ip, net)| IpNet::new(ip, net.prefix_len()).ok())
    }

    fn at(self, number: u32) -> PodAddress {
        PodAddress {
            v4: Ipv4Addr::from(u32::from(self.v4.network()) + number),
            v6: self.v6.map(|v6| Ipv6Addr::from(u128::from(v6.network()) + u128::from(number))),
        }
    }

    /// How many numbers pods can have: not the network's, the bridge's and the broadcast address.
    fn capacity(self) -> u32 {
        (1_u32 << (32 - self.v4.prefix_len())) - 3
    }
}

impl PodAddress {
    /// The addresses, IPv4 first.
    pub fn ips(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.v4)).chain(self.v6.map(IpAddr::V6))
    }

    /// The name of the node's end of the pod's link.
    pub fn link(self) -> String {
        link_name(self.v4)
    }

    /// A hardware address that only this IPv4 address has: whoever gets the address later has it too, so no neighbour
    /// entry is ever stale.
    pub fn mac(self) -> [u8; 6] {
        mac(self.v4)
    }
}

const LINK_PREFIX: &str = "orlop";

fn link_name(address: Ipv4Addr) -> String {
    format!("{LINK_PREFIX}{:08x}", u32::from(address))
}

/// The address that a link's name stands for, if it is one of ours.
pub(super) fn address_of(link: &str) -> Option<Ipv4Addr> {
    let digits = link.strip_prefix(LINK_PREFIX).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
}

/// A locally administered hardware address made of an IPv4 address.
fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

impl Addresses {
    pub fn new(subnets: Subnets) -> Self {
        Self { subnets, owners: HashMap::new(), next: 0 }
    }

    pub fn subnets(&self) -> Subnets {
        self.subnets
    }

    /// New pods get addresses of these from now on; those of the old ones stay with their pods.
    pub fn set_subnets(&mut self, subnets: Subnets) {
        self.subnets = subnets;
        self.next = 0;
    }

    /// Takes the next free address, for the pool.
    pub fn take(&mut self) -> Result<PodAddress, NetworkError> {
        let capacity = self.subnets.capacity();
        for _ in 0..capacity {
            let address = self.subnets.at(2 + self.next);
            self.next = (self.next + 1) % capacity;
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.owners.entry(address.v4) {
                vacant.insert(Owner::Pool);
                return Ok(address);
            }
        }
        Err(NetworkError::SubnetFull { subnet: IpNet::V4(self.subnets.v4), used: self.owners.len() })
    }

    /// Gives an address of the pool, or a found one, to a pod.
    pub fn assign(&mut self, address: Ipv4Addr, id: &str) {
        self.owners.insert(address, Owner::Pod { id: id.to_owned(), link_gone: false });
    }

    pub fn owner(&self, address: Ipv4Addr) -> Option<&Owner> {
        self.owners.get(&address)
    }

    /// The address may be reused as soon as its link is gone; at `deadline` the link is deleted. True when that is to
    /// be waited for.
    pub fn retire(&mut self, address: Ipv4Addr, deadline: Instant) -> bool {
        match self.owners.get(&address) {
            None | Some(Owner::Pod { link_gone: true, .. }) => {
                self.owners.remove(&address);
                false
            }
            Some(Owner::Dying { .. }) => true,
            Some(Owner::Pool | Owner::Pod { .. }) => {
                self.owners.insert(address, Owner::Dying { deadline });
                true
            }
        }
    }

    /// A link was found that nobody claims.
    pub fn retire_found(&mut self, address: Ipv4Addr, deadline: Instant) {
        self.owners.insert(address, Owner::Dying { deadline });
    }

    /// The kernel is done with the link of an address. True when the address is free now.
    pub fn link_gone(&mut self, address: Ipv4Addr) -> bool {
        match self.owners.get_mut(&address) {
            Some(Owner::Pod { link_gone, .. }) => {
                *link_gone = true;
                false
            }
            Some(Owner::Dying { .. }) => {
                self.owners.remove(&address);
                true
            }
            // A namespace of the pool loses its link only while its making fails, which retires the address itself.
            Some(Owner::Pool) | None => false,
        }
    }

    /// Events may have been lost: only these links are there.
    pub fn keep_links(&mut self, present: &[Ipv4Addr]) {
        let absent: Vec<Ipv4Addr> = self.owners.keys().filter(|address| !present.contains(address)).copied().collect();
        for address in absent {
            self.link_gone(address);
        }
    }

    /// The address whose link is to be deleted next, and when.
    pub fn next_deadline(&self) -> Option<(Ipv4Addr, Instant)> {
        let dying = self.owners.iter().filter_map(|(address, owner)| match owner {
            Owner::Dying { deadline } => Some((*address, *deadline)),
            _ => None,
        });
        dying.min_by_key(|(_, deadline)| *deadline)
    }
}
