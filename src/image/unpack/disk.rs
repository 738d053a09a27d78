//! The system calls of the tar applier.
//!
//! Every call names one component relative to a descriptor of its directory. Descriptors of directories are opened from the
//! layer's root with a path that holds no symlink, and the kernel is told to accept none and not to leave the root
//! (`openat2`, `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`). They are kept for a while: a layer's entries come by directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::Limits;
use super::error::UnpackError;
use super::flush::Flusher;
use super::reader::{Entry, Kind};
use super::tree::{self, DirId, Node, ROOT, Tree};

/// What one block of the usual file systems holds. Sizes are counted in these.
const BLOCK: u64 = 4096;
/// Descriptors of directories that are kept open.
const OPEN_DIRS: usize = 64;
/// Writing to the disk begins after so many bytes of a file, so that little is left to wait for at the end.
const FLUSH_EVERY: u64 = 8 << 20;
/// Files of at least this size are written back when they are complete.
const FLUSH_FROM: u64 = 32 << 10;
/// The free space is looked at after so many bytes.
const CHECK_EVERY: u64 = 64 << 20;

/// A file under construction.
#[derive(Debug)]
pub(crate) struct Output {
    fd: OwnedFd,
    /// Where the next write goes.
    at: u64,
    /// Blocks are counted from these bytes.
    written: u64,
    flushed: u64,
}

/// The directory that a layer is unpacked to.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    root: OwnedFd,
    limits: &'a Limits,
    /// Open directories and when each was used last.
    open: HashMap<DirId, (OwnedFd, u64)>,
    clock: u64,
    /// The entry at work, for errors.
    path: Vec<u8>,
    bytes: u64,
    inodes: u64,
    unchecked: u64,
    flusher: Flusher,
}

impl<'a> Disk<'a> {
    pub(crate) fn new(root: OwnedFd, limits: &'a Limits) -> Self {
        Self {
            root,
            limits,
            open: HashMap::new(),
            clock: 0,
            path: Vec::new(),
            bytes: BLOCK,
            inodes: 1,
            unchecked: 0,
            flusher: Flusher::default(),
        }
    }

    pub(crate) fn begin(&mut self, path: &[u8]) {
        self.path.clear();
        self.path.extend_from_slice(path);
    }

