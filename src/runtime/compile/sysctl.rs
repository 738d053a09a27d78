//! Sysctls: only those that belong to a namespace of the container.

use super::namespaces::{IPC, NET, Namespaces, USER, UTS};
use super::{Result, invalid};

const IPC_NAMES: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// (path below /proc/sys, value), in the order of the names.
pub(super) fn sysctls<'a>(
    listed: impl Iterator<Item = (&'a String, &'a String)>,
    namespaces: &Namespaces,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in listed {
        let path = path_of(name)?;
        check_namespace(name, &path, namespaces)?;
        // Digits, words, lists, ranges. Nothing that could be a second setting to anyone.
        let plain = |c: char| c.is_ascii_alphanumeric() || " \t._:,/-".contains(c);
        if let Some(bad) = value.chars().find(|c| !plain(*c)) {
            return invalid(format!("linux.sysctl {name:?}"), format!("the value {value:?} contains {bad:?}"));
        }
        all.push((path.into_bytes(), value.clone().into_bytes()));
    }
    all.sort();
    Ok(all)
}

/// "net.ipv4.ip_forward", and where a name contains a dot "net/ipv4/conf/eth0.1/forwarding", as sysctl(8) reads them:
/// what comes first, a dot or a slash, is the separator.
fn path_of(name: &str) -> Result<String> {
    let path: String = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || !part.chars().all(plain);
    if path.split('/').any(bad) {
        return invalid("linux.sysctl", format!("{name:?} is no name of a sysctl"));
    }
    Ok(path)
}

fn check_namespace(name: &str, path: &str, namespaces: &Namespaces) -> Result<()> {
    let (kind, what) = if IPC_NAMES.contains(&path) || path.starts_with("fs/mqueue/") {
        (IPC, "IPC")
    } else if path.starts_with("net/") {
        (NET, "network")
    } else if path == "kernel/domainname" {
        (UTS, "UTS")
    } else if path.starts_with("user/") {
        (USER, "user")
    } else if path == "kernel/hostname" {
        return invalid("linux.sysctl", "kernel.hostname is set by the field hostname");
    } else {
        return invalid("linux.sysctl", format!("{name:?} is the whole machine's, not a namespace's"));
    };
    if !namespaces.is_private(kind) {
        return invalid("linux.sysctl", format!("{name:?} needs a {what} namespace that is not the host's"));
    }
    Ok(())
}
