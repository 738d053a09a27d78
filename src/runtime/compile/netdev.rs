//! `linux.netDevices`: names that the kernel takes, and a namespace to move into.

use oci_spec::runtime::LinuxNetDevice;

use super::namespaces::{NET, Namespaces};
use super::{Result, invalid};
use crate::runtime::plan::NetDevicePlan;

/// `IFNAMSIZ` without the NUL.
const MAX_NAME: usize = 15;

/// In the order of their names on the host.
pub(super) fn devices<'a>(
    listed: impl Iterator<Item = (&'a String, &'a LinuxNetDevice)>,
    namespaces: &Namespaces,
) -> Result<Vec<NetDevicePlan>> {
    let mut all: Vec<NetDevicePlan> = Vec::new();
    for (host_name, device) in listed {
        let name = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host_name);
        if !plain(host_name) || host_name.contains('%') {
            return invalid("linux.netDevices", format!("{host_name:?} is no name of a network device"));
        }
        let template = name.replacen("%d", "", 1);
        if !plain(name) || template.contains('%') {
            return invalid(
                format!("linux.netDevices {host_name:?}"),
                format!("{name:?} is no name of a network device (at most {MAX_NAME} bytes; \"%d\" once for a number)"),
            );
        }
        all.push(NetDevicePlan { host_name: host_name.clone(), name: name.to_owned() });
    }
    if !all.is_empty() && !namespaces.owns(NET) {
        return invalid("linux.netDevices", "need a network namespace in linux.namespaces; the host's is shared");
    }
    all.sort_by(|a, b| a.host_name.cmp(&b.host_name));
    let fixed = |device: &&NetDevicePlan| !device.name.contains('%');
    for (n, device) in all.iter().enumerate() {
        if let Some(other) = all[n + 1..].iter().filter(fixed).find(|other| other.name == device.name) {
            let text = format!("{:?} and {:?} both become {:?}", device.host_name, other.host_name, device.name);
            return invalid("linux.netDevices", text);
        }
    }
    Ok(all)
}

/// As `dev_valid_name` of the kernel has it.
fn plain(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_ascii_whitespace() || c == '\x0b';
    !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != ".." && !name.contains(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(list: &[(&str, &str)], namespaces: &Namespaces) -> Result<Vec<NetDevicePlan>> {
        let of = |name: &str| serde_json::from_value(serde_json::json!({ "name": name })).unwrap();
        let list: Vec<(String, LinuxNetDevice)> = list.iter().map(|(h, n)| ((*h).to_owned(), of(n))).collect();
        devices(list.iter().map(|(h, d)| (h, d)), namespaces)
    }

    #[test]
    fn names_are_checked_and_a_namespace_is_needed() {
        let spec: oci_spec::runtime::Spec = serde_json::from_value(serde_json::json!({ "ociVersion": "1.3.0",
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "network" }] } }))
        .unwrap();
        let own = Namespaces::of(&spec, &crate::runtime::compile::HostFacts::default()).unwrap();
        let plan = |host: &str, name: &str| NetDevicePlan { host_name: host.into(), name: name.into() };
        let list = [("b", "x"), ("a", ""), ("c", "eth%d"), ("d", "eth%d")];
        let expected = [plan("a", "a"), plan("b", "x"), plan("c", "eth%d"), plan("d", "eth%d")];
        assert_eq!(compiled(&list, &own).unwrap(), expected);
        for name in ["%", "%s", "a%d%d", "sixteen-bytes-xx", "a/b", "a b", ".", "..", "a:1", "x%"] {
            assert!(compiled(&[("a", name)], &own).is_err(), "{name}");
        }
        for host in ["", "eth%d", "../x", "sixteen-bytes-xx"] {
            assert!(compiled(&[(host, "a")], &own).is_err(), "{host}");
        }
        let error = compiled(&[("a", "x"), ("b", "x")], &own).unwrap_err().to_string();
        assert!(error.contains("\"a\" and \"b\" both become \"x\""), "{error}");
        let error = compiled(&[("a", "x")], &Namespaces::default()).unwrap_err().to_string();
        assert!(error.contains("need a network namespace"), "{error}");
        assert_eq!(compiled(&[], &Namespaces::default()).unwrap(), []);
    }
}
