//! From `config.json` to a plan: every decision of starting a container, taken without touching the machine.
//!
//! The functions here are pure: what they must know of the host is in [`HostFacts`]. A field that cannot be honoured
//! is an error that names it, never left out in silence.

mod devices;
mod hooks;
mod input;
mod lists;
mod mappings;
mod mounts;
mod namespaces;
mod netdev;
mod options;
mod process;
mod scheduling;
mod seccomp;
mod sysctl;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};

use super::plan::{CgroupEntry, ExecPlan, LaunchPlan, RootPlan, RootSource, SeccompPlan, SpawnHeader};
use super::seccomp::SeccompError;
use super::security::SecurityModules;
pub use hooks::{RuntimeHooks, state_text};
pub use input::{read_process, read_spec};
use namespaces::{NET, Namespaces};
pub use options::known_options;
pub use process::{CAPABILITY_NAMES, environment};
pub use scheduling::initial_cpus;

/// What a plan depends on beside the specification.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// How the process gets into its cgroups.
    pub cgroup: CgroupEntry,
    /// clone3 puts it into a cgroup v2 directory (with [`CgroupEntry::V2`], and on a hybrid host).
    pub into_cgroup: bool,
    /// The cgroups are not this container's alone: a mount of type `cgroup` is for reading only.
    pub cgroup_readonly: bool,
    /// Where the cgroups of this container are, for a mount of type `cgroup`.
    pub cgroup_view: CgroupView,
    /// `CLONE_NEW*` flags of namespaces that the caller of the executor is in and that are not the host's, but this
    /// pod's: a container without an entry for them in its specification may set their hostname and sysctls.
    pub pod_namespaces: u32,
    /// `CLONE_NEW*` flags of namespaces that the specification names by their path and that are the host's all the same:
    /// nothing may be set in them.
    pub host_namespaces: u32,
    /// The name of the container's session keyring; `None`: it keeps the caller's.
    pub keyring: Option<String>,
    /// The container's id, as its hooks and its seccomp agent are told it.
    pub id: String,
    /// For an exec: the process id of the container's init, as the runtime sees it.
    pub running: Option<i32>,
    /// What relative sources of mounts are relative to.
    pub bundle: PathBuf,
    /// A source of a bind that stands for the tree which is passed to the executor
    /// ([`Attached::shm`](super::execute::Attached)).
    pub attached_shm: Option<PathBuf>,
    /// No device node can be made here (no `CAP_MKNOD`, or a user namespace): the host's are bound.
    pub bind_devices: bool,
    /// The `tasks` files of the groups that were made for `linux.intelRdt`
    /// ([`Groups::tasks`](super::resctrl::Groups::tasks)).
    pub resctrl: Vec<PathBuf>,
    /// What there is to label and confine processes with.
    pub security: SecurityModules,
    /// newuidmap(1) and newgidmap(1), for a caller that may map no more than its own ids.
    pub map_tools: Option<(Vec<u8>, Vec<u8>)>,
    /// The filter, compiled before; takes the place of `linux.seccomp`.
    pub seccomp: Option<SeccompPlan>,
}

/// How this host shows cgroups, for `/sys/fs/cgroup` in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CgroupView {
    /// Not known: a mount of type `cgroup` is an error.
    #[default]
    None,
    /// The directory of the container's cgroup on the host.
    V2(PathBuf),
    V1(Vec<V1Hierarchy>),
}

/// One hierarchy of cgroup v1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V1Hierarchy {
    /// The name of its directory in /sys/fs/cgroup ("cpu,cpuacct").
    pub name: String,
    /// The directory of the container's cgroup on the host.
    pub directory: PathBuf,
}

/// A specification that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("{field} of the OCI specification: {reason}")]
    Invalid { field: String, reason: String },
    #[error("{field} of the OCI specification is not supported: {reason}")]
    Unsupported { field: String, reason: String },
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// The result of a step of the compiler.
pub type Result<T> = std::result::Result<T, CompileError>;

fn invalid<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T> {
    Err(CompileError::Invalid { field: field.into(), reason: reason.into() })
}

fn unsupported<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T> {
    Err(CompileError::Unsupported { field: field.into(), reason: reason.into() })
}

