//! Podman, with conmon between it and the runtime.

use std::process::Command;

use crate::bundle::{Called, finish, wait_until};
use crate::place::{IMAGE, Place};

/// Podman of a place.
pub struct Podman<'a>(pub &'a Place);

impl Podman<'_> {
    /// Before the command.
    fn globals(&self) -> Vec<String> {
        let place = self.0;
        let own = [("--root", "storage"), ("--runroot", "run-of-podman"), ("--tmpdir", "tmp-of-podman")];
        let mut words: Vec<String> =
            own.iter().flat_map(|(flag, name)| [(*flag).to_owned(), place.text(name)]).collect();
        let rest = ["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--events-backend", "file", "--runtime"];
        words.extend(rest.map(str::to_owned));
        words.push(place.runc());
        words
    }

    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let mut words = self.globals();
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        words
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let words = self.words(arguments);
        self.0.command("podman", &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn call(&self, arguments: &[&str]) -> Called {
        finish(self.command(arguments))
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let called = self.call(arguments);
        assert!(called.status.success(), "{called:#?}");
        called.stdout.trim_end().to_owned()
    }
}

#[test]
fn podman_runs_containers() {
    let Some(place) = Place::new("podman", &["podman", "conmon", "script"]) else { return };
    let podman = Podman(&place);
    podman.ok(&["load", "--quiet", "--input", "image.tar"]);
    let own = ["--network", "none", "--cgroup-parent", &place.cgroup];
    let run = |flags: &[&'static str], command: &[&'static str]| -> Vec<&str> {
        [&["run"], &own[..], flags, &[IMAGE], command].concat()
    };
    let called = podman.call(&run(&["--rm"], &["sh", "-c", "echo out; id -u; exit 4"]));
    assert_eq!((called.status.code(), called.stdout.as_str()), (Some(4), "out\n0\n"), "{called:#?}");

    let script = "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.1; done";
    podman.ok(&run(&["-d", "--name", "stays"], &["sh", "-c", script]));
    let called = podman.call(&["exec", "stays", "sh", "-c", "echo in; exit 3"]);
    assert_eq!((called.status.code(), called.stdout.as_str()), (Some(3), "in\n"), "{called:#?}");
    wait_until("it has logged", || {
        let called = podman.call(&["logs", "stays"]);
        // Where limits cannot be raised, the runtime has said so there first.
        called.stdout == "out\n" && called.stderr.ends_with("err\n")
    });
    let state = || podman.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "stays"]);
    podman.ok(&["pause", "stays"]);
    assert_eq!(state(), "paused 0");
    podman.ok(&["unpause", "stays"]);
    assert_eq!(state(), "running 0");
    assert!(podman.ok(&["top", "stays"]).contains("trap"));
    assert!(podman.ok(&["top", "stays", "-o", "pid,comm"]).contains("sh"));
    podman.ok(&["update", "--memory", "64m", "stays"]);
    assert!(podman.ok(&["stats", "--no-stream", "stays"]).contains("stays"));
    podman.ok(&["stop", "stays"]);
    assert_eq!(state(), "exited 7");
    podman.ok(&["start", "stays"]);
    podman.ok(&["kill", "--signal", "KILL", "stays"]);
    assert_eq!(podman.ok(&["wait", "stays"]), "137");
    podman.ok(&["rm", "stays"]);

    // What a user is told: by the exit code too.
    let called = podman.call(&run(&["--rm"], &["/not/there"]));
    assert!(called.status.code() == Some(127) && called.stderr.contains("no such file"), "{called:#?}");
    let called = podman.call(&run(&["--rm"], &["not-there"]));
    assert!(called.status.code() == Some(127) && called.stderr.contains("not found in $PATH"), "{called:#?}");
    let called = podman.call(&run(&["--rm"], &["/etc/passwd"]));
    assert_eq!(called.status.code(), Some(126), "{called:#?}");
    let words = podman.words(&run(&["--rm", "-it"], &["tty"]));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let shown = place.on_terminal("podman", &words);
    assert!(shown.lines().any(|line| line == "/dev/pts/0"), "{shown:?}");
    let limits =
        ["--rm", "--memory", "32m", "--pids-limit", "20", "--user", "user", "--read-only", "--cap-drop", "all"];
    assert_eq!(
        podman.ok(&run(&limits, &["sh", "-c", "id -un; touch /x 2>/dev/null || echo read-only"])),
        "user\nread-only"
    );

    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
    assert!(podman.ok(&["info"]).contains("runc version"));
    let left = place.call(&place.runc(), &["list", "-q"]).output();
    assert_eq!(left, "", "states are left");
}

#[test]
fn podman_shares_namespaces_between_containers() {
    let Some(place) = Place::new("shares", &["podman", "conmon"]) else { return };
    let podman = Podman(&place);
    podman.ok(&["load", "--quiet", "--input", "image.tar"]);
    let parent = ["--cgroup-parent", place.cgroup.as_str()];
    podman
        .ok(&[&["run", "-d", "--name", "first", "--network", "none"], &parent[..], &[IMAGE, "sleep", "1000"]].concat());
    let with = ["--rm", "--network", "container:first", "--pid", "container:first", "--ipc", "container:first"];
    let seen = podman.ok(&[&["run"], &with[..], &parent[..], &[IMAGE, "ps", "-o", "pid,args"]].concat());
    assert!(seen.contains("sleep 1000") && seen.contains("ps -o"), "{seen}");
    podman.ok(&["rm", "--force", "--time", "0", "first"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}
