//! Cgroups of version 2. The first tests need any cgroup2 mount, also one without controllers; those that need
//! controllers are skipped where version 1 has them. Each works below a cgroup of its own, which it takes for the root.
#![allow(clippy::unwrap_used)]

mod cgroup_support;

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cgroup_support::sys::{spawn_into, wait};
use cgroup_support::{resources, until};
use orlop::runtime::cgroup::{
    Cgroup, CgroupError, CgroupPath, Controllers, CreateOptions, Entry, Host, OnExisting, Version, default_device_rules,
};

/// A cgroup of the machine that stands for the root of the hierarchy.
struct Root {
    host: Host,
    at: PathBuf,
}

impl Root {
    fn group(&self, name: &str, json: &str) -> Cgroup {
        self.host.create(&path(name), &resources(json), CreateOptions::default()).unwrap()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at.join(name)).unwrap().trim().to_owned()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::write(self.at.join("cgroup.kill"), "1");
        let root = self.host.open(&path("/")).unwrap();
        let _ = root.wait_empty(Duration::from_secs(5));
        for name in self.host.children(&path("/")).unwrap() {
            self.host.open(&path(&name)).unwrap().remove().unwrap();
        }
        fs::remove_dir(&self.at).unwrap();
    }
}

fn path(name: &str) -> CgroupPath {
    CgroupPath::new(&format!("/{}", name.trim_start_matches('/'))).unwrap()
}

/// `name` below the machine's cgroup2 mount.
fn root(name: &str) -> Option<Root> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let Some(mount) = mount.filter(|_| rustix::process::geteuid().is_root()) else {
        eprintln!("skipped: needs root and a cgroup2 mount");
        return None;
    };
    let at = PathBuf::from(mount).join(format!("orlop-test-{}-{name}", std::process::id()));
    fs::create_dir(&at).unwrap();
    let host = Host::unified_at(&at).unwrap();
    assert_eq!(host.version(), Version::V2);
    Some(Root { host, at })
}

/// As [`root`], with the usual controllers.
fn full(name: &str) -> Option<Root> {
    let root = root(name)?;
    let needed = Controllers::CPU | Controllers::MEMORY | Controllers::PIDS | Controllers::BLKIO;
    if root.host.controllers().contains(needed) {
        return Some(root);
    }
    eprintln!("skipped: needs the controllers {needed} on cgroup v2, here are {}", root.host.controllers());
    None
}

fn start(group: &Cgroup, script: &str) -> i32 {
    let Entry::V2(directory) = group.entry().unwrap() else { panic!("not v2") };
    spawn_into(directory.as_fd(), script).unwrap()
}

#[test]
fn a_child_is_cloned_in_and_killed() {
    let Some(root) = root("enter") else { return };
    let group = root.group("pod/c", "{}");
    let pid = start(&group, "exec sleep 100");
    assert_eq!(group.pids().unwrap(), [pid]);
    let inside = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(inside.lines().any(|line| line.starts_with("0::") && line.ends_with("enter/pod/c")), "{inside}");
    assert_eq!(root.host.open(&path("pod")).unwrap().pids().unwrap(), [pid], "those below are counted");
    group.kill().unwrap();
    assert_eq!(wait(pid), -9);
    assert!(matches!(group.entry(), Err(CgroupError::Spent { .. })));
    group.wait_empty(Duration::from_secs(5)).unwrap();
    group.remove().unwrap();
    // One made anew lets processes in again.
    let group = root.group("pod/c", "{}");
    assert_eq!(wait(start(&group, "exit 7")), 7);
    group.remove().unwrap();
    group.remove().unwrap();
    group.kill().unwrap();
    assert!(matches!(root.host.open(&path("pod/c")), Err(CgroupError::Gone { .. })));
}

#[test]
fn kill_reaches_those_below_and_those_that_fork() {
    let Some(root) = root("storm") else { return };
    let group = root.group("c", "{}");
    let pids = [
        start(&root.group("c/one", "{}"), "exec sleep 100"),
        start(
            &root.group("c/two/three", "{}"),
            "while :; do (while :; do sleep 0.01 & sleep 0.01 & wait; done) & sleep 0.02; done",
        ),
    ];
    until("many processes", || group.pids().unwrap().len() > 15);
    group.kill().unwrap();
    assert_eq!(pids.map(wait), [-9, -9]);
    group.wait_empty(Duration::from_secs(5)).unwrap();
    group.remove().unwrap();
}

