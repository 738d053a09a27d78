//! What the cgroup tests share: cgroups that go again, and processes in them.
#![allow(dead_code, clippy::unwrap_used)]

pub mod sys;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use orlop::runtime::cgroup::{Cgroup, CgroupPath, CreateOptions, Entry, Host};

/// `/orlop-test-<pid>/<name>`: removed, with what is in it, when it goes.
#[derive(Debug)]
pub struct TestGroup {
    pub group: Cgroup,
}

impl std::ops::Deref for TestGroup {
    type Target = Cgroup;
    fn deref(&self) -> &Cgroup {
        &self.group
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        let _ = self.group.kill();
        let _ = self.group.wait_empty(Duration::from_secs(5));
        self.group.remove().unwrap();
        if let Some(parent) = self.group.path().parent().filter(|parent| !parent.is_root())
            && let Ok(children) = self.group.host().children(&parent)
            && children.is_empty()
            && let Ok(parent) = self.group.host().open(&parent)
        {
            let _ = parent.remove(); // another test can have made its own meanwhile
        }
    }
}

pub fn path(name: &str) -> CgroupPath {
    CgroupPath::new(&format!("/orlop-test-{}-{name}/c", std::process::id())).unwrap()
}

pub fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

pub fn make(host: &Host, name: &str, json: &str) -> TestGroup {
    TestGroup { group: host.create(&path(name), &resources(json), CreateOptions::default()).unwrap() }
}

/// Starts `sh -c script` in the v1 cgroup: the shell goes in by itself, then runs the script.
pub fn spawn_v1(group: &Cgroup, script: &str) -> Child {
    let Entry::V1(tasks) = group.entry().unwrap() else { panic!("not v1") };
    let mut enter = String::new();
    for file in tasks {
        enter.push_str(&format!("echo 0 > '{}' || exit 99\n", file.display()));
    }
    Command::new("sh").arg("-c").arg(format!("{enter}{script}")).stdout(Stdio::piped()).spawn().unwrap()
}

/// The first line that a child says.
pub fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Waits until `what` holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
