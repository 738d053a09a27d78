//! Mounts: first all are made, as trees that hang nowhere, while the host's paths can be reached; then, inside the
//! new root, they are attached one after the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags, chmodat, fsetxattr, fstat, fstatfs, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
};

use super::context::{Context, Step, refuse, show};
use super::copy::copy_tree;
use super::idmap::Namespaces;
use super::procfs;
use super::staging;
use super::status::{Notice, Stage};
use super::tree::{Kind, Tree, kind_of};
use crate::runtime::plan::{MountFlags, MountPlan, MountSource, MountStep};
use crate::runtime::sys::mount::{MountAttr, mount_setattr};

/// The longest value that fsconfig(2) takes.
pub(super) const MAX_OPTION: usize = 255;

/// A tree that is ready to be attached.
#[derive(Debug)]
pub(super) struct Detached {
    pub fd: OwnedFd,
    pub kind: Kind,
}

/// Which trees are got at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    /// What comes from the host, with the privileges for that.
    Host,
}

/// Gets the tree of every mount, in their order; `None` for the steps that are none, and for those left for later.
pub(super) fn prepare(
    steps: &[MountStep],
    which: Which,
    shm: Option<BorrowedFd<'_>>,
    ids: &mut Namespaces,
) -> Step<Vec<Option<Detached>>> {
    steps
        .iter()
        .map(|step| match step {
            MountStep::Mount(mount) => match open_source(mount, shm, ids)? {
                None if which == Which::All => make_filesystem(mount),
                tree => Ok(tree),
            },
            MountStep::Symlink { .. } | MountStep::Change { .. } => Ok(None),
        })
        .collect()
}

/// Makes the new file systems that are not there yet. They belong to the user namespace that this is done in.
pub(super) fn make_filesystems(steps: &[MountStep], trees: &mut [Option<Detached>]) -> Step<()> {
    for (step, tree) in steps.iter().zip(trees) {
        if let (MountStep::Mount(mount), None) = (step, &tree) {
            *tree = make_filesystem(mount)?;
        }
    }
    Ok(())
}

/// Makes what has options that only mount(2) takes, when nothing that is mounted reaches the host any more.
pub(super) fn mount_the_old_way(steps: &[MountStep], trees: &mut [Option<Detached>]) -> Step<()> {
    for (step, tree) in steps.iter().zip(trees) {
        let MountStep::Mount(mount) = step else { continue };
        let MountSource::Filesystem { kind, source, options, .. } = &mount.source else { continue };
        if tree.is_none() && staging::needed(options) {
            let fd = staging::new_by_mount(kind, source, options).map_err(|failure| Notice {
                detail: format!("mount {} to {}", failure.detail, show(&mount.target)),
                ..failure
            })?;
            *tree = Some(finish(fd, &mount.flags, &mount.target)?);
        }
    }
    Ok(())
}

fn open_source(mount: &MountPlan, shm: Option<BorrowedFd<'_>>, ids: &mut Namespaces) -> Step<Option<Detached>> {
    let tree = match &mount.source {
        MountSource::Attached => {
            let name = || format!("the mount passed for {}", show(&mount.target));
            let Some(tree) = shm else { return refuse(Stage::Mount, format!("{} is missing", name())) };
            finish(tree.try_clone_to_owned().at(Stage::Mount, name)?, &mount.flags, &mount.target)?
        }
        MountSource::Bind { path, recursive } => {
            let tree = bind(path, *recursive, &mount.flags, &mount.target)?;
            if let Some(idmap) = &mount.idmap {
                ids.apply(tree.fd.as_fd(), idmap, &|| bind_name(path, &mount.target))?;
            }
            tree
        }
        MountSource::Filesystem { .. } => return Ok(None),
    };
    Ok(Some(tree))
}

/// Labels the root of a file system that is mounted nowhere yet.
fn set_label(root: BorrowedFd<'_>, label: &[u8]) -> Result<(), Errno> {
    let directory = openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fsetxattr(&directory, "security.selinux", label, XattrFlags::empty())
}