#[test]
fn a_frozen_one_stands_still_thaws_and_can_be_killed() {
    let Some(root) = root("freeze") else { return };
    let group = root.group("c", "{}");
    let pid = start(&group, "while :; do :; done");
    let usage = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(11).unwrap().parse::<u64>().unwrap()
    };
    until("it runs", || usage() > 0);
    group.freeze().unwrap();
    assert!(group.is_frozen().unwrap());
    let before = usage();
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(usage(), before);
    group.thaw().unwrap();
    until("it runs again", || usage() > before);
    group.freeze().unwrap();
    group.kill().unwrap();
    assert_eq!(wait(pid), -9);
}

#[test]
fn one_that_is_in_use_or_stands_still_is_refused() {
    let Some(root) = root("refuse") else { return };
    let adopt = CreateOptions { existing: OnExisting::Adopt, ..CreateOptions::default() };
    let refused = || root.host.create(&path("c"), &resources("{}"), adopt).unwrap_err().to_string();
    let group = root.group("c", "{}");
    let pid = start(&group, "exec sleep 100");
    assert!(refused().contains(&pid.to_string()), "{}", refused());
    group.kill().unwrap();
    assert_eq!(wait(pid), -9);
    group.wait_empty(Duration::from_secs(5)).unwrap();
    group.freeze().unwrap();
    assert!(refused().contains("frozen"), "{}", refused());
    group.thaw().unwrap();
    root.host.create(&path("c"), &resources("{}"), adopt).unwrap();
}

#[test]
fn the_owner_of_a_user_namespace_gets_what_it_may_have_and_no_limits() {
    use std::os::unix::fs::MetadataExt;
    let Some(root) = root("owner") else { return };
    let group = root.group("c", "{}");
    group.delegate(4711).unwrap();
    let owner = |file: &str| fs::metadata(root.at.join("c").join(file)).unwrap().uid();
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        assert_eq!(owner(file), 4711, "{file}");
    }
    for file in ["cgroup.freeze", "cgroup.kill", "cgroup.max.depth"] {
        assert_eq!(owner(file), 0, "{file}");
    }
}

#[test]
fn a_parent_with_processes_stays_one_that_can_be_entered_below() {
    let Some(root) = full("busy") else { return };
    let parent = root.group("p", "{}");
    let pid = start(&parent, "exec sleep 100");
    let error = root.host.create(&path("p/c"), &resources(LIMITS), CreateOptions::default()).unwrap_err();
    assert!(matches!(error, CgroupError::Delegate { .. }), "{error}");
    // Without limits no controller is needed; and the processes can be in there.
    let child = root.group("p/c", "{}");
    assert_eq!(wait(start(&child, "exit 4")), 4);
    parent.kill().unwrap();
    assert_eq!(wait(pid), -9);
}

