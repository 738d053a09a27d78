//! Namespaces that are entered by their files, and time namespaces.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

use super::context::{Context, Step, show};
use super::status::Stage;
use crate::runtime::plan::{JoinNamespace, TimePlan};
use crate::runtime::sys::process as sys;

/// `CLONE_NEWTIME`.
const TIME: u32 = 0x80;

/// The file of a namespace.
pub(super) fn open_one(path: &[u8]) -> Step<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at(Stage::Namespace, || format!("open the namespace {}", show(path)))
}

/// All are opened before the first is entered: the paths of the others may be out of reach then.
pub(super) fn open_all(namespaces: &[JoinNamespace]) -> Step<Vec<(&JoinNamespace, OwnedFd)>> {
    namespaces.iter().map(|namespace| Ok((namespace, open_one(&namespace.path)?))).collect()
}

/// Enters them. With `later`, those for which there are not the privileges are given back instead, to be entered when
/// the user namespace is.
pub(super) fn join(namespaces: Vec<(&JoinNamespace, OwnedFd)>, later: bool) -> Step<Vec<(&JoinNamespace, OwnedFd)>> {
    let mut left = Vec::new();
    for (namespace, fd) in namespaces {
        match sys::setns(fd.as_fd(), namespace.kind) {
            Err(error) if later && error.raw_os_error() == Some(libc::EPERM) => left.push((namespace, fd)),
            result => {
                result.at(Stage::Namespace, || format!("enter the namespace {}", show(&namespace.path)))?;
            }
        }
    }
    Ok(left)
}

/// Makes a time namespace, sets its clocks while nobody is in it, and enters it: a process with one thread can, and so
/// it takes no other fork.
pub(super) fn new_time(plan: &TimePlan) -> Step<()> {
    make_time(plan)?;
    let made = open_one(b"/proc/self/ns/time_for_children")?;
    sys::setns(made.as_fd(), TIME).at(Stage::Namespace, || "enter the new time namespace".into())
}

/// Makes a time namespace that children are born in.
pub(super) fn make_time(plan: &TimePlan) -> Step<()> {
    sys::unshare_namespaces(TIME).at(Stage::Namespace, || "make a time namespace".into())?;
    let lines: String = plan.offsets.iter().map(|o| format!("{} {} {}\n", o.clock, o.seconds, o.nanoseconds)).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let name = || format!("set the clocks of the time namespace ({})", lines.trim_end().replace('\n', ", "));
    let file = open("/proc/self/timens_offsets", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .at(Stage::Namespace, name)?;
    rustix::io::write(&file, lines.as_bytes()).at(Stage::Namespace, name).map(drop)
}
