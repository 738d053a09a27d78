//! The merged layers of an image as a directory of the host: for images that are volumes of containers.

use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MoveMountFlags, mount_bind, mount_remount, move_mount};

use super::{RootfsError, mount};
use crate::image::store::Image;

/// Mounts an image's layers on an existing directory, read-only, without devices and set-user-ID programs; what is in
/// it can be executed. The caller keeps the layers and unmounts it.
pub fn attach(image: &Image, target: &Path) -> Result<(), RootfsError> {
    let lowers = image.lowers();
    let failed = |cause: rustix::io::Errno| RootfsError::Mount(cause.into());
    match lowers.as_slice() {
        // Overlayfs does not take one alone.
        [single] => mount_bind(single, target).map_err(failed)?,
        several => {
            let merged = mount::merged(several).map_err(RootfsError::Mount)?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&merged, "", CWD, target, flags).map_err(failed)?;
        }
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount_remount(target, flags, c"").map_err(failed)
}

/// The path on the host of a directory in an attached image. Links in it lead nowhere but into the image.
pub fn directory(attached: &Path, inside: &Path) -> Result<PathBuf, RootfsError> {
    let failed = |action, cause: rustix::io::Errno| RootfsError::path(inside, action, cause);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = fs::open(attached, flags | OFlags::DIRECTORY, Mode::empty()).map_err(|cause| failed("open", cause))?;
    let relative = inside.strip_prefix("/").unwrap_or(inside);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = fs::openat2(&root, relative, flags, Mode::empty(), resolve).map_err(|cause| failed("find", cause))?;
    let stat = fs::fstat(&found).map_err(|cause| failed("look at", cause))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(RootfsError::NotADirectory(inside.to_owned()));
    }
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    std::fs::read_link(link).map_err(|cause| RootfsError::path(inside, "name", cause))
}
