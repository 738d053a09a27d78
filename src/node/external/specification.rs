//! From our spec of a container to the config.json of its bundle.
//!
//! Our own runtime is a child of the shim and inherits the pod's namespaces; it gets a compiled filter, and clamps what
//! the machine does not allow. Another runtime is told all of it in its configuration.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp, Spec};

use crate::node::error::{NodeError, Result};
use crate::runtime::compile::CAPABILITY_NAMES;

/// The version that config.json says: the oldest that has all it uses, so that older runtimes take it.
const VERSION: &str = "1.0.2";

/// What a config.json needs beside the spec.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// Namespaces of the pod to enter, by path.
    pub namespaces: Vec<(LinuxNamespaceType, PathBuf)>,
    /// The system calls that are allowed.
    pub seccomp: Option<LinuxSeccomp>,
    /// What the runtime itself may do: no container gets more.
    pub limits: Limits,
    /// The container asks for all capabilities, which means all that there are.
    pub all_capabilities: bool,
}

/// What this machine allows its agent, and so its runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Permitted capabilities, bit by number.
    pub capabilities: u64,
    /// `oom_score_adj` cannot go below this.
    pub oom_score_adj: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { capabilities: u64::MAX, oom_score_adj: -1000 }
    }
}

impl Limits {
    /// Of this process. Without CAP_SYS_RESOURCE an `oom_score_adj` can only go up.
    pub fn of_this_process() -> Self {
        const SYS_RESOURCE: u32 = 24;
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let capabilities = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok()).unwrap_or(u64::MAX);
        if capabilities & 1 << SYS_RESOURCE != 0 {
            return Self { capabilities, ..Self::default() };
        }
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        Self { capabilities, oom_score_adj: own.trim().parse().unwrap_or(0) }
    }

    fn permits(&self, capability: &Capability) -> bool {
        let name = capability.to_string();
        CAPABILITY_NAMES.iter().position(|known| *known == name).is_none_or(|bit| self.capabilities & 1 << bit != 0)
    }
}

/// The config.json of a container.
pub(super) fn adapt(mut spec: Spec, surroundings: &Surroundings) -> Result<Spec> {
    let failed = |cause| NodeError::internal("config.json of the bundle", cause);
    spec.set_version(VERSION.to_owned());
    if let Some(process) = spec.process_mut() {
        let wanted = process.oom_score_adj().unwrap_or(0);
        process.set_oom_score_adj(Some(wanted.max(surroundings.limits.oom_score_adj)));
        if surroundings.all_capabilities
            && let Some(mut capabilities) = process.capabilities().clone()
        {
            let permitted = |set: &Option<HashSet<Capability>>| {
                let set = set.iter().flatten().filter(|capability| surroundings.limits.permits(capability));
                Some(set.copied().collect::<HashSet<_>>())
            };
            let sets = [capabilities.bounding(), capabilities.effective(), capabilities.permitted()].map(permitted);
            let [bounding, effective, all] = sets;
            capabilities.set_bounding(bounding).set_effective(effective).set_permitted(all);
            process.set_capabilities(Some(capabilities));
        }
    }
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        for (kind, path) in &surroundings.namespaces {
            let entry: LinuxNamespace =
                LinuxNamespaceBuilder::default().typ(*kind).path(path).build().map_err(failed)?;
            namespaces.push(entry);
        }
        linux.set_namespaces(Some(namespaces));
        linux.set_seccomp(surroundings.seccomp.clone());
    }
    Ok(spec)
}

/// JSON is text; the environment of a container need not be.
pub(super) fn check_environment(environment: &[Vec<u8>], handler: &str) -> Result<()> {
    let Some(entry) = environment.iter().find(|entry| std::str::from_utf8(entry).is_err()) else { return Ok(()) };
    let name = entry.split(|&byte| byte == b'=').next().unwrap_or_default();
    Err(NodeError::invalid(format!(
        "environment variable {:?} is not UTF-8, which runtime handler \"{handler}\" cannot be given",
        String::from_utf8_lossy(name)
    )))
}
