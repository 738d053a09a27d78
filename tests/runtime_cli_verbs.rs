//! The verbs of `orlop runtime` beside create, start, run and exec, as engines and people call them.

#![allow(clippy::unwrap_used)] // It is all test code.

#[path = "support/bundle.rs"]
mod bundle;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;

use bundle::{Bundle, finish, wait_until};
use serde_json::{Value, json};

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A file of the container's cgroup, by its name on v1 or on v2.
fn limit(bundle: &Bundle, v1: &str, v2: &str) -> String {
    let found = bundle.cgroups().into_iter().flat_map(|group| [group.join(v1), group.join(v2)]).find(|f| f.exists());
    fs::read_to_string(found.unwrap_or_else(|| panic!("neither {v1} nor {v2}"))).unwrap().trim().to_owned()
}

#[test]
fn a_paused_container_goes_on_or_dies() {
    let script = "while :; do echo . >> /ticks; sleep 0.01; done";
    let Some(bundle) = Bundle::new("pause", script) else { return };
    let id = bundle.id.as_str();
    bundle.run_detached();
    let ticks = || fs::metadata(bundle.rootfs().join("ticks")).map_or(0, |m| m.len());
    wait_until("it writes", || ticks() > 0);
    assert!(bundle.refused(&["resume", id]).contains("not paused"));
    bundle.ok(&["pause", id]);
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.refused(&["pause", id]).contains("paused"));
    assert!(bundle.refused(&["delete", id]).contains("not stopped"));
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(ticks(), before);
    bundle.ok(&["resume", id]);
    assert_eq!(bundle.status(), "running");
    wait_until("it writes again", || ticks() > before);
    bundle.ok(&["pause", id]);
    bundle.ok(&["kill", id, "SIGKILL"]);
    bundle.wait_for("stopped");
    for verb in ["pause", "resume"] {
        bundle.refused(&[verb, id]);
    }
    bundle.ok(&["delete", id]);
    bundle.nothing_left();

    // Deleted by force while it is paused.
    bundle.run_detached();
    bundle.ok(&["pause", id]);
    bundle.ok(&["delete", "--force", id]);
    bundle.nothing_left();
}

