//! User namespaces by their maps: written, read, and made only to be mapped through.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getgid, waitpid};

use super::context::{Context, Step, refuse, show};
use super::program::c_string;
use super::status::{Notice, Stage, pid_of};
use crate::runtime::plan::{IdMaps, IdRange, MountIdMap, PathBytes};
use crate::runtime::sys::clone::{Clone3, Forked};
use crate::runtime::sys::mount::{MountAttr, mount_setattr};
use crate::runtime::sys::process as sys;

/// `MOUNT_ATTR_IDMAP`.
const IDMAP: u64 = 0x0010_0000;

/// A child that holds a user namespace until it is dropped.
struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    /// It ends when this closes.
    release: Option<OwnedFd>,
}

impl Holder {
    /// Forks with `flags`, or with a namespace that the child enters.
    fn new(flags: u64, enter: Option<BorrowedFd<'_>>) -> Step<Self> {
        let name = || "fork a process that holds a user namespace".to_owned();
        let pipe = || pipe_with(PipeFlags::CLOEXEC).at(Stage::Namespace, name);
        let ((wait, release), (ready, entered)) = (pipe()?, pipe()?);
        match (Clone3 { flags, cgroup: None }).fork().at(Stage::Namespace, name)? {
            Forked::Child => {
                drop((release, ready));
                let errno = match enter.map(|ns| sys::setns(ns, libc::CLONE_NEWUSER as u32)) {
                    Some(Err(error)) => error.raw_os_error().unwrap_or(libc::EIO),
                    _ => 0,
                };
                let _ = rustix::io::write(&entered, &errno.to_ne_bytes());
                let _ = rustix::io::read(&wait, &mut [0u8; 1]);
                sys::exit_now(0)
            }
            Forked::Parent { pid, pidfd } => {
                let holder = Self { pid, pidfd, release: Some(release) };
                drop((wait, entered));
                let mut errno = [0; 4];
                let read = rustix::io::retry_on_intr(|| rustix::io::read(&ready, &mut errno));
                match (read, i32::from_ne_bytes(errno)) {
                    (Ok(4), 0) => Ok(holder),
                    (Ok(4), errno) => {
                        Err(Errno::from_raw_os_error(errno)).at(Stage::Namespace, || "enter the user namespace".into())
                    }
                    _ => refuse(Stage::Namespace, "the process that holds a user namespace died"),
                }
            }
        }
    }

    /// A file of its directory in /proc.
    fn open(&self, file: &str) -> Step<OwnedFd> {
        let name = || format!("open {file} of a process in the user namespace");
        let pid = pid_of(self.pidfd.as_fd()).at(Stage::Namespace, name)?;
        open(format!("/proc/{pid}/{file}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at(Stage::Namespace, name)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = rustix::io::retry_on_intr(|| waitpid(Pid::from_raw(self.pid), WaitOptions::empty()));
    }
}

/// The maps of a user namespace (or of that of a pidfd's process), with outside ids as this process has them.
pub(super) fn maps_of(namespace: BorrowedFd<'_>) -> Step<IdMaps> {
    let holder = Holder::new(0, Some(namespace))?;
    let read = |file: &'static str| -> Step<Vec<IdRange>> {
        let mut text = Vec::new();
        let fd = holder.open(file)?;
        let mut part = [0; 4096];
        loop {
            match rustix::io::read(&fd, &mut part).at(Stage::Namespace, || format!("read {file}"))? {
                0 => return Ok(parse(&String::from_utf8_lossy(&text))),
                n => text.extend_from_slice(&part[..n]),
            }
        }
    };
    Ok(IdMaps { uids: read("uid_map")?, gids: read("gid_map")? })
}

fn parse(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(|n| n.parse().ok());
            Some(IdRange { inside: numbers.next()??, outside: numbers.next()??, size: numbers.next()?? })
        })
        .collect()
}

/// A new user namespace that has these maps, and nobody in it.
fn made(maps: &IdMaps) -> Step<OwnedFd> {
    let holder = Holder::new(libc::CLONE_NEWUSER as u64, None)?;
    write_maps(holder.pidfd.as_fd(), maps, None)?;
    holder.open("ns/user")
}

/// The maps as the kernel takes them; the compiler has seen to it that it takes them.
fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.size);
        text
    })
}

