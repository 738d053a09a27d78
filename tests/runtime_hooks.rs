//! Hooks of the runtime specification: all six kinds, where and when they run, what they are given, and what becomes of
//! the container when one fails. Needs root, and Debian's busybox-static.

#![allow(clippy::unwrap_used)]

#[path = "support/bundle.rs"]
mod bundle;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bundle::{Bundle, wait_until};
use serde_json::{Value, json};

/// Every kind, in the order of a life.
const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook that runs a script of the host's shell.
fn script(text: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", text], "env": ["PATH=/usr/bin:/bin"] })
}

/// A bundle whose hook of each kind appends a line about itself to the file that is returned. The container's own
/// hooks reach it through a bind mount.
fn noted(name: &str, note: impl Fn(&str, &str) -> String) -> Option<(Bundle, PathBuf)> {
    let mut bundle = Bundle::new(name, "echo program >> /notes/log")?;
    let notes = bundle.path().join("notes");
    fs::create_dir(&notes).unwrap();
    bundle.mount("/notes", "bind", notes.to_str().unwrap(), &["bind"]);
    for kind in KINDS {
        let directory = if kind == "startContainer" { "/notes" } else { notes.to_str().unwrap() };
        bundle.config["hooks"][kind] = json!([script(&note(kind, directory))]);
    }
    Some((bundle, notes.join("log")))
}

fn lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Whether it is there, and not only to be reaped.
fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

fn namespace(of: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{of}/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn each_runs_at_its_time() {
    let note = |kind: &str, notes: &str| format!("echo {kind} >> {notes}/log");
    let Some((bundle, log)) = noted("hook-order", note) else { return };
    bundle.create();
    assert_eq!(lines(&log), ["prestart", "createRuntime", "createContainer"]);
    bundle.start();
    bundle.wait_for("stopped");
    let mut run = lines(&log)[3..].to_vec();
    assert_eq!(run[0], "startContainer");
    run.sort_unstable();
    assert_eq!(run, ["poststart", "program", "startContainer"], "program and poststart come in any order");
    bundle.ok(&["delete", &bundle.id]);
    assert_eq!(lines(&log)[6..], ["poststop"]);
    bundle.nothing_left();
}

#[test]
fn run_has_them_all_too() {
    let note = |kind: &str, notes: &str| format!("echo {kind} >> {notes}/log");
    let Some((bundle, log)) = noted("hook-run", note) else { return };
    bundle.output();
    let mut run = lines(&log);
    assert_eq!(run[..4], ["prestart", "createRuntime", "createContainer", "startContainer"]);
    assert_eq!(run.pop().unwrap(), "poststop");
    assert_eq!(run.len(), 6);
    bundle.nothing_left();
}

#[test]
fn each_gets_the_state() {
    let note = |kind: &str, notes: &str| format!("cat > {notes}/{kind}; [ -t 0 ] || cat > {notes}/{kind}.again");
    let Some((mut bundle, log)) = noted("hook-state", note) else { return };
    bundle.config["annotations"] = json!({ "org.example.key": "a \"quoted\" value" });
    bundle.script("sleep 1000");
    let pid = bundle.create();
    bundle.start();
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", &bundle.id]);
    let statuses = ["created", "created", "created", "created", "running", "stopped"];
    for (kind, status) in KINDS.into_iter().zip(statuses) {
        let text = fs::read(log.with_file_name(kind)).unwrap();
        let state: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(state["ociVersion"], "1.3.0");
        assert_eq!(state["id"], *bundle.id);
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
        assert_eq!(state["annotations"], bundle.config["annotations"]);
        // The container's number as those see it that are in its PID namespace.
        let seen = match kind {
            "createContainer" | "startContainer" => json!(1),
            "poststop" => Value::Null,
            _ => json!(pid),
        };
        assert_eq!(state["pid"], seen, "{kind}");
        // There is an end to read to.
        assert_eq!(fs::read(log.with_file_name(format!("{kind}.again"))).unwrap(), b"");
    }
}

#[test]
fn each_runs_in_its_namespaces() {
    let note = |kind: &str, notes: &str| {
        let read = "for n in mnt pid uts net; do readlink /proc/self/ns/$n; done";
        format!("{read} > {notes}/{kind}; hostname >> {notes}/{kind}; pwd >> {notes}/{kind}; ls / >> {notes}/{kind}")
    };
    let Some((mut bundle, log)) = noted("hook-namespaces", note) else { return };
    bundle.script("sleep 1000");
    let pid = bundle.create().to_string();
    bundle.start();
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        let seen = lines(&log.with_file_name(kind));
        let inside = matches!(kind, "createContainer" | "startContainer");
        let owner = if inside { &pid } else { "self" };
        let expected = ["mnt", "pid", "uts", "net"].map(|n| namespace(owner, n));
        assert_eq!(seen[..4], expected, "{kind}");
        assert_eq!(seen[4] == "inside", inside, "{kind}");
        let directory = if inside { "/" } else { bundle.path().to_str().unwrap() };
        assert_eq!(seen[5], directory, "{kind}");
        // The container's own files, or those of the host.
        assert_eq!(seen[6..].contains(&"notes".to_owned()), kind == "startContainer", "{kind}");
    }
}

