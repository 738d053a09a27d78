//! A systemd that is played, for what a real one seldom does.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::super::super::dbus::Address;
use super::super::super::dbus::wire::{Kind, Message};
use super::super::client::Job;
use super::super::{Systemd, Value};

/// What the manager says to a call: an error's name, or a job's result.
enum Say {
    Error(&'static str),
    Job(&'static str),
    Nothing,
}

/// Serves one connection; each call of the manager takes the next of `says`. The members that were called come through
/// the channel.
fn manager(says: Vec<Say>) -> (tempfile::TempDir, Systemd, mpsc::Receiver<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let (called, calls) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut says = says.into_iter();
        let mut received = Vec::new();
        read(&mut stream, &mut received);
        received.clear();
        stream.write_all(b"DATA\r\nOK 0\r\n").unwrap();
        while let Some(call) = next(&mut stream, &mut received) {
            let _ = called.send(call.member.clone());
            if call.destination == "org.freedesktop.DBus" {
                send(&mut stream, reply(&call, vec![Value::str(":1.1")]));
                continue;
            }
            match says.next() {
                Some(Say::Error(name)) => {
                    let mut error = reply(&call, vec![Value::str("because")]);
                    (error.kind, error.error) = (Kind::Error, name.to_owned());
                    send(&mut stream, error);
                }
                Some(Say::Job(result)) => {
                    // Of another job, and of ours before the answer: systemd may be that fast.
                    for (job, result) in [("/job/0", "failed"), ("/job/1", result)] {
                        let mut signal = Message::new(Kind::Signal, 1);
                        signal.path = "/org/freedesktop/systemd1".into();
                        signal.member = "JobRemoved".into();
                        signal.body = vec![Value::U32(1), Value::Path(job.into()), Value::str("u"), Value::str(result)];
                        send(&mut stream, signal);
                    }
                    send(&mut stream, reply(&call, vec![Value::Path("/job/1".into())]));
                }
                Some(Say::Nothing) => {}
                None => send(&mut stream, reply(&call, vec![])),
            }
        }
    });
    (dir, Systemd::at(Address::Path(path), Duration::from_millis(300)), calls)
}

fn read(stream: &mut UnixStream, received: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    let len = stream.read(&mut buffer).unwrap_or(0);
    received.extend(&buffer[..len]);
    len > 0
}

fn next(stream: &mut UnixStream, received: &mut Vec<u8>) -> Option<Message> {
    loop {
        if received.starts_with(b"BEGIN\r\n") {
            received.drain(..7);
        }
        if let Some((message, len)) = Message::decode(received).unwrap() {
            received.drain(..len);
            return Some(message);
        }
        if !read(stream, received) {
            return None;
        }
    }
}

fn reply(call: &Message, body: Vec<Value>) -> Message {
    let mut reply = Message::new(Kind::Return, 1);
    (reply.reply_to, reply.body) = (Some(call.serial), body);
    reply
}

fn send(stream: &mut UnixStream, message: Message) {
    let _ = stream.write_all(&message.encode());
}

const TAKEN: &str = "org.freedesktop.systemd1.UnitExists";

#[test]
fn a_job_is_waited_for() {
    let (_dir, systemd, calls) = manager(vec![Say::Job("done"), Say::Job("timeout")]);
    let mut session = systemd.session().unwrap();
    assert_eq!(session.start("a.scope", vec![]).unwrap(), Job::Done);
    assert_eq!(session.start("a.scope", vec![]).unwrap(), Job::Other("timeout".to_owned()));
    let calls: Vec<String> = calls.try_iter().collect();
    assert_eq!(calls, ["Hello", "AddMatch", "StartTransientUnit", "StartTransientUnit"]);
}

#[test]
fn a_unit_that_failed_before_is_reset_once() {
    let (_dir, systemd, calls) = manager(vec![Say::Error(TAKEN), Say::Job("done"), Say::Job("done")]);
    let mut session = systemd.session().unwrap();
    super::super::scope::start(&mut session, "a.scope", vec![]).unwrap();
    let calls: Vec<String> = calls.try_iter().collect();
    assert_eq!(calls[2..], ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);

    let (_dir, systemd, calls) = manager(vec![Say::Error(TAKEN), Say::Job("done"), Say::Error(TAKEN)]);
    let mut session = systemd.session().unwrap();
    let error = super::super::scope::start(&mut session, "a.scope", vec![]).unwrap_err().to_string();
    assert!(error.contains("a.scope") && error.contains("UnitExists"), "{error}");
    assert_eq!(calls.try_iter().count(), 5, "no third try");
}

#[test]
fn a_job_that_fails_is_an_error() {
    let (_dir, systemd, _calls) = manager(vec![Say::Job("failed")]);
    let mut session = systemd.session().unwrap();
    let error = super::super::scope::start(&mut session, "a.scope", vec![]).unwrap_err().to_string();
    assert!(error.contains("a.scope") && error.contains("failed"), "{error}");
}

#[test]
fn stopping_what_is_not_there_is_fine() {
    let missing = "org.freedesktop.systemd1.NoSuchUnit";
    let (_dir, systemd, _calls) = manager(vec![Say::Error(missing), Say::Error(missing), Say::Error("x.y.Denied")]);
    let mut session = systemd.session().unwrap();
    session.stop("a.scope").unwrap();
    session.reset_failed("a.scope").unwrap();
    let error = session.stop("a.scope").unwrap_err().to_string();
    assert!(error.contains("x.y.Denied") && error.contains("because"), "{error}");
}

#[test]
fn a_manager_that_says_nothing_is_not_waited_for_long() {
    let (_dir, systemd, _calls) = manager(vec![Say::Nothing]);
    let mut session = systemd.session().unwrap();
    let start = Instant::now();
    let error = session.start("a.scope", vec![]).unwrap_err().to_string();
    assert!(error.contains("a.scope") && error.contains("StartTransientUnit"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
}
