//! File systems that are mounted by mount(2): where an option is longer than fsconfig(2) takes.
//!
//! mount(2) wants a place. A file system of our own is put over the root, where nobody's path leads, the other is mounted
//! on a directory in it and taken from there as a tree that hangs nowhere. All of it happens in the container's own mount
//! namespace, when that has been cut off from the host's.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, move_mount, unmount};
use rustix::process::{chdir, fchdir};

use super::context::{Context, Step, refuse, show};
use super::mounts::{MAX_OPTION, clone_tree, new_filesystem};
use super::status::Stage;

/// What mount(2) takes of options, with the NUL.
const PAGE: usize = 4096;

/// An option of the super block: its name, and its value if it has one.
pub(super) type MountOption = (Vec<u8>, Option<Vec<u8>>);

/// Options that are flags of mount(2).
const FLAGS: [(&[u8], MountFlags); 7] = [
    (b"sync", MountFlags::SYNCHRONOUS),
    (b"dirsync", MountFlags::DIRSYNC),
    (b"lazytime", MountFlags::LAZYTIME),
    (b"mand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
    (b"async", MountFlags::empty()),
    (b"nolazytime", MountFlags::empty()),
    (b"nomand", MountFlags::empty()),
];

/// Whether fsconfig(2) cannot take these.
pub(super) fn needed(options: &[MountOption]) -> bool {
    options.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.len() > MAX_OPTION))
}

/// A new file system, mounted nowhere. It has no flags of a mount yet.
pub(super) fn new_by_mount(kind: &[u8], source: &[u8], options: &[MountOption]) -> Step<OwnedFd> {
    let name = || show(kind);
    let mut flags = MountFlags::empty();
    let mut data: Vec<Vec<u8>> = Vec::new();
    for (key, value) in options {
        match (FLAGS.iter().find(|(flag, _)| *flag == key.as_slice()), value) {
            (Some((_, flag)), None) => flags |= *flag,
            (_, None) => data.push(key.clone()),
            (_, Some(value)) => data.push([key.as_slice(), b"=", value.as_slice()].concat()),
        }
    }
    let data = data.join(&b',');
    if data.len() >= PAGE {
        return refuse(Stage::Mount, format!("{} (its options are longer than the {PAGE} bytes of mount(2))", name()));
    }
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL).at(Stage::Mount, name)?;

    let place = new_filesystem(b"tmpfs", b"tmpfs", &[], 0)?;
    mkdirat(&place, "new", Mode::RWXU).at(Stage::Mount, name)?;
    move_mount(&place, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).at(Stage::Mount, name)?;
    fchdir(&place).at(Stage::Mount, name)?;
    let tree = mount(source, "new", kind, flags, Some(data.as_c_str()))
        .and_then(|()| clone_tree(place.as_fd(), b"new", false))
        .at(Stage::Mount, name);
    // The place goes, and with it what is on it; the copy stays.
    unmount(".", UnmountFlags::DETACH).at(Stage::Mount, name)?;
    chdir("/").at(Stage::Mount, name)?;
    tree
}
