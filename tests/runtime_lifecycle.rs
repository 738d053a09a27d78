//! The operations of the runtime specification and their errors (runtime.md): what each does, and what it must not do.
//! Needs root, and Debian's busybox-static.

#![allow(clippy::unwrap_used)]

#[path = "support/bundle.rs"]
mod bundle;

use std::fs;
use std::path::PathBuf;

use bundle::{Bundle, wait_until};
use serde_json::json;

/// A container whose program adds a line to a file, and then does what `then` says.
fn marking(name: &str, then: &str) -> Option<(Bundle, PathBuf)> {
    let mut bundle = Bundle::new(name, &format!("echo called >> /marks/mark; {then}"))?;
    let marks = bundle.path().join("marks");
    fs::create_dir(&marks).unwrap();
    bundle.mount("/marks", "bind", marks.to_str().unwrap(), &["bind"]);
    Some((bundle, marks.join("mark")))
}

#[test]
fn create_makes_everything_and_runs_nothing() {
    let Some((bundle, mark)) = marking("create-only", "exit 0") else { return };
    let pid = bundle.create();
    assert_eq!(bundle.status(), "created");
    assert!(!mark.exists(), "the program ran before start");
    let state = bundle.state();
    assert_eq!(state["pid"], pid);
    assert_eq!(state["id"], *bundle.id);
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert!(!bundle.cgroups().is_empty());
    bundle.start();
    bundle.wait_for("stopped");
    assert_eq!(fs::read_to_string(&mark).unwrap(), "called\n");
    bundle.ok(&["delete", &bundle.id]);
    bundle.nothing_left();
}

#[test]
fn later_edits_of_the_configuration_do_not_matter() {
    let Some((mut bundle, mark)) = marking("edits", "hostname >> /marks/mark; sleep 1000") else { return };
    let stop = bundle.path().join("poststop");
    let note =
        |text: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {text} > {}", stop.display())] }]);
    bundle.config["hooks"]["poststop"] = note("first");
    bundle.create();
    // Each call of the bundle writes its configuration anew.
    bundle.script("echo changed >> /marks/mark");
    bundle.config["hostname"] = json!("changed");
    bundle.config["hooks"]["poststop"] = note("changed");
    bundle.config["annotations"] = json!({ "changed": "yes" });
    bundle.start();
    wait_until("the program runs", || fs::read_to_string(&mark).is_ok_and(|t| t.lines().count() == 2));
    assert_eq!(fs::read_to_string(&mark).unwrap(), "called\ninside\n");
    assert!(bundle.state()["annotations"]["changed"].is_null());
    fs::write(bundle.path().join("config.json"), "no JSON any more").unwrap();
    bundle.ok(&["delete", "--force", &bundle.id]);
    assert_eq!(fs::read_to_string(&stop).unwrap(), "first\n");
    bundle.nothing_left();
}