    /// Bytes on disk so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn inodes(&self) -> u64 {
        self.inodes
    }

    pub(crate) fn create(
        &mut self,
        tree: &Tree,
        dir: DirId,
        name: &[u8],
        entry: &Entry,
    ) -> Result<Output, UnpackError> {
        // Setuid and setgid come last: a change of owner takes them away.
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::openat(self.dir(tree, dir)?, os(name), flags, mode);
        let fd = self.told("create the file", opened)?;
        self.inodes += 1;
        Ok(Output { fd, at: 0, written: 0, flushed: 0 })
    }

    pub(crate) fn write(&mut self, file: &mut Output, mut data: &[u8]) -> Result<(), UnpackError> {
        let len = data.len() as u64;
        self.unchecked += len;
        if self.unchecked >= CHECK_EVERY {
            self.unchecked = 0;
            self.limits.check_free(self.root.as_fd())?;
        }
        while !data.is_empty() {
            match rustix::io::write(&file.fd, data) {
                Ok(0) => return Err(UnpackError::disk(&self.path, "write the file", Errno::IO)),
                Ok(count) => data = &data[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(UnpackError::disk(&self.path, "write the file", error)),
            }
        }
        file.at += len;
        file.written += len;
        if file.written - file.flushed >= FLUSH_EVERY {
            file.flushed = file.written;
            self.flusher.start(file.fd.as_fd());
        }
        Ok(())
    }

    pub(crate) fn seek(&self, file: &mut Output, offset: u64) -> Result<(), UnpackError> {
        if file.at != offset {
            self.told("seek in the file", fs::seek(&file.fd, fs::SeekFrom::Start(offset)))?;
            file.at = offset;
        }
        Ok(())
    }

    pub(crate) fn set_len(&self, file: &Output, len: u64) -> Result<(), UnpackError> {
        self.limits.check("the size of a sparse file", len, self.limits.layer_bytes)?;
        self.told("set the size of the file", fs::ftruncate(&file.fd, len))
    }

    /// Gives a complete file its attributes. Returns the bytes that it takes on disk.
    pub(crate) fn close(&mut self, file: Output, entry: &Entry) -> Result<u64, UnpackError> {
        let fd = file.fd.as_fd();
        if entry.uid != 0 || entry.gid != 0 {
            self.told("set the owner", fs::fchown(fd, uid(entry.uid), gid(entry.gid)))?;
        }
        if entry.mode & 0o7000 != 0 {
            self.told("set the mode", fs::fchmod(fd, Mode::from_raw_mode(entry.mode)))?;
        }
        self.xattrs(Target::Open(fd), &entry.xattrs)?;
        self.told("set the time", fs::futimens(fd, &times(entry.mtime)))?;
        if file.written - file.flushed >= FLUSH_FROM {
            self.flusher.finish(file.fd);
        }
        let blocks = file.written.div_ceil(BLOCK) * BLOCK;
        self.bytes += blocks;
        Ok(blocks)
    }

    pub(crate) fn symlink(
        &mut self,
        tree: &Tree,
        dir: DirId,
        name: &[u8],
        target: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        if target.is_empty() || target.contains(&0) {
            return Err(UnpackError::entry(&self.path, "the target of the symlink is empty or has a NUL"));
        }
        let made = fs::symlinkat(os(target), self.dir(tree, dir)?, os(name));
        self.told("make the symlink", made)?;
        self.inodes += 1;
        self.attributes(tree, dir, name, entry)
    }

    /// A device or a fifo.
    pub(crate) fn node(&mut self, tree: &Tree, dir: DirId, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let (kind, device) = match entry.kind {
            Kind::CharDevice(major, minor) => (FileType::CharacterDevice, fs::makedev(major, minor)),
            Kind::BlockDevice(major, minor) => (FileType::BlockDevice, fs::makedev(major, minor)),
            _ => (FileType::Fifo, 0),
        };
        let made = fs::mknodat(self.dir(tree, dir)?, os(name), kind, Mode::from_raw_mode(entry.mode & 0o777), device);
        self.told("make the device or fifo", made)?;
        self.inodes += 1;
        self.attributes(tree, dir, name, entry)
    }

    pub(crate) fn hard_link(
        &mut self,
        tree: &Tree,
        (from_dir, from): (DirId, &[u8]),
        (dir, name): (DirId, &[u8]),
    ) -> Result<(), UnpackError> {
        self.dir(tree, from_dir)?;
        self.dir(tree, dir)?;
        // Neither was closed: the two used last are kept.
        let made = match (self.kept(from_dir), self.kept(dir)) {
            (Some(from_dir), Some(dir)) => fs::linkat(from_dir, os(from), dir, os(name), AtFlags::empty()),
            _ => Err(Errno::BADF),
        };
        self.told("make the hard link", made)
    }

    /// Overlayfs' sign that lower layers' entry of this name is gone.
    pub(crate) fn whiteout(&mut self, tree: &Tree, dir: DirId, name: &[u8]) -> Result<(), UnpackError> {
        self.begin(name);
        let made = fs::mknodat(self.dir(tree, dir)?, os(name), FileType::CharacterDevice, Mode::empty(), 0);
        self.told("make the whiteout", made)?;
        self.inodes += 1;
        Ok(())
    }

    /// Writes what the tree says of a directory. Nothing is put into it after this.
    pub(crate) fn finish_dir(&mut self, tree: &Tree, id: DirId) -> Result<(), UnpackError> {
        self.begin(&tree.path(id));
        let dir = tree.dir(id);
        self.dir(tree, id)?;
        let Some(fd) = self.kept(id) else { return Err(UnpackError::disk(&self.path, "open", Errno::BADF)) };
        if dir.opaque {
            let set = fs::fsetxattr(fd, "trusted.overlay.opaque", b"y", XattrFlags::empty());
            self.told("make the directory opaque", set)?;
        }
        let Some(meta) = &dir.meta else { return Ok(()) };
        if meta.uid != 0 || meta.gid != 0 {
            self.told("set the owner", fs::fchown(fd, uid(meta.uid), gid(meta.gid)))?;
        }
        if meta.mode != 0o755 {
            self.told("set the mode", fs::fchmod(fd, Mode::from_raw_mode(meta.mode)))?;
        }
        self.xattrs(Target::Open(fd), &meta.xattrs)?;
        self.told("set the time", fs::futimens(fd, &times(meta.mtime)))
    }

    /// Removes an empty directory.
    pub(crate) fn remove_dir(&mut self, tree: &Tree, id: DirId) -> Result<(), UnpackError> {
        self.open.remove(&id);
        let dir = tree.dir(id);
        let removed = fs::unlinkat(self.dir(tree, dir.parent)?, os(&dir.name), AtFlags::REMOVEDIR);
        self.told("replace the directory", removed)?;
        self.inodes -= 1;
        self.bytes -= BLOCK;
        Ok(())
    }

    /// Owner, mode, xattrs and time of what cannot be opened for writing. The name was made a moment ago.
    fn attributes(&mut self, tree: &Tree, dir: DirId, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let symlink = matches!(entry.kind, Kind::Symlink(_));
        let parent = self.dir(tree, dir)?.as_raw_fd();
        let Some(fd) = self.kept(dir) else { return Err(UnpackError::disk(&self.path, "open", Errno::BADF)) };
        let name_os = os(name);
        if entry.uid != 0 || entry.gid != 0 {
            let set = fs::chownat(fd, name_os, uid(entry.uid), gid(entry.gid), AtFlags::SYMLINK_NOFOLLOW);
            self.told("set the owner", set)?;
        }
        if !symlink && entry.mode & 0o7000 != 0 {
            // It is a device or a fifo, so there is no symlink to follow.
            self.told("set the mode", fs::chmodat(fd, name_os, Mode::from_raw_mode(entry.mode), AtFlags::empty()))?;
        }
        if !entry.xattrs.is_empty() {
            let mut path = format!("/proc/self/fd/{parent}/").into_bytes();
            path.extend_from_slice(name);
            self.xattrs(Target::Path(os(&path)), &entry.xattrs)?;
        }
        self.told("set the time", fs::utimensat(fd, name_os, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW))
    }

    fn xattrs(&self, target: Target<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), UnpackError> {
        for (name, value) in xattrs {
            let Some(name) = super::xattr::stored_name(name) else { continue };
            let set = match target {
                Target::Open(fd) => fs::fsetxattr(fd, os(&name), value, XattrFlags::empty()),
                Target::Path(path) => fs::lsetxattr(path, os(&name), value, XattrFlags::empty()),
            };
            match set {
                // The file system has no such attributes, or not on such a file. File capabilities must not be lost.
                Err(Errno::NOTSUP | Errno::PERM) if *name != *b"security.capability" => {}
                set => self.told("set an extended attribute", set)?,
            }
        }
        Ok(())
    }

    fn kept(&self, id: DirId) -> Option<BorrowedFd<'_>> {
        if id == ROOT { Some(self.root.as_fd()) } else { self.open.get(&id).map(|(fd, _)| fd.as_fd()) }
    }

    /// A descriptor of a directory of the tree.
    fn dir(&mut self, tree: &Tree, id: DirId) -> Result<BorrowedFd<'_>, UnpackError> {
        if id == ROOT {
            return Ok(self.root.as_fd());
        }
        self.clock += 1;
        let clock = self.clock;
        if !self.open.contains_key(&id) {
            if self.open.len() >= OPEN_DIRS {
                let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
                oldest.and_then(|oldest| self.open.remove(&oldest));
            }
            let fd = self.open_dir(tree, id)?;
            self.open.insert(id, (fd, clock));
        }
        let entry = self.open.get_mut(&id).ok_or_else(|| UnpackError::disk(&[], "open", Errno::BADF))?;
        entry.1 = clock;
        Ok(entry.0.as_fd())
    }

    fn open_dir(&self, tree: &Tree, id: DirId) -> Result<OwnedFd, UnpackError> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = tree.dir(id);
        // From the parent if that is open, which it mostly is.
        let opened = match self.kept(dir.parent) {
            Some(parent) => fs::openat2(parent, os(&dir.name), flags, Mode::empty(), resolve),
            None => fs::openat2(&self.root, os(&tree.path(id)), flags, Mode::empty(), resolve),
        };
        self.told("open its directory", opened)
    }

    fn told<T>(&self, action: &'static str, result: rustix::io::Result<T>) -> Result<T, UnpackError> {
        result.map_err(|error| UnpackError::disk(&self.path, action, error))
    }
}

