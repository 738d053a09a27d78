//! The one thread that makes namespaces, fills the pool behind the requests, and takes addresses back when the kernel
//! is done with them.
//!
//! It sleeps in poll(2) until there is something to do: somebody took from the pool, a link went away, or somebody
//! deleted our nftables table.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::oneshot;

use super::addresses::{Addresses, PodAddress, Subnets, address_of};
use super::bridge::{self, Bridge};
use super::ports::Ports;
use super::rules::{self, Policy};
use crate::network::netlink::{LinkEvent, Nft, Route, Veth};
use crate::network::{BuiltinConfig, InterfaceReader, NetworkError, namespace};

/// How long a namespace may outlive its pod before its link is deleted by force.
const GRACE: Duration = Duration::from_secs(5);
/// How long after a failure the bridge and the table are looked after again.
const REPAIR: Duration = Duration::from_secs(5);
const INTERFACE: &str = "eth0";

/// A namespace that is ready for a pod.
#[derive(Debug)]
pub(super) struct Prepared {
    pub netns: OwnedFd,
    pub counters: InterfaceReader,
    pub lease: Lease,
}

/// Holds an address: dropped, it lets the address go; [`Lease::keep`] leaves it to the books.
#[derive(Debug)]
pub(super) struct Lease {
    pub address: PodAddress,
    shared: Weak<Shared>,
}

impl Lease {
    /// The address is the pod's that the books name.
    pub fn keep(mut self) {
        self.shared = Weak::new();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut state = shared.lock();
            shared.retire(&mut state, self.address.v4);
            drop(state);
            shared.wake();
        }
    }
}

/// Somebody waits for a namespace.
pub(super) struct Waiter {
    /// A namespace to fill instead of a new one.
    pub given: Option<OwnedFd>,
    pub reply: oneshot::Sender<Result<Prepared, NetworkError>>,
}

/// What the thread and the callers share.
pub(super) struct Shared {
    pub config: BuiltinConfig,
    state: Mutex<State>,
    wake: OwnedFd,
}

pub(super) struct State {
    pub addresses: Addresses,
    pub ports: Ports,
    pub ready: VecDeque<Prepared>,
    pub waiters: VecDeque<Waiter>,
    pub bridge: Bridge,
    /// The subnets of the bridge: today's, and former ones that pods still have addresses of.
    pub nets: Vec<IpNet>,
    /// Whether recovery is done: before it, nobody knows which addresses are free.
    pub recovered: bool,
    /// Why the last thing that the thread tried did not work.
    pub failure: Option<String>,
    pub stop: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(config: BuiltinConfig, addresses: Addresses, bridge: Bridge) -> io::Result<Self> {
        let state = State {
            addresses,
            ports: Ports::default(),
            ready: VecDeque::new(),
            waiters: VecDeque::new(),
            bridge,
            nets: Vec::new(),
            recovered: false,
            failure: None,
            stop: false,
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { config, state: Mutex::new(state), wake })
    }

    /// A panic elsewhere leaves books that are still consistent: each change of them is one step.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread look for work.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The pod's address may be reused once its link is gone.
    pub fn retire(&self, state: &mut State, address: Ipv4Addr) {
        state.addresses.retire(address, Instant::now() + GRACE);
    }

    /// Puts the whole table in place.
    pub fn write_table(&self, nft: &mut Nft, state: &State) -> Result<(), NetworkError> {
        let policy = Policy {
            bridge: &self.config.bridge,
            nets: &state.nets,
            masquerade: self.config.masquerade,
            no_masquerade: &self.config.no_masquerade,
        };
        nft.commit(rules::table(&policy, &state.ports.all())).map_err(NetworkError::netlink("nftables table orlop"))
    }
}

/// The thread's own things.
struct Worker {
    shared: Arc<Shared>,
    home: OwnedFd,
    route: Route,
    links: Route,
    nft: Nft,
    tables: Nft,
    repair_at: Option<Instant>,
}

/// Starts the thread in the calling thread's network namespace.
pub(super) fn start(shared: Arc<Shared>) -> Result<std::thread::JoinHandle<()>, NetworkError> {
    let sockets = NetworkError::netlink;
    let mut worker = Worker {
        shared,
        home: namespace::current().map_err(|error| NetworkError::kernel("opening the network namespace", error))?,
        route: Route::open().map_err(sockets("the network thread"))?,
        links: Route::watch_links().map_err(sockets("the network thread"))?,
        nft: Nft::open().map_err(sockets("the network thread"))?,
        tables: Nft::watch().map_err(sockets("the network thread"))?,
        repair_at: None,
    };
    std::thread::Builder::new()
        .name("orlop-network".to_owned())
        .spawn(move || {
            let _ending = Ending(Arc::clone(&worker.shared));
            worker.run();
        })
        .map_err(|error| NetworkError::kernel("starting the network thread", error))
}

/// However the thread ends: nobody waits for it any more.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.stop = true;
        let waiters = std::mem::take(&mut state.waiters);
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        drop((waiters, ready));
    }
}

/// What a namespace is made with.
#[derive(Clone, Copy)]
struct Plan {
    address: PodAddress,
    subnets: Subnets,
    bridge: Bridge,
}

