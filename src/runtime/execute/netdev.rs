//! Network devices of the host that move into the container's network namespace.
//!
//! A device goes with its permanent addresses of global scope, which the kernel takes off it when it moves, and is set
//! up where it arrives. It is never moved back: what becomes of it is the network namespace's to say.

use rustix::fs::{CWD, statat};
use rustix::process::getpid;

use super::context::{Context, Step, refuse};
use super::status::{Notice, Stage};
use crate::netlink::{Attributes, Batch, NetlinkError, Socket, attributes, link_message, u32_of};
use crate::runtime::plan::NetDevicePlan;
use crate::runtime::sys::process as sys;

const DUMP: u16 = libc::NLM_F_DUMP as u16;
const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const UP: u32 = libc::IFF_UP as u32;

/// What of an address's flags is a setting; the rest is the kernel's finding.
const SETTINGS: u32 =
    libc::IFA_F_NODAD | libc::IFA_F_HOMEADDRESS | libc::IFA_F_MANAGETEMPADDR | libc::IFA_F_NOPREFIXROUTE;
/// From linux/if_addr.h.
const IFA_RT_PRIORITY: u16 = 9;

/// The host's end: a socket that stays in the network namespace that it was made in.
#[derive(Debug)]
pub(super) struct Host {
    socket: Socket,
    namespace: (u64, u64),
}

impl Host {
    /// Where there are devices to move.
    pub fn of(devices: &[NetDevicePlan]) -> Step<Option<Self>> {
        if devices.is_empty() { Ok(None) } else { Self::open().map(Some) }
    }

    /// In the host's network namespace.
    fn open() -> Step<Self> {
        let name = || "linux.netDevices: reach the host's network".to_owned();
        Ok(Self { socket: Socket::open(None, 0).at(Stage::Namespace, name)?, namespace: own_namespace()? })
    }

    /// Makes a network namespace and moves the devices into it, or into the one that was entered meanwhile.
    pub fn move_devices(mut self, devices: &[NetDevicePlan], new_namespace: bool) -> Step<()> {
        if new_namespace {
            sys::unshare_namespaces(libc::CLONE_NEWNET as u32)
                .at(Stage::Namespace, || "make a network namespace".into())?;
        }
        if own_namespace()? == self.namespace {
            return refuse(Stage::Namespace, "linux.netDevices: the network namespace of the container is the host's");
        }
        let name = || "linux.netDevices: reach the container's network".to_owned();
        let mut inside = Socket::open(None, 0).at(Stage::Namespace, name)?;
        devices.iter().try_for_each(|device| move_one(&mut self.socket, &mut inside, device))
    }
}

