//! Cgroups of version 1, on the hierarchies of this machine, each test in its own cgroup.
#![allow(clippy::unwrap_used)]

mod cgroup_support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use cgroup_support::{first_line, make, path, resources, spawn_v1, until};
use orlop::runtime::cgroup::{
    Cgroup, CgroupError, Controllers, CreateOptions, Entry, Host, OnExisting, Version, default_device_rules,
};

fn host() -> Option<Host> {
    let host = Host::detect().unwrap();
    if host.version() == Version::V1 && rustix::process::geteuid().is_root() {
        return Some(host);
    }
    eprintln!("skipped: needs root and cgroup v1, this machine has {}", host.version());
    None
}

fn value(group: &Cgroup, file: &str) -> String {
    let found = group.host().mounts().map(|mount| mount.join(group.path().as_str().trim_start_matches('/')).join(file));
    fs::read_to_string(found.into_iter().find(|path| path.exists()).unwrap()).unwrap().trim().to_owned()
}

const LIMITS: &str = r#"{"cpu":{"shares":204,"quota":50000,"period":100000,"burst":20000,"cpus":"0"},
    "memory":{"limit":67108864,"swap":67108864},"pids":{"limit":20}}"#;

#[test]
fn limits_hold_before_anybody_is_in() {
    let Some(host) = host() else { return };
    let group = make(&host, "limits", LIMITS);
    assert_eq!(value(&group, "cpu.shares"), "204");
    assert_eq!(value(&group, "cpu.cfs_quota_us"), "50000");
    assert_eq!(value(&group, "cpu.cfs_burst_us"), "20000");
    assert_eq!(value(&group, "cpuset.cpus"), "0");
    assert!(!value(&group, "cpuset.mems").is_empty());
    assert_eq!(value(&group, "memory.limit_in_bytes"), "67108864");
    assert_eq!(value(&group, "memory.memsw.limit_in_bytes"), "67108864");
    assert_eq!(value(&group, "pids.max"), "20");
    assert!(group.is_empty().unwrap());
    for mount in host.mounts() {
        assert!(mount.join(&path("limits").as_str()[1..]).exists(), "{}", mount.display());
    }
}

#[test]
fn one_that_stands_still_is_refused() {
    let Some(host) = host() else { return };
    let group = make(&host, "still", "{}");
    let adopt = CreateOptions { existing: OnExisting::Adopt, ..CreateOptions::default() };
    group.freeze().unwrap();
    let error = host.create(&path("still"), &resources("{}"), adopt).unwrap_err().to_string();
    assert!(error.contains("frozen"), "{error}");
    group.thaw().unwrap();
    host.create(&path("still"), &resources("{}"), adopt).unwrap();
}

#[test]
fn a_child_goes_in_by_itself_and_is_counted() {
    let Some(host) = host() else { return };
    let group = make(&host, "enter", LIMITS);
    let mut child = spawn_v1(&group, "cat /proc/self/cgroup > /dev/null; echo in; exec sleep 100");
    assert_eq!(first_line(&mut child), "in");
    let pid = child.id() as i32;
    assert_eq!(group.pids().unwrap(), [pid]);
    let inside = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in inside.lines().filter(|line| !line.contains("name=") && !line.starts_with("0:")) {
        assert!(line.ends_with(path("enter").as_str()), "{line}");
    }
    // The kernel gathers small changes of memory every two seconds.
    until("memory is counted", || group.stats().unwrap().memory.rss > 0);
    let stats = group.stats().unwrap();
    assert!(stats.cpu.usage_ns > 0 && stats.memory.usage > 0, "{stats:?}");
    assert!(stats.memory.working_set <= stats.memory.usage && stats.memory.page_faults > 0);
    assert_eq!((stats.pids.current, stats.pids.limit), (Some(1), Some(20)));
    assert_eq!(stats.memory.limit, Some(64 << 20));
    assert_eq!(stats.memory.swap_limit, Some(0));
    let again = host.open(&path("enter")).unwrap();
    assert_eq!(again.pids().unwrap(), [pid]);
    again.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    group.wait_empty(Duration::from_secs(5)).unwrap();
}

