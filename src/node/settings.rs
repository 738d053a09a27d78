//! What the node has to be told once, when it is opened.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::views::CgroupDriver;
use crate::network::NetworkConfig;
use crate::registry::ClientConfig;

/// Settings of a node; the command line makes them of the configuration file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Records, images and writable layers; on a disk.
    pub root: PathBuf,
    /// Sockets, generated files, shared memory; on a tmpfs.
    pub state: PathBuf,
    pub network: NetworkConfig,
    pub registry: ClientConfig,
    pub images: crate::config::Images,
    pub cgroup_driver: CgroupDriver,
    /// The parent of pods for which no cgroup parent is asked.
    pub cgroup_parent: String,
    /// Runtime handlers beside "" and "orlop", which are the runtime that is built in.
    pub handlers: BTreeMap<String, crate::config::Handler>,
    /// Sysctls that every pod with a network namespace of its own gets, unless it asks for another value.
    pub default_sysctls: Vec<(String, String)>,
    /// A seccomp profile (JSON) that takes the place of the built-in `RuntimeDefault`.
    pub seccomp_profile: Option<PathBuf>,
}