#[test]
fn keys_that_nobody_knows_are_for_the_kernel_to_refuse() {
    let Some(root) = full("unknown") else { return };
    let fails = |key: &str| {
        let limits = resources(&format!(r#"{{"unified":{{"{key}":"1"}}}}"#));
        let error = root.host.create(&path("c"), &limits, CreateOptions::default()).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
        error
    };
    assert!(matches!(fails("nonsense.max"), CgroupError::MissingController { .. }));
    assert!(matches!(fails("memory.nonsense"), CgroupError::Write { .. }));
    // One that only the kernel knows.
    let group = root.group("c", r#"{"unified":{"memory.swap.high":"4096"}}"#);
    assert_eq!(root.text("c/memory.swap.high"), "4096");
    group.remove().unwrap();
}

const DEVICES: &str = "echo x > /dev/null || exit 1; head -c1 /dev/zero > /dev/null || exit 2; \
                       (: < /dev/kmsg) 2> /dev/null && exit 3; exit 0";

#[test]
fn devices_are_refused_unless_listed() {
    let Some(root) = root("devices") else { return };
    let mut limits = resources("{}");
    limits.set_devices(Some(default_device_rules()));
    let group = root.host.create(&path("c"), &limits, CreateOptions::default()).unwrap();
    assert_eq!(wait(start(&group, DEVICES)), 0);
    assert_eq!(wait(start(&root.group("none", r#"{"devices":[]}"#), "echo x 2>&1 > /dev/null")), 2);
    group.update(&resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)).unwrap();
    assert_eq!(wait(start(&group, DEVICES)), 3, "everything is allowed");
    for _ in 0..3 {
        group.update(&limits).unwrap();
        assert_eq!(wait(start(&group, DEVICES)), 0);
    }
    // After a restart of the agent: another value for the same cgroup finds the program that is attached.
    let again = root.host.open(&path("c")).unwrap();
    again.update(&resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)).unwrap();
    assert_eq!(wait(start(&again, DEVICES)), 3);
    // An order that version 1 could not express.
    let holed = r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"access":"w"},
        {"allow":true,"type":"c","major":1,"minor":3,"access":"w"}]}"#;
    again.update(&resources(holed)).unwrap();
    let script = "echo x > /dev/null || exit 1; (echo x > /dev/zero) 2>/dev/null && exit 2; exit 0";
    assert_eq!(wait(start(&again, script)), 0);
}

#[test]
fn pressure_is_there_where_the_kernel_keeps_it() {
    let Some(root) = root("pressure") else { return };
    let group = root.group("c", "{}");
    if !root.at.join("c/cpu.pressure").exists() {
        eprintln!("skipped: this kernel keeps no pressure");
        return;
    }
    assert_eq!(wait(start(&group, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")), 0);
    let stats = group.stats().unwrap();
    assert!(stats.cpu_pressure.is_some() && stats.memory_pressure.is_some() && stats.io_pressure.is_some());
    if root.host.controllers().contains(Controllers::CPU) {
        assert!(stats.cpu.usage_ns > 0);
    }
}

const LIMITS: &str = r#"{"cpu":{"shares":204,"quota":50000,"period":100000},
    "memory":{"limit":67108864,"swap":67108864,"reservation":1048576},"pids":{"limit":20},
    "unified":{"memory.high":"60000000"}}"#;

#[test]
fn limits_hold_before_anybody_is_in() {
    let Some(root) = full("limits") else { return };
    let group = root.group("pods/pod1/c", LIMITS);
    let at = |file: &str| root.text(&format!("pods/pod1/c/{file}"));
    assert_eq!(at("cpu.weight"), "29");
    assert_eq!(at("cpu.max"), "50000 100000");
    assert_eq!(at("memory.max"), "67108864");
    assert_eq!(at("memory.low"), "1048576");
    assert_eq!(at("memory.high"), "59998208", "rounded to pages");
    assert_eq!(at("pids.max"), "20");
    if root.at.join("pods/pod1/c/memory.swap.max").exists() {
        assert_eq!(at("memory.swap.max"), "0");
    }
    for parent in [".", "pods", "pods/pod1"] {
        let enabled = root.text(&format!("{parent}/cgroup.subtree_control"));
        assert!(["cpu", "memory", "pids", "io"].iter().all(|c| enabled.split(' ').any(|e| e == *c)), "{enabled}");
    }
    let pid = start(&group, "x=$(head -c 8000000 /dev/zero | tr '\\0' a); exec 2>/dev/null; sleep 100; echo $x");
    until("it uses memory", || group.stats_light().unwrap().memory.rss > 8_000_000);
    until("the shell and sleep are left", || group.stats_light().unwrap().pids == Some(2));
    let stats = group.stats().unwrap();
    assert!(stats.cpu.usage_ns > 0 && stats.memory.page_faults > 0, "{stats:?}");
    assert!(stats.memory.working_set <= stats.memory.usage);
    assert_eq!(stats.memory.limit, Some(67_108_864));
    assert_eq!((stats.pids.current, stats.pids.limit), (Some(2), Some(20)));
    group.kill().unwrap();
    assert_eq!(wait(pid), -9);
}

#[test]
fn an_out_of_memory_kill_is_counted_and_takes_all_if_asked() {
    let Some(root) = full("oom") else { return };
    let group = root.group("c", r#"{"memory":{"limit":16777216,"swap":16777216},"unified":{"memory.oom.group":"1"}}"#);
    assert_eq!(group.oom_kills().unwrap(), 0);
    let bystander = start(&group, "exec sleep 100");
    let pid = start(&group, "x=$(head -c 100000000 /dev/zero | tr '\\0' a)");
    assert_eq!(wait(pid), -9);
    assert_eq!(wait(bystander), -9);
    assert!(group.oom_kills().unwrap() >= 1);
}

#[test]
fn an_update_is_whole_or_nothing() {
    let Some(root) = full("update") else { return };
    let group = root.group("c", LIMITS);
    let at = |file: &str| root.text(&format!("c/{file}"));
    group.update(&resources(r#"{"cpu":{"period":50000},"pids":{"limit":-1}}"#)).unwrap();
    assert_eq!((at("cpu.max").as_str(), at("pids.max").as_str()), ("50000 50000", "max"));
    let bad = r#"{"cpu":{"shares":1024},"pids":{"limit":7},"unified":{"memory.high":"nonsense"}}"#;
    let error = group.update(&resources(bad)).unwrap_err().to_string();
    assert!(error.contains("memory.high") && error.contains("nonsense"), "{error}");
    assert_eq!((at("cpu.weight").as_str(), at("pids.max").as_str()), ("29", "max"));
    let pid = start(&group, "x=$(head -c 9000000 /dev/zero | tr '\\0' a); exec 2>/dev/null; sleep 100; echo $x");
    until("it uses memory", || group.stats_light().unwrap().memory.rss > 9_000_000);
    let error = group.update(&resources(r#"{"memory":{"limit":4194304,"swap":4194304}}"#)).unwrap_err();
    assert!(matches!(error, CgroupError::LimitBelowUsage { limit: 4_194_304, .. }), "{error}");
    assert_eq!((at("memory.max"), group.oom_kills().unwrap()), ("67108864".to_owned(), 0));
    group.kill().unwrap();
    wait(pid);
}

#[test]
fn the_number_of_processes_is_limited() {
    let Some(root) = full("pids") else { return };
    let group = root.group("c", r#"{"pids":{"limit":3}}"#);
    let pid = start(&group, "sleep 5 & sleep 5 & sleep 5 & sleep 5 & sleep 100");
    until("all that may be there", || group.stats_light().unwrap().pids == Some(3));
    std::thread::sleep(Duration::from_millis(50));
    assert!(group.pids().unwrap().len() <= 3);
    group.kill().unwrap();
    wait(pid);
}

#[test]
fn a_parent_with_processes_is_told() {
    let Some(root) = full("inner") else { return };
    let pod = root.group("pod", "{}");
    let pid = start(&pod, "exec sleep 100");
    let error = root.host.create(&path("pod/c"), &resources(LIMITS), CreateOptions::default()).unwrap_err().to_string();
    assert!(error.contains("pod") && error.contains("processes of its own"), "{error}");
    assert!(!root.at.join("pod/c").exists());
    pod.kill().unwrap();
    wait(pid);
}

/// Prints what things cost.
#[test]
fn costs() {
    let Some(root) = full("costs") else { return };
    const N: u32 = 50;
    let mut limits = resources(LIMITS);
    limits.set_devices(Some(default_device_rules()));
    let begin = Instant::now();
    let groups: Vec<Cgroup> =
        (0..N).map(|n| root.host.create(&path(&format!("c{n}")), &limits, CreateOptions::default()).unwrap()).collect();
    let created = begin.elapsed() / N;
    let pids: Vec<i32> = groups.iter().map(|group| start(group, "exec sleep 100")).collect();
    let light = || groups.iter().map(|group| group.stats_light().unwrap().memory.usage).sum::<u64>();
    assert!(light() > 0);
    let begin = Instant::now();
    light();
    let lightly = begin.elapsed();
    let begin = Instant::now();
    groups.iter().for_each(|group| group.kill().unwrap());
    let killed = begin.elapsed() / N;
    for pid in pids {
        wait(pid);
    }
    let begin = Instant::now();
    groups.iter().for_each(|group| group.remove().unwrap());
    let removed = begin.elapsed() / N;
    println!("create {created:?}, light stats of {N} {lightly:?}, kill {killed:?}, remove {removed:?}");
}