#[test]
fn an_out_of_memory_kill_is_counted() {
    let Some(host) = host() else { return };
    let group = make(&host, "oom", r#"{"memory":{"limit":16777216,"swap":16777216}}"#);
    assert_eq!(group.oom_kills().unwrap(), 0);
    let mut child = spawn_v1(&group, "x=$(head -c 100000000 /dev/zero | tr '\\0' a)");
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(group.oom_kills().unwrap(), 1);
}

#[test]
fn kill_ends_those_that_fork_all_the_time() {
    let Some(host) = host() else { return };
    let group = make(&host, "fork", r#"{"pids":{"limit":200}}"#);
    let script = "while :; do (while :; do sleep 0.01 & sleep 0.01 & sleep 0.01 & wait; done) & sleep 0.02; done";
    let mut child = spawn_v1(&group, &format!("echo in\n{script}"));
    first_line(&mut child);
    until("many processes", || group.pids().unwrap().len() > 20);
    group.kill().unwrap();
    group.wait_empty(Duration::from_secs(5)).unwrap();
    child.wait().unwrap();
    assert!(!group.is_frozen().unwrap());
}

#[test]
fn a_frozen_one_stands_still_thaws_and_can_be_killed() {
    let Some(host) = host() else { return };
    let group = make(&host, "freeze", "{}");
    let mut child = spawn_v1(&group, "echo in\nwhile :; do :; done");
    first_line(&mut child);
    let usage = || group.stats_light().unwrap().cpu_usage_ns;
    group.freeze().unwrap();
    assert!(group.is_frozen().unwrap());
    let before = usage();
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(usage(), before);
    group.thaw().unwrap();
    until("it runs again", || usage() > before);
    group.freeze().unwrap();
    group.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(!group.is_frozen().unwrap());
}

#[test]
fn devices_are_refused_unless_listed() {
    let Some(host) = host() else { return };
    let mut limits = resources("{}");
    limits.set_devices(Some(default_device_rules()));
    let group = host.create(&path("devices"), &limits, CreateOptions::default()).unwrap();
    let group = cgroup_support::TestGroup { group };
    let script = "echo x > /dev/null && head -c1 /dev/zero > /dev/null && echo null-ok; \
                  (: < /dev/kmsg) 2> /dev/null || echo kmsg-refused";
    let ask = || {
        let mut child = spawn_v1(&group, &format!("{{ {script}; }} | tr '\\n' ' '; echo"));
        let line = first_line(&mut child);
        child.wait().unwrap();
        line
    };
    assert_eq!(ask(), "null-ok kmsg-refused");
    // Then open everything, and close it again.
    group.update(&resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)).unwrap();
    assert_eq!(value(&group, "devices.list"), "a *:* rwm");
    assert_eq!(ask(), "null-ok");
    group.update(&limits).unwrap();
    assert!(!value(&group, "devices.list").contains("a *:*"));
    assert_eq!(ask(), "null-ok kmsg-refused");
    group.update(&limits).unwrap();
    assert_eq!(ask(), "null-ok kmsg-refused");
}

#[test]
fn an_update_changes_up_and_down_and_is_undone_as_a_whole() {
    let Some(host) = host() else { return };
    let group = make(&host, "update", LIMITS);
    group.update(&resources(r#"{"memory":{"limit":134217728,"swap":134217728},"cpu":{"shares":512}}"#)).unwrap();
    assert_eq!(value(&group, "memory.limit_in_bytes"), "134217728");
    assert_eq!(value(&group, "memory.memsw.limit_in_bytes"), "134217728");
    assert_eq!(value(&group, "cpu.shares"), "512");
    group.update(&resources(r#"{"memory":{"limit":33554432,"swap":33554432}}"#)).unwrap();
    assert_eq!(value(&group, "memory.memsw.limit_in_bytes"), "33554432");
    group.update(&resources(r#"{"memory":{"limit":67108864}}"#)).unwrap();
    assert_eq!(value(&group, "memory.memsw.limit_in_bytes"), "67108864");
    // A period that the kernel refuses comes after shares and memory have been written.
    let bad = r#"{"cpu":{"shares":99,"cpus":"0-1","period":5,"quota":-1}}"#;
    let error = group.update(&resources(bad)).unwrap_err().to_string();
    assert!(error.contains("cpu.cfs_period_us") && error.contains("\"5\""), "{error}");
    assert_eq!(value(&group, "cpu.shares"), "512");
    assert_eq!(value(&group, "cpuset.cpus"), "0");
    assert_eq!(value(&group, "cpu.cfs_quota_us"), "50000");
}

#[test]
fn a_limit_below_what_is_in_use_is_a_clear_error() {
    let Some(host) = host() else { return };
    let group = make(&host, "below", r#"{"memory":{"limit":134217728,"swap":134217728}}"#);
    let mut child =
        spawn_v1(&group, "x=$(head -c 40000000 /dev/zero | tr '\\0' a)\necho in\nread y < /dev/stdin; sleep 100");
    first_line(&mut child);
    let error = group.update(&resources(r#"{"memory":{"limit":8388608,"swap":8388608}}"#)).unwrap_err();
    assert!(matches!(error, CgroupError::LimitBelowUsage { limit: 8_388_608, .. }), "{error}");
    assert_eq!(value(&group, "memory.limit_in_bytes"), "134217728");
    group.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn leftovers_are_found_replaced_and_removed() {
    let Some(host) = host() else { return };
    let group = make(&host, "left", LIMITS);
    let top = path("left").parent().unwrap();
    assert_eq!(host.children(&top).unwrap(), ["c"]);
    let again = host.create(&path("left"), &resources("{}"), CreateOptions::default()).unwrap();
    assert_eq!(value(&again, "pids.max"), "max", "made anew");
    let refuse = CreateOptions { existing: OnExisting::Refuse, ..CreateOptions::default() };
    assert!(matches!(host.create(&path("left"), &resources("{}"), refuse), Err(CgroupError::InUse { .. })));
    let mut child = spawn_v1(&group, "echo in; exec sleep 100");
    first_line(&mut child);
    let error = host.create(&path("left"), &resources("{}"), CreateOptions::default()).unwrap_err().to_string();
    assert!(error.contains(&child.id().to_string()), "{error}");
    let start = Instant::now();
    assert!(matches!(group.remove(), Err(CgroupError::Remove { .. })), "removed with a process in it");
    assert!(start.elapsed() < Duration::from_secs(10));
    group.kill().unwrap();
    child.wait().unwrap();
    group.remove().unwrap();
    group.remove().unwrap();
    group.kill().unwrap();
    assert!(group.pids().unwrap().is_empty());
    assert!(group.stats_light().unwrap_err().is_gone());
    assert!(matches!(host.open(&path("left")), Err(CgroupError::Gone { .. })));
}

#[test]
fn a_pods_parent_is_made_once() {
    let Some(host) = host() else { return };
    let group = make(&host, "parent", "{}");
    let parent = path("parent").parent().unwrap();
    let (again, made) = host.create_parent(&parent, &resources(r#"{"pids":{"limit":3}}"#)).unwrap();
    assert!(!made);
    assert_eq!(value(&again, "pids.max"), "max");
    let inner = group.path().child("pod").unwrap();
    let (pod, made) = host.create_parent(&inner, &resources(r#"{"pids":{"limit":3}}"#)).unwrap();
    assert!(made);
    assert_eq!(value(&pod, "pids.max"), "3");
    // It goes with the group around it: removing is recursive.
}

#[test]
fn what_a_v1_host_cannot_do_is_said() {
    let Some(host) = host() else { return };
    let create = |json: &str, tolerate_missing_hugetlb| {
        let options = CreateOptions { tolerate_missing_hugetlb, ..CreateOptions::default() };
        host.create(&path("cannot"), &resources(json), options)
    };
    let error = create(r#"{"unified":{"memory.max":"5"}}"#, true).unwrap_err().to_string();
    assert!(error.contains("unified") && error.contains("v2"), "{error}");
    if !host.controllers().contains(Controllers::HUGETLB) {
        let error = create(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#, false).unwrap_err().to_string();
        assert!(error.contains("hugetlb") && error.contains("v1"), "{error}");
    }
    let error = create(r#"{"cpu":{"cpus":"999"}}"#, true).unwrap_err().to_string();
    assert!(error.contains("cpuset.cpus") && error.contains("999"), "{error}");
    assert!(!host.exists(&path("cannot")), "a failure leaves nothing");
    host.open(&path("cannot").parent().unwrap()).unwrap().remove().unwrap();
}

/// Prints what things cost; asserts only what no machine should miss.
#[test]
fn costs() {
    let Some(host) = host() else { return };
    const N: u32 = 50;
    let parent = path("costs").parent().unwrap();
    let mut limits = resources(LIMITS);
    limits.set_devices(Some(default_device_rules()));
    let start = Instant::now();
    let groups: Vec<Cgroup> = (0..N)
        .map(|n| host.create(&parent.child(&format!("c{n}")).unwrap(), &limits, CreateOptions::default()).unwrap())
        .collect();
    let created = start.elapsed() / N;
    let mut children: Vec<_> = groups.iter().map(|group| spawn_v1(group, "echo in; exec sleep 100")).collect();
    for child in &mut children {
        first_line(child);
    }
    let light = || groups.iter().map(|group| group.stats_light().unwrap().memory.usage).sum::<u64>();
    assert!(light() > 0);
    let start = Instant::now();
    for _ in 0..20 {
        light();
    }
    let lightly = start.elapsed() / 20;
    let start = Instant::now();
    groups.iter().for_each(|group| assert!(group.stats().is_ok()));
    let full = start.elapsed();
    let start = Instant::now();
    groups.iter().for_each(|group| group.kill().unwrap());
    let killed = start.elapsed() / N;
    for child in &mut children {
        child.wait().unwrap();
    }
    let start = Instant::now();
    groups.iter().for_each(|group| group.remove().unwrap());
    let removed = start.elapsed() / N;
    host.open(&parent).unwrap().remove().unwrap();
    println!(
        "create {created:?}, light stats of {N} {lightly:?}, full stats of {N} {full:?}, kill {killed:?}, remove {removed:?}"
    );
    assert!(lightly < Duration::from_millis(50), "{lightly:?}");
}

#[test]
fn the_entry_names_a_tasks_file_a_hierarchy() {
    let Some(host) = host() else { return };
    let group = make(&host, "entry", "{}");
    let Entry::V1(tasks) = group.entry().unwrap() else { panic!("v1 has tasks files") };
    assert_eq!(tasks.len(), host.mounts().count());
    assert!(tasks.iter().all(|file| file.exists() && file.ends_with("tasks")));
}
