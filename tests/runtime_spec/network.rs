//! `linux.netDevices`: devices that move in, with their names and addresses.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::bundle::{Bundle, finish, skip, wait_until};

/// A network namespace that stands for the host's; gone with this value.
struct Host(Child);

impl Host {
    fn new() -> Option<Self> {
        for tool in ["ip", "unshare", "nsenter"] {
            if Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                skip(&format!("needs {tool} (Debian's packages iproute2 and util-linux)"));
                return None;
            }
        }
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let host = Self(child);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let there = format!("/proc/{}/ns/net", host.0.id());
        wait_until("a network namespace", || std::fs::read_link(&there).is_ok_and(|link| link != own));
        Some(host)
    }

    fn prefix(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/proc/{}/ns/net", self.0.id()), "--".into()]
    }

    /// `ip` with arguments, in this namespace; its output.
    fn ip(&self, arguments: &str) -> String {
        let prefix = self.prefix();
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).arg("ip").args(arguments.split(' '));
        finish(command).output()
    }

    /// Two veth devices of these names.
    fn pair(&self, one: &str, other: &str) {
        self.ip(&format!("link add {one} type veth peer name {other}"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bundle(name: &str, script: &str) -> Option<(Host, Bundle)> {
    let mut bundle = Bundle::new(name, script)?;
    let host = Host::new()?;
    bundle.prefix = host.prefix();
    Some((host, bundle))
}

#[test]
fn a_device_moves_in_with_its_name_and_its_addresses_and_is_up() {
    let script = "ip addr show dev far; ip link show dev far";
    let Some((host, mut bundle)) = bundle("move", script) else { return };
    host.pair("near", "far");
    host.ip("addr add 10.9.8.7/24 broadcast 10.9.8.255 dev far");
    host.ip("addr add 10.9.9.1 peer 10.9.9.2/32 dev far");
    host.ip("addr add fd00:9::7/64 dev far nodad");
    host.ip("addr add 169.254.3.4/16 scope link dev far");
    host.ip("addr add fd00:9::8/64 dev far valid_lft 1000 preferred_lft 1000");
    host.ip("link set far mtu 1400 address 02:00:00:00:00:09 up");
    bundle.linux()["netDevices"] = json!({ "far": {} });
    let output = bundle.output();
    for part in [
        "inet 10.9.8.7/24 brd 10.9.8.255 scope global far",
        "inet 10.9.9.1 peer 10.9.9.2/32 scope global far",
        "inet6 fd00:9::7/64 scope global",
        "mtu 1400",
        "link/ether 02:00:00:00:00:09",
        ",UP",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    for part in ["169.254.3.4", "fd00:9::8"] {
        assert!(!output.contains(part), "{part}: {output}");
    }
    // With its namespace it is gone, and with it its other end; nobody moved it back.
    wait_until("the pair is gone", || !host.ip("link show").contains("near"));
}

#[test]
fn devices_are_renamed_and_counted() {
    let Some((host, mut bundle)) = bundle("rename", "ip -o link show") else { return };
    host.pair("a0", "b0");
    host.pair("a1", "b1");
    host.pair("a2", "b2");
    bundle.linux()["netDevices"] =
        json!({ "b0": { "name": "inside" }, "b1": { "name": "eth%d" }, "b2": { "name": "eth%d" } });
    let output = bundle.output();
    for name in ["lo", "inside", "eth0", "eth1"] {
        assert!(output.contains(&format!(" {name}")), "{name}: {output}");
    }
    assert!(!output.contains(" b0"), "{output}");
}

#[test]
fn a_device_moves_into_a_namespace_that_is_there_already() {
    let Some((host, mut bundle)) = bundle("join", "ip -o link show") else { return };
    let Some(pod) = Host::new() else { return };
    host.pair("a0", "b0");
    host.pair("a1", "b1");
    pod.pair("eth0", "other");
    bundle.namespace(json!({ "type": "network", "path": format!("/proc/{}/ns/net", pod.0.id()) }));
    bundle.linux()["netDevices"] = json!({ "b0": { "name": "eth0" } });
    let error = bundle.fails();
    assert!(error.contains("linux.netDevices \"b0\"") && error.contains("\"eth0\" already"), "{error}");
    assert!(host.ip("link show").contains(" b0@"), "it has not moved");
    bundle.linux()["netDevices"] = json!({ "b0": { "name": "eth%d" } });
    let output = bundle.output();
    assert!(output.contains(" eth1"), "{output}");
    // It belongs to the namespace, not to the container.
    assert!(pod.ip("link show").contains("eth1"));
    assert!(!host.ip("link show").contains(" b0@"));
}

#[test]
fn what_cannot_be_moved_is_an_error() {
    let Some((host, mut bundle)) = bundle("refused", "true") else { return };
    bundle.linux()["netDevices"] = json!({ "absent": {} });
    let error = bundle.fails();
    assert!(error.contains("linux.netDevices \"absent\": the host has no network device of that name"), "{error}");
    bundle.linux()["netDevices"] = json!({ "lo": { "name": "lo0" } });
    let error = bundle.fails();
    assert!(error.contains("linux.netDevices \"lo\": move it into the container"), "{error}");
    host.pair("a0", "b0");
    bundle.linux()["netDevices"] = json!({ "b0": { "name": "lo" } });
    let error = bundle.fails();
    assert!(error.contains("\"lo\" already"), "{error}");
    bundle.linux()["netDevices"] = json!({ "b0": { "name": "a/b" } });
    assert!(bundle.fails().contains("no name of a network device"));
    bundle.linux()["netDevices"] = json!({ "b0": {} });
    bundle.namespace(json!({ "type": "network", "path": format!("/proc/{}/ns/net", host.0.id()) }));
    assert!(bundle.fails().contains("the network namespace of the container is the host's"));
    bundle.no_namespace("network");
    bundle.unmount("/sys");
    assert!(bundle.fails().contains("need a network namespace"));
    assert!(host.ip("link show").contains(" b0@"));
}
