//! Control groups: where a container's processes are counted, limited, frozen and killed.
//!
//! Only the agent is here. It makes a cgroup, writes the limits while nothing is in it, and hands out an [`Entry`]
//! with which the child walks in by itself: moving another process in takes a lock of the whole kernel and costs ten
//! milliseconds on an idle machine, so nothing in this module ever writes `cgroup.procs`. With the systemd driver
//! ([`systemd`]), where systemd moves a process for every scope, it is one that does nothing.
//!
//! Both layouts are served, and which one is in force is found once ([`Host::detect`]): the unified hierarchy
//! (version 2), or one hierarchy a controller (version 1, also where a version 2 mount without the controllers that
//! containers need stands beside it). From `LinuxResources` of the runtime-spec, pure functions make a list of
//! settings; what a controller of the host cannot do is an error that says so.
//!
//! Everything here blocks, if only for microseconds; [`Cgroup::remove`], [`Cgroup::freeze`] and [`Cgroup::kill`] can
//! take longer and belong on a thread that may wait.

mod bpf;
mod convert;
mod dbus;
mod delegate;
mod devices;
mod error;
mod freeze;
mod group;
mod host;
mod io;
mod kill;
mod parse;
mod path;
mod remove;
mod settings;
mod stats;
pub(crate) mod sys;
pub mod systemd;
mod update;
mod v1;
mod v2;
mod watch;

pub use convert::{io_weight_from_blkio, weight_from_shares};
pub use dbus::{Address as BusAddress, DbusError};
pub use devices::default_device_rules;
pub use error::CgroupError;
pub use group::{Cgroup, CreateOptions, Entry, OnExisting};
pub use host::{Controllers, Host, Version};
pub use path::CgroupPath;
pub use stats::{CpuStats, IoStats, LightStats, MemoryStats, PidsStats, Pressure, PressureLine, Stats};

/// What goes wrong here, with the file and the value.
pub type Result<T, E = CgroupError> = std::result::Result<T, E>;
