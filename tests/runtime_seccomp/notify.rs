//! SCMP_ACT_NOTIFY: the listener gets to the agent that the profile names, with what the specification has it told.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::agent::agent;
use crate::bundle::Bundle;

/// A container whose calls of these names wait for an agent at the path that comes with it.
fn asking(name: &str, script: &str, calls: &[&str]) -> Option<(Bundle, PathBuf)> {
    let mut bundle = Bundle::new(name, script)?;
    let path = bundle.path().join("agent.sock");
    bundle.linux()["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "some \"data\"",
        "syscalls": [{ "names": calls, "action": "SCMP_ACT_NOTIFY" }],
    });
    bundle.config["annotations"] = json!({ "org.example": "x".repeat(5000) });
    Some((bundle, path))
}

/// `mkdir` is refused in an unusual way; everything else goes on.
fn refuse_mkdir(number: i64) -> Option<i32> {
    (number == libc::SYS_mkdir).then_some(libc::EXDEV)
}

#[test]
fn the_agent_decides() {
    for no_new_privileges in [true, false] {
        let script = "mkdir /tmp/refused || true; touch /tmp/made; ls /tmp";
        let Some((mut bundle, path)) = asking("notify", script, &["mkdir", "utimensat"]) else { return };
        bundle.process()["noNewPrivileges"] = json!(no_new_privileges);
        let agent = agent(&path, 1, refuse_mkdir);
        let called = bundle.run();
        assert_eq!(called.stdout, "made\n");
        assert!(called.stderr.contains("ross-device link"), "{called:?}");
        let visits = agent.join().unwrap();
        assert!(visits[0].calls.contains(&libc::SYS_mkdir));
        bundle.nothing_left();
    }
}

#[test]
fn the_agent_is_told_who_it_is() {
    let Some((bundle, path)) = asking("notify-state", "sleep 1000", &["mkdir"]) else { return };
    let agent = agent(&path, 2, refuse_mkdir);
    let pid = bundle.create();
    bundle.start();
    let called = bundle.exec(&["mkdir", "/tmp/x"]);
    assert!(!called.status.success() && called.stderr.contains("ross-device"), "{called:?}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    let visits = agent.join().unwrap();
    let expected = |status: &str| {
        json!({
            "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "some \"data\"",
            "state": {
                "ociVersion": "1.3.0", "id": bundle.id, "status": status, "pid": pid, "bundle": bundle.path(),
                "annotations": bundle.config["annotations"],
            },
        })
    };
    assert_eq!(visits[0].message, expected("creating"));
    let mut of_exec = visits[1].message.clone();
    let own = std::mem::replace(&mut of_exec["pid"], json!(pid));
    assert!(own.is_number() && own != json!(pid), "an exec is another process");
    assert_eq!(of_exec, expected("running"));
    assert_eq!(visits[1].calls, [libc::SYS_mkdir]);
}

#[test]
fn the_way_to_the_program_may_wait_for_the_agent_too() {
    for no_new_privileges in [true, false] {
        let calls = ["execve", "read", "close", "close_range", "setresuid", "capset", "chdir", "fchdir", "getcwd"];
        let Some((mut bundle, path)) = asking("notify-early", "echo here", &calls) else { return };
        bundle.process()["noNewPrivileges"] = json!(no_new_privileges);
        let agent = agent(&path, 1, |_| None);
        assert_eq!(bundle.output(), "here\n");
        assert!(agent.join().unwrap()[0].calls.contains(&libc::SYS_execve));
    }
}

#[test]
fn sockets_may_be_far_down_or_relative() {
    let script = "mkdir /tmp/x || echo no";
    let Some((mut bundle, _)) = asking("notify-path", script, &["mkdir"]) else { return };
    let deep = "a-directory-with-a-long-name/".repeat(5);
    std::fs::create_dir_all(bundle.path().join(&deep)).unwrap();
    let relative = format!("{deep}s");
    // Bound where it is short, then moved.
    let short = bundle.path().join("s");
    let agent = agent(&short, 1, refuse_mkdir);
    std::fs::rename(&short, bundle.path().join(&relative)).unwrap();
    bundle.linux()["seccomp"]["listenerPath"] = json!(relative);
    assert_eq!(bundle.run().stdout, "no\n");
    assert_eq!(agent.join().unwrap().len(), 1);
}

#[test]
fn without_an_agent_there_is_no_container() {
    let Some((bundle, path)) = asking("notify-nobody", "true", &["mkdir"]) else { return };
    let text = bundle.fails();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("o such file"), "{text}");
    // Something is there, and nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let text = bundle.fails();
    assert!(text.contains("onnection refused"), "{text}");
}

#[test]
fn profiles_that_cannot_be_are_refused() {
    let Some((mut bundle, path)) = asking("notify-wrong", "true", &["mkdir"]) else { return };
    let rule = |name: &str| json!([{ "names": [name], "action": "SCMP_ACT_NOTIFY" }]);
    let wrong: [(Value, &str); 5] = [
        (json!({ "syscalls": rule("mkdir") }), "needs a listenerPath"),
        (json!({ "syscalls": rule("mkdir"), "listenerPath": "" }), "needs a listenerPath"),
        (json!({ "syscalls": rule("write"), "listenerPath": path }), "cannot be the action of write"),
        (json!({ "defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": path }), "cannot be the default action"),
        (json!({ "syscalls": [], "listenerMetadata": "x" }), "listenerMetadata"),
    ];
    for (profile, message) in wrong {
        let mut whole = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        whole.as_object_mut().unwrap().extend(profile.as_object().unwrap().clone());
        bundle.linux()["seccomp"] = whole;
        let text = bundle.fails();
        assert!(text.contains(message), "{text}");
    }
    // A path that no rule needs is not connected to.
    bundle.linux()["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path });
    bundle.output();
}

#[test]
fn all_flags_go_with_a_listener() {
    let Some((mut bundle, path)) = asking("notify-flags", "mkdir /tmp/x; echo done", &["mkdir"]) else { return };
    let flags = ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"].map(|f| format!("SECCOMP_FILTER_FLAG_{f}"));
    bundle.linux()["seccomp"]["flags"] = json!(flags);
    let agent = agent(&path, 1, |_| None);
    assert_eq!(bundle.output(), "done\n");
    assert_eq!(agent.join().unwrap()[0].calls, [libc::SYS_mkdir]);
}
