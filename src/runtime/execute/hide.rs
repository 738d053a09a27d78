//! Masked paths, read-only paths, and sysctls: what is done to /proc and /sys once they are there.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::context::{Context, Step, show};
use super::devices::null_tree;
use super::mounts::{attach, clone_tree, new_filesystem};
use super::procfs::Procfs;
use super::status::{Notice, Stage};
use super::tree::{Kind, Tree, kind_of};
use crate::runtime::sys::mount::{MountAttr, mount_setattr};

/// What masked paths are covered with. Made once; every path gets a copy.
#[derive(Debug)]
pub(super) struct Covers {
    file: OwnedFd,
    file_used: bool,
    directory: Option<OwnedFd>,
    label: Option<Vec<u8>>,
}

impl Covers {
    /// While the host's /dev/null can be reached, for the container's may be anything.
    ///
    /// `label` is the SELinux label of the empty directory.
    pub fn prepare(label: Option<Vec<u8>>) -> Step<Self> {
        Ok(Self { file: null_tree()?, file_used: false, directory: None, label })
    }

    /// Covers a path, if it is there: a file by the null device, a directory by an empty one.
    pub fn mask(&mut self, tree: &Tree, path: &[u8]) -> Step<()> {
        let name = || format!("mask {}", show(path));
        let target = match tree.open_mounted(path, OFlags::PATH) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.at(Stage::MaskedPath, name)?,
        };
        match kind_of(target.as_fd()).at(Stage::MaskedPath, name)? {
            Kind::File => {
                cover(&self.file, self.file_used, &target).at(Stage::MaskedPath, name)?;
                self.file_used = true;
            }
            Kind::Directory => match &self.directory {
                Some(empty) => cover(empty, true, &target).at(Stage::MaskedPath, name)?,
                None => {
                    let empty = empty_directory(self.label.as_deref())?;
                    cover(&empty, false, &target).at(Stage::MaskedPath, name)?;
                    self.directory = Some(empty);
                }
            },
        }
        Ok(())
    }
}

/// The first use attaches the tree itself; from then on it is a mount of ours that can be copied.
fn cover(with: &OwnedFd, used: bool, target: &OwnedFd) -> Result<(), Errno> {
    if used {
        let copy = clone_tree(with.as_fd(), b"", false)?;
        return attach(copy.as_fd(), target.as_fd());
    }
    attach(with.as_fd(), target.as_fd())
}

fn empty_directory(label: Option<&[u8]>) -> Step<OwnedFd> {
    let option = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
    let mut options = vec![option(b"nr_blocks", b"1"), option(b"nr_inodes", b"1")];
    options.extend(label.map(|label| option(b"context", label)));
    let attributes =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    new_filesystem(b"tmpfs", b"tmpfs", &options, attributes)
        .map_err(|notice| Notice { stage: Stage::MaskedPath, ..notice })
}

/// Makes a path read-only with all that is mounted below it, if it is there.
pub(super) fn make_readonly(tree: &Tree, path: &[u8]) -> Step<()> {
    let name = || format!("make {} read-only", show(path));
    let target = match tree.open_mounted(path, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.at(Stage::ReadonlyPath, name)?,
    };
    let copy = clone_tree(target.as_fd(), b"", true).at(Stage::ReadonlyPath, name)?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount_setattr(copy.as_fd(), true, attr).at(Stage::ReadonlyPath, name)?;
    attach(copy.as_fd(), target.as_fd()).at(Stage::ReadonlyPath, name)
}

/// Writes sysctls through a procfs of our own that is mounted nowhere, so that no path of the image is in between.
pub(super) fn write_sysctls(sysctls: &[(Vec<u8>, Vec<u8>)]) -> Step<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let procfs = Procfs::private().at(Stage::Sysctl, || "find a procfs to write sysctls to".into())?;
    for (path, value) in sysctls {
        let name = || format!("write sysctl {}", show(path).replace('/', "."));
        let file = [b"sys/", path.as_slice()].concat();
        let file = procfs.open(&file, OFlags::WRONLY).at(Stage::Sysctl, name)?;
        rustix::io::write(&file, value).at(Stage::Sysctl, name)?;
    }
    Ok(())
}
