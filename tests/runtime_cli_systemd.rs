//! `orlop --systemd-cgroup runtime`. Needs a machine that systemd runs (process 1), such as the guest of
//! `make test-v2`.
#![allow(clippy::unwrap_used)]

#[path = "support/bundle.rs"]
mod bundle;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bundle::Bundle;
use serde_json::json;

/// A bundle whose cgroup is the scope `orlop-<id>` in `orlop-test.slice`.
fn scoped(name: &str, script: &str) -> Option<Bundle> {
    if !Path::new("/run/systemd/system").is_dir() {
        bundle::skip("needs systemd as process 1");
        return None;
    }
    let mut bundle = Bundle::new(name, script)?;
    bundle.global.push("--systemd-cgroup".to_owned());
    let path = format!("orlop-test.slice:orlop:{}", bundle.id);
    bundle.linux()["cgroupsPath"] = json!(path);
    Some(bundle)
}

fn unit(bundle: &Bundle) -> String {
    format!("orlop-{}.scope", bundle.id)
}

fn cgroup(bundle: &Bundle) -> PathBuf {
    Path::new("/sys/fs/cgroup/orlop.slice/orlop-test.slice").join(unit(bundle))
}

fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl").args(["show", "--value", "--property", property, unit]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn gone(bundle: &Bundle) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while cgroup(bundle).exists() || show(&unit(bundle), "LoadState") != "not-found" {
        assert!(Instant::now() < deadline, "{} stays", unit(bundle));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_container_is_a_scope() {
    let Some(mut bundle) = scoped("scope", "sleep 100") else { return };
    bundle.linux()["resources"] = json!({"memory": {"limit": 67108864}, "pids": {"limit": 20}});
    bundle.config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "uint64 7"});
    let pid = bundle.create();
    let procs = std::fs::read_to_string(cgroup(&bundle).join("cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), pid.to_string(), "nobody else is in it");
    bundle.start();
    assert_eq!(show(&unit(&bundle), "MemoryMax"), "67108864");
    assert_eq!(show(&unit(&bundle), "TimeoutStopUSec"), "7s");
    assert_eq!(bundle.exec(&["cat", "/proc/self/cgroup"]).output().trim(), "0::/");
    bundle.ok(&["update", "--memory", "33554432", &bundle.id]);
    assert_eq!(show(&unit(&bundle), "MemoryMax"), "33554432");
    bundle.ok(&["pause", &bundle.id]);
    bundle.ok(&["resume", &bundle.id]);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !bundle.ok(&["state", &bundle.id]).contains("stopped") {
        assert!(Instant::now() < deadline, "it is not stopped");
    }
    bundle.ok(&["delete", &bundle.id]);
    gone(&bundle);
}

#[test]
fn a_short_one_is_run_and_leaves_nothing() {
    let Some(bundle) = scoped("short", "echo hello") else { return };
    for _ in 0..3 {
        assert_eq!(bundle.output(), "hello\n");
        gone(&bundle);
    }
}

#[test]
fn one_that_fails_leaves_nothing() {
    let Some(mut bundle) = scoped("fails", "true") else { return };
    bundle.process()["args"] = json!(["/no/such/program"]);
    bundle.run().failed();
    gone(&bundle);
    bundle.linux()["cgroupsPath"] = json!("/not/for/systemd");
    let text = bundle.run().failed();
    assert!(text.contains("slice:prefix:name"), "{text}");
    bundle.linux()["cgroupsPath"] = json!(format!("orlop-test.slice:orlop:{}", bundle.id));
    bundle.config["annotations"] = json!({"org.systemd.property.NoSuchThing": "true"});
    let text = bundle.run().failed();
    assert!(text.contains("NoSuchThing"), "{text}");
    gone(&bundle);
}
