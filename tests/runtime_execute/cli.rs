//! `orlop runtime` as an engine calls it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::Bundle;

/// A bundle on disk, a directory for states, and a cgroup; all gone at the end.
struct Engine {
    bundle: Bundle,
    id: String,
}

impl Engine {
    fn new(name: &str, script: &str) -> Option<Self> {
        if !rustix::process::getuid().is_root() || !PathBuf::from("/bin/busybox").exists() {
            eprintln!("skipped: needs root and /bin/busybox (package busybox-static)");
            return None;
        }
        let id = format!("orlop-test-{name}-{}", std::process::id());
        let mut bundle = Bundle::shell(script);
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        Some(Self { bundle, id })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let directory = self.bundle.directory.path();
        let spec = serde_json::to_vec(&self.bundle.spec).unwrap();
        fs::write(directory.join("config.json"), spec).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
        command.args(["runtime", "--log-format", "json", "--root"]).arg(directory.join("state"));
        command.arg("--log").arg(directory.join("log.json")).args(arguments).current_dir(directory);
        command.stdin(Stdio::null());
        command
    }

    fn call(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        let code = if arguments[0] == "exec" { 255 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        let log = fs::read_to_string(self.bundle.directory.path().join("log.json")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "error");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(last["msg"].as_str().unwrap()), "{text}");
        text
    }

    fn status(&self) -> Value {
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id])).unwrap();
        state["status"].clone()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let below = fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path().join(&self.id));
        below.chain([PathBuf::from("/sys/fs/cgroup").join(&self.id)]).filter(|p| p.exists()).collect()
    }

    fn nothing_left(&self) {
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        let state = self.bundle.directory.path().join("state");
        assert_eq!(fs::read_dir(state).unwrap().count(), 0);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id]);
    }
}

#[test]
fn a_container_goes_through_its_states() {
    let Some(engine) = Engine::new("states", "echo started > /mark; exec sleep 1000") else { return };
    let id = engine.id.as_str();
    let pid_file = engine.bundle.directory.path().join("pid");
    let mark = engine.bundle.rootfs().join("mark");
    // Its output goes to the caller's, which nobody would close as long as it lives.
    let mut create = engine.command(&["create", "--pid-file", pid_file.to_str().unwrap(), id]);
    assert!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    assert_eq!(engine.status(), "created");
    assert!(!mark.exists());
    let pid: i32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert!(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().contains(id));
    assert!(engine.refused(&["create", id]).contains("already exists"));
    // Changes of the bundle come too late.
    fs::write(engine.bundle.directory.path().join("config.json"), "{}").unwrap();

    engine.ok(&["start", id]);
    assert_eq!(engine.status(), "running");
    assert!(engine.refused(&["start", id]).contains("is running"));
    assert!(engine.refused(&["delete", id]).contains("not stopped"));
    assert_eq!(
        engine.ok(&["exec", "--cwd", "/tmp", "--env", "A=b", id, "sh", "-c", "pwd; echo $A; cat /mark"]),
        "/tmp\nb\nstarted\n"
    );
    assert_eq!(engine.call(&["exec", id, "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(engine.ok(&["exec", "-u", "5:6", id, "id"]), "uid=5 gid=6\n");
    assert!(engine.refused(&["exec", id, "missing"]).contains("executable file not found in $PATH"));

    engine.ok(&["kill", id, "KILL"]);
    while engine.status() != "stopped" {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(engine.refused(&["kill", id, "9"]).contains("container not running"));
    assert!(engine.refused(&["exec", id, "true"]).contains("stopped"));
    engine.ok(&["delete", id]);
    engine.nothing_left();
    assert!(engine.refused(&["state", id]).contains("does not exist"));
    assert!(engine.refused(&["delete", id]).contains("does not exist"));
    engine.ok(&["delete", "--force", id]);
}

#[test]
fn run_waits_and_ends_with_the_programs_code() {
    let Some(mut engine) = Engine::new("run", "echo out; echo err >&2; exit 3") else { return };
    let output = engine.call(&["run", &engine.id]);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()),
        (Some(3), &b"out\n"[..], &b"err\n"[..])
    );
    engine.nothing_left();
    engine.bundle.process()["args"] = json!(["/bin/sh", "-c", "kill -TERM $$; sleep 5"]);
    engine.bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    assert_eq!(engine.call(&["run", &engine.id]).status.code(), Some(128 + 15));
    engine.nothing_left();
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let Some(mut engine) = Engine::new("fail", "true") else { return };
    let id = engine.id.clone();
    engine.bundle.process()["args"] = json!(["nothing"]);
    assert!(engine.refused(&["create", &id]).contains("exec: \"nothing\": executable file not found in $PATH"));
    engine.nothing_left();
    engine.bundle.process()["args"] = json!(["true"]);
    engine.bundle.process()["cwd"] = json!("relative");
    assert!(engine.refused(&["create", &id]).contains("process.cwd"));
    engine.nothing_left();
    engine.bundle.process()["terminal"] = json!(true);
    assert!(engine.refused(&["create", &id]).contains("console socket"));
    engine.bundle.process()["terminal"] = json!(false);
    assert!(engine.refused(&["create", "../x"]).contains("invalid container ID"));
    assert!(engine.refused(&["start", &id]).contains("does not exist"));
    engine.nothing_left();
}

#[test]
fn a_console_socket_gets_the_terminal() {
    let Some(mut engine) = Engine::new("console", "tty; exec sleep 1000") else { return };
    engine.bundle.process()["terminal"] = json!(true);
    let path = engine.bundle.directory.path().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut run = engine.command(&["run", "--detach", "--console-socket", path.to_str().unwrap(), &engine.id]);
    assert!(run.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let (socket, _) = listener.accept().unwrap();
    let master = receive(&socket);
    let mut text = [0; 64];
    let n = rustix::io::read(&master, &mut text).unwrap();
    assert_eq!(&text[..n], b"/dev/pts/0\r\n");
    assert_eq!(engine.status(), "running");
    engine.ok(&["delete", "--force", &engine.id]);
    engine.nothing_left();
}

fn receive(socket: &std::os::unix::net::UnixStream) -> std::os::fd::OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty()).unwrap();
    let fd = ancillary.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.unwrap()
}
