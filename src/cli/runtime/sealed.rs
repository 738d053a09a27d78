//! A program that nobody can write to.
//!
//! The child that becomes a container's program still is this program when it executes, and an image whose entry point
//! is a script for `/proc/self/exe` gets hold of it. So before anything of an image runs, this program executes itself
//! again from where it cannot be changed: a read-only overlay that is mounted nowhere, or a sealed copy in memory.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::Result;

/// Set for the second execution.
const MARK: &str = "ORLOP_RUNTIME_SEALED";

/// Returns when this is the second execution.
pub(super) fn ensure() -> Result<()> {
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    let path = std::env::current_exe().context("find this program")?;
    let program = overlay(&path).or_else(|_| copy(&path)).context("make an unchangeable copy of this program")?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Returns only when it fails.
    let error = command.args(arguments).env(MARK, "1").exec();
    Err(error).context("execute this program again")
}

/// The program's directory and an empty one as layers: with no upper directory no mount of it can ever be written.
fn overlay(path: &Path) -> Result<OwnedFd> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { bail!("no file") };
    let text = directory.as_os_str().as_bytes();
    if text.iter().any(|b| b":,\\".contains(b)) || text.len() > 200 {
        bail!("no path for an overlay");
    }
    let mount = |kind: &str, layers: Option<&[u8]>| -> rustix::io::Result<OwnedFd> {
        let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        if let Some(layers) = layers {
            fsconfig_set_string(&fs, "lowerdir", layers)?;
        }
        fsconfig_create(&fs)?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
    };
    let empty = mount("tmpfs", None)?;
    let layers = [text, format!(":/proc/self/fd/{}", empty.as_raw_fd()).as_bytes()].concat();
    let merged = mount("overlay", Some(&layers))?;
    Ok(openat(&merged, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Where no overlay can be mounted. Costs a copy of the whole program.
fn copy(path: &Path) -> Result<OwnedFd> {
    let memfd = memfd_create("orlop", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut target = File::from(memfd);
    std::io::copy(&mut File::open(path)?, &mut target)?;
    fcntl_add_seals(target.as_fd(), SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(target.into())
}
