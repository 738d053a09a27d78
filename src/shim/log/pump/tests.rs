use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::time::Instant;

use rustix::fs::OFlags;

use super::*;

struct Bench {
    buffers: Buffers,
    stream: Stream,
    writer: Option<File>,
    directory: tempfile::TempDir,
    log: File,
}

fn bench(name: StreamName, terminal: bool) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let log = OpenOptions::new().append(true).create(true).open(directory.path().join("0.log")).unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).unwrap();
    let stream = Stream::new(read, name, terminal);
    Bench { buffers: Buffers::new().unwrap(), stream, writer: Some(write.into()), directory, log }
}

impl Bench {
    fn print(&mut self, text: &[u8]) {
        self.writer.as_mut().unwrap().write_all(text).unwrap();
    }

    fn pump(&mut self) -> Pumped {
        self.buffers.pump(&mut self.stream, Some(self.log.as_fd()), 4, false)
    }

    /// The log's records without their times, which are checked for their form.
    fn records(&self) -> Vec<String> {
        let mut text = String::new();
        File::open(self.directory.path().join("0.log")).unwrap().read_to_string(&mut text).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "the last record has no end: {text}");
        text.lines()
            .map(|line| {
                let (time, rest) = line.split_once(' ').unwrap();
                assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == STAMP, "{time}");
                rest.to_owned()
            })
            .collect()
    }
}

#[test]
fn lines_go_to_the_log() {
    let mut bench = bench(StreamName::Stderr, false);
    bench.print(b"one\ntwo\n");
    assert_eq!(bench.pump(), Pumped::Empty);
    assert_eq!(bench.records(), ["stderr F one", "stderr F two"]);
    assert!(bench.stream.carry.is_none());
}

#[test]
fn a_line_that_comes_in_pieces_is_one_record() {
    let mut bench = bench(StreamName::Stdout, false);
    for piece in ["he", "ll", "o\nwor", "ld"] {
        bench.print(piece.as_bytes());
        bench.pump();
    }
    assert_eq!(bench.records(), ["stdout F hello"]);
    assert!(bench.stream.carry.is_some());
    bench.writer = None;
    assert_eq!(bench.pump(), Pumped::End);
    assert_eq!(bench.records(), ["stdout F hello", "stdout P world"]);
    assert!(bench.stream.carry.is_none());
}

#[test]
fn the_end_is_found_at_once_when_asked_for() {
    let mut bench = bench(StreamName::Stdout, false);
    bench.print(b"last words");
    bench.writer = None;
    let got = bench.buffers.pump(&mut bench.stream, Some(bench.log.as_fd()), 4, true);
    assert_eq!(got, Pumped::End);
    assert_eq!(bench.records(), ["stdout P last words"]);
}

#[test]
fn a_terminal_has_other_ends_of_lines() {
    let mut bench = bench(StreamName::Stdout, true);
    bench.print(b"a\r\nb\r");
    bench.pump();
    bench.print(b"\n");
    bench.pump();
    assert_eq!(bench.records(), ["stdout F a", "stdout F b"]);
}

#[test]
fn without_a_log_output_is_read_all_the_same() {
    let mut bench = bench(StreamName::Stdout, false);
    bench.print(&[b'x'; 60_000]);
    assert_eq!(bench.buffers.pump(&mut bench.stream, None, 4, true), Pumped::Empty);
    bench.writer = None;
    assert_eq!(bench.buffers.pump(&mut bench.stream, None, 4, true), Pumped::End);
}

#[test]
fn the_buffers_are_the_kernels_when_idle() {
    let mut bench = bench(StreamName::Stdout, false);
    bench.print(b"before\n");
    bench.pump();
    bench.buffers.trim();
    bench.print(b"after\n");
    bench.pump();
    assert_eq!(bench.records(), ["stdout F before", "stdout F after"]);
}

#[test]
fn a_burst_is_forgotten_while_a_little_goes_on() {
    let mut bench = bench(StreamName::Stdout, false);
    bench.print(&[b'\n'; 50_000]);
    bench.pump();
    assert!(bench.buffers.big_at > 0);
    bench.print(b"little\n");
    bench.pump();
    assert!(bench.buffers.big_at > 0);
    bench.buffers.big_at -= 3;
    bench.print(b"more\n");
    bench.pump();
    assert_eq!(bench.buffers.big_at, 0);
    assert!(bench.buffers.output.iter().all(|&byte| byte == 0));
    assert_eq!(bench.records().len(), 50_002);
}

/// A tmpfs of 32 KiB that is mounted nowhere.
fn small_disk() -> Option<OwnedFd> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };
    let make = || {
        let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(tmpfs.as_fd(), "size", "32k")?;
        fsconfig_create(tmpfs.as_fd())?;
        fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    make().inspect_err(|e| eprintln!("skipped: no tmpfs can be made: {e}")).ok()
}

/// A disk that fills up within a record: what is there are whole records, and the container goes on.
#[test]
fn a_full_disk_leaves_whole_records() {
    let Some(disk) = small_disk() else { return };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND;
    let mut log = File::from(rustix::fs::openat(&disk, "0.log", flags, 0o600.into()).unwrap());
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).unwrap();
    let mut write = File::from(write);
    let mut stream = Stream::new(read, StreamName::Stdout, false);
    let mut buffers = Buffers::new().unwrap();
    for _ in 0..10 {
        for _ in 0..60 {
            write.write_all(&[b'x'; 98]).unwrap();
            write.write_all(b"\n").unwrap();
        }
        assert_eq!(buffers.pump(&mut stream, Some(log.as_fd()), 4, false), Pumped::Empty);
    }
    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    assert!(text.len() > 16_000, "{}", text.len());
    assert!(text.lines().all(|line| line.len() == PREFIX + 98), "a record is torn");
    assert!(text.ends_with('\n'));
}

/// Much at once arrives whole. It prints how fast, too: `cargo test --release --lib -- --nocapture much_output`.
#[test]
fn much_output_arrives_whole() {
    const TOTAL: usize = 128_000_000;
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("0.log");
    let log = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).unwrap();
    let mut stream = Stream::new(read, StreamName::Stdout, false);
    let mut buffers = Buffers::new().unwrap();
    let feeder = std::thread::spawn(move || {
        let mut write = File::from(write);
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let chunk = line.repeat(640);
        for _ in 0..TOTAL / chunk.len() {
            write.write_all(&chunk).unwrap();
        }
    });
    let start = Instant::now();
    loop {
        let mut waiting = [rustix::event::PollFd::new(&stream.fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut waiting, None).unwrap();
        if buffers.pump(&mut stream, Some(log.as_fd()), 4, false) == Pumped::End {
            break;
        }
    }
    feeder.join().unwrap();
    let rate = TOTAL as f64 / 1e6 / start.elapsed().as_secs_f64();
    println!("log pump: {rate:.0} MB/s of lines of 100 bytes");
    let lines = TOTAL / 64_000 * 640;
    assert_eq!(log.metadata().unwrap().len(), (lines * (PREFIX + 100)) as u64);
}
