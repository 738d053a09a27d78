//! The client commands, run as a person runs them, against a node that only remembers what it was asked.

#![allow(clippy::unwrap_used)] // It is all test code.

#[path = "cli/node.rs"]
mod node;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use node::Remembering;
use orlop::cri::observe::NoObserver;
use orlop::cri::server::serve;
use orlop::cri::socket::Socket;

/// A served node in a directory of its own, and the commands that talk to it.
struct World {
    directory: tempfile::TempDir,
    node: Remembering,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket_path = directory.path().join("orlop.sock");
        let node = Remembering::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let served = node.clone();
        let guard = runtime.enter();
        let socket = Socket::bind(&socket_path).unwrap();
        drop(guard);
        runtime.spawn(serve(served, socket, Arc::new(NoObserver), std::future::pending()));
        Self { directory, node, _runtime: runtime }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("orlop.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
        command
            .args(arguments)
            .env("ORLOP_ENDPOINT", format!("unix://{}", self.socket().display()))
            .env("ORLOP_RUN_DIR", self.directory.path().join("run"))
            .stdin(Stdio::null());
        command
    }

    fn orlop(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.orlop(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that must fail with 1.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.orlop(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn manifest(&self, name: &str, containers: &str) -> String {
        let path = self.directory.path().join(format!("{name}.yaml"));
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n{containers}"
        );
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

const TWO: &str = "  containers:\n  - {name: web, image: img}\n  - {name: side, image: img}\n";

#[test]
fn a_pod_goes_its_way() {
    let world = World::new();
    let manifest = world.manifest("demo", TWO);
    let started = world.ok(&["run", &manifest]);
    assert!(started.starts_with("pod demo (") && started.contains(" 10.0.0.1\n  web ("), "{started}");
    assert!(world.ok(&["pods"]).contains("default    demo  ready  10.0.0.1"), "{}", world.ok(&["pods"]));
    let rows: serde_json::Value = serde_json::from_str(&world.ok(&["ps", "-o", "json"])).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!((rows[0]["pod"].as_str(), rows[0]["state"].as_str()), (Some("demo"), Some("running")));

    assert!(world.fails(&["run", &manifest]).contains("a pod \"demo\" runs already"));
    assert!(world.fails(&["rm", "demo"]).contains("still runs"));
    world.ok(&["stop", "demo"]);
    assert_eq!(world.ok(&["ps"]).lines().count(), 1);
    assert!(world.ok(&["ps", "-a"]).contains("exited (137, Error)"), "{}", world.ok(&["ps", "-a"]));
    world.ok(&["rm", "demo"]);
    assert_eq!(world.ok(&["pods", "-o", "json"]).trim(), "[]");
    assert_eq!(std::fs::read_dir(world.directory.path().join("run")).unwrap().count(), 0);
}

#[test]
fn containers_are_found_by_name_pod_and_beginning_of_the_id() {
    let world = World::new();
    for name in ["one", "two"] {
        world.ok(&["run", &world.manifest(name, TWO)]);
    }
    assert!(world.fails(&["exec", "web", "--", "id"]).contains("\"web\" is more than one container: "));
    assert_eq!(world.ok(&["exec", "one/web", "--", "id", "-u"]), "id -u\n");
    assert!(world.fails(&["exec", "one", "--", "id"]).contains("name one: one/"));
    let rows: serde_json::Value = serde_json::from_str(&world.ok(&["ps", "two", "-o", "json"])).unwrap();
    let id = rows[0]["id"].as_str().unwrap();
    assert_eq!(world.ok(&["exec", &id[..12], "--", "x"]), "x\n");
    world.ok(&["run", &world.manifest("same", "  containers:\n  - {name: same, image: img}\n")]);
    world.ok(&["rm", "-f", "same"]);
    assert!(!world.ok(&["pods"]).contains("same"));
    assert!(world.fails(&["stop", "three"]).contains("neither a pod nor a container is called \"three\""));
    let failed = world.orlop(&["exec", "one/web", "--", "exit", "7"]);
    assert_eq!(failed.status.code(), Some(7));
}

#[test]
fn logs_are_read_from_the_file() {
    let world = World::new();
    world.ok(&["run", &world.manifest("demo", TWO)]);
    world.node.log("web", "one");
    world.node.log("web", "two");
    assert_eq!(world.ok(&["logs", "demo/web"]), "started\none\ntwo\n");
    assert_eq!(world.ok(&["logs", "--tail", "1", "web"]), "two\n");
    assert!(world.ok(&["logs", "-t", "--tail", "1", "web"]).ends_with("Z two\n"));
    assert!(world.fails(&["logs", "-p", "web"]).contains("no attempt before"));

    let mut following = world.command(&["logs", "-f", "--tail", "0", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    world.node.log("web", "three");
    world.node.rotate("web");
    world.node.log("web", "four");
    world.ok(&["stop", "web"]);
    let output = following.wait_with_output_within(Duration::from_secs(10));
    assert_eq!(output, "three\nfour\n");
}

/// A child that must end by itself.
trait WaitWithin {
    fn wait_with_output_within(&mut self, limit: Duration) -> String;
}

impl WaitWithin for std::process::Child {
    fn wait_with_output_within(&mut self, limit: Duration) -> String {
        let end = std::time::Instant::now() + limit;
        while self.try_wait().unwrap().is_none() {
            if std::time::Instant::now() > end {
                self.kill().unwrap();
                panic!("the command does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut text = String::new();
        std::io::Read::read_to_string(self.stdout.as_mut().unwrap(), &mut text).unwrap();
        text
    }
}

#[test]
fn run_waits_for_init_containers_and_shows_what_they_say() {
    let world = World::new();
    let with_init =
        |command: &str| format!("  initContainers:\n  - {{name: first, image: img, command: [{command}]}}\n{TWO}");
    world.ok(&["run", &world.manifest("good", &with_init("exit, '0'"))]);
    assert!(world.ok(&["ps", "-a"]).contains("exited (0, Completed)"));
    let error = world.fails(&["run", &world.manifest("bad", &with_init("exit, '3'"))]);
    assert!(error.contains("  started\n") && error.contains("init container first ended with 3"), "{error}");
    // Nothing of it stays.
    assert!(!world.ok(&["pods"]).contains("bad"));
    assert_eq!(std::fs::read_dir(world.directory.path().join("run")).unwrap().count(), 1);
}

#[test]
fn run_rm_shows_the_output_and_ends_with_the_exit_code() {
    let world = World::new();
    let containers = "  containers:\n  - {name: job, image: img, command: [exit, '5']}\n";
    let output = world.orlop(&["run", "--rm", &world.manifest("job", containers)]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "started\n");
    assert_eq!(world.ok(&["pods", "-o", "json"]).trim(), "[]");
}

#[test]
fn a_manifest_may_come_from_standard_input_and_a_bad_one_changes_nothing() {
    let world = World::new();
    let mut child = world
        .command(&["run", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - name: a\n    image: b\n    probe: 1\n";
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("standard input: line 8: field \"probe\" is not supported"), "{error}");
    assert_eq!(world.node.requests(), 0);
}

#[test]
fn images_are_pulled_once_and_listed() {
    let world = World::new();
    assert_eq!(world.ok(&["pull", "registry.test/a:1"]).trim(), node::image_id("registry.test/a:1"));
    assert!(world.fails(&["pull", "registry.test/missing:1"]).contains("no such image"));
    let rows: serde_json::Value = serde_json::from_str(&world.ok(&["images", "-o", "json"])).unwrap();
    assert_eq!(rows[0]["tags"][0], "registry.test/a:1");
    let never = "  containers:\n  - {name: a, image: 'registry.test/b:1', imagePullPolicy: Never}\n";
    assert!(world.fails(&["run", &world.manifest("never", never)]).contains("imagePullPolicy is Never"));
    let root = "  securityContext: {runAsNonRoot: true}\n  containers:\n  - {name: a, image: img}\n";
    assert!(world.fails(&["run", &world.manifest("root", root)]).contains("runAsNonRoot"));
}

#[test]
fn stats_are_shown() {
    let world = World::new();
    world.ok(&["run", &world.manifest("demo", TWO)]);
    let table = world.ok(&["stats"]);
    // A quarter of a CPU, over a time that is measured.
    let quarter = ["248m", "249m", "250m", "251m"].iter().any(|cpu| table.contains(cpu));
    assert!(table.contains("demo  web") && quarter && table.contains("1.0MiB"), "{table}");
    let pods: serde_json::Value = serde_json::from_str(&world.ok(&["stats", "--pods", "-o", "json"])).unwrap();
    assert_eq!((pods[0]["name"].as_str(), pods[0]["rx_bytes"].as_u64()), (Some("demo"), Some(7)));
}

#[test]
fn version_names_both_sides() {
    let world = World::new();
    assert!(world.ok(&["version"]).contains("agent: orlop "), "{}", world.ok(&["version"]));
    let nobody = Command::new(env!("CARGO_BIN_EXE_orlop"))
        .args(["version", "-o", "json", "--endpoint", "unix:///nonexistent/orlop.sock"])
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&nobody.stdout).unwrap();
    assert!(answer["agent"].is_null() && answer["client"].is_string());
}

#[test]
fn a_missing_agent_is_named_with_the_way_out() {
    let output = Command::new(env!("CARGO_BIN_EXE_orlop"))
        .args(["pods", "--endpoint", "unix:///nonexistent/orlop.sock"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("/nonexistent/orlop.sock") && error.contains("orlop serve"), "{error}");
}