/// CVE-2025-23266: a hook that gets the container's environment, or runs where the image says what is there, loads what
/// the image wants.
#[test]
fn the_environment_is_the_hooks_own() {
    let note = |kind: &str, notes: &str| format!("env | sort > {notes}/{kind}");
    let Some((mut bundle, log)) = noted("hook-environment", note) else { return };
    bundle.process()["env"] = json!(["PATH=/bin", "LD_PRELOAD=/evil.so", "OF_CONTAINER=1"]);
    bundle.environment = vec![("OF_CALLER".to_owned(), "1".to_owned())];
    for kind in KINDS {
        bundle.config["hooks"][kind][0]["env"] = json!(["PATH=/usr/bin:/bin", "ONE=1", "TWO=a=b"]);
    }
    let bare = json!({ "path": "/bin/busybox", "args": ["sh", "-c", "export > /notes/bare"] });
    bundle.config["hooks"]["startContainer"].as_array_mut().unwrap().push(bare);
    let path = bundle.path().join("notes/none");
    let text = format!("/usr/bin/env > {}", path.display());
    bundle.config["hooks"]["createContainer"].as_array_mut().unwrap().push(json!({
        "path": "/bin/sh", "args": ["sh", "-c", text],
    }));
    bundle.output();
    for kind in KINDS {
        let mut seen = lines(&log.with_file_name(kind));
        seen.retain(|line| !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|own| line.starts_with(own)));
        assert_eq!(seen, ["ONE=1", "PATH=/usr/bin:/bin", "TWO=a=b"], "{kind}");
    }
    let none = fs::read_to_string(path).unwrap();
    assert!(!none.contains("OF_C") && !none.contains("LD_PRELOAD"), "{none}");
    // As runc has it: a startContainer hook without an environment has the container's.
    let bare = fs::read_to_string(log.with_file_name("bare")).unwrap();
    assert!(bare.contains("OF_CONTAINER") && bare.contains("HOME") && !bare.contains("OF_CALLER"), "{bare}");
}

#[test]
fn the_first_argument_is_kept() {
    let Some(mut bundle) = Bundle::new("hook-argument", "true") else { return };
    let log = bundle.path().join("log");
    let text = format!("echo $0 >> {}", log.display());
    bundle.config["hooks"]["prestart"] = json!([
        { "path": "/bin/sh", "args": ["first", "-c", "tr '\\0' ' ' < /proc/$$/cmdline >> $0", log] },
        { "path": "/bin/sh", "args": ["sh", "-c", text, "second"] },
        { "path": "/bin/true" },
    ]);
    bundle.output();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("first -c") && text.ends_with("second\n"), "{text}");
}

#[test]
fn a_hook_that_fails_stops_the_creation() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let note = |kind: &str, notes: &str| format!("echo {kind} >> {notes}/log");
        let Some((mut bundle, log)) = noted("hook-fails", note) else { return };
        let failing = script("echo to the output; echo so it goes >&2; exit 7");
        bundle.config["hooks"][kind] = json!([script("true"), failing, script("exit 0")]);
        let text = bundle.refused(&["create", &bundle.id]);
        let name = format!("{kind} hook #1 /bin/sh: exit code 7: so it goes");
        assert!(text.contains(&name), "{text}");
        bundle.nothing_left();
        let run = lines(&log);
        let before = KINDS.iter().position(|k| *k == kind).unwrap();
        assert_eq!(run[..before], KINDS[..before], "{kind}");
        assert_eq!(run[before..], ["poststop"], "{kind}");
        let text = bundle.refused(&["state", &bundle.id]);
        assert!(text.contains("does not exist"), "{text}");
    }
}

