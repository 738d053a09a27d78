//! The small program `orlop-shim`, carried inside of the large one and brought to where it can be executed.
//!
//! It is the process that stays with a pod, and under the name of `orlop-init` the one that turns into a container's
//! program. What an image brings along may get hold of the program that it was started by (`/proc/self/exe` as an entry
//! point, `/proc/<pid>/exe`), so that must be no file of the host, and nothing that can be written to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
    fsmount, fsopen, fspick,
};

/// Built by the build script for a static target of its own.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/orlop-shim"));

/// The small program, ready to be executed. All processes of one copy share its pages.
#[derive(Debug)]
pub struct SmallProgram {
    file: OwnedFd,
}

impl SmallProgram {
    /// Copies the program into memory and seals it.
    pub fn new() -> io::Result<Self> {
        let file = match sealed() {
            // `vm.memfd_noexec=2`: nothing in a memfd may be executed.
            Err(Errno::ACCESS) => mounted_nowhere().map_err(|errno| {
                let why = "vm.memfd_noexec forbids to execute the program from memory, and a file system for it";
                io::Error::new(errno.kind(), format!("{why} cannot be made: {errno}"))
            })?,
            other => other?,
        };
        Ok(Self { file })
    }

    /// A path that executes it, valid in a child of this process until its descriptors are closed.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

impl AsFd for SmallProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn sealed() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = match rustix::fs::memfd_create("orlop-shim", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memfd is executable, and the flag unknown.
        Err(Errno::INVAL) => rustix::fs::memfd_create("orlop-shim", flags)?,
        other => other?,
    };
    fill(&memfd)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memfd)
}

/// A file of a tmpfs that has no place in any tree, and is read-only as a whole from when it is filled. Needs
/// CAP_SYS_ADMIN.
fn mounted_nowhere() -> Result<OwnedFd, Errno> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&mount, "orlop-shim", create, Mode::from_raw_mode(0o555))?;
    fill(&file)?;
    // With a writer left it could not become read-only.
    drop(file);
    let fs = fspick(&mount, "", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_flag(&fs, "ro")?;
    fsconfig_reconfigure(&fs)?;
    openat(&mount, "orlop-shim", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn fill(file: &OwnedFd) -> Result<(), Errno> {
    let mut rest = PROGRAM;
    while !rest.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(file, rest))?;
        rest = &rest[n..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_executed_and_not_written() {
        let memory = sealed().unwrap();
        let file = match mounted_nowhere() {
            Err(Errno::PERM) => None,
            made => Some(made.unwrap()),
        };
        for program in [Some(memory), file].into_iter().flatten() {
            let path = SmallProgram { file: program }.path_and_file();
            let output = std::process::Command::new(&path.0).arg("no-pod").output().unwrap();
            assert!(String::from_utf8_lossy(&output.stderr).contains("orlop-shim"), "{output:?}");
            let open = std::fs::OpenOptions::new().write(true).open(&path.0);
            if let Ok(mut file) = open {
                std::io::Write::write_all(&mut file, b"x").unwrap_err();
            }
        }
    }

    impl SmallProgram {
        fn path_and_file(self) -> (String, Self) {
            (self.path(), self)
        }
    }
}
