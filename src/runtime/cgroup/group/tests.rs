//! The v2 logic upon an ordinary directory that looks like a hierarchy.

use std::fs;
use std::path::Path;

use rustix::fs::OFlags;
use tempfile::TempDir;

use super::super::PidsStats;
use super::*;

/// A directory with the files that the root of a v2 hierarchy would have; files that are written are created.
fn fake() -> (TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    fs::write(dir.path().join("cgroup.subtree_control"), "cpuset cpu io memory pids\n").unwrap();
    let host = Host::unified_with(dir.path(), OFlags::CREATE | OFlags::TRUNC).unwrap();
    (dir, host)
}

fn path(text: &str) -> CgroupPath {
    CgroupPath::new(text).unwrap()
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn text(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn limits_are_written_and_defaults_are_not() {
    let (root, host) = fake();
    assert_eq!(host.version(), Version::V2);
    let json = r#"{"cpu":{"shares":1024,"quota":5000,"period":10000},"memory":{"limit":4096,"swap":4096}}"#;
    let group = host.create(&path("/c1"), &resources(json), CreateOptions::default()).unwrap();
    let at = root.path().join("c1");
    assert_eq!(text(&at, "cpu.max"), "5000 10000");
    assert_eq!(text(&at, "memory.max"), "4096");
    assert_eq!(text(&at, "memory.swap.max"), "0");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 3);
    assert_eq!(text(root.path(), "cgroup.subtree_control"), "cpuset cpu io memory pids\n", "nothing was missing");
    assert!(matches!(group.entry().unwrap(), Entry::V2(_)));
    assert_eq!(host.children(&path("/")).unwrap(), ["c1"]);
}

#[test]
fn controllers_are_handed_down_the_whole_way() {
    let (root, host) = fake();
    fs::write(root.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
    fs::create_dir(root.path().join("pods")).unwrap();
    fs::write(root.path().join("pods/cgroup.controllers"), "cpu io memory").unwrap();
    fs::write(root.path().join("pods/cgroup.subtree_control"), "").unwrap();
    // The fake shows what was written ("+…"), not what is in force, so that needed controllers look refused.
    let error = host
        .create(&path("/pods/c1"), &resources(r#"{"memory":{"limit":5}}"#), CreateOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("memory") && error.contains("enable"), "{error}");
    assert_eq!(text(root.path(), "cgroup.subtree_control"), "+cpuset +memory +pids +io");
    assert_eq!(text(root.path(), "pods/cgroup.subtree_control"), "+cpu +memory +io");
    assert!(!root.path().join("pods/c1").exists(), "made and left behind");
    // Without limits nothing is needed for certain.
    host.create(&path("/pods/c1"), &LinuxResources::default(), CreateOptions::default()).unwrap();
}

#[test]
fn a_failure_leaves_nothing() {
    let (root, host) = fake();
    let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}],"pids":{"limit":4}}"#;
    let strict = CreateOptions { tolerate_missing_hugetlb: false, ..CreateOptions::default() };
    let error = host.create(&path("/c1"), &resources(json), strict).unwrap_err().to_string();
    assert!(error.contains("hugetlb") && error.contains("v2"), "{error}");
    assert!(!root.path().join("c1").exists());
    host.create(&path("/c1"), &resources(json), CreateOptions::default()).unwrap();
    assert_eq!(text(root.path(), "c1/pids.max"), "4");
    assert!(host.create(&path("/"), &LinuxResources::default(), CreateOptions::default()).is_err());
}

#[test]
fn one_that_is_there() {
    let (root, host) = fake();
    let with = |existing| CreateOptions { existing, ..CreateOptions::default() };
    let limit = resources(r#"{"pids":{"limit":9}}"#);
    fs::create_dir_all(root.path().join("c1/old")).unwrap();
    let refused = host.create(&path("/c1"), &limit, with(OnExisting::Refuse)).unwrap_err().to_string();
    assert!(refused.contains("/c1") && refused.contains("exists"), "{refused}");
    host.create(&path("/c1"), &limit, with(OnExisting::Replace)).unwrap();
    assert!(!root.path().join("c1/old").exists());
    assert_eq!(text(root.path(), "c1/pids.max"), "9");

    fs::write(root.path().join("c1/cgroup.procs"), "4711\n").unwrap();
    for existing in [OnExisting::Replace, OnExisting::Adopt] {
        let error = host.create(&path("/c1"), &limit, with(existing)).unwrap_err().to_string();
        assert!(error.contains("4711"), "{error}");
    }
}

#[test]
fn a_parent_of_the_kubelet_is_left_alone() {
    let (root, host) = fake();
    fs::create_dir_all(root.path().join("kubepods/pod1")).unwrap();
    let limit = resources(r#"{"pids":{"limit":9}}"#);
    assert!(!host.create_parent(&path("/kubepods/pod1"), &limit).unwrap().1);
    assert!(!root.path().join("kubepods/pod1/pids.max").exists());
    fs::write(root.path().join("kubepods/cgroup.subtree_control"), "cpuset cpu io memory pids").unwrap();
    assert!(host.create_parent(&path("/kubepods/pod2"), &limit).unwrap().1);
    assert_eq!(text(root.path(), "kubepods/pod2/pids.max"), "9");
}

#[test]
fn pids_and_stats_of_a_tree() {
    let (root, host) = fake();
    fs::create_dir_all(root.path().join("c1/inner")).unwrap();
    let at = root.path().join("c1");
    fs::write(at.join("cgroup.procs"), "12\n0\n7\n").unwrap();
    fs::write(at.join("inner/cgroup.procs"), "3\n").unwrap();
    fs::write(at.join("cpu.stat"), "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 1\n").unwrap();
    fs::write(at.join("memory.current"), "1000\n").unwrap();
    fs::write(at.join("memory.max"), "max\n").unwrap();
    fs::write(at.join("memory.stat"), "anon 300\nfile 100\ninactive_file 90\npgfault 4\npgmajfault 1\n").unwrap();
    fs::write(at.join("memory.events"), "oom 2\noom_kill 1\noom_group_kill 0\n").unwrap();
    fs::write(at.join("pids.current"), "3\n").unwrap();
    fs::write(at.join("io.pressure"), "some avg10=0.10 avg60=0.00 avg300=0.00 total=9\n").unwrap();
    let group = host.open(&path("/c1")).unwrap();
    assert_eq!(group.pids().unwrap(), [3, 7, 12]);
    assert_eq!(group.oom_kills().unwrap(), 1);
    let stats = group.stats().unwrap();
    assert_eq!(stats.cpu.usage_ns, 5000);
    assert_eq!((stats.cpu.user_ns, stats.cpu.throttled_periods), (3000, 1));
    assert_eq!((stats.memory.usage, stats.memory.working_set, stats.memory.rss), (1000, 910, 300));
    assert_eq!((stats.memory.limit, stats.memory.page_faults, stats.memory.swap_usage), (None, 4, None));
    assert_eq!(stats.pids, PidsStats { current: Some(3), limit: None });
    assert_eq!(stats.io_pressure.unwrap().some.total_ns, 9000);
    assert_eq!(stats.cpu_pressure, None);
    let light = group.stats_light().unwrap();
    assert_eq!((light.cpu_usage_ns, light.pids, light.memory), (5000, Some(3), stats.memory));
}

#[test]
fn an_update_is_whole_or_nothing() {
    let (root, host) = fake();
    let json = r#"{"pids":{"limit":9},"memory":{"limit":8192}}"#;
    let group = host.create(&path("/c1"), &resources(json), CreateOptions::default()).unwrap();
    let at = root.path().join("c1");
    fs::write(at.join("memory.current"), "4096\n").unwrap();
    // A file that cannot be written: a directory stands in its place.
    fs::create_dir(at.join("io.max")).unwrap();
    let json = r#"{"pids":{"limit":10},"memory":{"limit":5000},
        "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}]}}"#;
    let error = group.update(&resources(json)).unwrap_err().to_string();
    assert!(error.contains("io.max") && error.contains("8:0 rbps=1"), "{error}");
    assert_eq!((text(&at, "pids.max"), text(&at, "memory.max")), ("9".to_owned(), "8192".to_owned()));
    let error = group.update(&resources(r#"{"memory":{"limit":4000}}"#)).unwrap_err().to_string();
    assert!(error.contains("4000") && error.contains("4096") && error.contains("below"), "{error}");
    group.update(&resources(r#"{"memory":{"limit":4096},"pids":{"limit":-1}}"#)).unwrap();
    assert_eq!((text(&at, "pids.max"), text(&at, "memory.max")), ("max".to_owned(), "4096".to_owned()));
}

#[test]
fn a_killed_cgroup_lets_nothing_in() {
    let (_root, host) = fake();
    let group = host.create(&path("/c1"), &LinuxResources::default(), CreateOptions::default()).unwrap();
    group.kill().unwrap();
    let error = group.entry().unwrap_err().to_string();
    assert!(error.contains("killed") && error.contains("new"), "{error}");
}