/// Gives the new user namespace of a process its maps.
///
/// With the privileges for it, by writing them. Without, a single line for one's own id can be written, if groups can
/// not be changed any more; `tools`, which have the privileges, write the rest.
pub(super) fn write_maps(process: BorrowedFd<'_>, maps: &IdMaps, tools: Option<&(PathBytes, PathBytes)>) -> Step<()> {
    let pid = pid_of(process).at(Stage::Namespace, || "find the process to map the ids of".into())?;
    let name = |file: &str| format!("write {file} of process {pid}");
    let directory = open(format!("/proc/{pid}"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at(Stage::Namespace, || format!("open /proc/{pid}"))?;
    let write = |file: &str, text: &str| {
        let fd = openat(&directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&fd, text.as_bytes()).map(drop)
    };
    match tools {
        Some((tool, _)) if !single(&maps.uids, rustix::process::getuid().as_raw()) => call(tool, pid, &maps.uids)?,
        _ => write("uid_map", &lines(&maps.uids)).at(Stage::Namespace, || name("uid_map"))?,
    }
    match tools {
        Some((_, tool)) if !single(&maps.gids, getgid().as_raw()) => call(tool, pid, &maps.gids),
        _ => {
            if !sys::is_capable(SETGID) {
                write("setgroups", "deny").at(Stage::Namespace, || name("setgroups"))?;
            }
            write("gid_map", &lines(&maps.gids)).at(Stage::Namespace, || name("gid_map"))
        }
    }
}

/// `CAP_SETGID`.
const SETGID: u32 = 6;

/// A user's own id and nothing else.
fn single(ranges: &[IdRange], own: u32) -> bool {
    matches!(ranges, [range] if range.outside == own && range.size == 1)
}

/// newuidmap(1) or newgidmap(1).
fn call(tool: &[u8], pid: i32, ranges: &[IdRange]) -> Step<()> {
    let name = || format!("run {}", show(tool));
    let numbers = ranges.iter().flat_map(|range| [range.inside, range.outside, range.size]);
    let mut args = vec![tool.to_vec(), pid.to_string().into_bytes()];
    args.extend(numbers.map(|number| number.to_string().into_bytes()));
    let args = args.iter().map(|a| c_string(a, Stage::Namespace)).collect::<Step<Vec<_>>>()?;
    let path = c_string(tool, Stage::Namespace)?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).at(Stage::Namespace, name)?;
    match (Clone3 { flags: 0, cgroup: None }).fork().at(Stage::Namespace, name)? {
        Forked::Child => {
            for number in [1, 2] {
                let _ = sys::dup_onto(write.as_fd(), number, false);
            }
            let error = sys::execute(&path, &sys::CStringArray::new(args), &sys::CStringArray::new(Vec::new()));
            let _ = rustix::io::write(rustix::stdio::stderr(), error.to_string().as_bytes());
            sys::exit_now(127)
        }
        Forked::Parent { pid, .. } => {
            drop(write);
            let mut said = [0; 512];
            let mut length = 0;
            while length < said.len() {
                match rustix::io::retry_on_intr(|| rustix::io::read(&read, &mut said[length..])) {
                    Ok(n @ 1..) => length += n,
                    _ => break,
                }
            }
            drop(read);
            let ended = rustix::io::retry_on_intr(|| waitpid(Pid::from_raw(pid), WaitOptions::empty()));
            match ended.at(Stage::Namespace, name)? {
                Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
                _ => {
                    let said = show(said[..length].trim_ascii());
                    refuse(
                        Stage::Namespace,
                        format!("{}: {said} (the ids have to be the user's in /etc/subuid and /etc/subgid)", name()),
                    )
                }
            }
        }
    }
}

/// The user namespaces that mounts are mapped through: one for each mapping.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// The container's: its maps, and the namespace itself where it was there before.
    container: Option<(IdMaps, Option<OwnedFd>)>,
    made: Vec<(IdMaps, OwnedFd)>,
}

impl Namespaces {
    pub fn of_container(maps: IdMaps, namespace: Option<OwnedFd>) -> Self {
        Self { container: Some((maps, namespace)), made: Vec::new() }
    }

    fn of(&mut self, wanted: Option<&IdMaps>) -> Step<BorrowedFd<'_>> {
        let maps = match (wanted, &self.container) {
            (None, Some((_, Some(namespace)))) => return Ok(namespace.as_fd()),
            (None, Some((maps, None))) => maps,
            (Some(maps), _) => maps,
            (None, None) => return refuse(Stage::Mount, "there is no user namespace whose mapping could be taken"),
        };
        let at = match self.made.iter().position(|(known, _)| known == maps) {
            Some(at) => at,
            None => {
                self.made.push((maps.clone(), made(maps)?));
                self.made.len() - 1
            }
        };
        Ok(self.made[at].1.as_fd())
    }

    /// Maps a tree that is attached nowhere yet. `name`: the mount, for messages.
    pub fn apply(&mut self, tree: BorrowedFd<'_>, idmap: &MountIdMap, name: &dyn Fn() -> String) -> Step<()> {
        use std::os::fd::AsRawFd;
        let namespace = self.of(idmap.maps.as_ref())?;
        let attr = MountAttr { set: IDMAP, userns_fd: namespace.as_raw_fd() as u64, ..MountAttr::default() };
        let Err(error) = mount_setattr(tree, idmap.recursive, attr) else { return Ok(()) };
        let kind = file_system(tree);
        let reason = match error.raw_os_error() {
            Some(libc::EINVAL) => format!("the file system ({kind}), or this kernel, has no id-mapped mounts"),
            Some(libc::EPERM) => {
                format!("this takes privileges over the file system ({kind}), and one that is not id-mapped already")
            }
            _ => kind,
        };
        let errno = error.raw_os_error().unwrap_or(0);
        Err(Notice { stage: Stage::Mount, errno, detail: format!("id-map {}: {reason}", name()) })
    }
}

/// The type of the file system that a tree is of, as far as it can be told.
fn file_system(tree: BorrowedFd<'_>) -> String {
    let unknown = || "of unknown type".to_owned();
    let Ok(stat) = rustix::fs::statat(tree, "", rustix::fs::AtFlags::EMPTY_PATH) else { return unknown() };
    let device = format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return unknown() };
    let found = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (before.split(' ').nth(2)? == device).then(|| after.split(' ').next())?
    });
    found.map_or_else(unknown, str::to_owned)
}

/// Whether the groups of a process in this user namespace can not be changed. `own`: /proc/self, from before /proc
/// could be anybody's.
pub(super) fn groups_are_fixed(own: BorrowedFd<'_>) -> bool {
    let mut text = [0; 8];
    let read = openat(own, "setgroups", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut text));
    read.is_ok_and(|n| text[..n].trim_ascii() == b"deny")
}

/// This process's own directory in /proc.
pub(super) fn own_directory() -> Step<OwnedFd> {
    openat(CWD, "/proc/self", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at(Stage::Namespace, || "open /proc/self".into())
}