/// The plan of a container. `root` is where its root file system comes from; `root.path` of the specification is the
/// caller's to turn into that.
pub fn container(spec: &Spec, root: RootSource, host: &HostFacts) -> Result<(SpawnHeader, LaunchPlan)> {
    check_version(spec.version())?;
    let Some(linux) = spec.linux() else { return invalid("linux", "is missing") };
    let namespaces = Namespaces::of(spec, host)?;
    let host = &HostFacts { bind_devices: host.bind_devices || namespaces.user.is_some(), ..host.clone() };
    let process = process::process(spec, spec.process().as_ref(), host)?;
    let mounts = mounts::Mounts::of(spec, host, &namespaces)?;
    let devices = devices::Devices::of(spec, host)?;
    let propagation = mounts::root_propagation(linux.rootfs_propagation().as_deref())?;
    let paths = |field: &str, list: &Option<Vec<String>>| {
        list.iter().flatten().map(|p| absolute(field, p.as_bytes())).collect::<Result<Vec<_>>>()
    };
    let hostname = namespaces.name("hostname", spec.hostname().as_deref())?;
    let domainname = namespaces.name("domainname", spec.domainname().as_deref())?;
    let net_devices = netdev::devices(linux.net_devices().iter().flatten(), &namespaces)?;
    let new_network_namespace = !net_devices.is_empty() && namespaces.cloned() & NET != 0;
    let bind_console = process.terminal.is_some() && devices.own_dev;
    let plan = LaunchPlan {
        cgroup: host.cgroup.clone(),
        new_cgroup_namespace: namespaces.new_cgroup(),
        join: namespaces.join.clone(),
        net_devices,
        new_network_namespace,
        user: namespaces.user.clone(),
        time: namespaces.time.clone(),
        hostname,
        domainname,
        root: RootPlan {
            source: root,
            readonly: spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false),
            no_pivot: false,
            host_propagation: propagation.host,
            propagation: propagation.root,
        },
        mounts: mounts.steps,
        devices: devices.nodes,
        symlinks: devices.symlinks,
        bind_console,
        sysctls: sysctl::sysctls(linux.sysctl().iter().flatten(), &namespaces)?,
        masked: dedup(paths("linux.maskedPaths", linux.masked_paths())?),
        mount_label: process::label("linux.mountLabel", linux.mount_label(), host)?,
        readonly: dedup(paths("linux.readonlyPaths", linux.readonly_paths())?),
        late_changes: mounts.late,
        hooks: hooks::of_child(spec, host)?,
        process,
    };
    let by_child = if new_network_namespace { NET } else { 0 };
    let header = SpawnHeader {
        clone_flags: (namespaces.cloned() & !by_child).into(),
        join_pid_namespace: namespaces.parent_joins_pid(),
        into_cgroup: host.into_cgroup,
    };
    Ok((header, plan))
}

/// Who the container's cgroup is to belong to: the user that the root of its user namespace is, if it has a cgroup
/// namespace of its own too, and a mount of its cgroups that it can write to.
pub fn cgroup_owner(spec: &Spec) -> Result<Option<u32>> {
    let namespaces = Namespaces::of(spec, &HostFacts::default())?;
    let writable = spec.mounts().iter().flatten().any(|mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) && !options.iter().any(|o| o == "ro" || o == "rro")
    });
    let owner = namespaces.user.as_ref().and_then(|user| user.maps.uid(0));
    Ok(owner.filter(|_| writable && namespaces.new_cgroup()))
}

/// The plan of a process more in the running container of `spec`: an exec.
pub fn process(spec: &Spec, process: &Process, host: &HostFacts) -> Result<(SpawnHeader, ExecPlan)> {
    let namespaces = Namespaces::of(spec, host)?;
    let mut plan = ExecPlan {
        cgroup: host.cgroup.clone(),
        namespaces: namespaces.entered_by_exec(),
        process: process::process(spec, Some(process), host)?,
    };
    plan.process.cpus = scheduling::final_cpus(process)?;
    let header = SpawnHeader { clone_flags: 0, join_pid_namespace: false, into_cgroup: host.into_cgroup };
    Ok((header, plan))
}

/// 1.x, as the rules of semantic versions have it.
fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<_> = core.split('.').map(str::parse::<u32>).collect();
    match numbers.as_slice() {
        [Ok(1), Ok(_), Ok(_)] => Ok(()),
        _ => invalid("ociVersion", format!("{version:?} is not a version that is known here (1.0.0 to 1.3)")),
    }
}

/// A path as bytes: absolute, and without NUL.
fn absolute(field: &str, path: &[u8]) -> Result<Vec<u8>> {
    let text = String::from_utf8_lossy(path);
    if !path.starts_with(b"/") {
        return invalid(field, format!("{text:?} is not an absolute path"));
    }
    without_nul(field, path)
}

fn without_nul(field: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.contains(&0) {
        return invalid(field, format!("{:?} contains a NUL byte", String::from_utf8_lossy(bytes)));
    }
    Ok(bytes.to_vec())
}

/// The names of a path, without empty ones and dots, `..` taken back; only for comparing paths as texts.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".") {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    [b"/", names.join(&b'/').as_slice()].concat()
}

fn dedup(paths: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut seen = std::collections::HashSet::new();
    paths.into_iter().filter(|p| seen.insert(normal(p))).collect()
}