#[test]
fn limits_change_by_flags_and_by_json() {
    let Some(mut bundle) = Bundle::new("update", "exec sleep 1000") else { return };
    bundle.config["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    let id = bundle.id.clone();
    bundle.run_detached();
    bundle.ok(&["update", "--pids-limit", "57", "--cpu-period", "50000", "--cpu-quota", "20000", &id]);
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "57");
    let quota = limit(&bundle, "cpu.cfs_quota_us", "cpu.max");
    assert!(["20000", "20000 50000"].contains(&quota.as_str()), "{quota}");
    bundle.ok(&["update", "--memory", "64m", "--cpu-share=512", "--cpu-quota", "-1", "--pids-limit=-1", &id]);
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "max");

    // As engines do: from standard input, with nulls and with the rules for devices.
    let resources = json!({
        "memory": { "limit": 32 << 20, "swap": null }, "pids": { "limit": 9 }, "cpu": null,
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    let mut child = bundle.command(&["update", "--resources=-", &id]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(resources.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), (32 << 20).to_string());
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "9");
    // The devices that every container has are still allowed.
    bundle.exec(&["sh", "-c", "echo > /dev/null && head -c 1 /dev/zero"]).output();

    fs::write(bundle.path().join("r.json"), r#"{"memory":{"limit":"much"}}"#).unwrap();
    assert!(bundle.refused(&["update", "-r", "r.json", &id]).contains("no OCI resources"));
    assert!(bundle.refused(&["update", "--memory", "64q", &id]).contains("no size"));
    bundle.ok(&["kill", &id, "9"]);
    bundle.wait_for("stopped");
    assert!(bundle.refused(&["update", "--pids-limit", "5", &id]).contains("not running"));
}

#[test]
fn processes_are_listed() {
    let Some(bundle) = Bundle::new("ps", "sleep 1001 & exec sleep 1002") else { return };
    let pid = bundle.run_detached();
    let id = bundle.id.as_str();
    wait_until("there are two", || parsed(&bundle.ok(&["ps", "--format", "json", id])).as_array().unwrap().len() == 2);
    let pids = parsed(&bundle.ok(&["ps", "-f", "json", id]));
    assert!(pids.as_array().unwrap().contains(&json!(pid)));
    let table = bundle.ok(&["ps", id]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("PID") && table.contains("sleep 1002"), "{table}");
    let table = bundle.ok(&["ps", "--format", "table", id, "-o", "pid,comm"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(bundle.refused(&["ps", id, "-o", "comm"]).contains("no column PID"));
}

#[test]
fn containers_are_listed() {
    let Some(bundle) = Bundle::new("list", "exec sleep 1000") else { return };
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    let pid = bundle.create();
    let id = bundle.id.as_str();
    assert_eq!(bundle.ok(&["list", "--quiet"]), format!("{id}\n"));
    let listed = parsed(&bundle.ok(&["list", "--format=json"]));
    let one = &listed[0];
    assert_eq!((&one["id"], &one["pid"], &one["status"]), (&json!(id), &json!(pid), &json!("created")));
    assert_eq!((&one["owner"], &one["ociVersion"]), (&json!("root"), &json!("1.3.0")));
    assert_eq!(one["bundle"].as_str().map(PathBuf::from), Some(fs::canonicalize(bundle.path()).unwrap()));
    let table = bundle.ok(&["list"]);
    let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(table.starts_with("ID ") && table.lines().next().unwrap().ends_with("OWNER"), "{table}");
    assert_eq!((words[0], words[1], words[2]), (id, pid.to_string().as_str(), "created"));
    bundle.ok(&["kill", id, "KILL"]);
    bundle.wait_for("stopped");
    assert_eq!(parsed(&bundle.ok(&["list", "-f", "json"]))[0]["pid"], 0);

    // A broken one is no reason not to show the others, and can be removed.
    let broken = bundle.path().join("state/broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("state.json"), "{").unwrap();
    let called = bundle.call(&["list", "-f", "json"]);
    assert!(called.status.success() && called.stderr.contains("broken"), "{called:?}");
    assert_eq!(parsed(&called.stdout).as_array().unwrap().len(), 1);
    assert!(bundle.refused(&["delete", "broken"]).contains("cannot be understood"));
    bundle.ok(&["delete", "--force", "broken"]);
    assert!(!broken.exists());
}

#[test]
fn a_broken_record_still_tells_what_must_go() {
    let Some(bundle) = Bundle::new("salvage", "exec sleep 1000") else { return };
    let pid = bundle.run_detached();
    let path = bundle.path().join("state").join(&bundle.id).join("state.json");
    let mut record = parsed(&fs::read_to_string(&path).unwrap());
    record["version"] = json!(99);
    record["spec"] = json!("of another time");
    fs::write(&path, record.to_string()).unwrap();
    assert!(bundle.refused(&["state", &bundle.id]).contains("version 99"));
    bundle.ok(&["delete", "-f", &bundle.id]);
    wait_until("its process is gone", || !PathBuf::from(format!("/proc/{pid}")).exists());
    bundle.nothing_left();
}

#[test]
fn figures_and_the_end_of_memory_are_events() {
    // What a shell variable holds doubles until there is no more.
    let script = "trap 'x=0123456789; while :; do x=$x$x; done' USR1; while :; do sleep 0.1; done";
    let Some(mut bundle) = Bundle::new("events", script) else { return };
    bundle.config["linux"]["resources"] = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    bundle.namespace(json!({ "type": "pid" }));
    bundle.run_detached();
    let id = bundle.id.as_str();
    let event = parsed(&bundle.ok(&["events", "--stats", id]));
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(id)));
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    assert_eq!(data["memory"]["usage"]["limit"], 16 << 20);
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
    assert!(data["memory"]["raw"].as_object().unwrap().len() > 10, "{data}");
    assert!(data["pids"]["current"].as_u64().unwrap() > 0, "{data}");
    for name in ["cpuset", "blkio", "hugetlb", "intel_rdt"] {
        assert!(data[name].is_object(), "{data}");
    }
    assert!(data["network_interfaces"].is_array());

    let mut child = bundle.command(&["events", "--interval", "50ms", id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        assert_eq!(parsed(&lines.next().unwrap().unwrap())["type"], "stats");
    }
    bundle.ok(&["kill", id, "USR1"]);
    let oom = lines.map(|line| parsed(&line.unwrap())).find(|event| event["type"] == "oom");
    assert_eq!(oom, Some(json!({ "type": "oom", "id": id })));
    bundle.ok(&["kill", "--all", id, "9"]);
    child.wait().unwrap();
    bundle.wait_for("stopped");
    assert!(bundle.refused(&["events", "--stats", id]).contains("not running"));
}

#[test]
fn signals_come_by_name_by_number_and_to_all() {
    let script = "for s in HUP USR2 RTMIN+2; do trap \"echo $s >> /got\" $s; done; echo ready >> /got; \
        while :; do sleep 0.01; done";
    // Busybox's trap knows no real-time signals by name.
    let script = script.replace("RTMIN+2", "36");
    let Some(bundle) = Bundle::new("kill", &script) else { return };
    bundle.run_detached();
    let id = bundle.id.as_str();
    let got = || fs::read_to_string(bundle.rootfs().join("got")).unwrap_or_default();
    wait_until("it listens", || got() == "ready\n");
    for (signal, name) in [("HUP", "HUP"), ("sigusr2", "USR2"), ("SIGRTMIN+2", "36"), ("1", "HUP")] {
        let before = got();
        bundle.ok(&["kill", id, signal]);
        wait_until(signal, || got() != before);
        assert_eq!(got(), format!("{before}{name}\n"));
    }
    bundle.ok(&["kill", id, "0"]);
    assert!(bundle.refused(&["kill", id, "SIGNOTHING"]).contains("unknown signal"));
    bundle.ok(&["kill", id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(bundle.refused(&["kill", id, "TERM"]).contains("container not running"));
    bundle.ok(&["kill", "--all", id, "9"]);
    bundle.ok(&["kill", "-a", id]);
    bundle.ok(&["delete", id]);
    assert!(bundle.refused(&["kill", id, "9"]).contains("does not exist"));
    assert!(bundle.refused(&["kill", "--all", id, "9"]).contains("does not exist"));
}

#[test]
fn without_a_pid_namespace_sigkill_is_for_the_whole_cgroup() {
    let Some(mut bundle) = Bundle::new("shared", "sleep 1003 & exec sleep 1004") else { return };
    bundle.no_namespace("pid");
    bundle.run_detached();
    let id = bundle.id.as_str();
    let pids = || parsed(&bundle.ok(&["ps", "-f", "json", id])).as_array().unwrap().len();
    wait_until("there are two", || pids() == 2);
    bundle.ok(&["kill", id, "KILL"]);
    wait_until("all are gone", || pids() == 0);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", id]);
    bundle.nothing_left();

    // The first one has gone by itself, and the other is still there.
    let mut bundle = Bundle::new("left", "sleep 1005 & exit 0").unwrap();
    bundle.no_namespace("pid");
    bundle.run_detached();
    bundle.wait_for("stopped");
    assert_eq!(parsed(&bundle.ok(&["ps", "-f", "json", &bundle.id])).as_array().unwrap().len(), 1);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.ok(&["delete", &bundle.id]);
    bundle.nothing_left();
}

#[test]
fn delete_takes_what_never_ran_and_what_never_was() {
    let Some(bundle) = Bundle::new("delete", "exec sleep 1000") else { return };
    let id = bundle.id.as_str();
    assert!(bundle.refused(&["delete", id]).contains("does not exist"));
    bundle.ok(&["delete", "--force", id]);
    assert!(bundle.refused(&["delete", "--force", "../x"]).contains("invalid container ID"));
    bundle.create();
    bundle.ok(&["delete", id]);
    bundle.nothing_left();
    bundle.create();
    bundle.ok(&["kill", id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(bundle.refused(&["start", id]).contains("cannot start a container that has stopped"));
}

#[test]
fn of_two_verbs_at_once_one_comes_first() {
    let Some(bundle) = Bundle::new("race", "exec sleep 1000") else { return };
    let id = bundle.id.as_str();
    for _ in 0..5 {
        bundle.create();
        let start = bundle.command(&["start", id]).stderr(Stdio::null()).spawn().unwrap();
        let delete = bundle.command(&["delete", "--force", id]).spawn().unwrap();
        let again = bundle.command(&["delete", "--force", id]).spawn().unwrap();
        for (mut child, must) in [(start, false), (delete, true), (again, true)] {
            assert!(child.wait().unwrap().success() || !must);
        }
        bundle.nothing_left();
    }
}

#[test]
fn the_default_specification_runs() {
    let Some(mut bundle) = Bundle::new("spec", "true") else { return };
    fs::create_dir(bundle.path().join("new")).unwrap();
    bundle.ok(&["spec", "--bundle", "new"]);
    assert!(bundle.refused(&["spec", "-b", "new"]).contains("config.json"));
    bundle.config = parsed(&fs::read_to_string(bundle.path().join("new/config.json")).unwrap());
    bundle.linux()["cgroupsPath"] = json!(format!("/{}", bundle.id));
    bundle.process()["terminal"] = json!(false);
    bundle.process()["args"] = json!(["sh", "-c", "hostname; touch /x 2>/dev/null || echo read-only"]);
    assert_eq!(bundle.output(), "orlop\nread-only\n");
    bundle.nothing_left();
    fs::create_dir(bundle.path().join("rootless")).unwrap();
    bundle.ok(&["spec", "--rootless", "--bundle", "rootless"]);
    let spec = parsed(&fs::read_to_string(bundle.path().join("rootless/config.json")).unwrap());
    assert_eq!(spec["linux"]["uidMappings"], json!([{ "containerID": 0, "hostID": 0, "size": 1 }]));
}

/// The program under the name of runc, and its arguments as go-runc and conmon write them.
#[test]
fn under_the_name_of_runc_it_is_runc() {
    let Some(bundle) = Bundle::new("runc", "exec sleep 1000") else { return };
    let runc = bundle.path().join("runc");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_orlop"), &runc).unwrap();
    let call = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&runc);
        command.args(arguments).current_dir(bundle.path()).stdin(Stdio::null());
        finish(command)
    };
    let version = call(&["--version"]).output();
    let mut lines = version.lines();
    assert!(lines.next().unwrap().starts_with("runc version 0."), "{version}");
    assert_eq!(lines.next(), Some("spec: 1.3.0"));
    assert_eq!(call(&["-v"]).output(), version);

    bundle.write_config();
    let globals =
        ["--root", "state", "--log", "log.json", "--log-format", "json", "--debug", "--criu=criu", "--rootless=false"];
    let with = |arguments: &[&str]| call(&[&globals[..], arguments].concat());
    let mut create = std::process::Command::new(&runc);
    create.args(globals).args(["create", "--bundle", ".", "--pid-file", "pid", &bundle.id]);
    create.current_dir(bundle.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    assert_eq!(parsed(&with(&["state", &bundle.id]).output())["status"], "created");
    with(&["start", &bundle.id]).output();
    let failed = with(&["start", &bundle.id]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stderr.starts_with("runc: cannot start an already running"), "{failed:?}");
    assert_eq!(with(&["exec", &bundle.id, "/missing"]).status.code(), Some(255));
    with(&["delete", "--force", &bundle.id]).output();

    let unknown = with(&["create", "--frobnicate", "x"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("--frobnicate"), "{unknown:?}");
    let log = fs::read_to_string(bundle.path().join("log.json")).unwrap();
    let lines: Vec<Value> = log.lines().map(parsed).collect();
    for line in &lines {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "msg", "time"], "{line}");
    }
    assert!(lines.iter().any(|line| line["level"] == "debug"));
    let errors: Vec<&str> =
        lines.iter().filter(|l| l["level"] == "error").map(|l| l["msg"].as_str().unwrap()).collect();
    assert!(errors[0].starts_with("cannot start an already running"), "{errors:?}");
    assert!(errors[1].contains("no such file or directory"), "{errors:?}");
    assert!(errors[2].contains("--frobnicate"), "{errors:?}");
    assert_eq!(call(&["--log", "/not/there/log", "list"]).status.code(), Some(1));
}

#[test]
fn features_are_those_of_the_specification() {
    let Some(bundle) = Bundle::new("features", "true") else { return };
    let features = parsed(&bundle.ok(&["features"]));
    assert_eq!((&features["ociVersionMin"], &features["ociVersionMax"]), (&json!("1.0.0"), &json!("1.3.0")));
    let typed: oci_spec::runtime::Features = serde_json::from_value(features.clone()).unwrap();
    let linux = typed.linux().as_ref().unwrap();
    assert_eq!(linux.capabilities().as_ref().unwrap().len(), 41);
    assert!(linux.seccomp().as_ref().unwrap().actions().as_ref().unwrap().len() >= 8);
    assert!(typed.mount_options().as_ref().unwrap().iter().any(|option| option == "rro"));
    assert!(features["potentiallyUnsafeConfigAnnotations"].is_array());
}
