//! From a pod's and a container's configuration to an OCI runtime spec: pure functions, so that the policy of a
//! container is tested without root and without a kernel.
//!
//! What needs the machine (the image's user database, the source of a mount, the rules of the host's devices) is looked
//! up before and comes in through [`Input`].

mod devices;
mod mounts;
mod process;
mod resources;
mod security;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, RootBuilder, Spec, SpecBuilder,
};
use thiserror::Error;

pub use devices::{DeviceError, HostDevice, host_devices, look_up as look_up_devices};
pub use mounts::clean as clean_path;
pub use process::{environment, stop_signal};
pub use resources::linux_resources;
pub use security::{capabilities, default_masked_paths, default_readonly_paths};

use super::types::{ContainerConfig, NamespaceMode, PodConfig};

/// Why a configuration is no spec.
#[derive(Debug, Error)]
pub enum SpecError {
    #[error("container \"{0}\" has nothing to run: neither the request nor the image names a command")]
    NoCommand(String),
    #[error("capability \"{0}\" is unknown; names are those of capabilities(7) without CAP_")]
    Capability(String),
    #[error("mount on \"{path}\": {cause}")]
    Mount { path: String, cause: String },
    /// The kubelet knows this one by its first word.
    #[error("RROUnsupported: mount on \"{path}\": {cause}")]
    RecursiveReadOnly { path: String, cause: String },
    #[error("stop signal \"{0}\" is unknown; use a name such as SIGTERM or a number from 1 to 64")]
    StopSignal(String),
    #[error("working directory \"{0}\" is not an absolute path")]
    WorkingDirectory(String),
    #[error("environment variable {0:?} has no name, or a NUL or \"=\" in its name or a NUL in its value")]
    Environment(String),
    #[error("{0}")]
    Build(#[from] OciSpecError),
}

/// What the image says of a container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageDefaults {
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: String,
}

/// The ids that the process gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Without duplicates; holds the primary group where the policy says so.
    pub groups: Vec<u32>,
    /// The home directory, where /etc/passwd of the image names one.
    pub home: Option<String>,
}

/// Host files of the pod that its containers see.
#[derive(Clone, Debug)]
pub struct PodFiles {
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    /// A tmpfs of the pod, or the host's /dev/shm.
    pub shm: PathBuf,
}

/// A directory or file of the host that a container sees, looked at before: `source` has no symbolic link in it.
#[derive(Clone, Debug)]
pub struct ResolvedMount {
    /// Index into `ContainerConfig::mounts`.
    pub index: usize,
    pub source: PathBuf,
}

/// An image volume: a directory of the host that stands in for one of the image.
#[derive(Clone, Debug)]
pub struct Volume {
    pub destination: String,
    pub source: PathBuf,
}

/// All that a spec is made of.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    pub pod: &'a PodConfig,
    pub container_id: &'a str,
    pub config: &'a ContainerConfig,
    pub image: &'a ImageDefaults,
    pub user: &'a ResolvedUser,
    pub files: &'a PodFiles,
    pub mounts: &'a [ResolvedMount],
    pub volumes: &'a [Volume],
    /// The devices of the request, looked up; for a privileged container all of the host's.
    pub devices: &'a [HostDevice],
    /// The container's cgroup, from the hierarchy's root.
    pub cgroup: &'a str,
    /// Whether the machine has cgroup v2 alone.
    pub unified_cgroups: bool,
    /// The host's name, for pods that share its UTS namespace.
    pub host_name: &'a str,
}

/// Builds the spec of one container.
pub fn container(input: &Input<'_>) -> Result<Spec, SpecError> {
    let security = &input.config.security;
    let process = process::container(input)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .resources(linux_resources(input.config.resources.as_ref(), input.devices, security.privileged)?)
        .cgroups_path(input.cgroup)
        .devices(devices::nodes(input.devices)?)
        .rootfs_propagation(mounts::rootfs_propagation(input.config));
    if !security.privileged {
        linux = linux.masked_paths(security.masked_paths.clone()).readonly_paths(security.readonly_paths.clone());
    } else {
        linux = linux.masked_paths(Vec::<String>::new()).readonly_paths(Vec::<String>::new());
    }
    let mut spec = SpecBuilder::default()
        .version("1.3.0")
        .root(RootBuilder::default().path("rootfs").readonly(security.readonly_rootfs).build()?)
        .process(process)
        .mounts(mounts::all(input)?)
        .linux(linux.build()?)
        .build()?;
    // The pod has its name already; the builder's default would be another one.
    spec.set_hostname(None).set_domainname(None);
    // Whoever makes a pod writes its annotations, and runtimes obey some of them (org.systemd.property.*, run.oci.*).
    spec.set_annotations(None);
    Ok(spec)
}

/// The namespaces that the container gets for itself. Network, UTS and IPC are the pod's: the shim lives in them, and
/// its children with it, so they are not named here.
fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let options = &input.config.security.namespaces;
    let mut kinds = vec![LinuxNamespaceType::Mount];
    if options.pid == NamespaceMode::Container {
        kinds.push(LinuxNamespaceType::Pid);
    }
    if options.ipc == NamespaceMode::Container {
        kinds.push(LinuxNamespaceType::Ipc);
    }
    // A privileged container manages cgroups of the host, with their true paths.
    if !input.config.security.privileged {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    let build = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    Ok(kinds.into_iter().map(build).collect::<Result<Vec<_>, _>>()?)
}
