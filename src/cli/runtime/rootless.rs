//! Callers without the machine's privileges: a plain user, and root in somebody else's user namespace.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Error, bail};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxResources, Spec};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use serde_json::Value;

use super::{Result, Rootless};
use crate::runtime::cgroup::{CgroupError, Host, Version};
use crate::runtime::compile::{CgroupView, HostFacts, V1Hierarchy};

/// What the caller may not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// A cgroup that cannot be had is done without, if no limit asks for it.
    pub no_cgroup: bool,
    /// No device node can be made.
    pub no_devices: bool,
    /// It is not root in any way.
    pub plain: bool,
}

impl Limits {
    /// Of this process. `asked`: what the flag says of the cgroups.
    pub fn of(asked: Rootless) -> Self {
        let plain = !geteuid().is_root();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let nested = !map.is_empty() && !map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        let no_cgroup = match asked {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto => plain || nested,
        };
        Self { no_cgroup, no_devices: plain || nested, plain }
    }

    /// Refuses what a plain user cannot have, with what would help.
    pub fn check(self, spec: &Spec) -> Result<()> {
        let linux = spec.linux().as_ref();
        let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
        if !self.plain {
            return Ok(());
        }
        if !namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::User) {
            bail!(
                "a user that is not root needs a user namespace for a container: add {{\"type\": \"user\"}} to \
                 linux.namespaces, with linux.uidMappings and linux.gidMappings"
            );
        }
        let groups = spec.process().as_ref().and_then(|p| p.user().additional_gids().as_ref());
        let gids = linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default();
        if groups.is_some_and(|groups| !groups.is_empty()) && single(gids, getegid().as_raw()) {
            bail!(
                "process.user.additionalGids: cannot set any additional groups where a plain user maps no more than the \
                 own group"
            );
        }
        Ok(())
    }

    /// Completes what the compiler is told.
    pub fn complete(self, facts: HostFacts, spec: &Spec) -> Result<HostFacts> {
        let map_tools = if self.plain { tools(spec)? } else { None };
        Ok(HostFacts { bind_devices: self.no_devices, map_tools, ..facts })
    }

    /// The limits that are tried: device rules are left out where nobody can make a device anyway.
    pub fn resources(self, mut resources: LinuxResources) -> LinuxResources {
        if self.no_cgroup && self.no_devices {
            resources.set_devices(None);
        }
        resources
    }

    /// What a failure to make the cgroup comes to: none at all, or an error.
    pub fn without<T>(self, made: Result<T>, resources: Option<&LinuxResources>) -> Result<Option<T>> {
        let error = match made {
            Ok(made) => return Ok(Some(made)),
            Err(error) => error,
        };
        if !self.no_cgroup || !forbidden(&error) {
            return Err(error);
        }
        if asks(resources) {
            return Err(error.context(
                "the limits in linux.resources need a cgroup, and this user cannot make one (a delegated cgroup or \
                 --systemd-cgroup gives one)",
            ));
        }
        Ok(None)
    }
}

/// Whether an error is one that a privileged caller would not get.
fn forbidden(error: &Error) -> bool {
    error.chain().any(|cause| {
        let errno = cause.downcast_ref::<Errno>();
        errno.is_some_and(|errno| matches!(*errno, Errno::ACCESS | Errno::PERM | Errno::ROFS))
            || matches!(cause.downcast_ref(), Some(CgroupError::NoHierarchy(_)))
    })
}

/// Whether there is any limit; rules for devices are none.
pub(super) fn asks(resources: Option<&LinuxResources>) -> bool {
    let Some(Ok(Value::Object(fields))) = resources.map(serde_json::to_value) else { return false };
    fields.iter().any(|(name, value)| name != "devices" && says_something(value))
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => fields.values().any(says_something),
        _ => true,
    }
}

/// A user's own id and nothing else.
fn single(mappings: &[LinuxIdMapping], own: u32) -> bool {
    matches!(mappings, [one] if one.host_id() == own && one.size() == 1)
}

/// newuidmap(1) and newgidmap(1), as far as the mappings need them.
fn tools(spec: &Spec) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let linux = spec.linux().as_ref();
    let find = |name: &str, mappings: &[LinuxIdMapping], own: u32| {
        if mappings.is_empty() || single(mappings, own) {
            return Ok(Vec::new());
        }
        match find_program(name) {
            Some(path) => Ok(path.as_os_str().as_bytes().to_vec()),
            None => bail!(
                "a plain user needs {name} (Debian's package uidmap) to map more than the own id, and no directory of \
                 PATH has it"
            ),
        }
    };
    let uids = linux.and_then(|l| l.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default();
    Ok(Some((find("newuidmap", uids, geteuid().as_raw())?, find("newgidmap", gids, getegid().as_raw())?)))
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

/// The view of cgroups of a container that has none of its own: those of the caller, for reading only.
pub(super) fn shared_cgroups() -> HostFacts {
    let view = Host::detect().map_or(CgroupView::None, |host| {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        view(&host, &own)
    });
    HostFacts { cgroup_view: view, cgroup_readonly: true, ..HostFacts::default() }
}

fn view(host: &Host, own: &str) -> CgroupView {
    let below = |controllers: &str| {
        let line = own.lines().find_map(|line| {
            let (list, path) = line.split_once(':')?.1.split_once(':')?;
            (list == controllers || list == format!("name={controllers}")).then_some(path)
        });
        line.unwrap_or_default().trim_start_matches('/').to_owned()
    };
    let mut mounts = host.mounts().map(Path::to_path_buf);
    match host.version() {
        Version::V2 => mounts.next().map_or(CgroupView::None, |mount| CgroupView::V2(mount.join(below("")))),
        Version::V1 => CgroupView::V1(
            mounts
                .map(|mount| {
                    let name = mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    V1Hierarchy { directory: mount.join(below(&name)), name }
                })
                .collect(),
        ),
    }
}
