//! The terminal: a pseudo terminal of the container's own devpts, never one of the host's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, fstatfs, makedev, openat};
use rustix::io::Errno;
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::context::{Context, Step, refuse};
use super::devices;
use super::mounts::{attach, clone_tree};
use super::status::{Reporter, Stage};
use super::tree::Tree;
use crate::runtime::plan::TerminalPlan;
use crate::runtime::sys::process::dup_onto;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS: i64 = 0x1cd1;
/// The inode of ptmx in every devpts.
const PTMX_INODE: u64 = 2;

/// Opens a terminal, hands its master over, and makes the slave the standard streams and controlling terminal.
pub(super) fn set_up(tree: &Tree, plan: TerminalPlan, bind: bool, reporter: &Reporter) -> Step<()> {
    let (master, slave) = open(tree)?;
    if plan.rows != 0 || plan.columns != 0 {
        let size = Winsize { ws_row: plan.rows, ws_col: plan.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).at(Stage::Console, || "set the size of the terminal".into())?;
    }
    if bind {
        bind_console(tree, &slave)?;
    }
    reporter.console(master.as_fd());
    for number in 0..3 {
        dup_onto(slave.as_fd(), number, false).at(Stage::Console, || "use the terminal".into())?;
    }
    ioctl_tiocsctty(&slave).at(Stage::Console, || "make the terminal the controlling one".into())
}

fn open(tree: &Tree) -> Step<(OwnedFd, OwnedFd)> {
    let name = || "open /dev/pts/ptmx".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let master = match tree.open_plain(b"/dev/pts/ptmx", flags) {
        Err(Errno::NOENT) => return refuse(Stage::Console, "a terminal needs a devpts at /dev/pts, and there is none"),
        other => other.at(Stage::Console, name)?,
    };
    let stat = fstat(&master).at(Stage::Console, name)?;
    let fs = fstatfs(&master).at(Stage::Console, name)?;
    let genuine = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(5, 2)
        && stat.st_ino == PTMX_INODE
        && fs.f_type as i64 == DEVPTS;
    if !genuine {
        return refuse(Stage::Console, "/dev/pts/ptmx is not the multiplexer of a devpts");
    }
    unlockpt(&master).at(Stage::Console, || "unlock the terminal".into())?;
    // The slave comes from the master itself, not by its name.
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .at(Stage::Console, || "open the terminal".into())?;
    Ok((master, slave))
}

/// Binds the slave over /dev/console, a plain file made for it.
fn bind_console(tree: &Tree, slave: &OwnedFd) -> Step<()> {
    let name = || "bind /dev/console".to_owned();
    let dev = devices::directory(tree).at(Stage::Console, name)?;
    let target = console_file(dev.as_fd()).at(Stage::Console, name)?;
    let copy = clone_tree(slave.as_fd(), b"", false).at(Stage::Console, name)?;
    attach(copy.as_fd(), target.as_fd()).at(Stage::Console, name)
}

fn console_file(dev: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dev, "console", create, Mode::from_raw_mode(0o620)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let found = openat(dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&found)?.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => Ok(found),
        _ => Err(Errno::LOOP),
    }
}
