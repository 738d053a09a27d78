//! Devices: those of the specification, the default ones, and the links that belong to them.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::{HostFacts, Result, absolute, invalid, normal};
use crate::runtime::plan::DevicePlan;

/// Path, major, minor: character devices that every container has.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const SYMLINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

/// What goes into /dev.
#[derive(Debug)]
pub(super) struct Devices {
    pub nodes: Vec<DevicePlan>,
    pub symlinks: Vec<(Vec<u8>, Vec<u8>)>,
    /// /dev is the container's own, not a directory of the host.
    pub own_dev: bool,
}

impl Devices {
    pub fn of(spec: &Spec, host: &HostFacts) -> Result<Self> {
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let at = |path: &[u8]| {
            mounts.iter().rfind(|m| normal(m.destination().as_os_str().as_bytes()) == path).map(super::mounts::is_bind)
        };
        let own_dev = at(b"/dev") != Some(true);
        if !own_dev {
            // Nothing of ours may be written into a /dev of the host.
            return Ok(Self { nodes: Vec::new(), symlinks: Vec::new(), own_dev });
        }
        let listed = spec.linux().iter().filter_map(|l| l.devices().as_ref()).flatten();
        let mut nodes = listed.map(|d| device(d, host)).collect::<Result<Vec<_>>>()?;
        for (path, major, minor) in DEFAULT {
            if nodes.iter().all(|n| normal(&n.path) != path.as_bytes()) {
                nodes.push(DevicePlan {
                    path: path.into(),
                    mode: libc::S_IFCHR | 0o666,
                    major,
                    minor,
                    bind: host.bind_devices.then(|| path.into()),
                    default: true,
                    ..DevicePlan::default()
                });
            }
        }
        let mut symlinks: Vec<_> = SYMLINKS.iter().map(|&(path, target)| (path.into(), target.into())).collect();
        symlinks.push((b"/dev/ptmx".to_vec(), b"pts/ptmx".to_vec()));
        Ok(Self { nodes, symlinks, own_dev })
    }
}

fn device(device: &LinuxDevice, host: &HostFacts) -> Result<DevicePlan> {
    let path = absolute("linux.devices.path", device.path().as_os_str().as_bytes())?;
    let field = || format!("linux.devices {}", device.path().display());
    if matches!(path.last(), Some(b'/')) || path.ends_with(b"/..") {
        return invalid(field(), "is the path of a directory");
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return invalid(field(), "type \"a\" is for cgroup rules only"),
    };
    let number = |what: &str, value: i64| match u32::try_from(value) {
        Ok(number) => Ok(number),
        Err(_) if kind == libc::S_IFIFO => Ok(0),
        Err(_) => invalid(field(), format!("{what} is {value}")),
    };
    Ok(DevicePlan {
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        bind: (host.bind_devices && kind != libc::S_IFIFO).then(|| path.clone()),
        default: false,
        path,
    })
}
