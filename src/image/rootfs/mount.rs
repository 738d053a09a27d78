//! Mounts that are attached nowhere.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount,
    open_tree,
};

/// A descriptor of the root of the merged directories, the topmost first.
pub(super) fn merged(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    match lowers {
        [] => Err(io::Error::new(io::ErrorKind::InvalidInput, "there are no layers")),
        // Overlayfs does not take one alone.
        [single] => Ok(fs::open(single, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?),
        several => match layer_by_layer(several) {
            // Linux before 6.7 takes all layers in one string.
            Err(Errno::INVAL) => in_a_thread(several.to_vec()),
            done => Ok(done?),
        },
    }
}

fn layer_by_layer(lowers: &[PathBuf]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in lowers {
        fsconfig_set_string(&context, "lowerdir+", lower.as_path())?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A writable directory upon others, attached to `target`. What was written need not survive power loss.
pub(super) fn writable(root: &super::Writable<'_>, target: &Path) -> rustix::io::Result<()> {
    match writable_layer_by_layer(root, target) {
        Err(Errno::INVAL) => writable_in_one_string(root, target),
        done => done,
    }
}

fn writable_layer_by_layer(root: &super::Writable<'_>, target: &Path) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for lower in root.lowers {
        fsconfig_set_string(&context, "lowerdir+", lower.as_path())?;
    }
    fsconfig_set_string(&context, "upperdir", root.upper)?;
    fsconfig_set_string(&context, "workdir", root.work)?;
    fsconfig_set_flag(&context, "volatile")?;
    fsconfig_create(&context)?;
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&tree, "", fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn writable_in_one_string(root: &super::Writable<'_>, target: &Path) -> rustix::io::Result<()> {
    let open = |path: &Path| fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let lowers = root.lowers.iter().map(|lower| open(lower)).collect::<rustix::io::Result<Vec<_>>>()?;
    let (upper, work) = (open(root.upper)?, open(root.work)?);
    // Short names: the options have to fit into a page.
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers = lowers.iter().map(name).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={lowers},upperdir={},workdir={},volatile", name(&upper), name(&work));
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
}

/// An old kernel mounts at a path only: in a mount namespace that goes away with the thread. The tree that is cloned from the
/// mount stays.
fn in_a_thread(lowers: Vec<PathBuf>) -> io::Result<OwnedFd> {
    let worker = std::thread::Builder::new().name("image-view".into()).spawn(move || in_own_namespace(&lowers))?;
    worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread that mounts layers failed")))
}

fn in_own_namespace(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    let flags = nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS;
    nix::sched::unshare(flags)?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let open = |lower: &PathBuf| fs::open(lower, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened = lowers.iter().map(open).collect::<rustix::io::Result<Vec<_>>>()?;
    // Short names: the options have to fit into a page.
    let names: Vec<String> = opened.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let options = CString::new(format!("lowerdir={}", names.join(":")))?;
    let attributes = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    let at: &Path = &lowers[0];
    mount("overlay", at, "overlay", attributes, options.as_c_str())?;
    Ok(open_tree(fs::CWD, at, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

#[cfg(test)]
pub(super) fn merged_as_on_old_kernels(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    in_a_thread(lowers.to_vec())
}
