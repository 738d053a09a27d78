//! Namespaces: which are new, which are entered, and what may be set in them.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::mappings::{id_maps, time_offsets};
use super::{HostFacts, Result, absolute, invalid, without_nul};
use crate::runtime::plan::{IdMaps, JoinNamespace, TimePlan, UserPlan};

pub(super) const MOUNT: u32 = libc::CLONE_NEWNS as u32;
pub(super) const CGROUP: u32 = libc::CLONE_NEWCGROUP as u32;
pub(super) const UTS: u32 = libc::CLONE_NEWUTS as u32;
pub(super) const IPC: u32 = libc::CLONE_NEWIPC as u32;
pub(super) const PID: u32 = libc::CLONE_NEWPID as u32;
pub(super) const NET: u32 = libc::CLONE_NEWNET as u32;
pub(super) const USER: u32 = libc::CLONE_NEWUSER as u32;
/// `CLONE_NEWTIME`, which is no flag of clone(2).
const TIME: u32 = 0x80;

/// The longest host name that the kernel keeps.
const MAX_NAME: usize = 64;

/// Where each namespace of the container comes from.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    new: u32,
    joined: u32,
    /// In the order of the list, without the user namespace.
    pub join: Vec<JoinNamespace>,
    pub user: Option<UserPlan>,
    pub time: Option<TimePlan>,
    /// Not the host's, but the caller's own.
    inherited: u32,
    /// Entered by path, and the host's.
    hosts: u32,
}

impl Namespaces {
    pub fn of(spec: &Spec, host: &HostFacts) -> Result<Self> {
        let mut all = Self { inherited: host.pod_namespaces, hosts: host.host_namespaces, ..Self::default() };
        let linux = spec.linux().as_ref();
        let mut user_path = None;
        for namespace in linux.iter().filter_map(|l| l.namespaces().as_ref()).flatten() {
            let kind = kind_of(namespace.typ());
            if (all.new | all.joined) & kind != 0 {
                return invalid("linux.namespaces", format!("{} is there twice", namespace.typ()));
            }
            // Engines write an empty path for a new one.
            let Some(path) = namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) else {
                all.new |= kind;
                continue;
            };
            let path = absolute("linux.namespaces.path", path.as_os_str().as_bytes())?;
            all.joined |= kind;
            if kind == USER {
                user_path = Some(path);
            } else {
                all.join.push(JoinNamespace { kind, path });
            }
        }
        if (all.new | all.joined) & MOUNT == 0 {
            return invalid("linux.namespaces", "a container needs a mount namespace of its own");
        }
        let maps = id_maps(
            "linux.",
            linux.and_then(|l| l.uid_mappings().as_deref()),
            linux.and_then(|l| l.gid_mappings().as_deref()),
        )?;
        all.user = all.user_plan(user_path, maps, host)?;
        let offsets = time_offsets(linux.and_then(|l| l.time_offsets().as_ref()))?;
        match (all.new & TIME != 0, offsets.is_empty()) {
            (true, _) => all.time = Some(TimePlan { offsets }),
            (false, true) => {}
            (false, false) => return invalid("linux.timeOffsets", "can be set only in a new time namespace"),
        }
        // The namespace of the init is entered by the parent of the fork, unless that is the stager's work.
        if all.user.is_none() {
            all.join.retain(|namespace| namespace.kind != PID);
        }
        Ok(all)
    }

    fn user_plan(&self, path: Option<Vec<u8>>, maps: Option<IdMaps>, host: &HostFacts) -> Result<Option<UserPlan>> {
        let new = self.new & USER != 0;
        match (new || path.is_some(), maps) {
            (false, None) => Ok(None),
            (false, Some(_)) => invalid("linux.uidMappings", "can be set only with a user namespace"),
            (true, None) if new => invalid("linux.uidMappings", "is missing, and a new user namespace needs it"),
            (true, maps) => Ok(Some(UserPlan {
                path,
                maps: maps.unwrap_or_default(),
                new_namespaces: u64::from(self.new & !TIME),
                tools: host.map_tools.clone(),
            })),
        }
    }

    /// For the fork: what clone3 makes. Nothing where a stager is first.
    pub fn cloned(&self) -> u32 {
        if self.user.is_some() { 0 } else { self.new & !(CGROUP | TIME) }
    }

    pub fn new_cgroup(&self) -> bool {
        self.new & CGROUP != 0
    }

    /// The parent of the fork enters the PID namespace.
    pub fn parent_joins_pid(&self) -> bool {
        self.user.is_none() && self.joined & PID != 0
    }

    /// Whether the container has a namespace of this kind that is not the host's.
    pub fn is_private(&self, kind: u32) -> bool {
        (self.new | self.joined & !self.hosts | self.inherited) & kind != 0
    }

    /// Whether it has an entry in the list.
    pub fn owns(&self, kind: u32) -> bool {
        (self.new | self.joined) & kind != 0
    }

    /// Those of the container's init that an exec enters through its pidfd.
    pub fn entered_by_exec(&self) -> u32 {
        self.new | self.joined
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

fn kind_of(kind: LinuxNamespaceType) -> u32 {
    match kind {
        LinuxNamespaceType::Mount => MOUNT,
        LinuxNamespaceType::Cgroup => CGROUP,
        LinuxNamespaceType::Uts => UTS,
        LinuxNamespaceType::Ipc => IPC,
        LinuxNamespaceType::Pid => PID,
        LinuxNamespaceType::Network => NET,
        LinuxNamespaceType::User => USER,
        LinuxNamespaceType::Time => TIME,
    }
}