#[test]
fn a_hook_that_fails_stops_the_start() {
    for (kind, program) in [("startContainer", false), ("poststart", true)] {
        for verb in ["start", "run"] {
            let note = |kind: &str, notes: &str| format!("echo {kind} >> {notes}/log");
            let Some((mut bundle, log)) = noted("hook-fails-late", note) else { return };
            bundle.script("echo program >> /notes/log; sleep 1000");
            // poststart comes when the program has said its word.
            let wait = format!("while ! grep -q program {}; do sleep 0.01; done", log.display());
            let text = if program { wait } else { String::new() };
            bundle.config["hooks"][kind] = json!([script(&format!("{text}\necho oh no >&2; exit 3"))]);
            let text = if verb == "start" {
                let pid = bundle.create();
                let text = bundle.refused(&["start", &bundle.id]);
                assert!(!alive(pid));
                text
            } else {
                bundle.run().failed()
            };
            assert!(text.contains(&format!("{kind} hook #0 /bin/sh: exit code 3: oh no")), "{text}");
            bundle.nothing_left();
            let run = lines(&log);
            assert_eq!(run.last().unwrap(), "poststop");
            assert_eq!(run.iter().any(|line| line == "program"), program);
        }
    }
}

#[test]
fn a_poststop_hook_that_fails_is_only_told_of() {
    let note = |kind: &str, notes: &str| format!("echo {kind} >> {notes}/log");
    let Some((mut bundle, log)) = noted("hook-poststop", note) else { return };
    let last = bundle.config["hooks"]["poststop"][0].clone();
    let absent = json!({ "path": "/not/there" });
    bundle.config["hooks"]["poststop"] = json!([script("echo too bad >&2; exit 5"), absent, last]);
    let called = bundle.run();
    assert!(called.status.success(), "{called:?}");
    assert!(called.stderr.contains("poststop hook #0 /bin/sh: exit code 5: too bad"), "{called:?}");
    assert!(called.stderr.contains("poststop hook #1 /not/there: "), "{called:?}");
    assert_eq!(lines(&log).last().unwrap(), "poststop");
    bundle.nothing_left();
}

#[test]
fn what_cannot_be_executed_is_an_error() {
    let Some(mut bundle) = Bundle::new("hook-absent", "true") else { return };
    for kind in ["prestart", "createContainer", "startContainer"] {
        bundle.config["hooks"] = json!({ kind: [{ "path": "/not/there" }] });
        let text = bundle.fails();
        assert!(text.contains("/not/there") && text.contains("No such file"), "{text}");
    }
    let plain = bundle.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    bundle.config["hooks"] = json!({ "createRuntime": [{ "path": plain }] });
    let text = bundle.fails();
    assert!(text.contains("Permission denied"), "{text}");
}

#[test]
fn hooks_that_cannot_be_are_refused() {
    let Some(mut bundle) = Bundle::new("hook-wrong", "true") else { return };
    for kind in KINDS {
        for (hook, message) in [
            (json!({ "path": "relative" }), "absolute"),
            (json!({ "path": "/bin/true", "timeout": 0 }), "greater than zero"),
            (json!({ "path": "/bin/true", "timeout": -1 }), "greater than zero"),
            (json!({ "path": "/bin/true", "env": ["plain"] }), "no name and value"),
        ] {
            bundle.config["hooks"] = json!({ kind: [hook] });
            let text = bundle.fails();
            assert!(text.contains(message) && text.contains(kind), "{text}");
        }
    }
}

