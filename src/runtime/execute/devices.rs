//! Device nodes and the usual links of /dev.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, makedev, mknodat, statat};
use rustix::io::Errno;

use super::context::{Context, Step, refuse, show};
use super::mounts::{attach, clone_tree};
use super::status::Stage;
use super::tree::{Kind, Tree};
use crate::runtime::plan::DevicePlan;

/// The host's nodes that are bound because none can be made here; in the order of the plan.
pub(super) fn prepare(devices: &[DevicePlan]) -> Step<Vec<Option<OwnedFd>>> {
    devices
        .iter()
        .map(|device| {
            let Some(path) = &device.bind else { return Ok(None) };
            let name = || format!("bind the device {}", show(path));
            let node = clone_tree(CWD, path, false).at(Stage::Device, name)?;
            let found = statat(&node, "", AtFlags::EMPTY_PATH).at(Stage::Device, name)?;
            if !is_device(&found, device) {
                return refuse(Stage::Device, format!("{} of the host is not the device asked for", show(path)));
            }
            Ok(Some(node))
        })
        .collect()
}

/// Makes the nodes, each checked to be what was asked for.
pub(super) fn make(tree: &Tree, devices: &[DevicePlan], bound: Vec<Option<OwnedFd>>) -> Step<()> {
    // Most are in /dev, which is found once.
    let mut last: Option<(&[u8], OwnedFd)> = None;
    for (device, bound) in devices.iter().zip(bound) {
        let name = || format!("make the device {}", show(&device.path));
        if let Some(node) = bound {
            let (target, _) = tree.target(&device.path, Kind::File, false).at(Stage::Device, name)?;
            attach(node.as_fd(), target.as_fd()).at(Stage::Device, name)?;
            continue;
        }
        let slash = device.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let (directory, file) = (&device.path[..slash], &device.path[slash + 1..]);
        let parent = match last.take() {
            Some((path, fd)) if path == directory => fd,
            _ => tree.parent(&device.path).at(Stage::Device, name)?.0,
        };
        node(&parent, file, device)?;
        last = Some((directory, parent));
    }
    Ok(())
}

fn node(parent: &OwnedFd, file: &[u8], device: &DevicePlan) -> Step<()> {
    let name = || format!("make the device {}", show(&device.path));
    let kind = FileType::from_raw_mode(device.mode);
    let made = match mknodat(
        parent,
        file,
        kind,
        Mode::from_raw_mode(device.mode & 0o7777),
        makedev(device.major, device.minor),
    ) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(e).at(Stage::Device, name),
    };
    let found = statat(parent, file, AtFlags::SYMLINK_NOFOLLOW).at(Stage::Device, name)?;
    if !is_device(&found, device) {
        return refuse(
            Stage::Device,
            format!("{} is there already and is not the device asked for", show(&device.path)),
        );
    }
    if !made && device.default {
        return Ok(());
    }
    if (found.st_uid, found.st_gid) != (device.uid, device.gid) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        chownat(parent, file, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at(Stage::Device, name)?;
    }
    Ok(())
}

/// Whether a node is of the type and number that the plan has.
fn is_device(found: &Stat, device: &DevicePlan) -> bool {
    let kind = FileType::from_raw_mode(device.mode);
    let numbered = kind != FileType::Fifo;
    FileType::from_raw_mode(found.st_mode) == kind
        && (!numbered || found.st_rdev == makedev(device.major, device.minor))
}

/// Whether this is the null device and nothing that stands in its place.
pub(super) fn is_null(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
}

/// The host's null device as a tree to cover files with, verified.
pub(super) fn null_tree() -> Step<OwnedFd> {
    let name = || "bind /dev/null".to_owned();
    let tree = clone_tree(CWD, b"/dev/null", false).at(Stage::MaskedPath, name)?;
    let stat = statat(&tree, "", AtFlags::EMPTY_PATH).at(Stage::MaskedPath, name)?;
    if !is_null(&stat) {
        return refuse(Stage::MaskedPath, "/dev/null of the host is not the null device");
    }
    Ok(tree)
}

/// Opens the directory of a device path, for those that put a file beside the devices.
pub(super) fn directory(tree: &Tree) -> Result<OwnedFd, Errno> {
    tree.open(b"/dev", OFlags::PATH | OFlags::DIRECTORY)
}
