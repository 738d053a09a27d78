//! The cgroup of a bundle's container: made by ourselves or by systemd, and found again.

use anyhow::Context;
use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};

use super::Result;
use super::rootless::Limits;
use crate::runtime::cgroup::systemd::{Scope, ScopeName, ScopeOptions, Seed, Systemd, parse_property};
use crate::runtime::cgroup::{Cgroup, CgroupPath, CreateOptions, Host, OnExisting, default_device_rules};
use crate::runtime::compile;

/// A unit of systemd, as the record of a container has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unit {
    name: String,
    /// Of the user's systemd, not the machine's.
    user: bool,
}

impl Unit {
    pub fn of(cgroup: &Cgroup) -> Option<Self> {
        let scope = cgroup.scope()?;
        Some(Self { name: scope.unit.clone(), user: scope.systemd.is_user() })
    }

    pub fn scope(&self) -> Scope {
        let systemd = if self.user { Systemd::user() } else { Systemd::system() };
        Scope { systemd, unit: self.name.clone() }
    }
}

/// Makes the cgroup, which the container's root gets where it is to manage it; none where the caller cannot have one and
/// no limit asks for it. With `systemd` it is a scope, which lasts as long as the seed or a process of the container's.
pub(super) fn make(spec: &Spec, id: &str, limits: Limits, systemd: bool) -> Result<(Option<Cgroup>, Option<Seed>)> {
    let asked = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let resources = limits.resources(resources(asked));
    // Before there is a cgroup that an error would leave behind.
    let owner = compile::cgroup_owner(spec)?;
    let make = || -> Result<_> {
        let (cgroup, seed) = if systemd { scope(spec, id, &resources)? } else { (own(spec, id, &resources)?, None) };
        if let Some(owner) = owner
            && let Err(error) = cgroup.delegate(owner)
        {
            drop(seed);
            let _ = cgroup.remove(); // the first error is the one to tell
            return Err(error.into());
        }
        Ok((cgroup, seed))
    };
    Ok(match limits.without(make(), asked)? {
        Some((cgroup, seed)) => (Some(cgroup), seed),
        None => (None, None),
    })
}

/// What the specification says of the cgroup's name; empty for nothing.
fn asked_path(spec: &Spec) -> String {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn own(spec: &Spec, id: &str, resources: &LinuxResources) -> Result<Cgroup> {
    let path = match asked_path(spec) {
        path if path.starts_with('/') => path,
        path if path.is_empty() => format!("/{id}"),
        path => format!("/{path}"),
    };
    let options = CreateOptions { existing: OnExisting::Adopt, ..CreateOptions::default() };
    Ok(Host::detect()?.create(&CgroupPath::new(&path)?, resources, options)?)
}

fn scope(spec: &Spec, id: &str, resources: &LinuxResources) -> Result<(Cgroup, Option<Seed>)> {
    let (systemd, slice) = match owns_the_machine() {
        true => (Systemd::system(), "system.slice"),
        false => (Systemd::user(), "user.slice"),
    };
    let name = ScopeName::parse(&asked_path(spec), slice, id)?;
    let options = ScopeOptions { pids: Vec::new(), properties: properties(spec)? };
    Ok(Host::detect()?.create_scope(&systemd, &name, resources, options)?)
}

/// The properties that whoever wrote the bundle wants the scope to have. Nothing of a pod ever comes here: its
/// annotations are its owner's, and systemd runs commands that properties name.
fn properties(spec: &Spec) -> Result<Vec<crate::runtime::cgroup::systemd::Property>> {
    let mut annotations: Vec<_> = spec.annotations().iter().flatten().collect();
    annotations.sort();
    let ours = annotations.into_iter().filter(|(key, _)| key.starts_with("org.systemd.property."));
    ours.map(|(key, value)| parse_property(key, value).with_context(|| format!("annotation {key}"))).collect()
}

/// Whether the machine's systemd is ours to ask: root, and not only that of a user namespace.
fn owns_the_machine() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// The limits of the specification. Its device rules come before those that every container has; engines rely on it
/// and say no more than "nothing else".
fn resources(asked: Option<&LinuxResources>) -> LinuxResources {
    let mut resources = asked.cloned().unwrap_or_default();
    let mut devices = resources.devices().clone().unwrap_or_default();
    devices.extend(default_device_rules());
    resources.set_devices(Some(devices));
    resources
}
