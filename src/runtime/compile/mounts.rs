//! Mounts of the specification, in their order, as steps.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

use super::mappings::id_maps;
use super::namespaces::{Namespaces, USER};
use super::options::{Options, parse};
use super::{CgroupView, HostFacts, Result, V1Hierarchy, invalid, normal, without_nul};
use crate::runtime::plan::{MountFlags, MountIdMap, MountPlan, MountSource, MountStep};

/// What may be mounted inside /proc although it is no procfs: files that tools give a container its own version of.
const INSIDE_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// The steps, and what is left to be done when all mounts are filled.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub steps: Vec<MountStep>,
    pub late: Vec<(Vec<u8>, MountFlags)>,
    /// `linux.mountLabel`.
    label: Option<Vec<u8>>,
}

impl Mounts {
    pub fn of(spec: &Spec, host: &HostFacts, namespaces: &Namespaces) -> Result<Self> {
        let label = spec.linux().as_ref().and_then(|l| l.mount_label().clone());
        let label = super::process::label("linux.mountLabel", &label, host)?;
        let mut all = Self { label, ..Self::default() };
        let propagation = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref());
        let default = root_propagation(propagation)?.binds;
        for mount in spec.mounts().iter().flatten() {
            all.add(mount, host, namespaces, default)?;
        }
        Ok(all)
    }

    fn add(&mut self, mount: &Mount, host: &HostFacts, namespaces: &Namespaces, default: u32) -> Result<()> {
        let name = mount.destination().display().to_string();
        let field = || format!("mounts {name}");
        let mut target = without_nul(&field(), mount.destination().as_os_str().as_bytes())?;
        if !target.starts_with(b"/") {
            // Deprecated, and read as relative to the root.
            target.insert(0, b'/');
        }
        let lexical = normal(&target);
        if lexical == b"/" {
            return invalid(field(), "nothing can be mounted over the root");
        }
        let mut options = parse(&name, mount.options().as_deref().unwrap_or_default())?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        if options.bind.is_none() && kind == "bind" {
            options.bind = Some(false);
        }
        if options.copy_up && (kind != "tmpfs" || options.bind.is_some()) {
            return invalid(field(), "tmpcopyup is for tmpfs");
        }
        let idmap = idmap(mount, &field(), &options, namespaces)?;
        if idmap.is_some() && options.bind.is_none() {
            return invalid(field(), "only a bind can be id-mapped");
        }
        if options.remount {
            if options.bind.is_some() {
                // Of the mount alone, then.
                options.data.retain(|(key, _)| !superblock_flag(key));
                if let Some((key, _)) = options.data.first() {
                    return invalid(field(), format!("a bind takes no option {:?}", String::from_utf8_lossy(key)));
                }
            }
            self.steps.push(MountStep::Change { path: target, flags: options.flags, options: options.data });
            return Ok(());
        }
        if let Some(recursive) = options.bind {
            let plan = MountPlan { idmap, ..bind(mount, &field(), host, target, &options, recursive, default)? };
            if plan.idmap.is_some() && plan.source == MountSource::Attached {
                return invalid(field(), "the memory that a pod shares cannot be id-mapped");
            }
            self.steps.push(MountStep::Mount(inside_proc(plan, &lexical, &field())?));
            return Ok(());
        }
        if matches!(kind, "cgroup" | "cgroup2") {
            return self.cgroup(&field(), kind, target, &options, host, namespaces);
        }
        if kind == "none" || kind.is_empty() {
            return invalid(field(), "has neither a type nor the option bind");
        }
        let mut plan = filesystem(mount, kind, target, options)?;
        self.label(&mut plan, kind);
        let plan = if kind == "proc" { plan } else { inside_proc(plan, &lexical, &field())? };
        self.filled_later(plan, kind, &lexical);
        Ok(())
    }

    /// Of a new file system of the container's own. procfs and sysfs have the policy's label; mqueue takes no option.
    fn label(&self, plan: &mut MountPlan, kind: &str) {
        let (Some(label), MountSource::Filesystem { options, .. }) = (&self.label, &mut plan.source) else { return };
        match kind {
            "proc" | "sysfs" => {}
            "mqueue" => plan.label = Some(label.clone()),
            _ => options.push((b"context".to_vec(), Some(label.clone()))),
        }
    }

    /// A read-only tmpfs, or /dev, is read-only only when what belongs into it is there.
    fn filled_later(&mut self, mut plan: MountPlan, kind: &str, lexical: &[u8]) {
        let readonly = plan.flags.set & libc::MOUNT_ATTR_RDONLY;
        if readonly != 0 && (kind == "tmpfs" || lexical == b"/dev") {
            plan.flags.set &= !readonly;
            self.late.push((plan.target.clone(), MountFlags { set: readonly, ..MountFlags::default() }));
        }
        self.steps.push(MountStep::Mount(plan));
    }

    fn cgroup(
        &mut self,
        field: &str,
        kind: &str,
        target: Vec<u8>,
        options: &Options,
        host: &HostFacts,
        namespaces: &Namespaces,
    ) -> Result<()> {
        let mut flags = options.flags;
        if host.cgroup_readonly {
            flags.set |= libc::MOUNT_ATTR_RDONLY;
        }
        match &host.cgroup_view {
            CgroupView::V1(hierarchies) if kind == "cgroup" => {
                self.v1(&target, &flags, hierarchies);
                Ok(())
            }
            CgroupView::V2(_) | CgroupView::V1(_) => {
                // Where a cgroup2 cannot be mounted, which is in a user namespace without a cgroup namespace, and where
                // the host's mount has other options: then the container's own cgroup, or all, but for reading only.
                let fallback = match &host.cgroup_view {
                    CgroupView::V2(directory) if namespaces.new_cgroup() => {
                        Some(directory.as_os_str().as_bytes().to_vec())
                    }
                    CgroupView::V2(_) if namespaces.is_private(USER) => {
                        flags.set |= libc::MOUNT_ATTR_RDONLY;
                        Some(b"/sys/fs/cgroup".to_vec())
                    }
                    _ => None,
                };
                let source = MountSource::Filesystem {
                    kind: b"cgroup2".to_vec(),
                    source: b"cgroup".to_vec(),
                    options: Vec::new(),
                    inherit_mode: false,
                    fallback,
                };
                let plan = MountPlan { target, source, flags, ..MountPlan::default() };
                self.steps.push(MountStep::Mount(plan));
                Ok(())
            }
            CgroupView::None => invalid(field, "where this container's cgroups are is not known"),
        }
    }

    /// A tmpfs with the container's directory of each hierarchy in it, and links for those that share one.
    fn v1(&mut self, target: &[u8], flags: &MountFlags, hierarchies: &[V1Hierarchy]) {
        let readonly = flags.set & libc::MOUNT_ATTR_RDONLY;
        let tmpfs = MountFlags { set: flags.set & !readonly, ..*flags };
        self.steps.push(MountStep::Mount(MountPlan {
            target: target.to_vec(),
            source: MountSource::Filesystem {
                kind: b"tmpfs".to_vec(),
                source: b"tmpfs".to_vec(),
                options: vec![(b"mode".to_vec(), Some(b"755".to_vec()))],
                inherit_mode: false,
                fallback: None,
            },
            flags: tmpfs,
            ..MountPlan::default()
        }));
        let below = |name: &str| [target, b"/", name.as_bytes()].concat();
        for hierarchy in hierarchies {
            self.steps.push(MountStep::Mount(MountPlan {
                target: below(&hierarchy.name),
                source: MountSource::Bind {
                    path: hierarchy.directory.as_os_str().as_bytes().to_vec(),
                    recursive: false,
                },
                flags: MountFlags { propagation: [libc::MS_PRIVATE as u32, 0, 0, 0], ..*flags },
                ..MountPlan::default()
            }));
            for controller in hierarchy.name.split(',').filter(|c| *c != hierarchy.name) {
                let link = MountStep::Symlink { path: below(controller), target: hierarchy.name.clone().into_bytes() };
                self.steps.push(link);
            }
        }
        if readonly != 0 {
            let flags = MountFlags { set: readonly, ..MountFlags::default() };
            self.steps.push(MountStep::Change { path: target.to_vec(), flags, options: Vec::new() });
        }
    }
}

