//! Copies a directory of the image into the file system that is going to cover it (`tmpcopyup`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fchmod, fstat, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

/// How deep a tree is followed: as each level holds two descriptors.
const MAX_DEPTH: usize = 128;

/// Copies the content of `from` into `to`, with owners and modes; names are never followed.
pub(super) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let from = openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let to = openat(to, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&from)?;
    chownat(&to, "", owner(&stat).0, owner(&stat).1, AtFlags::EMPTY_PATH)?;
    level(&from, &to, 0)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn level(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth == MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => mkdirat(to, name, mode)?,
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?,
            FileType::RegularFile => file(from, to, name, mode)?,
            _ => mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        chownat(to, name, owner(&stat).0, owner(&stat).1, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // A change of owner takes set-id bits away.
            chmodat(to, name, mode, AtFlags::empty())?;
        }
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            level(&openat(from, name, flags, Mode::empty())?, &openat(to, name, flags, Mode::empty())?, depth + 1)?;
        }
    }
    Ok(())
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, mode: Mode) -> Result<(), Errno> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(from, name, read, Mode::empty())?;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(to, name, write, mode)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut left = match rustix::io::read(source.as_fd(), &mut buffer)? {
            0 => return fchmod(&target, mode),
            n => &buffer[..n],
        };
        while !left.is_empty() {
            left = &left[rustix::io::write(&target, left)?..];
        }
    }
}