#[test]
fn ids_are_unique() {
    let Some((bundle, _)) = marking("unique", "sleep 1000") else { return };
    let pid = bundle.create();
    for verb in ["create", "run"] {
        let text = bundle.refused(&[verb, &bundle.id]);
        assert!(text.contains("already exists"), "{text}");
        assert_eq!((bundle.status().as_str(), bundle.state()["pid"].clone()), ("created", json!(pid)));
    }
    bundle.start();
    bundle.refused(&["create", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.refused(&["create", &bundle.id]);
    assert_eq!(bundle.status(), "stopped");
    // And free again once it is deleted.
    bundle.ok(&["delete", &bundle.id]);
    bundle.create();
}

#[test]
fn each_operation_needs_an_id_of_a_container() {
    let Some(bundle) = Bundle::new("missing", "true") else { return };
    for verb in ["start", "state", "kill", "delete", "pause", "resume"] {
        assert!(!bundle.call(&[verb]).status.success(), "{verb} without an id");
        let text = bundle.refused(&[verb, "not-there"]);
        assert!(text.contains("does not exist"), "{verb}: {text}");
    }
    assert!(!bundle.call(&["create"]).status.success());
    for id in ["", "a/b", "..", "a b"] {
        let text = bundle.refused(&["create", id]);
        assert!(text.contains("ID") || text.contains("id"), "{id:?}: {text}");
    }
}

#[test]
fn only_what_is_created_is_started() {
    let Some((bundle, mark)) = marking("start-twice", "while [ ! -e /marks/end ]; do sleep 0.01; done") else { return };
    bundle.create();
    bundle.start();
    wait_until("the program runs", || mark.exists());
    bundle.refused(&["start", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    fs::write(mark.with_file_name("end"), "").unwrap();
    bundle.wait_for("stopped");
    bundle.refused(&["start", &bundle.id]);
    assert_eq!(bundle.status(), "stopped");
    assert_eq!(fs::read_to_string(&mark).unwrap(), "called\n", "it ran once");
}

#[test]
fn without_a_process_it_is_created_and_not_started() {
    let Some(mut bundle) = Bundle::new("no-process", "true") else { return };
    bundle.config.as_object_mut().unwrap().remove("process");
    bundle.create();
    assert_eq!(bundle.status(), "created");
    let text = bundle.refused(&["start", &bundle.id]);
    assert!(text.contains("process is not set"), "{text}");
    // Without effect.
    assert_eq!(bundle.status(), "created");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", &bundle.id]);
    bundle.nothing_left();
    let text = bundle.fails();
    assert!(text.contains("no process"), "{text}");
}

#[test]
fn signals_go_to_what_is_created_or_running() {
    let script = "trap 'echo usr1 >> /marks/mark' USR1; trap 'echo term >> /marks/mark; exit 3' TERM; \
        echo ready >> /marks/mark; while true; do sleep 0.01; done";
    let Some((mut bundle, mark)) = marking("signals", "true") else { return };
    bundle.script(script);
    let said = |text: &str| fs::read_to_string(&mark).is_ok_and(|t| t.contains(text));
    bundle.create();
    bundle.start();
    wait_until("the traps are set", || said("ready"));
    for (signal, word) in [("USR1", "usr1"), ("SIGUSR1", "usr1"), ("10", "usr1")] {
        let before = fs::read_to_string(&mark).unwrap().matches(word).count();
        bundle.ok(&["kill", &bundle.id, signal]);
        wait_until("the signal arrives", || fs::read_to_string(&mark).unwrap().matches(word).count() > before);
    }
    let text = bundle.refused(&["kill", &bundle.id, "NOSUCH"]);
    assert!(text.contains("NOSUCH"), "{text}");
    assert_eq!(bundle.status(), "running");
    // None named: TERM.
    bundle.ok(&["kill", &bundle.id]);
    bundle.wait_for("stopped");
    assert!(said("term"));
    let text = bundle.refused(&["kill", &bundle.id, "KILL"]);
    assert!(text.contains("not running"), "{text}");
    assert_eq!(bundle.status(), "stopped");
}

#[test]
fn a_created_container_can_be_killed() {
    let Some((bundle, mark)) = marking("kill-created", "true") else { return };
    bundle.create();
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.refused(&["start", &bundle.id]);
    assert!(!mark.exists());
    bundle.ok(&["delete", &bundle.id]);
    bundle.nothing_left();
}

#[test]
fn what_runs_is_not_deleted() {
    let Some((bundle, _)) = marking("delete-running", "sleep 1000") else { return };
    bundle.create();
    bundle.start();
    let text = bundle.refused(&["delete", &bundle.id]);
    assert!(text.contains("not stopped"), "{text}");
    // Without effect.
    assert_eq!(bundle.status(), "running");
    assert!(!bundle.cgroups().is_empty());
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", &bundle.id]);
    bundle.nothing_left();
    let text = bundle.refused(&["delete", &bundle.id]);
    assert!(text.contains("does not exist"), "{text}");
}

/// Nothing but what create made is removed.
#[test]
fn delete_leaves_what_was_there_before() {
    let Some((mut bundle, _)) = marking("delete-only", "true") else { return };
    let group = PathBuf::from("/sys/fs/cgroup/pids").join(format!("{}-outer", bundle.id));
    if fs::create_dir(&group).is_err() {
        eprintln!("skipped: the pids controller is not that of cgroup v1");
        return;
    }
    bundle.linux()["cgroupsPath"] = json!(format!("/{}-outer/inner", bundle.id));
    let called = bundle.run();
    let (inner, outer) = (group.join("inner").exists(), group.exists());
    fs::remove_dir(&group).unwrap();
    assert!(called.status.success(), "{called:?}");
    assert!(!inner && outer);
    // The other hierarchies had no such directory before: what was made for the container on the way is its own.
    let left = fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path().join(group.file_name().unwrap()));
    for path in left.filter(|path| path.exists()) {
        fs::remove_dir(path).unwrap();
    }
    assert!(bundle.rootfs().join("bin/busybox").exists() && bundle.path().join("config.json").exists());
}

#[test]
fn a_filter_older_than_the_calls_that_the_executor_makes_is_no_hindrance() {
    for calls in [vec!["faccessat2", "close_range", "openat2"], vec!["getcwd"]] {
        let Some(mut bundle) = Bundle::new("old-filter", "echo here") else { return };
        bundle.process()["noNewPrivileges"] = json!(false);
        bundle.linux()["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": calls, "action": "SCMP_ACT_ERRNO" }] });
        let called = bundle.run();
        assert_eq!(called.stdout, "here\n", "{called:?}");
    }
}