/// How the owners of a mount's files are mapped, if they are.
fn idmap(mount: &Mount, field: &str, options: &Options, namespaces: &Namespaces) -> Result<Option<MountIdMap>> {
    let maps = id_maps(&format!("{field}: "), mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref())?;
    match (options.idmap, maps) {
        (None, None) => Ok(None),
        (Some(_), None) if !namespaces.is_private(USER) => {
            invalid(field, "an id-mapped mount needs uidMappings and gidMappings, or a user namespace that has some")
        }
        // Mappings alone say it too.
        (recursive, maps) => Ok(Some(MountIdMap { recursive: recursive.unwrap_or(false), maps })),
    }
}

/// Whether a mount of the specification binds something of the host.
pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(|o| o == "bind" || o == "rbind")
}

fn bind(
    mount: &Mount,
    field: &str,
    host: &HostFacts,
    target: Vec<u8>,
    options: &Options,
    recursive: bool,
    default: u32,
) -> Result<MountPlan> {
    let Some(source) = mount.source().as_deref().filter(|s| *s != Path::new("")) else {
        return invalid(field, "a bind has no source");
    };
    // What looks like a flag may be one that was meant to protect something. A value ("mode=755") is what mount(2) takes no
    // notice of for a bind, and some engines give one list of options to all mounts.
    if let Some((key, _)) = options.data.iter().find(|(key, value)| !superblock_flag(key) && value.is_none()) {
        return invalid(field, format!("a bind takes no option {:?}", String::from_utf8_lossy(key)));
    }
    let path = without_nul(field, host.bundle.join(source).as_os_str().as_bytes())?;
    let mut flags = options.flags;
    if flags.propagation == [0; 4] {
        flags.propagation[0] = default;
    }
    let source = if host.attached_shm.as_deref() == Some(source) {
        MountSource::Attached
    } else {
        MountSource::Bind { path, recursive }
    };
    Ok(MountPlan { target, source, flags, ..MountPlan::default() })
}

