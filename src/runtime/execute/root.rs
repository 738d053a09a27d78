//! The root file system: made, entered, and the host left behind.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_move, move_mount, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::context::{Context, Step, show};
use super::mounts::{MAX_OPTION, clone_tree, complaint, set_propagation};
use super::status::Stage;
use super::tree::Tree;
use crate::runtime::plan::{RootPlan, RootSource};
use crate::runtime::sys::process as sys;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Nothing that is mounted from here on reaches the host.
pub(super) fn isolate(host_propagation: u32) -> Step<()> {
    let root = open("/", DIRECTORY, Mode::empty()).at(Stage::Root, || "open /".into())?;
    set_propagation(root.as_fd(), host_propagation | libc::MS_REC as u32)
        .at(Stage::Root, || "keep mounts from reaching the host".into())
}

/// Opens the root file system for a process that may not be able to, and that attaches it then ([`prepare`]).
pub(super) fn open_source(plan: &RootPlan) -> Step<OwnedFd> {
    match &plan.source {
        RootSource::Directory(path) => {
            clone_tree(CWD, path, true).at(Stage::Root, || format!("root file system {}", show(path)))
        }
        RootSource::Overlay { lowers, upper, work, volatile, options } => {
            // In mounts of one's own: the old way to mount it shows on its upper directory.
            sys::unshare_namespaces(libc::CLONE_NEWNS as u32).at(Stage::Root, || "make a mount namespace".into())?;
            isolate(plan.host_propagation)?;
            let mounted = Overlay { lowers, upper, work, volatile: *volatile, options }.mount()?;
            clone_tree(mounted.as_fd(), b"", false).at(Stage::Root, || "detach the overlay".into())
        }
    }
}

/// Mounts the root file system, at a place of the host's file systems that only this mount namespace sees covered.
/// `opened`: what [`open_source`] got.
pub(super) fn prepare(plan: &RootPlan, opened: Option<OwnedFd>) -> Step<Tree> {
    let root = match (&plan.source, opened) {
        (RootSource::Directory(path), Some(tree)) => attach(tree, path)?,
        (RootSource::Overlay { upper, .. }, Some(tree)) => attach(tree, upper)?,
        (RootSource::Directory(path), None) => directory(path)?,
        (RootSource::Overlay { lowers, upper, work, volatile, options }, None) => {
            Overlay { lowers, upper, work, volatile: *volatile, options }.mount()?
        }
    };
    Ok(Tree::new(root))
}

/// Makes the mounted root the process's root; the host's file systems are out of reach then.
pub(super) fn enter(plan: &RootPlan, prepared: Tree) -> Step<Tree> {
    let failed = |what: &'static str| move || format!("{what} the root file system");
    fchdir(&prepared.root).at(Stage::Root, failed("enter"))?;
    if plan.no_pivot {
        cover_host(&prepared)?;
        mount_move(".", "/").at(Stage::Root, failed("move"))?;
        chroot(".").at(Stage::Root, failed("chroot to"))?;
        chdir("/").at(Stage::Root, failed("enter"))?;
        return Tree::of_process().at(Stage::Root, failed("open"));
    }
    // The old root lands on top of the new one, at the same place, and is taken off it again.
    pivot_root(".", ".").at(Stage::Root, failed("pivot to"))?;
    unmount(".", UnmountFlags::DETACH).at(Stage::Root, || "leave the host's file systems".into())?;
    chdir("/").at(Stage::Root, failed("enter"))?;
    prepared.entered().at(Stage::Root, failed("open"))
}