/// Device and inode of the network namespace of this process.
fn own_namespace() -> Step<(u64, u64)> {
    let stat = statat(CWD, "/proc/self/ns/net", rustix::fs::AtFlags::empty())
        .at(Stage::Namespace, || "look at the network namespace".into())?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A link, as much as is asked of it.
struct Link {
    index: u32,
    name: String,
}

/// An address as it is told to the device's new place: `struct ifaddrmsg` without the index, and attributes.
struct Address {
    fixed: [u8; 4],
    attributes: Vec<(u16, Vec<u8>)>,
}

fn move_one(host: &mut Socket, inside: &mut Socket, device: &NetDevicePlan) -> Step<()> {
    let failed = |what: &'static str| {
        let name = device.host_name.clone();
        move |error: NetlinkError| Notice {
            stage: Stage::Namespace,
            errno: 0,
            detail: format!("linux.netDevices {name:?}: {what}: {error}"),
        }
    };
    let Some(link) = find(host, &device.host_name).map_err(failed("look it up"))? else {
        let text = format!("linux.netDevices {:?}: the host has no network device of that name", device.host_name);
        return refuse(Stage::Namespace, text);
    };
    let template = device.name.contains('%');
    let before = links(inside).map_err(failed("list the container's devices"))?;
    if !template && before.iter().any(|other| other.name == device.name) {
        let text = format!(
            "linux.netDevices {:?}: the container's network namespace has a device named {:?} already",
            device.host_name, device.name
        );
        return refuse(Stage::Namespace, text);
    }
    let addresses = addresses(host, link.index).map_err(failed("read its addresses"))?;

    // One message, so that the device never has its new name here, nor its old one there.
    let mut batch = Batch::new();
    link_message(&mut batch, libc::RTM_NEWLINK, 0, link.index, 0, 0).string(libc::IFLA_IFNAME, &device.name);
    batch.u32(libc::IFLA_NET_NS_PID, getpid().as_raw_nonzero().get() as u32);
    request(host, "moving the device", batch).map_err(failed("move it into the container"))?;

    let after = links(inside).map_err(failed("list the container's devices"))?;
    let arrived = |new: &&Link| match template {
        true => !before.iter().any(|old| (old.index, &old.name) == (new.index, &new.name)),
        false => new.name == device.name,
    };
    let Some(index) = after.iter().find(arrived).map(|link| link.index) else {
        return refuse(Stage::Namespace, format!("linux.netDevices {:?}: it did not arrive", device.host_name));
    };
    for address in &addresses {
        let mut batch = Batch::new();
        let index = index.to_ne_bytes();
        let fixed = [address.fixed.as_slice(), index.as_slice()].concat();
        batch.message(libc::RTM_NEWADDR, CREATE).raw(&fixed);
        for (kind, value) in &address.attributes {
            batch.attribute(*kind, value);
        }
        request(inside, "adding an address", batch).map_err(failed("keep its addresses"))?;
    }
    let mut batch = Batch::new();
    link_message(&mut batch, libc::RTM_NEWLINK, 0, index, UP, UP);
    request(inside, "setting the device up", batch).map_err(failed("set it up"))
}

fn request(socket: &mut Socket, what: &'static str, mut batch: Batch) -> Result<(), NetlinkError> {
    batch.acknowledge();
    socket.transact(what, &mut batch, |_, _| {})
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let attributes = attributes(payload.get(16..)?);
    Some(Link { index: u32_of(&payload[4..])?, name: attributes.string(libc::IFLA_IFNAME)?.to_owned() })
}

fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut batch = Batch::new();
    link_message(&mut batch, libc::RTM_GETLINK, 0, 0, 0, 0).string(libc::IFLA_IFNAME, name);
    batch.acknowledge();
    let mut found = None;
    match socket.transact("looking a device up", &mut batch, |_, payload| found = parse_link(payload)) {
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
        // By an alternative name too: then it has another one.
        Ok(()) => Ok(found.filter(|link| link.name == name)),
    }
}

fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut batch = Batch::new();
    link_message(&mut batch, libc::RTM_GETLINK, DUMP, 0, 0, 0);
    let mut links = Vec::new();
    socket.dump("listing devices", &mut batch, |_, payload| links.extend(parse_link(payload)))?;
    Ok(links)
}

/// The addresses of a link that go with it.
fn addresses(socket: &mut Socket, link: u32) -> Result<Vec<Address>, NetlinkError> {
    let mut batch = Batch::new();
    batch.message(libc::RTM_GETADDR, DUMP).raw(&[0; 8]);
    let mut addresses = Vec::new();
    socket.dump("listing addresses", &mut batch, |_, payload| {
        if payload.get(4..).and_then(u32_of) == Some(link) {
            addresses.extend(kept(payload));
        }
    })?;
    Ok(addresses)
}

/// An address of `struct ifaddrmsg` and its attributes, if it is permanent and of global scope.
fn kept(payload: &[u8]) -> Option<Address> {
    let found: Attributes<'_> = attributes(payload.get(8..)?);
    let flags = found.u32(libc::IFA_FLAGS).unwrap_or(u32::from(payload[2]));
    if flags & libc::IFA_F_PERMANENT == 0 || payload[3] != libc::RT_SCOPE_UNIVERSE {
        return None;
    }
    let same = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST, IFA_RT_PRIORITY];
    let mut attributes: Vec<_> = same.iter().filter_map(|&kind| Some((kind, found.get(kind)?.to_vec()))).collect();
    attributes.push((libc::IFA_FLAGS, (flags & SETTINGS).to_ne_bytes().to_vec()));
    Some(Address { fixed: [payload[0], payload[1], 0, payload[3]], attributes })
}
