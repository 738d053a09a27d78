//! Which security modules this machine has: what a container may ask for is an error at its creation where there is
//! none.

use rustix::fs::{Mode, OFlags, open, statfs};

/// The modules that label or confine a process at its execve(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecurityModules {
    /// AppArmor is built in and switched on.
    pub apparmor: bool,
    /// SELinux is switched on.
    pub selinux: bool,
}

impl SecurityModules {
    /// What is in force on this machine.
    pub fn of_host() -> Self {
        /// `SELINUX_MAGIC`.
        const SELINUX: i64 = 0xf97c_ff8c;
        let mut answer = [0u8];
        let apparmor = open("/sys/module/apparmor/parameters/enabled", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut answer))
            .is_ok_and(|n| n == 1 && answer == *b"Y");
        let selinux = statfs("/sys/fs/selinux").is_ok_and(|fs| fs.f_type == SELINUX);
        Self { apparmor, selinux }
    }
}