/// The host's file systems stay where they are below a root that was moved over them, and a process that breaks out of
/// its chroot finds them. A procfs or sysfs there is a whole one: a user namespace could mount its own (the kernel allows
/// that only where one is in sight), and nothing of it is masked. So they go.
fn cover_host(prepared: &Tree) -> Step<()> {
    let name = || "leave the host's proc and sysfs".to_owned();
    let own = readlinkat(CWD, format!("/proc/self/fd/{}", prepared.root.as_raw_fd()), Vec::new())
        .at(Stage::Root, name)?
        .into_bytes();
    let table = std::fs::read("/proc/self/mountinfo").at(Stage::Root, name)?;
    let found = table.split(|&b| b == b'\n').filter_map(host_filesystem);
    let inside = |point: &[u8]| point.strip_prefix(own.as_slice()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
    let points: Vec<Vec<u8>> = found.filter(|point| !inside(point)).collect();
    // What was mounted last, covering others, goes first.
    for point in points.iter().rev() {
        match unmount(point.as_slice(), UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Not to be taken off by this user namespace, or not reachable by its path.
            Err(Errno::INVAL | Errno::PERM) => mount("", point.as_slice(), "tmpfs", MountFlags::empty(), None)
                .at(Stage::Root, || format!("cover {}", show(point)))?,
            Err(e) => return Err(e).at(Stage::Root, || format!("unmount {}", show(point))),
        }
    }
    Ok(())
}

/// Where a line of mountinfo has a whole procfs or sysfs.
fn host_filesystem(line: &[u8]) -> Option<Vec<u8>> {
    // "36 35 98:0 / /proc rw,noatime master:1 - proc proc rw": root and mount point, and after the dash the type.
    let mut fields = line.split(|&b| b == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    (root == b"/" && matches!(kind, b"proc" | b"sysfs")).then(|| unescape(point))
}

/// Blanks in mountinfo are octal: `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.first_chunk::<3>().filter(|_| first == b'\\');
        let escaped = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    plain
}

/// What is last: flags of the root that its filling would not have survived.
pub(super) fn finish(plan: &RootPlan, tree: &Tree) -> Step<()> {
    use crate::runtime::sys::mount::{MountAttr, mount_setattr};
    if plan.readonly {
        let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        mount_setattr(tree.root.as_fd(), false, attr).at(Stage::Root, || "make the root read-only".into())?;
    }
    if plan.propagation != 0 {
        set_propagation(tree.root.as_fd(), plan.propagation)
            .at(Stage::Root, || "set the propagation of the root".into())?;
    }
    Ok(())
}

/// A directory becomes a mount by being bound over itself.
fn directory(path: &[u8]) -> Step<OwnedFd> {
    let tree = clone_tree(CWD, path, true).at(Stage::Root, || format!("root file system {}", show(path)))?;
    attach(tree, path)
}

/// Attaches the root where hooks look for it; where it is out of the reach of this user, over the whole.
fn attach(tree: OwnedFd, path: &[u8]) -> Step<OwnedFd> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    match move_mount(&tree, "", CWD, path, flags) {
        Err(Errno::ACCESS) => move_mount(&tree, "", CWD, "/", flags),
        other => other,
    }
    .at(Stage::Root, || format!("root file system {}", show(path)))?;
    Ok(tree)
}

struct Overlay<'a> {
    lowers: &'a [Vec<u8>],
    upper: &'a [u8],
    work: &'a [u8],
    volatile: bool,
    options: &'a [(Vec<u8>, Option<Vec<u8>>)],
}