/// mount(2) ignores these for a bind, and so do we: they are the file system's, not the mount's.
fn superblock_flag(key: &[u8]) -> bool {
    matches!(key, b"sync" | b"async" | b"dirsync" | b"lazytime" | b"nolazytime" | b"mand" | b"nomand")
}

fn filesystem(mount: &Mount, kind: &str, target: Vec<u8>, options: Options) -> Result<MountPlan> {
    let field = format!("mounts {}", mount.destination().display());
    let source = mount.source().as_deref().map_or(kind.as_bytes(), |s| s.as_os_str().as_bytes());
    let inherit_mode = kind == "tmpfs" && !options.data.iter().any(|(key, _)| key == b"mode");
    // A bind of the host's when a new one is not allowed: in a user namespace without a network namespace.
    let fallback = (kind == "sysfs").then(|| b"/sys".to_vec());
    Ok(MountPlan {
        target,
        source: MountSource::Filesystem {
            kind: without_nul(&field, kind.as_bytes())?,
            source: without_nul(&field, source)?,
            options: options.data,
            inherit_mode,
            fallback,
        },
        flags: options.flags,
        plain: matches!(kind, "proc" | "sysfs"),
        copy_up: options.copy_up,
        label: None,
        over_proc: kind == "proc",
        idmap: None,
    })
}

/// A container's /proc is a procfs; of what is in it only some harmless files may be covered.
fn inside_proc(mut plan: MountPlan, lexical: &[u8], field: &str) -> Result<MountPlan> {
    let inside = lexical.strip_prefix(b"/proc").filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
    let Some(rest) = inside else { return Ok(plan) };
    let of_host = matches!(&plan.source, MountSource::Bind { path, .. } if normal(path) == b"/proc");
    let allowed = INSIDE_PROC.iter().any(|p| p.as_bytes() == lexical) || (rest.is_empty() && of_host);
    if !allowed {
        return invalid(field, "only a procfs can be mounted at /proc, and little inside it");
    }
    plan.over_proc = true;
    plan.plain = true;
    Ok(plan)
}

/// What `rootfsPropagation` comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RootPropagation {
    /// For the child's copy of the host's mounts.
    pub host: u32,
    /// For the finished root.
    pub root: u32,
    /// For binds that do not say.
    pub binds: u32,
}

pub(super) fn root_propagation(name: Option<&str>) -> Result<RootPropagation> {
    const SLAVE: u32 = libc::MS_SLAVE as u32;
    const PRIVATE: u32 = libc::MS_PRIVATE as u32;
    const SHARED: u32 = libc::MS_SHARED as u32;
    const UNBINDABLE: u32 = libc::MS_UNBINDABLE as u32;
    const REC: u32 = libc::MS_REC as u32;
    let (host, root, binds) = match name.unwrap_or_default() {
        "" => (SLAVE, 0, SLAVE | REC),
        "slave" => (SLAVE, SLAVE, SLAVE | REC),
        "rslave" => (SLAVE, SLAVE | REC, SLAVE | REC),
        "private" => (PRIVATE, PRIVATE, PRIVATE | REC),
        "rprivate" => (PRIVATE, PRIVATE | REC, PRIVATE | REC),
        "unbindable" => (PRIVATE, UNBINDABLE, PRIVATE | REC),
        "runbindable" => (PRIVATE, UNBINDABLE | REC, PRIVATE | REC),
        // Binds stay peers of the host's mounts, by being opened before the host is left.
        "shared" => (SLAVE, SHARED, 0),
        "rshared" => (SLAVE, SHARED | REC, 0),
        other => return invalid("linux.rootfsPropagation", format!("{other:?} is no propagation")),
    };
    Ok(RootPropagation { host, root, binds })
}
