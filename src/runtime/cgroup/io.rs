//! Reading and writing control files below a hierarchy's root descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{CgroupError, Result};

/// One cgroup in one hierarchy: the hierarchy's root descriptor and the path below it.
#[derive(Clone, Copy, Debug)]
pub struct Dir<'a> {
    pub root: &'a OwnedFd,
    pub mount: &'a Path,
    /// Without a leading slash, empty for the root.
    pub relative: &'a str,
    /// Flags beside `O_WRONLY` of files that are written; tests on a plain directory create them.
    pub write_flags: OFlags,
}

impl<'a> Dir<'a> {
    fn at(&self, name: &str) -> String {
        match (self.relative.is_empty(), name.is_empty()) {
            (true, true) => ".".to_owned(),
            (true, false) => name.to_owned(),
            (false, true) => self.relative.to_owned(),
            (false, false) => [self.relative, "/", name].concat(),
        }
    }

    /// The whole path of `name` in this cgroup, for messages and for those who need a path.
    pub fn path(&self, name: &str) -> PathBuf {
        let mut path = self.mount.join(self.relative);
        if !name.is_empty() {
            path.push(name);
        }
        path
    }

    /// The same hierarchy, another cgroup.
    pub fn sibling<'b>(&self, relative: &'b str) -> Dir<'b>
    where
        'a: 'b,
    {
        Dir { root: self.root, mount: self.mount, relative, write_flags: self.write_flags }
    }

    /// Opens `name` for reading.
    pub fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        retry_on_intr(|| fs::openat(self.root, self.at(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
    }

    /// Opens the directory itself.
    pub fn open_dir(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        retry_on_intr(|| fs::openat(self.root, self.at(""), flags, Mode::empty()))
    }

    /// Opens `name` for writing.
    pub fn open_write(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | self.write_flags;
        retry_on_intr(|| fs::openat(self.root, self.at(name), flags, Mode::from_raw_mode(0o644)))
    }

    /// Writes `value` to `name` in one write(2), as control files want it.
    pub fn try_write(&self, name: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open_write(name)?;
        write_all_at_once(&fd, value)
    }

    /// As [`Self::try_write`], with the error that names the file and the value.
    pub fn write(&self, name: &str, value: &str) -> Result<()> {
        self.try_write(name, value).map_err(|source| self.write_error(name, value, source))
    }

    pub fn write_error(&self, name: &str, value: &str, source: Errno) -> CgroupError {
        CgroupError::Write { file: self.path(name), value: value.to_owned(), source }
    }

    /// The content of `name`, without white space at the end.
    pub fn try_read(&self, name: &str) -> Result<String, Errno> {
        let fd = self.open(name)?;
        let mut buffer = vec![0; 2048];
        let mut len = 0;
        loop {
            let read = retry_on_intr(|| rustix::io::read(&fd, &mut buffer[len..]))?;
            len += read;
            // The kernel fills the buffer as far as it can: with room left, that was all.
            if len < buffer.len() {
                break;
            }
            buffer.resize(2 * len, 0);
        }
        buffer.truncate(len);
        let mut text = String::from_utf8_lossy(&buffer).into_owned();
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// As [`Self::try_read`], with the error that names the file.
    pub fn read(&self, name: &str) -> Result<String> {
        self.try_read(name).map_err(|source| CgroupError::Read { file: self.path(name), source })
    }

    /// A file that holds one number; `max` and the huge numbers that v1 shows for "no limit" are `None`.
    pub fn read_limit(&self, name: &str) -> Result<Option<u64>> {
        let text = self.read(name)?;
        super::parse::limit(text.as_bytes()).ok_or_else(|| CgroupError::Parse {
            file: self.path(name),
            text,
            wanted: "number",
        })
    }

    /// Makes the directory itself (its parent must be there).
    pub fn mkdir(&self) -> Result<(), Errno> {
        fs::mkdirat(self.root, self.at(""), Mode::from_raw_mode(0o755))
    }

    /// Removes the directory itself.
    pub fn rmdir(&self) -> Result<(), Errno> {
        fs::unlinkat(self.root, self.at(""), AtFlags::REMOVEDIR)
    }

    pub fn exists(&self) -> bool {
        fs::accessat(self.root, self.at(""), fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// The names of the cgroups directly below.
    pub fn children(&self) -> Result<Vec<String>, Errno> {
        let dir = fs::Dir::new(self.open_dir()?)?;
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || entry.file_type() != fs::FileType::Directory {
                continue;
            }
            names.push(String::from_utf8_lossy(name).into_owned());
        }
        Ok(names)
    }
}

/// Control files take a value whole or not at all; a short write is an error of the file.
pub fn write_all_at_once(fd: impl AsFd, value: &str) -> Result<(), Errno> {
    let written = retry_on_intr(|| rustix::io::write(fd.as_fd(), value.as_bytes()))?;
    if written == value.len() { Ok(()) } else { Err(Errno::IO) }
}
