//! From records to what the shim is asked to start: spec, cgroup, plan, log file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::container::Container;
use super::error::{NodeError, Result};
use super::index::Node;
use super::pod::Pod;
use super::records::ContainerRecord;
use super::spec::{self, Input, ResolvedMount, Volume};
use super::types::{self, ContainerConfig, PodConfig, Propagation};
use super::{files, records};
use crate::network;
use crate::runtime::cgroup::{Cgroup, CgroupPath, CreateOptions, Host, Version, default_device_rules};

impl Node {
    /// The OCI spec of a container, and its environment as bytes, which a spec cannot have. `config` is apart from its
    /// record, since a container in memory keeps it apart.
    pub(super) fn build_spec(
        &self,
        pod: &Pod,
        record: &ContainerRecord,
        config: &ContainerConfig,
    ) -> Result<(Spec, Vec<Vec<u8>>)> {
        let mounts = resolve_mounts(config, &record.image_volumes)?;
        let devices = if config.security.privileged {
            spec::host_devices()
        } else {
            spec::look_up_devices(&config.devices).map_err(|cause| NodeError::invalid(cause.to_string()))?
        };
        let volume = |(destination, source): &(String, PathBuf)| Volume {
            destination: destination.clone(),
            source: source.clone(),
        };
        let input = Input {
            pod: &pod.config,
            container_id: &record.id,
            config,
            image: &record.image,
            user: &record.user,
            files: &files::paths(&self.inner.dirs.pod_state(&pod.id), &pod.config),
            mounts: &mounts,
            volumes: &record.volumes.iter().map(volume).collect::<Vec<_>>(),
            devices: &devices,
            cgroup: &record.cgroup,
            unified_cgroups: self.inner.cgroups.version() == Version::V2,
            host_name: &self.inner.host_name,
        };
        let environment = spec::environment(&input)?;
        Ok((spec::container(&input)?, environment))
    }

    /// Makes or opens the cgroup of a container and sets its limits.
    pub(super) fn make_cgroup(&self, container: &Container, spec: &Spec) -> Result<Arc<Cgroup>> {
        let failed = |cause: &dyn std::fmt::Display| {
            NodeError::internal(format!("cgroup {} of container {}", container.record.cgroup, container.id()), cause)
        };
        let path = CgroupPath::new(&container.record.cgroup).map_err(|cause| failed(&cause))?;
        let mut resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
        if let Some(rules) = resources.devices_mut()
            && !container.config.security.privileged
        {
            rules.extend(default_device_rules());
        }
        let cgroup = self.inner.cgroups.create(&path, &resources, CreateOptions::default());
        let cgroup = Arc::new(cgroup.map_err(|cause| failed(&cause))?);
        container.live().cgroup = Some(cgroup.clone());
        Ok(cgroup)
    }
}

/// Opens the cgroup of a record, if it is there.
pub(super) fn open_cgroup(host: &Host, path: &str) -> Option<Cgroup> {
    host.open(&CgroupPath::new(path).ok()?).ok()
}

/// Paths of cgroups that have one of these names, wherever they are, each once.
pub(super) fn cgroups_named(host: &Host, names: &[String]) -> Vec<String> {
    let mut found = std::collections::BTreeSet::new();
    for mount in host.mounts() {
        let mut next = vec![mount.to_path_buf()];
        while let Some(dir) = next.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let path = entry.path();
                if names.iter().any(|name| entry.file_name() == name.as_str())
                    && let Ok(below) = path.strip_prefix(mount)
                {
                    found.insert(format!("/{}", below.display()));
                }
                next.push(path);
            }
        }
    }
    found.into_iter().collect()
}

/// The cgroups of a path that are not there yet, the deepest first.
pub(super) fn missing_cgroups(host: &Host, path: &str) -> Result<Vec<String>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |cause| NodeError::invalid(format!("cgroup parent \"{path}\": {cause}"));
    let mut next = Some(CgroupPath::new(path).map_err(failed)?);
    let mut missing = Vec::new();
    while let Some(path) = next.filter(|path| !path.is_root() && !host.exists(path)) {
        missing.push(path.as_str().to_owned());
        next = path.parent();
    }
    Ok(missing)
}

