//! `orlop serve` as a process: what it refuses, whom it tells, how it ends.

#![allow(clippy::unwrap_used)] // It is all test code.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A directory with a configuration; an agent without a pod network, so that it can run beside any other.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(extra: &str) -> Self {
        // An overlay's upper layer wants a disk, and the agent looks whether it has one.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().display();
        let config = format!(
            "[paths]\nroot = \"{path}/root\"\nstate = \"{path}/run\"\nsocket = \"{path}/run/orlop.sock\"\n\
             [network]\nkind = \"none\"\n{extra}"
        );
        std::fs::write(directory.path().join("config.toml"), config).unwrap();
        Self { directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn serve(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
        command.args(["serve", "--config"]).arg(self.at("config.toml")).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Answers of `http.sock`.
    fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.at("run/http.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

/// An agent that is ended with the test.
struct Served(Child);

impl Served {
    /// Starts it, and waits for its word to the service manager.
    fn ready(place: &Place) -> (Self, UnixDatagram) {
        let listener = UnixDatagram::bind(place.at("notify")).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let child = place.serve().env("NOTIFY_SOCKET", place.at("notify")).spawn().unwrap();
        let mut served = Self(child);
        let mut word = [0; 64];
        match listener.recv(&mut word) {
            Ok(length) => assert_eq!(&word[..length], b"READY=1"),
            Err(error) => {
                let _ = served.0.kill();
                panic!("{error}: {}", served.errors());
            }
        }
        (served, listener)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Its exit code, soon.
    fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this process may make what an agent makes at its start.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can start an agent");
    }
    root
}

#[test]
fn a_bad_configuration_ends_it_with_64_and_every_problem() {
    let place = Place::new("[paht]\n[log]\nlevel = \"=,\"\n");
    let output = place.serve().output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("config.toml:7: paht: unknown key; did you mean \"paths\"?"), "{error}");
    assert!(error.contains("config.toml:9: log.level: "), "{error}");
}

#[test]
fn it_tells_when_it_is_ready_and_when_it_stops() {
    if !root() {
        return;
    }
    let place = Place::new("[metrics]\naddress = \"\"\n");
    let (mut served, listener) = Served::ready(&place);
    assert!(place.get("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(place.get("/pulls").ends_with("[]"));
    let client = Command::new(env!("CARGO_BIN_EXE_orlop"))
        .args(["ps", "--endpoint"])
        .arg(format!("unix://{}", place.at("run/orlop.sock").display()))
        .output()
        .unwrap();
    assert!(client.status.success(), "{client:?}");
    let metrics = place.get("/metrics");
    for line in
        ["orlop_cri_operation_duration_seconds_count{rpc=\"ListContainers\"} 1", "orlop_pods{state=\"ready\"} 0"]
    {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }

    served.signal(Signal::SIGTERM);
    let mut word = [0; 64];
    let length = listener.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"STOPPING=1");
    assert_eq!(served.ended(), Some(0), "{}", served.errors());
    assert!(!place.at("run/orlop.sock").exists() && !place.at("run/http.sock").exists());
}

#[test]
fn a_second_agent_is_refused_and_the_first_is_not_disturbed() {
    if !root() {
        return;
    }
    let place = Place::new("[metrics]\naddress = \"\"\n");
    let (_served, _listener) = Served::ready(&place);
    let output = place.serve().output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("another process answers there"), "{error}");
    assert!(place.get("/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_metrics_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let place = Place::new(&format!("[metrics]\naddress = \"{address}\"\n"));
    let output = place.serve().output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("metrics.address {address} cannot be bound; set another")), "{error}");
}

#[test]
fn it_starts_again_after_kill_9() {
    if !root() {
        return;
    }
    let place = Place::new("[metrics]\naddress = \"\"\n[log]\nformat = \"json\"\n");
    let (mut served, listener) = Served::ready(&place);
    served.signal(Signal::SIGKILL);
    assert_eq!(served.ended(), None);
    let first = served.errors();
    assert!(first.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{first}");
    drop(listener);
    std::fs::remove_file(place.at("notify")).unwrap();
    let (_again, _listener) = Served::ready(&place);
    assert!(place.get("/healthz").starts_with("HTTP/1.1 200"));
}