impl Worker {
    fn run(&mut self) {
        loop {
            self.make_all();
            if self.shared.lock().stop {
                return;
            }
            if let Err(error) = self.wait() {
                self.fail(&NetworkError::kernel("the network thread", error));
                self.pause();
            }
            self.follow_links();
            self.follow_tables();
            self.delete_overdue();
            self.repair();
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> io::Result<()> {
        let deadline = self.shared.lock().addresses.next_deadline().map(|(_, deadline)| deadline);
        let deadline = deadline.into_iter().chain(self.repair_at).min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let mut fds = [
            PollFd::from_borrowed_fd(self.shared.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.links.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.tables.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut count = [0; 8];
        match rustix::io::read(&self.shared.wake, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// After a failure that would repeat at once.
    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Serves who waits, then fills the pool.
    fn make_all(&mut self) {
        loop {
            let mut state = self.shared.lock();
            if state.stop || !state.recovered {
                return;
            }
            // Somebody came while one was made for the pool.
            if state.waiters.front().is_some_and(|waiter| waiter.given.is_none())
                && let Some(prepared) = state.ready.pop_front()
                && let Some(waiter) = state.waiters.pop_front()
            {
                drop(state);
                drop(waiter.reply.send(Ok(prepared)));
                continue;
            }
            let wanted = !state.waiters.is_empty() || state.ready.len() < self.shared.config.pool_size;
            if !wanted || (state.waiters.is_empty() && self.repair_at.is_some()) {
                return;
            }
            let address = match state.addresses.take() {
                Ok(address) => address,
                // Addresses that are about to come back are waited for.
                Err(_) if state.addresses.next_deadline().is_some() => return,
                // A given namespace cannot be served from the pool, but its address can.
                Err(_) if !state.waiters.is_empty() && !state.ready.is_empty() => {
                    let spare = state.ready.pop_front();
                    drop(state);
                    drop(spare);
                    return;
                }
                // A full pool of a small subnet is no problem as long as nobody waits.
                Err(_) if state.waiters.is_empty() => return,
                Err(error) => {
                    drop(state);
                    self.refuse_waiters(error);
                    return;
                }
            };
            let waiter = state.waiters.pop_front();
            let plan = Plan { address, subnets: state.addresses.subnets(), bridge: state.bridge };
            drop(state);
            self.serve(waiter, plan);
        }
    }

    fn serve(&mut self, waiter: Option<Waiter>, plan: Plan) {
        let lease = Lease { address: plan.address, shared: Arc::downgrade(&self.shared) };
        let (given, reply) = waiter.map_or((None, None), |waiter| (waiter.given, Some(waiter.reply)));
        let made = self.make(given, plan).map(|(netns, counters)| Prepared { netns, counters, lease });
        match &made {
            Ok(_) => self.succeed(),
            Err(error) => self.fail(error),
        }
        match (made, reply) {
            // Nobody waits any more: the lease ends with the answer that nobody got.
            (made, Some(reply)) => drop(reply.send(made)),
            (Ok(prepared), None) => self.keep(prepared, plan.subnets),
            (Err(_), None) => {}
        }
    }

    /// Into the pool, unless the subnets changed meanwhile.
    fn keep(&self, prepared: Prepared, subnets: Subnets) {
        let mut state = self.shared.lock();
        if state.addresses.subnets() == subnets {
            state.ready.push_back(prepared);
        } else {
            drop(state);
            drop(prepared);
        }
    }

    fn refuse_waiters(&self, error: NetworkError) {
        let waiters = std::mem::take(&mut self.shared.lock().waiters);
        let NetworkError::SubnetFull { subnet, used } = error else { return };
        for waiter in waiters {
            let _ = waiter.reply.send(Err(NetworkError::SubnetFull { subnet, used }));
        }
    }

    /// Makes one namespace and goes home.
    fn make(&mut self, given: Option<OwnedFd>, plan: Plan) -> Result<(OwnedFd, InterfaceReader), NetworkError> {
        let ours = given.is_none();
        let made = self.make_there(given, plan);
        if let Err(error) = namespace::enter(&self.home) {
            // This thread is useless in a pod's namespace; setns to a namespace that a descriptor holds cannot fail
            // short of the process losing its capabilities.
            self.shared.lock().stop = true;
            return Err(NetworkError::kernel("returning to the node's network namespace", error));
        }
        if made.is_err() && !ours {
            // A given namespace would keep the link that a new one takes away with it.
            let _ = self.route.delete_link(&plan.address.link());
        }
        made
    }

    fn make_there(&mut self, given: Option<OwnedFd>, plan: Plan) -> Result<(OwnedFd, InterfaceReader), NetworkError> {
        let Plan { address, subnets, bridge } = plan;
        let netns = match given {
            Some(netns) => namespace::enter(&netns).map(|()| netns),
            None => namespace::enter_new(),
        };
        let netns = netns.map_err(|error| NetworkError::kernel("making a network namespace", error))?;
        let link = address.link();
        let veth = Veth {
            name: &link,
            bridge: bridge.index,
            mtu: bridge.mtu,
            peer_name: INTERFACE,
            peer_mac: address.mac(),
            peer_namespace: netns.as_fd(),
        };
        self.route.add_veth(&veth).map_err(NetworkError::netlink(&link))?;
        bridge::pod_sysctls(INTERFACE, address.v6.is_some())?;
        let mut inside = Route::open().map_err(NetworkError::netlink(INTERFACE))?;
        let index = inside.pod_links_up(INTERFACE).map_err(NetworkError::netlink(INTERFACE))?;
        let addresses: Vec<(IpNet, IpAddr)> = address
            .ips()
            .zip(subnets.gateways())
            .filter_map(|(ip, gateway)| Some((IpNet::new(ip, gateway.prefix_len()).ok()?, gateway.addr())))
            .collect();
        inside.pod_addresses(index, &addresses, bridge.mac).map_err(NetworkError::netlink(INTERFACE))?;
        Ok((netns, InterfaceReader::new(inside, index, INTERFACE)))
    }

    /// Frees the addresses of links that are gone.
    fn follow_links(&mut self) {
        let mut gone = Vec::new();
        let mut bridge_gone = false;
        let bridge = &self.shared.config.bridge;
        let lost = self.links.events(|event| {
            if let LinkEvent::Gone(link) = event {
                gone.extend(address_of(&link.name));
                bridge_gone |= link.name == *bridge;
            }
        });
        let mut state = self.shared.lock();
        for address in gone {
            state.addresses.link_gone(address);
        }
        drop(state);
        if !matches!(lost, Ok(false)) {
            self.compare_links();
        }
        if bridge_gone {
            self.fail(&NetworkError::Config(format!("somebody deleted the bridge {}", self.shared.config.bridge)));
            self.repair_at = Some(Instant::now());
        }
    }

    /// Events were lost: look which links of retired addresses are still there.
    fn compare_links(&mut self) {
        let Ok(links) = self.route.links() else { return };
        let present: Vec<Ipv4Addr> = links.iter().filter_map(|link| address_of(&link.name)).collect();
        self.shared.lock().addresses.keep_links(&present);
    }

    /// Somebody flushed the rules of the node, ours among them: bring them back.
    fn follow_tables(&mut self) {
        if matches!(self.tables.table_deleted(rules::TABLE), Ok(false)) {
            return;
        }
        let state = self.shared.lock();
        if !state.recovered || matches!(self.nft.table_exists(rules::TABLE), Ok(true)) {
            return;
        }
        let written = self.shared.write_table(&mut self.nft, &state);
        drop(state);
        match written {
            Ok(()) => tracing::warn!("the nftables table orlop was deleted; it is back"),
            Err(error) => self.fail(&error),
        }
    }

    /// Deletes one link whose namespace lives on though its pod is gone. It takes 30 ms, so requests go between.
    fn delete_overdue(&mut self) {
        let Some((address, deadline)) = self.shared.lock().addresses.next_deadline() else { return };
        if deadline > Instant::now() {
            return;
        }
        let link = PodAddress { v4: address, v6: None }.link();
        let deleted = self.route.delete_link(&link);
        let mut state = self.shared.lock();
        match deleted {
            Ok(()) => {
                state.addresses.link_gone(address);
            }
            Err(error) => {
                tracing::warn!(link, %error, "a link of a removed pod cannot be deleted; trying again");
                state.addresses.retire_found(address, Instant::now() + GRACE);
            }
        }
    }

    /// After a failure: look whether bridge and table are as they should be, and put that right.
    fn repair(&mut self) {
        if self.repair_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        match self.restore() {
            Ok(()) => self.succeed(),
            Err(error) => self.fail(&error),
        }
    }

    fn restore(&mut self) -> Result<(), NetworkError> {
        let subnets = self.shared.lock().addresses.subnets();
        let bridge = bridge::ensure(&mut self.route, &self.shared.config, subnets)?;
        for link in self.route.links().map_err(NetworkError::netlink("the pods' links"))? {
            if address_of(&link.name).is_some() && link.master != Some(bridge.index) {
                self.route.set_master(&link.name, bridge.index).map_err(NetworkError::netlink(&link.name))?;
            }
        }
        let mut state = self.shared.lock();
        state.bridge = bridge;
        for net in state.nets.clone() {
            self.route.add_address(bridge.index, net).map_err(NetworkError::netlink(&self.shared.config.bridge))?;
        }
        if state.recovered && !self.nft.table_exists(rules::TABLE).map_err(NetworkError::netlink("nftables"))? {
            self.shared.write_table(&mut self.nft, &state)?;
        }
        Ok(())
    }

    fn fail(&mut self, error: &NetworkError) {
        let message = error.to_string();
        let mut state = self.shared.lock();
        if state.failure.as_ref() != Some(&message) {
            tracing::warn!(error = message, "the built-in network has a problem; trying again");
        }
        state.failure = Some(message);
        drop(state);
        self.repair_at = Some(Instant::now() + REPAIR);
    }

    fn succeed(&mut self) {
        if self.repair_at.take().is_some() {
            self.shared.lock().failure = None;
        }
    }
}
