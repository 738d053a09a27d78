//! Scopes of systemd. Needs a machine that systemd runs (process 1), such as the guest of `make test-v2`.
#![allow(clippy::unwrap_used)]

mod cgroup_support;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cgroup_support::sys::{spawn_into, wait};
use cgroup_support::{resources, spawn_v1, until};
use oci_spec::runtime::LinuxResources;
use orlop::runtime::cgroup::systemd::{ScopeName, ScopeOptions, Systemd, parse_property};
use orlop::runtime::cgroup::{Cgroup, CgroupError, Entry, Host, Version, default_device_rules};

/// The machine's cgroups, where it has systemd and version 2.
fn host() -> Option<Host> {
    host_of(Version::V2)
}

/// The machine's cgroups, where it has systemd and this version.
fn host_of(version: Version) -> Option<Host> {
    if !Path::new("/run/systemd/system").is_dir() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root and systemd as process 1");
        return None;
    }
    let host = Host::detect().unwrap();
    if host.version() != version {
        eprintln!("skipped: needs cgroup {version}");
        return None;
    }
    Some(host)
}

fn scope_name(name: &str) -> ScopeName {
    ScopeName::new("orlop-test.slice", "orlop", &format!("{name}-{}", std::process::id())).unwrap()
}

/// A scope with a sleeping process.
struct Running {
    group: Cgroup,
    name: ScopeName,
    pid: i32,
}

impl Running {
    fn start(host: &Host, name: &str, limits: &LinuxResources, script: &str) -> Self {
        let name = scope_name(name);
        let (group, seed) = host.create_scope(&Systemd::system(), &name, limits, ScopeOptions::default()).unwrap();
        assert_eq!(group.path().as_str(), format!("/orlop.slice/orlop-test.slice/{}", name.unit));
        let pid = enter(&group, script);
        drop(seed);
        Self { group, name, pid }
    }

    fn dir(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(self.group.path().as_str().trim_start_matches('/'))
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.dir().join(file)).unwrap().trim().to_owned()
    }

    fn property(&self, property: &str) -> String {
        show(&self.name.unit, property)
    }

    fn end(self) {
        self.group.kill().unwrap();
        wait(self.pid);
        self.group.wait_empty(Duration::from_secs(5)).unwrap();
        self.group.remove().unwrap();
        assert!(!self.dir().exists());
        assert_eq!(self.property("ActiveState"), "inactive");
        assert_eq!(self.property("LoadState"), "not-found", "systemd has forgotten it");
        self.group.remove().unwrap();
    }
}

fn enter(group: &Cgroup, script: &str) -> i32 {
    let Entry::V2(directory) = group.entry().unwrap() else { panic!("not v2") };
    spawn_into(directory.as_fd(), script).unwrap()
}

fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().unwrap();
    assert!(output.status.success(), "systemctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn show(unit: &str, property: &str) -> String {
    systemctl(&["show", "--value", "--property", property, unit])
}

const LIMITS: &str = r#"{"cpu":{"shares":204,"quota":12345,"period":50000,"cpus":"0"},
    "memory":{"limit":67108864,"swap":67108864,"reservation":1048576},"pids":{"limit":20},
    "unified":{"memory.high":"60000000","memory.oom.group":"1"}}"#;