/// `<parent>/<id>`, with the pod's parent or the node's.
pub(super) fn cgroup_path(pod: &PodConfig, default_parent: &str, id: &str) -> String {
    let parent = if pod.cgroup_parent.is_empty() { default_parent } else { &pod.cgroup_parent };
    format!("/{}/{id}", parent.trim_matches('/'))
}

/// Where the log of a container goes; empty for none.
pub(super) fn log_path(pod: &PodConfig, config: &ContainerConfig) -> String {
    if pod.log_directory.is_empty() || config.log_path.is_empty() {
        return String::new();
    }
    Path::new(&pod.log_directory).join(&config.log_path).to_string_lossy().into_owned()
}

/// Opens a log to append to, and makes it and its directories when they are missing.
pub(super) fn open_log(path: &Path) -> Result<File> {
    let failed = |cause| NodeError::internal(format!("log file {}", path.display()), cause);
    let open = || OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path);
    match open() {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(failed)?;
            }
            open().map_err(failed)
        }
        opened => opened.map_err(failed),
    }
}

/// The directories of a container's writable layer.
pub(super) fn make_container_dirs(dir: &Path) -> Result<()> {
    let failed = |cause| NodeError::internal(dir.display(), cause);
    records::make_dir(dir, 0o700).map_err(failed)?;
    fs::create_dir(dir.join("upper")).map_err(failed)?;
    fs::create_dir(dir.join("work")).map_err(failed)?;
    // The upper directory is the root that the container sees: everybody may enter it.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.join("upper"), fs::Permissions::from_mode(0o755)).map_err(failed)
}

/// Mounts the memory that the pod's containers share at /dev/shm.
pub(super) fn mount_shm(dir: &Path) -> Result<()> {
    let path = dir.join("shm");
    let failed = |cause: io::Error| NodeError::internal(format!("shared memory {}", path.display()), cause);
    fs::create_dir(&path).map_err(failed)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", &path, "tmpfs", flags, c"mode=1777,size=65536k").map_err(|errno| failed(errno.into()))
}

/// Takes away what is mounted in a pod's state: shared memory, bundles and image volumes, each of which may be gone.
/// Containers that still hold them keep them until they end.
pub(super) fn unmount_all(dir: &Path) -> Result<()> {
    unmount_one(&dir.join("shm"))?;
    super::external::remove_all(dir)?;
    let images = dir.join(super::image_volumes::DIRECTORY);
    records::names(&images).iter().try_for_each(|name| unmount_one(&images.join(name)))
}

fn unmount_one(path: &Path) -> Result<()> {
    use rustix::io::Errno;
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(cause) => Err(NodeError::internal(format!("unmounting {}", path.display()), cause)),
    }
}

/// Where the mounts of a request lead on the host. What is missing is made as a directory, as kubelets expect.
fn resolve_mounts(config: &ContainerConfig, image_volumes: &[(usize, PathBuf)]) -> Result<Vec<ResolvedMount>> {
    let mut resolved = Vec::with_capacity(config.mounts.len());
    for (index, mount) in config.mounts.iter().enumerate() {
        if let Some((_, source)) = image_volumes.iter().find(|(of, _)| *of == index) {
            resolved.push(ResolvedMount { index, source: source.clone() });
            continue;
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            let message = format!("mount on \"{}\": mapped ids need a pod with a user namespace", mount.container_path);
            return Err(NodeError::invalid(message));
        }
        let source = resolve_source(mount)?;
        if mount.propagation != Propagation::Private {
            check_propagation(mount, &source)?;
        }
        resolved.push(ResolvedMount { index, source });
    }
    Ok(resolved)
}

fn resolve_source(mount: &types::Mount) -> Result<PathBuf> {
    let failed = |cause: io::Error| {
        NodeError::invalid(format!("mount on \"{}\": host path \"{}\": {cause}", mount.container_path, mount.host_path))
    };
    match fs::canonicalize(&mount.host_path) {
        Ok(source) => Ok(source),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(&mount.host_path).map_err(failed)?;
            fs::canonicalize(&mount.host_path).map_err(failed)
        }
        Err(cause) => Err(failed(cause)),
    }
}

