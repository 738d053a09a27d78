//! Namespaces: which are new, which are entered, and what may be set in them.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{HostFacts, Result, absolute, invalid, unsupported, without_nul};
use crate::runtime::plan::JoinNamespace;

pub(super) const MOUNT: u32 = libc::CLONE_NEWNS as u32;
pub(super) const CGROUP: u32 = libc::CLONE_NEWCGROUP as u32;
pub(super) const UTS: u32 = libc::CLONE_NEWUTS as u32;
pub(super) const IPC: u32 = libc::CLONE_NEWIPC as u32;
pub(super) const PID: u32 = libc::CLONE_NEWPID as u32;
pub(super) const NET: u32 = libc::CLONE_NEWNET as u32;

/// The longest host name that the kernel keeps.
const MAX_NAME: usize = 64;

/// Where each namespace of the container comes from.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Made by clone3.
    pub new: u32,
    /// Made by the child, in its cgroups.
    pub new_cgroup: bool,
    pub join: Vec<JoinNamespace>,
    pub joins_pid: bool,
    joined: u32,
    /// Not the host's, but the caller's own.
    inherited: u32,
    /// Entered by path, and the host's.
    hosts: u32,
}

impl Namespaces {
    pub fn of(spec: &Spec, host: &HostFacts) -> Result<Self> {
        let mut all = Self { inherited: host.pod_namespaces, hosts: host.host_namespaces, ..Self::default() };
        let listed = spec.linux().iter().filter_map(|l| l.namespaces().as_ref()).flatten();
        for namespace in listed {
            let kind = kind_of(namespace.typ())?;
            if (all.new | all.joined) & kind != 0 || (kind == CGROUP && all.new_cgroup) {
                return invalid("linux.namespaces", format!("{} is there twice", namespace.typ()));
            }
            // Engines write an empty path for a new one.
            match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
                None if kind == CGROUP => all.new_cgroup = true,
                None => all.new |= kind,
                Some(_) if kind == MOUNT => {
                    return unsupported("linux.namespaces", "entering a mount namespace by its path");
                }
                Some(path) => {
                    let path = absolute("linux.namespaces.path", path.as_os_str().as_bytes())?;
                    all.joined |= kind;
                    if kind == PID {
                        all.joins_pid = true;
                    } else {
                        all.join.push(JoinNamespace { kind, path });
                    }
                }
            }
        }
        if all.new & MOUNT == 0 {
            return invalid("linux.namespaces", "a container needs a mount namespace of its own");
        }
        Ok(all)
    }

    /// Whether the container has a namespace of this kind that is not the host's.
    pub fn is_private(&self, kind: u32) -> bool {
        let new_cgroup = if self.new_cgroup { CGROUP } else { 0 };
        (self.new | self.joined & !self.hosts | self.inherited | new_cgroup) & kind != 0
    }

    /// Whether its PID namespace is another than the caller's.
    pub fn own_pid(&self) -> bool {
        (self.new | self.joined) & PID != 0
    }

    /// Those of the container's init that an exec enters through its pidfd; the PID namespace is entered by the parent
    /// of the fork.
    pub fn entered_by_exec(&self) -> u32 {
        let new_cgroup = if self.new_cgroup { CGROUP } else { 0 };
        (self.new | self.joined | new_cgroup) & !PID
    }

    /// A host name or domain name.
    pub fn name(&self, field: &str, value: Option<&str>) -> Result<Option<Vec<u8>>> {
        let Some(value) = value.filter(|v| !v.is_empty()) else { return Ok(None) };
        if !self.is_private(UTS) {
            return invalid(field, "can be set only in a UTS namespace of the container's own");
        }
        if value.len() > MAX_NAME {
            return invalid(field, format!("{value:?} is longer than {MAX_NAME} bytes"));
        }
        without_nul(field, value.as_bytes()).map(Some)
    }
}

fn kind_of(kind: LinuxNamespaceType) -> Result<u32> {
    Ok(match kind {
        LinuxNamespaceType::Mount => MOUNT,
        LinuxNamespaceType::Cgroup => CGROUP,
        LinuxNamespaceType::Uts => UTS,
        LinuxNamespaceType::Ipc => IPC,
        LinuxNamespaceType::Pid => PID,
        LinuxNamespaceType::Network => NET,
        LinuxNamespaceType::User => return unsupported("linux.namespaces", "user namespaces"),
        LinuxNamespaceType::Time => return unsupported("linux.namespaces", "time namespaces"),
    })
}
