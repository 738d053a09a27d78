use super::*;

#[test]
fn a_request_comes_back_as_it_went() {
    let header = SpawnHeader { clone_flags: 0x2000_0000, join_pid_namespace: true, into_cgroup: false };
    let spawn = Spawn { id: "c1", target: "", pid_of: "c0", header, io: Io::Pump { stdin: true }, fds: 5, shm: true };
    let requests = [
        Request::Setup(Setup {
            hostname: "web-0",
            sysctls: b"net/a\x001\0",
            oom_score_adj: Some(-998),
            ..Setup::default()
        }),
        Request::Spawn(spawn),
        Request::Signal { id: "c1", signal: 15 },
        Request::List { from: 3 },
        Request::Shutdown,
        Request::Make(Make {
            id: "c2",
            target: "",
            io: Io::Terminal,
            fds: 67,
            programs: 2,
            oom_score_adj: Some(-3),
            pid_file: "pid",
        }),
    ];
    for request in requests {
        let mut buffer = [0; MAX_MESSAGE];
        let bytes = postcard::to_slice(&(7u32, &request), &mut buffer).unwrap();
        let (number, back): (u32, Request<'_>) = postcard::from_bytes(bytes).unwrap();
        assert_eq!((number, back), (7, request));
    }
}

#[test]
fn bytes_after_a_message_are_ignored() {
    let hello = Hello { version: 1, capabilities: 1, pid: 12, configured: true, init_died: false };
    let mut bytes = postcard::to_allocvec(&ToAgent::Hello(hello)).unwrap();
    bytes.extend_from_slice(b"of a later version");
    assert_eq!(postcard::take_from_bytes::<ToAgent<'_>>(&bytes).unwrap().0, ToAgent::Hello(hello));
}

/// The numbers on the wire are fixed for good: a shim of an older version must be understood.
#[test]
fn variants_keep_their_numbers() {
    let first = |request: &Request<'_>| postcard::to_allocvec(request).unwrap()[0];
    assert_eq!(first(&Request::Setup(Setup::default())), 0);
    assert_eq!(first(&Request::Spawn(Spawn::default())), 1);
    assert_eq!(first(&Request::Signal { id: "", signal: 0 }), 2);
    assert_eq!(first(&Request::ReopenLog { id: "" }), 3);
    assert_eq!(first(&Request::List { from: 0 }), 4);
    assert_eq!(first(&Request::Forget { id: "" }), 5);
    assert_eq!(first(&Request::PodFds), 6);
    assert_eq!(first(&Request::PidFd { id: "" }), 7);
    assert_eq!(first(&Request::CloseStdin { id: "" }), 8);
    assert_eq!(first(&Request::Resize { id: "", rows: 0, columns: 0 }), 9);
    assert_eq!(first(&Request::Shutdown), 10);
    assert_eq!(first(&Request::Make(Make::default())), 11);
    let event = ToAgent::Event(Event::PodInitDied { status: ExitStatus::Signal(9) });
    assert_eq!(postcard::to_allocvec(&event).unwrap(), [2, 1, 1, 9]);
}

#[test]
fn ids_are_names_of_files() {
    let longest = "a".repeat(MAX_ID);
    for good in ["a", "0f", "web-0_1.x", &longest] {
        assert!(valid_id(good), "{good}");
    }
    for bad in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", &"a".repeat(MAX_ID + 1)] {
        assert!(!valid_id(bad), "{bad}");
    }
}

#[test]
fn sysctls_come_back_in_order() {
    let pairs = [("net/ipv4/ip_forward", "1"), ("kernel/sem", "250 32000 32 128"), ("net/x", "")];
    let bytes = encode_sysctls(pairs).unwrap();
    let back: Vec<_> = decode_sysctls(&bytes).collect();
    let wanted: Vec<_> = pairs.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
    assert_eq!(back, wanted);
    assert_eq!(decode_sysctls(b"").count(), 0);
    assert!(encode_sysctls([("a\0b", "1")]).is_none());
}

#[test]
fn an_exit_record_is_one_readable_line() {
    let record = ExitRecord { status: ExitStatus::Code(7), started_at: 0, finished_at: 1_800_000_000_123_456_789 };
    let line = record.line().as_str().to_owned();
    assert_eq!(line, "code 7 started 0 finished 1800000000123456789\n");
    assert_eq!(ExitRecord::parse(&line), Some(record));
    let killed = ExitRecord { status: ExitStatus::Signal(9), started_at: u64::MAX, finished_at: u64::MAX };
    assert_eq!(ExitRecord::parse(killed.line().as_str()), Some(killed));
    for bad in ["", "code", "code x", "code 1", "code 300 started 1 finished 2", "code 1 finished 2 started 1"] {
        assert_eq!(ExitRecord::parse(bad), None, "{bad}");
    }
}

#[test]
fn programs_come_back_word_by_word() {
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let bytes = encode_programs(&[words("/bin/a create -b ."), words("/bin/a start")]).unwrap();
    let decoded = |index| decode_program(&bytes, index).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(decoded(0), words("/bin/a create -b ."));
    assert_eq!(decoded(1), words("/bin/a start"));
    assert!(decoded(2).is_empty());
    assert_eq!(encode_programs(&[vec![]]), None);
    assert_eq!(encode_programs(&[vec![b"/bin/a".to_vec(), Vec::new()]]), None);
    assert_eq!(encode_programs(&[vec![b"a\0b".to_vec()]]), None);
}
