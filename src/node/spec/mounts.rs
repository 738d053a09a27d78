//! What a container sees beside its image: kernel filesystems, the pod's files, volumes.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::{Input, SpecError};
use crate::node::types::{self, ContainerConfig, NamespaceMode, Propagation};

/// All mounts, parents before children.
pub(super) fn all(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = kernel(input)?;
    mounts.extend(pod_files(input)?);
    mounts.extend(volumes(input)?);
    for resolved in input.mounts {
        mounts.push(asked(&input.config.mounts[resolved.index], &resolved.source)?);
    }
    // A stable sort: those of the same depth stay in the order in which they were asked for.
    let (mut kernel_part, mut rest): (Vec<_>, Vec<_>) =
        mounts.into_iter().enumerate().partition(|(at, _)| *at < KERNEL);
    rest.sort_by_key(|(_, mount)| depth(mount.destination()));
    // A volume may take the place of one of the kernel's filesystems, as /dev or /sys/fs/cgroup of the host do.
    kernel_part.retain(|(_, mount)| !rest.iter().any(|(_, other)| other.destination() == mount.destination()));
    Ok(kernel_part.into_iter().chain(rest).map(|(_, mount)| mount).collect())
}

const KERNEL: usize = 6;

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, SpecError> {
    Ok(MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()?)
}

fn bind(destination: &str, source: &Path, options: Vec<String>) -> Result<Mount, SpecError> {
    Ok(MountBuilder::default().destination(destination).typ("bind").source(source).options(options).build()?)
}

fn kernel(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let access = if input.config.security.privileged { "rw" } else { "ro" };
    let cgroup_kind = if input.unified_cgroups { "cgroup2" } else { "cgroup" };
    let mounts = [
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])?,
        mount("/sys/fs/cgroup", cgroup_kind, "cgroup", &["nosuid", "noexec", "nodev", "relatime", access])?,
    ];
    debug_assert_eq!(mounts.len(), KERNEL);
    Ok(mounts.into())
}

/// The files of the pod, each only where no mount of the request takes its place.
fn pod_files(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let covered = |path: &str| input.config.mounts.iter().any(|mount| clean(&mount.container_path) == Path::new(path));
    let access = if input.config.security.readonly_rootfs { "ro" } else { "rw" };
    let file_options = || ["rbind", "rprivate", access].map(str::to_owned).to_vec();
    let files = input.files;
    let host_uts = input.pod.security.namespaces.network == NamespaceMode::Node && input.pod.hostname.is_empty();
    let mut mounts = Vec::new();
    for (path, source) in
        [("/etc/hostname", &files.hostname), ("/etc/hosts", &files.hosts), ("/etc/resolv.conf", &files.resolv_conf)]
    {
        if covered(path) || (host_uts && path == "/etc/hostname" && !source.exists()) {
            continue;
        }
        mounts.push(bind(path, source, file_options())?);
    }
    if !covered("/dev/shm") {
        if input.config.security.namespaces.ipc == NamespaceMode::Container {
            let options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
            mounts.push(mount("/dev/shm", "tmpfs", "shm", &options)?);
        } else {
            let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"].map(str::to_owned).to_vec();
            mounts.push(bind("/dev/shm", &files.shm, options)?);
        }
    }
    Ok(mounts)
}

/// Volumes that the image declares, where no mount of the request takes their place.
fn volumes(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let covered = |path: &str| input.config.mounts.iter().any(|mount| clean(&mount.container_path) == clean(path));
    let open = input.volumes.iter().filter(|volume| !covered(&volume.destination));
    open.map(|volume| {
        bind(&volume.destination, &volume.source, ["rbind", "rprivate", "rw"].map(str::to_owned).to_vec())
    })
    .collect()
}

/// A path without trailing or doubled slashes and without "." components; nothing is looked up.
pub fn clean(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}

/// One mount of the request.
fn asked(mount: &types::Mount, source: &Path) -> Result<Mount, SpecError> {
    let mut options = vec!["rbind".to_owned(), propagation(mount.propagation).to_owned()];
    if mount.recursive_read_only {
        recursive_read_only(mount)?;
        options.push("rro".to_owned());
    } else {
        options.push(if mount.readonly { "ro" } else { "rw" }.to_owned());
    }
    for option in &mount.mount_options {
        match option.as_str() {
            "noexec" | "nodev" | "nosuid" => options.push(option.clone()),
            other => {
                let cause = format!("mount option \"{other}\" is not one of noexec, nodev, nosuid");
                return Err(SpecError::Mount { path: mount.container_path.clone(), cause });
            }
        }
    }
    bind(&mount.container_path, source, options)
}

/// KEP-3857: recursive needs read-only and private, otherwise it could not be kept.
fn recursive_read_only(mount: &types::Mount) -> Result<(), SpecError> {
    let cause = if !mount.readonly {
        "recursive_read_only needs readonly as well"
    } else if mount.propagation != Propagation::Private {
        "recursive_read_only needs private propagation"
    } else {
        return Ok(());
    };
    Err(SpecError::RecursiveReadOnly { path: mount.container_path.clone(), cause: cause.to_owned() })
}

fn propagation(of: Propagation) -> &'static str {
    match of {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

/// The root must not be private where a mount beneath it has to receive or to send.
pub(super) fn rootfs_propagation(config: &ContainerConfig) -> &'static str {
    let widest = config.mounts.iter().map(|mount| mount.propagation);
    widest.fold("rprivate", |so_far, next| match (so_far, next) {
        (_, Propagation::Bidirectional) | ("rshared", _) => "rshared",
        (_, Propagation::HostToContainer) | ("rslave", _) => "rslave",
        _ => "rprivate",
    })
}