impl tree::Disk for Disk<'_> {
    type Error = UnpackError;

    fn make_dir(&mut self, tree: &Tree, dir: DirId) -> Result<(), UnpackError> {
        let Dirs { parent, name } = Dirs::of(tree, dir);
        let made = fs::mkdirat(self.dir(tree, parent)?, os(name), Mode::from_raw_mode(0o755));
        self.told("make the directory", made)?;
        self.inodes += 1;
        self.bytes += BLOCK;
        Ok(())
    }

    fn remove(&mut self, tree: &Tree, parent: DirId, name: &[u8], node: &Node) -> Result<(), UnpackError> {
        let removed = fs::unlinkat(self.dir(tree, parent)?, os(name), AtFlags::empty());
        self.told("replace the file", removed)?;
        self.inodes = self.inodes.saturating_sub(1);
        if let Node::Other(blocks) = node {
            self.bytes -= blocks;
        }
        Ok(())
    }
}

impl From<tree::PathError> for UnpackError {
    fn from(error: tree::PathError) -> Self {
        Self::Entry { path: String::new(), reason: error.0 }
    }
}

struct Dirs<'t> {
    parent: DirId,
    name: &'t [u8],
}

impl<'t> Dirs<'t> {
    fn of(tree: &'t Tree, id: DirId) -> Self {
        let dir = tree.dir(id);
        Self { parent: dir.parent, name: &dir.name }
    }
}

#[derive(Clone, Copy)]
enum Target<'t> {
    Open(BorrowedFd<'t>),
    /// A path through `/proc/self/fd`, whose last part is not followed.
    Path(&'t OsStr),
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn uid(raw: u32) -> Option<Uid> {
    Some(Uid::from_raw(raw))
}

fn gid(raw: u32) -> Option<Gid> {
    Some(Gid::from_raw(raw))
}

/// An access time that is the same each time a layer is unpacked, as is the other.
fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