#[test]
fn a_hook_that_does_not_end_is_killed_with_all_it_started() {
    for kind in ["prestart", "createContainer", "startContainer", "poststart"] {
        let Some(mut bundle) = Bundle::new("hook-timeout", "sleep 1000") else { return };
        let notes = bundle.path().join("notes");
        fs::create_dir(&notes).unwrap();
        bundle.mount("/notes", "bind", notes.to_str().unwrap(), &["bind"]);
        let directory = if kind == "startContainer" { "/notes" } else { notes.to_str().unwrap() };
        // It writes as long as it lives.
        let text = format!("(while true; do echo tick >> {directory}/ticks; sleep 0.05; done) & sleep 1000");
        let mut hook = script(&text);
        hook["timeout"] = json!(1);
        bundle.config["hooks"] = json!({ kind: [hook] });
        let begun = Instant::now();
        let text = bundle.fails();
        assert!(text.contains("did not end within 1 s"), "{text}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(8), "{took:?}");
        let ticks = || fs::metadata(notes.join("ticks")).unwrap().size();
        let before = ticks();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(ticks(), before, "{kind}: something of it lives on");
    }
}

#[test]
fn neither_what_a_hook_reads_nor_what_it_writes_holds_it_up() {
    let Some(mut bundle) = Bundle::new("hook-streams", "true") else { return };
    // More than fits into a pipe, both ways.
    let many: serde_json::Map<String, Value> =
        (0..100).map(|n| (format!("org.example.{n}"), json!("x".repeat(2000)))).collect();
    bundle.config["annotations"] = json!(many);
    let writes = "dd if=/dev/zero bs=64k count=20 2>/dev/null; dd if=/dev/zero bs=64k count=20 >&2";
    let closes = "exec 0<&- 1>&- 2>&-; sleep 0.2";
    let daemon = "sleep 3 & true";
    for kind in KINDS {
        bundle.config["hooks"][kind] = json!([script("true"), script(writes), script(closes), script(daemon)]);
    }
    let begun = Instant::now();
    bundle.output();
    assert!(begun.elapsed() < Duration::from_secs(10), "something was waited for");
    bundle.nothing_left();
}

#[test]
fn the_rest_of_its_errors_is_cut() {
    let Some(mut bundle) = Bundle::new("hook-long", "true") else { return };
    let hook = script("i=0; while [ $i -lt 5000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1");
    for kind in ["prestart", "createContainer"] {
        bundle.config["hooks"] = json!({ kind: [hook] });
        let text = bundle.fails();
        assert!(text.contains("line 4999") && text.len() < 1200, "{text}");
    }
}

/// What a hook mounts below the root file system is the container's; a hook of the runtime gets there by the pid.
#[test]
fn they_can_still_change_the_file_system() {
    let Some(mut bundle) = Bundle::new("hook-mounts", "cat /by-container/file /by-runtime/file") else { return };
    for name in ["by-container", "by-runtime"] {
        let source = bundle.path().join(name);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), format!("{name}\n")).unwrap();
        bundle.directory_inside(name);
    }
    let (path, root) = (bundle.path().display().to_string(), bundle.rootfs().display().to_string());
    let inside = format!("mount --bind {path}/by-container {root}/by-container");
    bundle.config["hooks"]["createContainer"] = json!([script(&inside)]);
    let enter = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); \
         nsenter --mount=/proc/$pid/ns/mnt mount --bind {path}/by-runtime {root}/by-runtime"
    );
    bundle.config["hooks"]["createRuntime"] = json!([script(&enter)]);
    assert_eq!(bundle.output(), "by-container\nby-runtime\n");
    assert_eq!(fs::read_dir(bundle.rootfs().join("by-container")).unwrap().count(), 0, "the host sees none of it");
}

/// A hook of the container is a program of the container's image: it is as confined as the container's own.
#[test]
fn a_start_container_hook_is_confined_as_the_container_is() {
    for new_privileges in [false, true] {
        let Some(mut bundle) = Bundle::new("hook-confined", "true") else { return };
        let notes = bundle.path().join("notes");
        fs::create_dir(&notes).unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o777)).unwrap();
        bundle.mount("/notes", "bind", notes.to_str().unwrap(), &["bind"]);
        bundle.process()["noNewPrivileges"] = json!(new_privileges);
        bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
        bundle.linux()["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
        });
        let text = "id -u > /notes/id; grep -E '^(CapEff|Seccomp):' /proc/self/status > /notes/status; ls /proc/self/fd > /notes/fds; mkdir /tmp/x 2> /notes/mkdir; true";
        bundle.config["hooks"]["startContainer"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", text], "env": ["PATH=/bin"] }]);
        bundle.output();
        let read = |name: &str| fs::read_to_string(notes.join(name)).unwrap();
        assert_eq!(read("id"), "1000\n");
        assert_eq!(read("status"), "CapEff:\t0000000000000000\nSeccomp:\t2\n");
        assert!(read("mkdir").contains("not supported"), "{}", read("mkdir"));
        assert!(lines(&notes.join("fds")).len() <= 5, "{}", read("fds"));
    }
}

#[test]
fn no_hook_outlives_a_creation_that_is_killed() {
    let Some(mut bundle) = Bundle::new("hook-killed", "true") else { return };
    let mark = bundle.path().join("mark");
    let text = format!("echo $$ > {}; exec sleep 1000", mark.display());
    bundle.config["hooks"]["createRuntime"] = json!([script(&text)]);
    let mut child = bundle.command(&["create", &bundle.id]).spawn().unwrap();
    wait_until("the hook runs", || fs::read_to_string(&mark).is_ok_and(|t| t.ends_with('\n')));
    child.kill().unwrap();
    child.wait().unwrap();
    // The hook is an orphan now, and the test's to end.
    let pid: i32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
    // The container's init has gone by itself: nobody is left to let it go on.
    wait_until("the cgroup is empty", || {
        bundle.cgroups().iter().all(|c| fs::read_to_string(c.join("cgroup.procs")).is_ok_and(|t| t.is_empty()))
    });
    bundle.ok(&["delete", "--force", &bundle.id]);
    for cgroup in bundle.cgroups() {
        fs::remove_dir(cgroup).unwrap();
    }
}
