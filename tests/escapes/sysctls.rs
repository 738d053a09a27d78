//! Sysctls: of the container's namespaces only, and one at a time.

use serde_json::json;

use crate::bundle::Bundle;

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

#[test]
fn cve_2022_0811_values_and_names_that_hide_another_sysctl() {
    let Some(mut bundle) = Bundle::new("sysctls", "true") else { return };
    let before = std::fs::read(CORE_PATTERN).unwrap();
    for (name, value) in [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1=2"),
        ("kernel.shm_rmid_forced", "1;x"),
        ("kernel.shm_rmid_forced", "1\0"),
        ("net.ipv4.ip_forward", "|/evil"),
        ("kernel.core_pattern", "core"),
        ("kernel/core_pattern", "core"),
        ("net/../kernel/core_pattern", "core"),
        ("net.ipv4/../../kernel/core_pattern", "core"),
        ("net.ipv4.conf.../../../kernel/core_pattern", "core"),
        ("net//ipv4/ip_forward", "1"),
        ("net", "1"),
        ("net.", "1"),
        (".net.ipv4.ip_forward", "1"),
        ("/net/ipv4/ip_forward", "1"),
        ("net.ipv4.ip forward", "1"),
        ("net.ipv4.ip_forward ", "1"),
        ("kernel.shmmax\n", "1"),
        ("fs.mqueue/../../kernel/core_pattern", "core"),
        ("vm.overcommit_memory", "1"),
        ("fs.suid_dumpable", "2"),
        ("", "1"),
    ] {
        bundle.linux()["sysctl"] = json!({ name: value });
        let text = bundle.fails();
        assert!(text.contains("linux.sysctl"), "{name:?}={value:?}: {text}");
    }
    assert_eq!(std::fs::read(CORE_PATTERN).unwrap(), before);
    bundle.linux()["sysctl"] = json!({ "kernel.shm_rmid_forced": "1", "net/ipv4/ip_forward": "1" });
    bundle.script("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward");
    assert_eq!(bundle.output(), "1\n1\n");
}

#[test]
fn cve_2022_0532_what_is_the_hosts_is_not_set() {
    for (kind, name) in [("network", "net.ipv4.ip_forward"), ("ipc", "kernel.shmmax"), ("ipc", "fs.mqueue.msg_max")] {
        let Some(mut bundle) = Bundle::new("host-sysctls", "true") else { return };
        // The value that it has already: the machine stays as it is even if this fails.
        let value = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).unwrap();
        bundle.no_namespace(kind);
        bundle.linux()["sysctl"] = json!({ name: value.trim() });
        let text = bundle.fails();
        assert!(text.contains("namespace that is not the host's"), "{name}: {text}");
        // Nor by the host's being named by its path.
        let short = if kind == "network" { "net" } else { kind };
        let aside = bundle.path().join("namespace");
        std::os::unix::fs::symlink(format!("/proc/1/ns/{short}"), &aside).unwrap();
        for path in [format!("/proc/self/ns/{short}"), format!("/proc/1/ns/{short}"), aside.display().to_string()] {
            bundle.namespace(json!({ "type": kind, "path": path }));
            let text = bundle.fails();
            // Where not even root may look at the first process, it cannot enter its namespaces either.
            let refused = text.contains("namespace that is not the host's") || text.contains("open the namespace");
            assert!(refused, "{name} {path}: {text}");
        }
    }
    let Some(mut bundle) = Bundle::new("host-name", "true") else { return };
    bundle.namespace(json!({ "type": "uts", "path": "/proc/self/ns/uts" }));
    bundle.config["hostname"] = json!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    assert!(bundle.fails().contains("hostname"));
}
