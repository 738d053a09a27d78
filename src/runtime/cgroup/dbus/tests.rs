use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use proptest::prelude::*;

use super::wire::{Kind, Message};
use super::*;

/// A bus that accepts one connection and greets it; then `serve` has it.
fn bus(serve: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, Address) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = [0; 64];
        let len = stream.read(&mut greeting).unwrap();
        assert_eq!(&greeting[..len], b"\0AUTH EXTERNAL\r\nDATA\r\n");
        serve(stream);
    });
    (dir, Address::Path(path))
}

/// The next message, and an answer to it.
fn answer(stream: &mut UnixStream, body: Vec<Value>) -> Message {
    let call = next(stream);
    let mut reply = Message::new(Kind::Return, 1);
    reply.reply_to = Some(call.serial);
    reply.body = body;
    stream.write_all(&reply.encode()).unwrap();
    call
}

fn next(stream: &mut UnixStream) -> Message {
    let mut bytes = Vec::new();
    loop {
        if let Some((message, _)) = Message::decode(bytes.strip_prefix(b"BEGIN\r\n").unwrap_or(&bytes)).unwrap() {
            return message;
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
}

fn call(member: &str) -> Call<'_> {
    Call { destination: "a.b", path: "/a", interface: "a.b.c", member, body: vec![Value::str("x"), Value::U32(7)] }
}

const SHORT: Duration = Duration::from_millis(80);

#[test]
fn bytes_are_those_of_the_specification() {
    let mut message = Message::new(Kind::Signal, 2);
    message.path = "/a".to_owned();
    message.interface = "b.c".to_owned();
    message.member = "D".to_owned();
    message.body = vec![Value::Byte(9), Value::U64(3)];
    let bytes = message.encode();
    let want: [&[u8]; 6] = [
        b"l\x04\x00\x01\x10\0\0\0\x02\0\0\0\x38\0\0\0",
        b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0",
        b"\x02\x01s\0\x03\0\0\0b.c\0\0\0\0\0",
        b"\x03\x01s\0\x01\0\0\0D\0\0\0\0\0\0\0",
        b"\x08\x01g\0\x02yt\0",
        b"\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0",
    ];
    assert_eq!(bytes, want.concat());
    assert_eq!(Message::decode(&bytes).unwrap(), Some((message, bytes.len())));
}

#[test]
fn every_value_comes_back() {
    let property = Value::property("Slice", Value::str("a.slice"));
    let mut message = Message::new(Kind::Call, 1);
    message.body = vec![
        Value::str("unit"),
        Value::Array(
            "(sv)".to_owned(),
            vec![property.clone(), Value::property("PIDs", Value::Array("u".to_owned(), vec![Value::U32(1)]))],
        ),
        Value::Array("(sa(sv))".to_owned(), vec![]),
        Value::Struct(vec![Value::Byte(1), Value::Struct(vec![Value::Bool(true), Value::I64(-3)])]),
        Value::bytes(&[1, 2, 3]),
        Value::Variant(Box::new(Value::Variant(Box::new(Value::F64(1.5))))),
        Value::Path("/x".to_owned()),
        Value::Signature("a(sv)".to_owned()),
        Value::I16(-2),
        Value::U16(2),
        Value::I32(-2),
        Value::strings(["a", "bc"]),
    ];
    let bytes = message.encode();
    assert_eq!(Message::decode(&bytes).unwrap(), Some((message, bytes.len())));
    for len in 0..bytes.len() {
        assert_eq!(Message::decode(&bytes[..len]).unwrap(), None, "{len} of {} bytes", bytes.len());
    }
}

proptest! {
    #[test]
    fn noise_is_no_danger(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), change in any::<(u16, u8)>()) {
        let _ = Message::decode(&bytes);
        let mut message = Message::new(Kind::Call, 1);
        message.body = vec![Value::property("x", Value::strings(["a"])), Value::bytes(&bytes)];
        bytes = message.encode();
        let at = usize::from(change.0) % bytes.len();
        bytes[at] = change.1;
        let _ = Message::decode(&bytes);
    }
}

#[test]
fn addresses() {
    assert_eq!(Address::parse("unix:path=/run/bus%20x,guid=5").unwrap(), Address::Path("/run/bus x".into()));
    assert_eq!(Address::parse("tcp:host=x;unix:abstract=/tmp/y").unwrap(), Address::Abstract(b"/tmp/y".to_vec()));
    assert!(Address::parse("tcp:host=x").unwrap_err().to_string().contains("tcp:host=x"));
    let nobody = Address::Path("/nonexistent/bus".into());
    let error = Connection::to_bus(&nobody, SHORT).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/bus") && error.contains("connect"), "{error}");
}

#[test]
fn a_call_is_answered_and_signals_are_kept() {
    let (_dir, address) = bus(|mut stream| {
        stream.write_all(b"DATA\r\nOK 0123\r\n").unwrap();
        assert_eq!(answer(&mut stream, vec![Value::str(":1.5")]).member, "Hello");
        let mut signal = Message::new(Kind::Signal, 9);
        (signal.path, signal.interface, signal.member) = ("/s".into(), "s.s".into(), "Gone".into());
        stream.write_all(&signal.encode()).unwrap();
        let call = answer(&mut stream, vec![Value::U32(5)]);
        assert_eq!((call.destination.as_str(), call.body.len()), ("a.b", 2));
        let call = next(&mut stream);
        let mut error = Message::new(Kind::Error, 3);
        (error.reply_to, error.error) = (Some(call.serial), "a.b.Bad".into());
        error.body = vec![Value::str("no such luck")];
        stream.write_all(&error.encode()).unwrap();
    });
    let mut connection = Connection::to_bus(&address, Duration::from_secs(5)).unwrap();
    assert_eq!(connection.call(call("One")).unwrap(), [Value::U32(5)]);
    let error = connection.call(call("Two")).unwrap_err();
    assert_eq!(error.name(), Some("a.b.Bad"));
    assert!(error.to_string().contains("Two") && error.to_string().contains("no such luck"), "{error}");
    assert_eq!(connection.signal(Instant::now() + SHORT, "x").unwrap().member, "Gone");
    let error = connection.call(call("Three")).unwrap_err();
    assert!(matches!(error, DbusError::Broken { .. }), "{error}");
}

#[test]
fn a_refusal_is_told() {
    let (_dir, address) = bus(|mut stream| stream.write_all(b"REJECTED EXTERNAL\r\n").unwrap());
    let error = Connection::to_bus(&address, Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("REJECTED EXTERNAL"), "{error}");
}

#[test]
fn silence_ends() {
    let start = Instant::now();
    let (_dir, address) = bus(|stream| {
        std::thread::sleep(Duration::from_secs(5));
        drop(stream);
    });
    let error = Connection::to_bus(&address, SHORT).unwrap_err().to_string();
    assert!(error.contains("not answered"), "{error}");
    // One that says something, but never the answer.
    let (_dir, address) = bus(|mut stream| {
        stream.write_all(b"OK 1\r\n").unwrap();
        let mut signal = Message::new(Kind::Signal, 9);
        signal.path = "/s".into();
        while stream.write_all(&signal.encode()).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let error = Connection::to_bus(&address, SHORT).unwrap_err().to_string();
    assert!(error.contains("Hello") && error.contains("not answered"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn what_is_no_dbus_is_told() {
    let (_dir, address) = bus(|mut stream| {
        stream.write_all(b"OK 1\r\nHTTP/1.1 400 Bad Request\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(200));
    });
    let error = Connection::to_bus(&address, Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("no message"), "{error}");
}
