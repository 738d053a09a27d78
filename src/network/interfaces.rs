//! Traffic counters of a pod, for stats.

use std::os::fd::BorrowedFd;

use super::netlink::Route;
use super::{NetworkError, namespace};

/// Counters of one interface since it was made, as the pod sees them: `rx` is what the pod received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    pub name: String,
    pub loopback: bool,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// A netlink socket that was opened inside a pod's namespace, so that reading its counters costs a few system calls
/// and no thread. It keeps the namespace alive: drop it when the pod stops.
#[derive(Debug)]
pub struct InterfaceReader {
    route: Route,
    /// Index, name, whether it is loopback; counters come without.
    names: Vec<(u32, String, bool)>,
}

impl InterfaceReader {
    /// A reader whose interfaces are known: besides loopback one of this index and name.
    pub(super) fn new(route: Route, index: u32, name: &str) -> Self {
        Self { route, names: vec![(Route::LOOPBACK, "lo".to_owned(), true), (index, name.to_owned(), false)] }
    }

    /// Opens a reader in a namespace, on a thread of its own (some 50 us).
    pub fn open(namespace: BorrowedFd<'_>) -> Result<Self, NetworkError> {
        namespace::on_thread(|| {
            namespace::enter(namespace)
                .map_err(|error| NetworkError::kernel("entering the network namespace", error))?;
            let failed = || NetworkError::netlink("counters of the pod");
            let mut route = Route::open().map_err(failed())?;
            let names = route.names().map_err(failed())?;
            Ok(Self { route, names })
        })
        .map_err(|error| NetworkError::kernel("starting a thread", error))?
    }

    /// The counters of every interface in the namespace, loopback among them.
    pub fn read(&mut self) -> Result<Vec<InterfaceCounters>, NetworkError> {
        let failed = || NetworkError::netlink("counters of the pod");
        let counters = self.route.counters().map_err(failed())?;
        if counters.iter().any(|(index, _)| !self.names.iter().any(|(known, ..)| known == index)) {
            self.names = self.route.names().map_err(failed())?;
        }
        let named = counters.into_iter().filter_map(|(index, mut counters)| {
            // An interface that came and went between the two looks has no name and does not matter.
            let (_, name, loopback) = self.names.iter().find(|(known, ..)| *known == index)?;
            counters.name.clone_from(name);
            counters.loopback = *loopback;
            Some(counters)
        });
        Ok(named.collect())
    }
}
