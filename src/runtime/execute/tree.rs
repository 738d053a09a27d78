//! Paths of the container, resolved by the kernel beneath its root, and made where they are missing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat, statat};
use rustix::io::Errno;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
/// How often a path that changes under our hands is tried.
const MAX_RACES: usize = 128;

/// The tree below the root of the container.
#[derive(Debug)]
pub(super) struct Tree {
    pub root: OwnedFd,
    /// What was mounted at places that others may rename meanwhile, by the names they had: /proc and /sys.
    places: Vec<(Vec<u8>, OwnedFd)>,
}

/// What is at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

impl Tree {
    /// The tree below a directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, places: Vec::new() }
    }

    /// The same tree, which is the process's by now.
    pub fn entered(self) -> Result<Self, Errno> {
        Ok(Self { places: self.places, ..Self::of_process()? })
    }

    /// The tree of the process's root directory.
    pub fn of_process() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::new(openat(rustix::fs::CWD, "/", flags, Mode::empty())?))
    }

    /// Opens what is there. Symbolic links are followed beneath the root; those of /proc that are none are refused.
    pub fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        Self::resolve(&self.root, path, flags, ResolveFlags::empty())
    }

    /// As [`Tree::open`], but `ELOOP` if the path has any symbolic link.
    pub fn open_plain(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        Self::resolve(&self.root, path, flags, ResolveFlags::NO_SYMLINKS)
    }

    /// Remembers what was mounted at `path`, for [`Tree::open_mounted`].
    pub fn remember(&mut self, path: &[u8], mount: OwnedFd) {
        self.places.push((path.to_vec(), mount));
    }

    /// As [`Tree::open`], but what is in a mount that is remembered is found in it, even if its place has another name
    /// by now. Whoever writes to the root file system could else have the covers of /proc put somewhere else.
    pub fn open_mounted(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let names = names(path);
        let climbs = names.iter().any(|name| name == b"..");
        for (place, mount) in self.places.iter().rev().filter(|_| !climbs) {
            if let Some(rest) = names.strip_suffix(self::names(place).as_slice()) {
                let rest: Vec<_> = rest.iter().rev().map(Vec::as_slice).collect();
                let rest = if rest.is_empty() { b".".to_vec() } else { rest.join(&b'/') };
                return Self::resolve(mount, &rest, flags, ResolveFlags::empty());
            }
        }
        self.open(path, flags)
    }

    fn resolve(root: &OwnedFd, path: &[u8], flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        for _ in 0..MAX_RACES {
            match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed while `..` was resolved.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A mount target: what is there, or a new directory or empty file. Says also whether it was there.
    pub fn target(&self, path: &[u8], kind: Kind, plain: bool) -> Result<(OwnedFd, bool), Errno> {
        let found = if plain { self.open_plain(path, OFlags::PATH) } else { self.open(path, OFlags::PATH) };
        match found {
            Err(Errno::NOENT) => Ok((self.make(path, kind, plain)?, false)),
            other => other.map(|fd| (fd, true)),
        }
    }

    /// The directory at `path`, made with its parents when missing.
    pub fn directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.target(path, Kind::Directory, false).map(|(fd, _)| fd)
    }

    /// The directory that `path` is in (made when missing), and its name there.
    pub fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let slash = path.iter().rposition(|&b| b == b'/');
        let (parent, name) = slash.map_or((&b"/"[..], path), |at| (&path[..at], &path[at + 1..]));
        if name.is_empty() || name == b".." || name == b"." {
            return Err(Errno::INVAL);
        }
        let parent = if parent.is_empty() { b"/" } else { parent };
        Ok((self.directory(parent)?, name))
    }

    /// Walks down name by name, making what is missing. A name is opened without following it, and a link is followed
    /// by reading it, so nothing that changes meanwhile leads out of the tree.
    fn make(&self, path: &[u8], last: Kind, plain: bool) -> Result<OwnedFd, Errno> {
        let mut ahead: Vec<Vec<u8>> = names(path);
        let mut behind: Vec<OwnedFd> = Vec::new();
        let (mut links, mut races) = (0, 0);
        while let Some(name) = ahead.pop() {
            if name == b".." {
                behind.pop();
                continue;
            }
            let here = behind.last().map_or(self.root.as_fd(), AsFd::as_fd);
            let nofollow = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match openat(here, name.as_slice(), nofollow, Mode::empty()) {
                Err(Errno::NOENT) => {
                    races += 1;
                    if races > MAX_RACES {
                        return Err(Errno::AGAIN);
                    }
                    let kind = if ahead.is_empty() { last } else { Kind::Directory };
                    make_one(here, &name, kind)?;
                    ahead.push(name);
                    continue;
                }
                other => other?,
            };
            match FileType::from_raw_mode(fstat(&found)?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if plain || links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = readlinkat(&found, "", Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        behind.clear();
                    }
                    ahead.extend(names(&target));
                }
                FileType::Directory => behind.push(found),
                _ if ahead.is_empty() => behind.push(found),
                _ => return Err(Errno::NOTDIR),
            }
        }
        behind.pop().map_or_else(|| self.root.try_clone().map_err(|_| Errno::MFILE), Ok)
    }
}

/// The names of a path, last first.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".").map(<[u8]>::to_vec).rev().collect()
}

fn make_one(parent: BorrowedFd<'_>, name: &[u8], kind: Kind) -> Result<(), Errno> {
    let made = match kind {
        Kind::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    // Made by somebody else meanwhile: what it is, is found when it is opened.
    made.or_else(|e| if e == Errno::EXIST { Ok(()) } else { Err(e) })
}

/// Whether `fd` is a directory, for the kind of target that a bind of it needs.
pub(super) fn kind_of(fd: BorrowedFd<'_>) -> Result<Kind, Errno> {
    let mode = statat(fd, "", AtFlags::EMPTY_PATH)?.st_mode;
    Ok(if FileType::from_raw_mode(mode) == FileType::Directory { Kind::Directory } else { Kind::File })
}