fn make_filesystem(mount: &MountPlan) -> Step<Option<Detached>> {
    let MountSource::Filesystem { kind, source, options, fallback, .. } = &mount.source else { return Ok(None) };
    if staging::needed(options) {
        return Ok(None);
    }
    let flags = &mount.flags;
    let tree = match (new_filesystem(kind, source, options, flags.set | flags.recursive_set), fallback) {
        (Ok(fd), _) => {
            if let Some(label) = &mount.label {
                set_label(fd.as_fd(), label)
                    .at(Stage::Mount, || format!("linux.mountLabel: label {}", show(&mount.target)))?;
            }
            propagate(fd.as_fd(), flags, &mount.target)?;
            Detached { fd, kind: Kind::Directory }
        }
        (Err(failure), Some(path)) if matches!(failure.errno, libc::EPERM | libc::EBUSY) => {
            // What would have been one file system may be several now: none of them is left writable.
            let readonly = flags.set & libc::MOUNT_ATTR_RDONLY;
            let flags = MountFlags { recursive_set: flags.recursive_set | readonly, ..*flags };
            bind(path, true, &flags, &mount.target)?
        }
        (Err(failure), _) => {
            return Err(Notice { detail: format!("mount {} to {}", failure.detail, show(&mount.target)), ..failure });
        }
    };
    Ok(Some(tree))
}

fn bind(path: &[u8], recursive: bool, flags: &MountFlags, target: &[u8]) -> Step<Detached> {
    let tree = clone_tree(CWD, path, recursive).at(Stage::Mount, || bind_name(path, target))?;
    finish(tree, flags, target)
}

fn bind_name(path: &[u8], target: &[u8]) -> String {
    format!("bind {} to {}", show(path), show(target))
}

/// Flags and propagation of a tree that was there before.
fn finish(fd: OwnedFd, flags: &MountFlags, target: &[u8]) -> Step<Detached> {
    let kind = kind_of(fd.as_fd()).at(Stage::Mount, || format!("look at the source of {}", show(target)))?;
    change(fd.as_fd(), flags).at(Stage::Mount, || format!("set the flags of {}", show(target)))?;
    propagate(fd.as_fd(), flags, target)?;
    Ok(Detached { fd, kind })
}

/// A copy of the mount at a path, alone or with all below it, attached nowhere.
pub(super) fn clone_tree(directory: BorrowedFd<'_>, path: &[u8], recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(directory, path, flags)
}

/// A new file system, mounted nowhere. The notice's detail names the file system and what the kernel had against it.
pub(super) fn new_filesystem(
    kind: &[u8],
    source: &[u8],
    options: &[(Vec<u8>, Option<Vec<u8>>)],
    attributes: u64,
) -> Step<OwnedFd> {
    let named = |what: &str| format!("{} ({what})", show(kind));
    let fs =
        fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).at(Stage::Mount, || named("the kernel has no such file system"))?;
    if !source.is_empty() {
        fsconfig_set_string(&fs, "source", source).at(Stage::Mount, || named(&complaint(fs.as_fd(), "source")))?;
    }
    for (key, value) in options {
        let set = match value {
            None => fsconfig_set_flag(&fs, key.as_slice()),
            Some(value) => fsconfig_set_string(&fs, key.as_slice(), value.as_slice()),
        };
        set.at(Stage::Mount, || named(&complaint(fs.as_fd(), &format!("option {}", show(key)))))?;
    }
    fsconfig_create(&fs).at(Stage::Mount, || named(&complaint(fs.as_fd(), "create")))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).at(Stage::Mount, || named("mount flags"))
}

/// What the kernel logged about a file system that it refused, or `otherwise`.
pub(super) fn complaint(fs: BorrowedFd<'_>, otherwise: &str) -> String {
    let mut line = [0u8; 256];
    match rustix::io::read(fs, &mut line) {
        Ok(n) if n > 2 => show(line[2..n].trim_ascii()),
        _ => otherwise.to_owned(),
    }
}

/// Applies flags to a tree.
pub(super) fn change(tree: BorrowedFd<'_>, flags: &MountFlags) -> io::Result<()> {
    if flags.recursive_set | flags.recursive_clear != 0 {
        let attr = MountAttr { set: flags.recursive_set, clear: flags.recursive_clear, ..MountAttr::default() };
        mount_setattr(tree, true, attr)?;
    }
    if flags.set | flags.clear != 0 {
        mount_setattr(tree, false, MountAttr { set: flags.set, clear: flags.clear, ..MountAttr::default() })?;
    }
    Ok(())
}

fn propagate(tree: BorrowedFd<'_>, flags: &MountFlags, target: &[u8]) -> Step<()> {
    for kind in flags.propagation.into_iter().filter(|&p| p != 0) {
        set_propagation(tree, kind).at(Stage::Mount, || format!("set the propagation of {}", show(target)))?;
    }
    Ok(())
}

/// `MS_SHARED` and its like, with or without `MS_REC`.
pub(super) fn set_propagation(tree: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    let recursive = u64::from(kind) & libc::MS_REC != 0;
    let propagation = u64::from(kind) & !libc::MS_REC;
    mount_setattr(tree, recursive, MountAttr { propagation, ..MountAttr::default() })
}

