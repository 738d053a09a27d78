//! Devices of the host that a container gets.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use thiserror::Error;

use super::SpecError;
use crate::node::types::Device;

/// A device node of the host, and where the container sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    pub path: PathBuf,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A subset of "rwm".
    pub permissions: String,
}

/// Why a device of a request cannot be given.
#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("device \"{path}\" of the host: {cause}")]
    Stat { path: String, cause: std::io::Error },
    #[error("\"{0}\" of the host is neither a device nor a directory with devices in it")]
    NoDevice(String),
}

/// Looks up the devices of a request. A directory stands for all devices beneath it.
pub fn look_up(asked: &[Device]) -> Result<Vec<HostDevice>, DeviceError> {
    let mut found = Vec::new();
    for device in asked {
        let failed = |cause| DeviceError::Stat { path: device.host_path.clone(), cause };
        let host = std::fs::canonicalize(&device.host_path).map_err(failed)?;
        let before = found.len();
        let inside =
            Path::new(if device.container_path.is_empty() { &device.host_path } else { &device.container_path });
        collect(&host, inside, &device.permissions, 0, &mut found).map_err(failed)?;
        if found.len() == before {
            return Err(DeviceError::NoDevice(device.host_path.clone()));
        }
    }
    Ok(found)
}

/// All devices of the host, for a privileged container; what the container has of its own is left out.
pub fn host_devices() -> Vec<HostDevice> {
    let mut found = Vec::new();
    // A device that vanishes while one looks is no reason to fail.
    let _ = collect(Path::new("/dev"), Path::new("/dev"), "rwm", 0, &mut found);
    found.retain(|device| {
        let name = device.path.strip_prefix("/dev").unwrap_or(&device.path);
        !["console", "ptmx", "tty", "null", "zero", "full", "random", "urandom"]
            .iter()
            .any(|own| name == Path::new(own))
    });
    found
}

fn collect(
    host: &Path,
    inside: &Path,
    permissions: &str,
    depth: u32,
    found: &mut Vec<HostDevice>,
) -> std::io::Result<()> {
    let meta = std::fs::symlink_metadata(host)?;
    let kind = meta.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        found.push(HostDevice {
            path: inside.to_path_buf(),
            block: kind.is_block_device(),
            major: libc::major(meta.rdev()),
            minor: libc::minor(meta.rdev()),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            permissions: if permissions.is_empty() { "rwm".to_owned() } else { permissions.to_owned() },
        });
    } else if kind.is_dir() && depth < 8 {
        // These hold no devices to give away: terminals, memory, message queues.
        const SKIPPED: [&str; 5] = ["pts", "shm", "mqueue", "fd", ".lxc"];
        for entry in std::fs::read_dir(host)? {
            let entry = entry?;
            if SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                continue;
            }
            collect(&entry.path(), &inside.join(entry.file_name()), permissions, depth + 1, found)?;
        }
    }
    Ok(())
}

/// The nodes that the runtime makes in the container's /dev.
pub(super) fn nodes(devices: &[HostDevice]) -> Result<Vec<LinuxDevice>, SpecError> {
    let node = |device: &HostDevice| {
        LinuxDeviceBuilder::default()
            .path(device.path.clone())
            .typ(if device.block { LinuxDeviceType::B } else { LinuxDeviceType::C })
            .major(i64::from(device.major))
            .minor(i64::from(device.minor))
            .file_mode(device.mode)
            .uid(device.uid)
            .gid(device.gid)
            .build()
    };
    Ok(devices.iter().map(node).collect::<Result<Vec<_>, _>>()?)
}
