//! Copies of directories of an image, for the volumes that its config declares.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{RootfsError, View, reopen};
use crate::image::store::Image;

/// Directories below each other; image layers have no deeper ones.
const MAX_DEPTH: usize = 1000;

/// Copies what is in a directory of an image to a directory of the host, with owners, modes, times, extended attributes,
/// symlinks and hard links. The host's directory gets the attributes of the image's. False if the image has nothing there.
///
/// The path is looked up in the image: its symlinks lead to places in the image. Blocks on the disk.
pub fn copy_up(image: &Image, path: &Path, destination: &Path) -> Result<bool, RootfsError> {
    let view = View::open(image.lower_dirs())?;
    let Some((found, kind)) = view.find(path)? else { return Ok(false) };
    if kind != FileType::Directory {
        return Err(RootfsError::NotADirectory(path.to_owned()));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let from = reopen(&found, flags).map_err(|error| RootfsError::path(path, "open", error))?;
    let to = fs::open(destination, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        RootfsError::Copy { path: destination.to_owned(), action: "open the directory", source: error.into() }
    })?;
    let mut copy = Copy { path: path.to_owned(), links: HashMap::new() };
    copy.directory(&from, &to, 0)?;
    Ok(true)
}

struct Copy {
    /// What is being copied, for errors.
    path: PathBuf,
    /// Copies of files with several names, by device and inode.
    links: HashMap<(u64, u64), OwnedFd>,
}

impl Copy {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), RootfsError> {
        if depth > MAX_DEPTH {
            return Err(self.failed("copy so deep a directory", Errno::NAMETOOLONG));
        }
        let entries = fs::Dir::read_from(from).map_err(|error| self.failed("list the directory", error))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("list the directory", error))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.path.push(OsString::from_vec(name.to_bytes().to_vec()));
            self.entry(from, to, name, depth)?;
            self.path.pop();
        }
        let stat = fs::fstat(from).map_err(|error| self.failed("read the attributes", error))?;
        self.owner_and_mode(to.as_fd(), &stat)?;
        self.xattrs(from.as_fd(), to.as_fd())?;
        fs::futimens(to, &times(&stat)).map_err(|error| self.failed("set the time", error))
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<(), RootfsError> {
        let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| self.failed("read", error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match kind {
            FileType::Directory => {
                fs::mkdirat(to, name, Mode::RWXU).map_err(|error| self.failed("make the directory", error))?;
                let open = |dir: &OwnedFd| fs::openat(dir, name, read | OFlags::DIRECTORY, Mode::empty());
                let from = open(from).map_err(|error| self.failed("open the directory", error))?;
                let to = open(to).map_err(|error| self.failed("open the directory", error))?;
                self.directory(&from, &to, depth + 1)
            }
            FileType::RegularFile => {
                if self.linked(to, name, &stat)? {
                    return Ok(());
                }
                let source = fs::openat(from, name, read, Mode::empty()).map_err(|error| self.failed("open", error))?;
                self.file(source, to, name, &stat)
            }
            FileType::Symlink => {
                let target: CString =
                    fs::readlinkat(from, name, Vec::new()).map_err(|error| self.failed("read the symlink", error))?;
                fs::symlinkat(&target, to, name).map_err(|error| self.failed("make the symlink", error))?;
                self.named(to, name, &stat, AtFlags::SYMLINK_NOFOLLOW)
            }
            // Overlayfs' sign for nothing, where a single layer is seen as it is.
            FileType::CharacterDevice if stat.st_rdev == 0 => Ok(()),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let mode = Mode::from_raw_mode(stat.st_mode);
                fs::mknodat(to, name, kind, mode, stat.st_rdev)
                    .map_err(|error| self.failed("make the device or fifo", error))?;
                self.named(to, name, &stat, AtFlags::SYMLINK_NOFOLLOW)?;
                fs::chmodat(to, name, mode, AtFlags::empty()).map_err(|error| self.failed("set the mode", error))
            }
            // A socket is nothing without its process.
            _ => Ok(()),
        }
    }

    /// Links to an earlier copy of the same file.
    fn linked(&self, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<bool, RootfsError> {
        let Some(copy) = self.links.get(&(stat.st_dev, stat.st_ino)) else { return Ok(false) };
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        fs::linkat(fs::CWD, path, to, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(|error| self.failed("make the hard link", error))?;
        Ok(true)
    }

    fn file(&mut self, source: OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), RootfsError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR);
        let copy = copy.map_err(|error| self.failed("make the file", error))?;
        let (mut source, mut copy) = (File::from(source), File::from(copy));
        io::copy(&mut source, &mut copy).map_err(|error| self.failed("copy the data", error))?;
        self.owner_and_mode(copy.as_fd(), stat)?;
        self.xattrs(source.as_fd(), copy.as_fd())?;
        fs::futimens(&copy, &times(stat)).map_err(|error| self.failed("set the time", error))?;
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), copy.into());
        }
        Ok(())
    }

    fn owner_and_mode(&self, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), RootfsError> {
        fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
            .map_err(|error| self.failed("set the owner", error))?;
        fs::fchmod(to, Mode::from_raw_mode(stat.st_mode)).map_err(|error| self.failed("set the mode", error))
    }

    fn named(&self, to: &OwnedFd, name: &CStr, stat: &Stat, flags: AtFlags) -> Result<(), RootfsError> {
        fs::chownat(to, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), flags)
            .map_err(|error| self.failed("set the owner", error))?;
        fs::utimensat(to, name, &times(stat), flags).map_err(|error| self.failed("set the time", error))
    }

    fn xattrs(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), RootfsError> {
        let mut names = vec![0; 64 << 10];
        let len = match fs::flistxattr(from, names.as_mut_slice()) {
            Ok(len) => len,
            Err(Errno::NOTSUP) => return Ok(()),
            Err(error) => return Err(self.failed("list the extended attributes", error)),
        };
        for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
                continue;
            }
            let mut value = vec![0; 64 << 10];
            let len = fs::fgetxattr(from, name, value.as_mut_slice())
                .map_err(|error| self.failed("read an extended attribute", error))?;
            match fs::fsetxattr(to, name, &value[..len], XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP) if name != b"security.capability" => {}
                Err(error) => return Err(self.failed("set an extended attribute", error)),
            }
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, source: impl Into<io::Error>) -> RootfsError {
        RootfsError::Copy { path: self.path.clone(), action, source: source.into() }
    }
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() as _ },
    }
}