/// Propagation needs a source on a mount that takes part in it.
fn check_propagation(mount: &types::Mount, source: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|cause| NodeError::internal("reading /proc/self/mountinfo", cause))?;
    let (at, optional) = mount_of(&table, source).unwrap_or_default();
    let shared = optional.contains("shared:");
    let fits = shared || (mount.propagation == Propagation::HostToContainer && optional.contains("master:"));
    if fits {
        return Ok(());
    }
    let message = format!(
        "mount on \"{}\": \"{}\" is on mount \"{at}\", which is not {}; run mount --make-rshared {at} on the host",
        mount.container_path,
        source.display(),
        if mount.propagation == Propagation::Bidirectional { "shared" } else { "shared or slave" },
    );
    Err(NodeError::invalid(message))
}

/// The mount point that a path is on, and its optional fields (proc_pid_mountinfo(5)).
fn mount_of<'a>(table: &'a str, path: &Path) -> Option<(&'a str, String)> {
    let mut best: Option<(&str, String)> = None;
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(point), Some(end)) = (fields.get(4), fields.iter().position(|field| *field == "-")) else { continue };
        // The last of several mounts on one point hides the others.
        let longer = best.as_ref().is_none_or(|(so_far, _)| point.len() >= so_far.len());
        if longer && path.starts_with(unescape(point)) {
            best = Some((point, fields.get(6..end).unwrap_or_default().join(" ")));
        }
    }
    best
}

/// Spaces and the like are octal in the kernel's tables.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// A port mapping for the network; `None` for one without a host port.
pub(super) fn port_mapping(mapping: &types::PortMapping) -> Option<network::PortMapping> {
    if mapping.host_port == 0 {
        return None;
    }
    Some(network::PortMapping {
        protocol: match mapping.protocol {
            types::Protocol::Tcp => network::Protocol::Tcp,
            types::Protocol::Udp => network::Protocol::Udp,
            types::Protocol::Sctp => network::Protocol::Sctp,
        },
        container_port: mapping.container_port,
        host_port: mapping.host_port,
        host_ip: mapping.host_ip.clone(),
    })
}

/// The resolver's settings for plugins that want them.
pub(super) fn network_dns(dns: &types::DnsConfig) -> network::Dns {
    network::Dns { servers: dns.servers.clone(), searches: dns.searches.clone(), options: dns.options.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
22 21 0:20 / /mnt rw - tmpfs tmpfs rw
23 22 0:21 / /mnt/a\\040b rw master:7 - tmpfs tmpfs rw
";

    #[test]
    fn a_path_is_on_the_deepest_mount_above_it() {
        let on = |path: &str| mount_of(TABLE, Path::new(path)).map(|(at, optional)| (at.to_owned(), optional)).unwrap();
        assert_eq!(on("/var/lib"), ("/".to_owned(), "shared:1".to_owned()));
        assert_eq!(on("/mnt/x"), ("/mnt".to_owned(), String::new()));
        assert_eq!(on("/mnt/a b/c"), ("/mnt/a\\040b".to_owned(), "master:7".to_owned()));
        assert_eq!(on("/mntx").0, "/");
    }

    #[test]
    fn cgroups_lie_beneath_the_parent_that_was_asked_for() {
        let mut pod = PodConfig::default();
        assert_eq!(cgroup_path(&pod, "/orlop", "x"), "/orlop/x");
        pod.cgroup_parent = "/kubepods/burstable/pod1/".into();
        assert_eq!(cgroup_path(&pod, "/orlop", "x"), "/kubepods/burstable/pod1/x");
    }

    #[test]
    fn logs_need_both_a_directory_and_a_name() {
        let mut pod = PodConfig { log_directory: "/var/log/pods/p".into(), ..PodConfig::default() };
        let config = ContainerConfig { log_path: "c/0.log".into(), ..ContainerConfig::default() };
        assert_eq!(log_path(&pod, &config), "/var/log/pods/p/c/0.log");
        pod.log_directory.clear();
        assert_eq!(log_path(&pod, &config), "");
    }
}
