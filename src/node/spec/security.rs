//! Capabilities, profiles and hidden paths.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::SpecError;
use crate::node::types::{ContainerSecurity, SecurityProfile};
use crate::runtime::compile::CAPABILITY_NAMES;

/// What a container may do unless it is told otherwise: the set that Docker, containerd and CRI-O users know.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability of Linux.
fn all() -> HashSet<Capability> {
    CAPABILITY_NAMES.iter().filter_map(|name| Capability::from_str(name).ok()).collect()
}

/// The order of CRI: `ALL` is added, `ALL` is dropped, then single names are added, then dropped. The inheritable set
/// stays empty, unless ambient capabilities ask for it (CVE-2022-24769 and its kin).
pub fn capabilities(security: &ContainerSecurity) -> Result<LinuxCapabilities, SpecError> {
    let asked = &security.capabilities;
    let is_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut set: HashSet<Capability> = DEFAULT.into_iter().collect();
    if security.privileged || is_all(&asked.add) {
        set = all();
    }
    if !security.privileged {
        if is_all(&asked.drop) {
            set.clear();
        }
        set.extend(named(&asked.add)?);
        for capability in named(&asked.drop)? {
            set.remove(&capability);
        }
    }
    let ambient: HashSet<Capability> = named(&asked.add_ambient)?.into_iter().collect();
    set.extend(&ambient);
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()?)
}

fn named(names: &[String]) -> Result<Vec<Capability>, SpecError> {
    let single = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
    single.map(|name| parse(name).ok_or_else(|| SpecError::Capability(name.clone()))).collect()
}

fn parse(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)).ok()
}

/// The AppArmor profile to confine the process with; `None` leaves it as it is.
pub(super) fn apparmor_profile(security: &ContainerSecurity) -> Option<String> {
    match security.apparmor.as_ref()? {
        SecurityProfile::Localhost(name) => Some(name.clone()),
        SecurityProfile::RuntimeDefault | SecurityProfile::Unconfined => None,
    }
}

/// Paths that a kubelet asks to hide by default; used where there is no kubelet.
pub fn default_masked_paths() -> Vec<String> {
    [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Paths that a kubelet asks to protect by default.
pub fn default_readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}
