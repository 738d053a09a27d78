//! Records, tails, and a rotation in the middle.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::record::{Record, Stream};
use super::*;

fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn contents(follower: &mut Follower) -> Vec<String> {
    std::iter::from_fn(|| follower.next_record().unwrap())
        .map(|record| String::from_utf8(record.content).unwrap())
        .collect()
}

#[test]
fn a_record_has_four_parts() {
    let record = Record::parse(b"2026-11-24T08:00:00.123456789Z stderr P a b  c");
    assert_eq!(
        record,
        Record {
            time: "2026-11-24T08:00:00.123456789Z".to_owned(),
            stream: Stream::Stderr,
            whole: false,
            content: b"a b  c".to_vec()
        }
    );
    assert_eq!(Record::parse(b"T stdout F ").content, b"");
    assert_eq!(Record::parse(b"no record at all").content, b"no record at all");
}

#[test]
fn a_line_without_its_end_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    append(&path, "T stdout F one\nT stdout F tw");
    let mut follower = Follower::open(&path).unwrap();
    assert_eq!(contents(&mut follower), ["one"]);
    append(&path, "o\n");
    assert_eq!(contents(&mut follower), ["two"]);
}

#[test]
fn a_rotated_log_is_read_on_without_loss() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    append(&path, "T stdout F one\n");
    let mut follower = Follower::open(&path).unwrap();
    assert_eq!(contents(&mut follower), ["one"]);
    let old = directory.path().join("0.log.20261124");
    fs::rename(&path, &old).unwrap();
    append(&old, "T stdout F two\n");
    assert_eq!(contents(&mut follower), ["two"]);
    append(&old, "T stdout F three\n");
    append(&path, "T stdout F four\n");
    assert_eq!(contents(&mut follower), ["three", "four"]);
}

#[test]
fn the_tail_begins_at_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    let long = "x".repeat(50_000);
    append(&path, &format!("T stdout F one\nT stdout F {long}\nT stdout F {long}\nT stdout F four\n"));
    for (lines, expected) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)] {
        let mut follower = Follower::open(&path).unwrap();
        follower.skip_to_last(lines).unwrap();
        let found = contents(&mut follower);
        assert_eq!(found.len(), expected, "{lines}");
        assert!(expected == 0 || found[expected - 1] == "four");
    }
}