#[test]
fn limits_are_those_of_the_unit_and_a_reload_keeps_them() {
    let Some(host) = host() else { return };
    let mut limits = resources(LIMITS);
    limits.set_devices(Some(default_device_rules()));
    let it = Running::start(&host, "limits", &limits, "exec sleep 100");
    let check = |memory: &str, pids: &str| {
        assert_eq!(it.text("cpu.weight"), "29");
        assert_eq!(it.text("memory.max"), memory);
        assert_eq!(it.text("memory.low"), "1048576");
        assert_eq!(it.text("memory.high"), "59998208");
        assert_eq!(it.text("memory.oom.group"), "1");
        assert_eq!(it.text("cpuset.cpus"), "0");
        assert_eq!(it.text("pids.max"), pids);
        let devices = "echo x > /dev/null || exit 1; (: < /dev/kmsg) 2> /dev/null && exit 3; exit 0";
        assert_eq!(wait(enter(&it.group, devices)), 0);
    };
    check("67108864", "20");
    assert_eq!(it.text("cpu.max"), "12345 50000");
    assert_eq!(it.group.pids().unwrap(), [it.pid], "the seed is gone");
    assert_eq!(it.property("MemoryMax"), "67108864");
    assert_eq!(it.property("TasksMax"), "20");
    assert_eq!(it.property("CPUQuotaPerSecUSec"), "250ms");
    assert_eq!(it.property("AllowedCPUs"), "0");
    assert_eq!(it.property("Delegate"), "yes");
    systemctl(&["daemon-reload"]);
    check("67108864", "20");
    it.group
        .update(&resources(r#"{"memory":{"limit":33554432,"swap":-1},"pids":{"limit":30},"cpu":{"quota":5000}}"#))
        .unwrap();
    check("33554432", "30");
    assert_eq!(it.text("cpu.max"), "5000 50000");
    systemctl(&["daemon-reload"]);
    check("33554432", "30");
    assert_eq!(it.text("cpu.max"), "5000 50000");
    assert_eq!(it.property("MemoryMax"), "33554432");
    // Without limits systemd has none either, and not those that it gives to units of its own.
    it.group.update(&resources(r#"{"pids":{"limit":-1}}"#)).unwrap();
    assert_eq!(it.text("pids.max"), "max");
    it.end();
}

#[test]
fn a_scope_without_limits_has_none() {
    let Some(host) = host() else { return };
    let it = Running::start(&host, "free", &resources("{}"), "exec sleep 100");
    systemctl(&["daemon-reload"]);
    assert_eq!(it.text("pids.max"), "max");
    assert_eq!(it.text("memory.max"), "max");
    assert_eq!(it.text("cpu.weight"), "100");
    it.end();
}

#[test]
fn an_idle_one_is_idle_for_systemd_too() {
    let Some(host) = host() else { return };
    let it = Running::start(&host, "idle", &resources(r#"{"cpu":{"idle":1,"shares":500}}"#), "exec sleep 100");
    assert_eq!(it.text("cpu.idle"), "1");
    systemctl(&["daemon-reload"]);
    assert_eq!(it.text("cpu.idle"), "1");
    it.end();
}

#[test]
fn a_scope_ends_with_its_last_process() {
    let Some(host) = host() else { return };
    let it = Running::start(&host, "short", &resources("{}"), "exit 3");
    assert_eq!(wait(it.pid), 3);
    until("systemd has taken it away", || !it.dir().exists());
    assert!(it.group.is_empty().unwrap());
    it.group.kill().unwrap();
    it.group.remove().unwrap();
}

#[test]
fn what_a_unit_of_this_name_has_is_not_taken() {
    let Some(host) = host() else { return };
    let it = Running::start(&host, "twice", &resources("{}"), "exec sleep 100");
    let again = host.create_scope(&Systemd::system(), &it.name, &resources("{}"), ScopeOptions::default());
    let error = again.unwrap_err();
    assert!(matches!(error, CgroupError::Unit { .. }), "{error}");
    assert!(error.to_string().contains(&it.name.unit), "{error}");
    assert_eq!(it.group.pids().unwrap(), [it.pid], "it is as it was");
    it.end();
}

#[test]
fn a_refused_limit_leaves_nothing() {
    let Some(host) = host() else { return };
    let name = scope_name("refused");
    // Passes everything but the kernel.
    let limits = resources(r#"{"unified":{"memory.nonsense":"1"}}"#);
    let error = host.create_scope(&Systemd::system(), &name, &limits, ScopeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("memory.nonsense"), "{error}");
    until("the unit is gone", || show(&name.unit, "LoadState") == "not-found");
    // A value that systemd refuses.
    let options = ScopeOptions {
        properties: vec![parse_property("org.systemd.property.NoSuchThing", "true").unwrap()],
        ..ScopeOptions::default()
    };
    let error = host.create_scope(&Systemd::system(), &name, &resources("{}"), options).unwrap_err().to_string();
    assert!(error.contains("NoSuchThing") && error.contains(&name.unit), "{error}");
}

#[test]
fn properties_of_the_caller_are_set() {
    let Some(host) = host() else { return };
    let name = scope_name("more");
    let options = ScopeOptions {
        properties: vec![
            parse_property("org.systemd.property.TimeoutStopSec", "7").unwrap(),
            parse_property("org.systemd.property.CollectMode", "'inactive'").unwrap(),
        ],
        ..ScopeOptions::default()
    };
    let (group, seed) = host.create_scope(&Systemd::system(), &name, &resources("{}"), options).unwrap();
    assert_eq!(show(&name.unit, "TimeoutStopUSec"), "7s");
    assert_eq!(show(&name.unit, "CollectMode"), "inactive");
    drop(seed);
    group.remove().unwrap();
}

#[test]
fn on_version_1_the_scope_is_in_every_hierarchy() {
    let Some(host) = host_of(Version::V1) else { return };
    let name = scope_name("hybrid");
    let mut limits = resources(
        r#"{"cpu":{"shares":204,"quota":12345,"period":50000,"cpus":"0"},"memory":{"limit":67108864},"pids":{"limit":20}}"#,
    );
    limits.set_devices(Some(default_device_rules()));
    let (group, seed) = host.create_scope(&Systemd::system(), &name, &limits, ScopeOptions::default()).unwrap();
    let mut child = spawn_v1(&group, "exec sleep 100");
    let pid = i32::try_from(child.id()).unwrap();
    let mine = || fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    until("it is in", || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n"));
    drop(seed);
    std::thread::sleep(Duration::from_millis(500));
    for line in mine().lines() {
        // Hierarchies that nobody mounted have only a root.
        let unmounted =
            ["perf_event", "net_cls", "net_prio", "misc", "rdma", "hugetlb"].iter().any(|c| line.contains(c));
        assert!(line.ends_with(&name.unit) || unmounted, "{line}");
    }
    assert_eq!(show(&name.unit, "ActiveState"), "active");
    let text = |file: &str| {
        let (controller, file) = file.split_once('/').unwrap();
        let path = format!("/sys/fs/cgroup/{controller}{}/{file}", group.path());
        fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{path}: {cause}")).trim().to_owned()
    };
    for round in ["made", "reloaded"] {
        assert_eq!(text("memory/memory.limit_in_bytes"), "67108864", "{round}");
        assert_eq!(text("cpu/cpu.shares"), "204", "{round}");
        assert_eq!(text("pids/pids.max"), "20", "{round}");
        assert_eq!(text("cpuset/cpuset.cpus"), "0", "{round}");
        let devices = text("devices/devices.list");
        assert!(devices.contains("c 1:3 rwm") && devices.contains("c 136:* rwm"), "{round}: {devices}");
        assert!(!devices.contains("a *:*") && !devices.contains("c 1:11"), "{round}: {devices}");
        systemctl(&["daemon-reload"]);
    }
    group.update(&resources(r#"{"memory":{"limit":33554432},"cpu":{"quota":5000}}"#)).unwrap();
    assert_eq!(text("cpu/cpu.cfs_quota_us"), "5000");
    systemctl(&["daemon-reload"]);
    assert_eq!(text("memory/memory.limit_in_bytes"), "33554432");
    group.kill().unwrap();
    child.wait().unwrap();
    group.remove().unwrap();
    assert!(!host.exists(group.path()));
    assert_eq!(show(&name.unit, "LoadState"), "not-found");
}