impl Overlay<'_> {
    /// Mounted over its own upper directory: that is a place that surely exists, and nobody sees it there.
    fn mount(&self) -> Step<OwnedFd> {
        match self.new_api() {
            Ok(tree) => {
                move_mount(&tree, "", CWD, self.upper, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                    .at(Stage::Root, || format!("attach the overlay to {}", show(self.upper)))?;
                Ok(tree)
            }
            // Before 6.8 there is no `lowerdir+`. Where that is not the reason, the first refusal is the better one.
            Err(refusal) if refusal.errno == libc::EINVAL => self.old_api().or(Err(refusal)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Layer by layer, so that there may be many, with long paths.
    fn new_api(&self) -> Step<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .at(Stage::Root, || "the kernel has no overlay file system".into())?;
        let failed = |what: String| format!("overlay: {}", complaint(fs.as_fd(), &what));
        fsconfig_set_string(&fs, "source", "overlay").at(Stage::Root, || failed("source".into()))?;
        // Descriptors of what has too long a path for fsconfig(2); open until the mount is made.
        let mut held = Vec::new();
        for lower in self.lowers {
            let path = short(lower, &mut held)?;
            fsconfig_set_string(&fs, "lowerdir+", path).at(Stage::Root, || failed(format!("layer {}", show(lower))))?;
        }
        for (key, path) in [("upperdir", self.upper), ("workdir", self.work)] {
            let short = short(path, &mut held)?;
            fsconfig_set_string(&fs, key, short).at(Stage::Root, || failed(format!("{key} {}", show(path))))?;
        }
        if self.volatile {
            fsconfig_set_flag(&fs, "volatile").at(Stage::Root, || failed("volatile".into()))?;
        }
        for (key, value) in self.options {
            let set = match value {
                Some(value) => fsconfig_set_string(&fs, key.as_slice(), value.as_slice()),
                None => fsconfig_set_flag(&fs, key.as_slice()),
            };
            set.at(Stage::Root, || failed(format!("option {}", show(key))))?;
        }
        fsconfig_create(&fs).at(Stage::Root, || failed(self.refused()))?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).at(Stage::Root, || failed("mount".into()))
    }

    /// Why the whole may have been refused, where the kernel says it to its log only.
    fn refused(&self) -> String {
        let used = [self.work, b"/work/incompat/volatile"].concat();
        let used = self.volatile && rustix::fs::statat(CWD, used, rustix::fs::AtFlags::empty()).is_ok();
        let hint = if used { " (a volatile upper directory serves one mount only; it needs a new one)" } else { "" };
        format!("mount over upper directory {}{hint}", show(self.upper))
    }

    /// By mount(2), whose options are a page of text at most: so layers are named by the numbers of descriptors, read
    /// as paths below /proc/self/fd.
    fn old_api(&self) -> Step<OwnedFd> {
        let name = || "overlay".to_owned();
        chdir("/proc/self/fd").at(Stage::Root, || "enter /proc/self/fd".into())?;
        let mut held = Vec::new();
        let mut data = b"lowerdir=".to_vec();
        for (n, lower) in self.lowers.iter().enumerate() {
            if n > 0 {
                data.push(b':');
            }
            data.extend_from_slice(number(lower, &mut held)?.as_bytes());
        }
        for (key, path) in [(",upperdir=", self.upper), (",workdir=", self.work)] {
            data.extend_from_slice(key.as_bytes());
            data.extend_from_slice(number(path, &mut held)?.as_bytes());
        }
        if self.volatile {
            data.extend_from_slice(b",volatile");
        }
        for (key, value) in self.options {
            data.push(b',');
            data.extend_from_slice(key);
            if let Some(value) = value {
                data.push(b'=');
                data.extend_from_slice(value);
            }
        }
        let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL).at(Stage::Root, name)?;
        mount("overlay", self.upper, "overlay", MountFlags::empty(), Some(data.as_c_str()))
            .at(Stage::Root, || format!("overlay of {} layers over {}", self.lowers.len(), show(self.upper)))?;
        open(self.upper, DIRECTORY, Mode::empty()).at(Stage::Root, name)
    }
}

/// `path`, or if it is too long a path of the same directory through a descriptor.
fn short(path: &[u8], held: &mut Vec<OwnedFd>) -> Step<Vec<u8>> {
    if path.len() <= MAX_OPTION {
        return Ok(path.to_vec());
    }
    Ok(format!("/proc/self/fd/{}", number(path, held)?).into_bytes())
}

fn number(path: &[u8], held: &mut Vec<OwnedFd>) -> Step<String> {
    let fd = openat(CWD, path, DIRECTORY, Mode::empty()).at(Stage::Root, || format!("layer {}", show(path)))?;
    let number = fd.as_raw_fd().to_string();
    held.push(fd);
    Ok(number)
}