/// Attaches a tree to what `target` refers to.
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Carries the steps out below the new root.
pub(super) fn attach_all(tree: &mut Tree, steps: &[MountStep], mut prepared: Vec<Option<Detached>>) -> Step<()> {
    for (step, detached) in steps.iter().zip(prepared.iter_mut()) {
        match (step, detached.take()) {
            (MountStep::Mount(mount), Some(detached)) => {
                attach_one(tree, mount, &detached)?;
                if mount.plain && detached.kind == Kind::Directory {
                    tree.remember(&mount.target, detached.fd);
                }
            }
            (MountStep::Symlink { path, target }, _) => symlink(tree, path, target, Stage::Mount)?,
            (MountStep::Change { path, flags, options }, _) => {
                reconfigure(tree, path, options)?;
                change_at(tree, path, flags)?;
            }
            (MountStep::Mount(mount), None) => {
                return refuse(Stage::Mount, format!("{} was not prepared", show(&mount.target)));
            }
        }
    }
    Ok(())
}

/// Other options for the file system that is mounted at `path`.
fn reconfigure(tree: &Tree, path: &[u8], options: &[(Vec<u8>, Option<Vec<u8>>)]) -> Step<()> {
    if options.is_empty() {
        return Ok(());
    }
    let name = || format!("remount {}", show(path));
    let mount = tree.open(path, OFlags::PATH).at(Stage::Mount, name)?;
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let fs = fspick(&mount, "", flags).at(Stage::Mount, name)?;
    let failed = |what: &str| format!("{} ({})", name(), complaint(fs.as_fd(), what));
    for (key, value) in options {
        let set = match value {
            None => fsconfig_set_flag(&fs, key.as_slice()),
            Some(value) => fsconfig_set_string(&fs, key.as_slice(), value.as_slice()),
        };
        set.at(Stage::Mount, || failed(&format!("option {}", show(key))))?;
    }
    fsconfig_reconfigure(&fs).at(Stage::Mount, || failed("reconfigure"))
}

/// Other flags for what is mounted at `path`.
pub(super) fn change_at(tree: &Tree, path: &[u8], flags: &MountFlags) -> Step<()> {
    let name = || format!("remount {}", show(path));
    let mount = tree.open(path, OFlags::PATH).at(Stage::Mount, name)?;
    change(mount.as_fd(), flags).at(Stage::Mount, name)?;
    propagate(mount.as_fd(), flags, path)
}

fn attach_one(tree: &Tree, mount: &MountPlan, detached: &Detached) -> Step<()> {
    let found = tree.target(&mount.target, detached.kind, mount.plain);
    if mount.plain && found.as_ref().err() == Some(&Errno::LOOP) {
        let text =
            format!("{} must be mounted on ordinary directory, not through a symbolic link", show(&mount.target));
        return refuse(Stage::Mount, text);
    }
    let name = || format!("mount {}", show(&mount.target));
    let (target, existed) = found.at(Stage::Mount, || format!("make the mount point {}", show(&mount.target)))?;
    if !mount.over_proc && fstatfs(&target).at(Stage::Mount, name)?.f_type as i64 == procfs::MAGIC {
        return refuse(Stage::Mount, format!("{} leads into /proc, where nothing may be mounted", show(&mount.target)));
    }
    let inherits = matches!(mount.source, MountSource::Filesystem { inherit_mode: true, .. });
    if inherits && existed {
        inherit_mode(detached.fd.as_fd(), target.as_fd())
            .at(Stage::Mount, || format!("give {} the mode of what it covers", show(&mount.target)))?;
    }
    if mount.copy_up && existed {
        copy_tree(target.as_fd(), detached.fd.as_fd())
            .at(Stage::Mount, || format!("copy what is in {} into its new file system", show(&mount.target)))?;
    }
    attach(detached.fd.as_fd(), target.as_fd()).at(Stage::Mount, name)
}

fn inherit_mode(filesystem: BorrowedFd<'_>, covered: BorrowedFd<'_>) -> Result<(), Errno> {
    let mode = fstat(covered)?.st_mode & 0o7777;
    chmodat(filesystem, ".", Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Makes a symbolic link, unless its name is taken.
pub(super) fn symlink(tree: &Tree, path: &[u8], target: &[u8], stage: Stage) -> Step<()> {
    let name = || format!("make the symbolic link {}", show(path));
    let (parent, last) = tree.parent(path).at(stage, name)?;
    match symlinkat(target, parent, last) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e).at(stage, name),
    }
}
