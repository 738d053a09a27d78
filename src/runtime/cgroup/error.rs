//! The errors of the cgroup room; each names the file and the value.

use std::path::PathBuf;

use rustix::io::Errno;

use super::dbus::DbusError;
use super::host::{Controllers, Version};

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has no usable cgroup mounts.
    #[error("no cgroup hierarchy can be used: {0}")]
    NoHierarchy(String),
    /// A cgroup path that cannot be one.
    #[error("cgroup path {path:?} is refused: {reason}")]
    Path { path: String, reason: &'static str },
    /// The systemd driver was asked for where systemd cannot be asked.
    #[error(
        "the systemd cgroup driver cannot be used: {what}; use the cgroupfs driver, and the same one in the kubelet"
    )]
    NoSystemd { what: &'static str },
    /// Nobody answers on the bus.
    #[error("systemd cannot be asked: {cause}")]
    Bus { cause: DbusError },
    /// systemd refused something.
    #[error("systemd unit {unit}: {cause}")]
    Unit { unit: String, cause: DbusError },
    /// systemd did not carry a job out.
    #[error("systemd unit {unit}: its job {result}")]
    Job { unit: String, result: String },
    /// The process with which a scope begins could not be made.
    #[error("cannot fork the process that a scope begins with: {source}")]
    Seed { source: Errno },
    /// A field of the resources has a value that no kernel takes.
    #[error("resources: {field} = {value}: {reason}")]
    Invalid { field: String, value: String, reason: String },
    /// A limit needs a controller that this host does not have.
    #[error(
        "resources: {field} needs the cgroup controller {controller}, which this host does not offer (cgroup {version})"
    )]
    MissingController { field: String, controller: String, version: Version },
    /// A limit that this version of cgroups cannot express.
    #[error("resources: {field} cannot be set on cgroup {version}: {reason}")]
    Unsupported { field: String, version: Version, reason: &'static str },
    /// A control file refused a value.
    #[error("cannot write {value:?} to {file}: {source}")]
    Write { file: PathBuf, value: String, source: Errno },
    /// A control file could not be read.
    #[error("cannot read {file}: {source}")]
    Read { file: PathBuf, source: Errno },
    /// A control file says something unexpected.
    #[error("{file} says {text:?}, which has no {wanted}")]
    Parse { file: PathBuf, text: String, wanted: &'static str },
    /// The directory could not be made.
    #[error("cannot make cgroup {path}: {source}")]
    Make { path: PathBuf, source: Errno },
    /// A controller could not be handed down to the children of a cgroup.
    #[error(
        "cannot enable the controllers {controllers} below {path}: {source} (does the cgroup have processes of its own?)"
    )]
    Delegate { path: PathBuf, controllers: Controllers, source: Errno },
    /// A file could not be given to the container's root.
    #[error("cannot change the owner of {file}: {source}")]
    Owner { file: PathBuf, source: Errno },
    /// The directory could not be removed.
    #[error("cannot remove cgroup {path}: {source}")]
    Remove { path: PathBuf, source: Errno },
    /// A memory limit is less than what is in use and cannot be given back.
    #[error(
        "memory limit {limit} is below the {usage} bytes in use (cgroup {path}): free memory first or ask for more"
    )]
    LimitBelowUsage { path: PathBuf, limit: u64, usage: u64 },
    /// The cgroup has processes, or exists where it must not.
    #[error("cgroup {path} is in use: {reason}")]
    InUse { path: String, reason: String },
    /// The cgroup was killed: some kernels kill whatever starts in it afterwards.
    #[error("cgroup {path} was killed and takes no new process: make a new one")]
    Spent { path: String },
    /// There is no such cgroup (any more).
    #[error("cgroup {path} does not exist")]
    Gone { path: String },
    /// The processes did not stop in time; they run again.
    #[error("cgroup {path} did not freeze within {waited_ms} ms and was thawed again")]
    FreezeTimeout { path: String, waited_ms: u64 },
    /// Processes are left after killing them again and again.
    #[error("cgroup {path} still has processes after SIGKILL: {pids:?}")]
    Unkillable { path: String, pids: Vec<i32> },
    /// bpf(2) failed.
    #[error("device rules of cgroup {path}: bpf {step}: {source}")]
    Bpf { path: String, step: &'static str, source: Errno },
}

impl CgroupError {
    /// Whether the error says that the cgroup is not there.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Gone { .. } => true,
            Self::Read { source, .. } | Self::Write { source, .. } => matches!(*source, Errno::NOENT | Errno::NODEV),
            _ => false,
        }
    }

    pub(super) fn invalid(field: impl Into<String>, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), value: value.to_string(), reason: reason.into() }
    }
}
