//! What the container sees of the system: names, sysctls, masked and read-only paths, shared caches.

use std::fs;

use serde_json::json;

use crate::bundle::{Bundle, skip};

#[test]
fn the_names_of_host_and_domain() {
    let script = "hostname; cat /proc/sys/kernel/domainname";
    let Some(mut bundle) = Bundle::new("names", script) else { return };
    bundle.config["hostname"] = json!("a.host");
    bundle.config["domainname"] = json!("a.domain");
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(bundle.output(), "a.host\na.domain\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), own);
    bundle.config["hostname"] = json!("x".repeat(65));
    assert!(bundle.fails().contains("hostname"));
    bundle.config["hostname"] = json!("a.host");
    bundle.no_namespace("uts");
    assert!(bundle.fails().contains("hostname"));
    bundle.config["hostname"] = json!("");
    assert!(bundle.fails().contains("domainname"));
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), own);
}

#[test]
fn sysctls_of_namespaces_with_dots_and_with_slashes() {
    let script = "cd /proc/sys; cat kernel/shm_rmid_forced kernel/msgmax net/ipv4/ip_forward fs/mqueue/msg_max \
        net/ipv4/conf/lo/rp_filter; cat net/ipv4/ping_group_range | tr '\\t' ' '";
    let Some(mut bundle) = Bundle::new("sysctls", script) else { return };
    bundle.linux()["sysctl"] = json!({
        "kernel.shm_rmid_forced": "1",
        "kernel/msgmax": "12345",
        "net.ipv4.ip_forward": "1",
        "fs/mqueue/msg_max": "11",
        "net/ipv4/conf/lo/rp_filter": "2",
        "net.ipv4.ping_group_range": "0 7",
    });
    let own = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    assert_eq!(bundle.output(), "1\n12345\n1\n11\n2\n0 7\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), own);
    for (name, value) in [
        ("kernel.core_pattern", "x"),
        ("vm.swappiness", "1"),
        ("kernel.hostname", "x"),
        ("net/../kernel/core_pattern", "x"),
        ("net.ipv4.ip_forward", "1\n2"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=x"),
        ("user.max_user_namespaces", "7"),
        ("", "1"),
        ("net..ipv4", "1"),
    ] {
        bundle.linux()["sysctl"] = json!({ name: value });
        let error = bundle.fails();
        assert!(error.contains("linux.sysctl"), "{name}: {error}");
    }
    bundle.linux()["sysctl"] = json!({ "net.ipv4.no_such_thing": "1" });
    let error = bundle.fails();
    assert!(error.contains("write sysctl net.ipv4.no_such_thing: no such file or directory"), "{error}");
    bundle.linux()["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    bundle.no_namespace("network");
    bundle.unmount("/sys");
    assert!(bundle.fails().contains("needs a network namespace"));
}

#[test]
fn masked_paths_are_empty_and_read_only_ones_read_only() {
    let script = "wc -c < /etc/secret; ls /secrets | wc -l; echo x > /secrets/new; cat /kept/file; \
        echo x > /kept/file; echo x > /kept/in/file; echo x >> /etc/secret && wc -c < /etc/secret";
    let Some(mut bundle) = Bundle::new("masked", script) else { return };
    fs::write(bundle.rootfs().join("etc/secret"), "secret\n").unwrap();
    for (directory, file) in [("/secrets", "one"), ("/kept", "file")] {
        fs::write(bundle.directory_inside(directory).join(file), "here\n").unwrap();
    }
    bundle.mount("/kept/in", "tmpfs", "tmpfs", &[]);
    bundle.linux()["maskedPaths"] = json!(["/etc/secret", "/secrets", "/not/there", "/secrets"]);
    bundle.linux()["readonlyPaths"] = json!(["/kept", "/not/there/either"]);
    let called = bundle.run();
    assert_eq!(called.stdout, "0\n0\nhere\n0\n");
    let refused: Vec<_> = called.stderr.lines().filter(|line| line.contains("Read-only file system")).collect();
    assert_eq!(refused.len(), 3, "{called:?}");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/secret")).unwrap(), "secret\n");
    for field in ["maskedPaths", "readonlyPaths"] {
        let mut bundle = Bundle::new("masked-relative", "true").unwrap();
        bundle.linux()[field] = json!(["relative"]);
        assert!(bundle.fails().contains(field));
    }
}

#[test]
fn shared_caches_are_an_error_where_there_is_no_resctrl() {
    let Some(mut bundle) = Bundle::new("rdt", "true") else { return };
    if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - resctrl ") {
        return skip("a resctrl is mounted here");
    }
    bundle.linux()["intelRdt"] = json!({ "closID": "gold", "l3CacheSchema": "L3:0=f" });
    let error = bundle.fails();
    assert!(error.contains("linux.intelRdt: no resctrl file system is mounted"), "{error}");
}

#[test]
fn versions_and_unknown_fields() {
    let Some(mut bundle) = Bundle::new("versions", "true") else { return };
    bundle.config["of the future"] = json!({ "x": [1] });
    bundle.linux()["ofTheFuture"] = json!("x");
    for version in ["1.0.0", "1.0.2-dev", "1.3.0"] {
        bundle.config["ociVersion"] = json!(version);
        bundle.output();
    }
    for version in ["0.2.0", "2.0.0", "one"] {
        bundle.config["ociVersion"] = json!(version);
        assert!(bundle.fails().contains("ociVersion"));
    }
}
