#![allow(clippy::unwrap_used)]
//! A real shim: its life, its namespaces, its greeting. What it does with containers is in `shim_containers.rs`.

mod shim_support;

use std::os::fd::{AsFd, OwnedFd};

use orlop::shim::client::detached_mounts_can_be_cloned;
use orlop::shim::client::{NamespaceSource, SetupRequest, ShimClient, ShimError, ShimEventKind, ShmSource};
use orlop::shim::protocol::{ExitStatus, FailureKind, MAX_MESSAGE, Reply, Request, Setup, Spawn, ToAgent, VERSION};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shim_support::*;
use tokio::sync::mpsc;

#[tokio::test]
async fn a_shim_is_started_set_up_and_ended() {
    if !root() {
        return;
    }
    let pod = Pod::bare();
    let pid = pod.client.pid();
    let done = pod.set_up(SetupRequest { oom_score_adj: Some(500), ..pod.plain().request() }).await;
    assert_eq!((done.init, done.oom_score_adj), (None, 500));
    assert_eq!(pod.client.list().await.unwrap(), []);

    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, b"orlop-shim\0test-pod\0");
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "orlop-shim\n");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(exe.to_string_lossy().starts_with("/memfd:orlop-shim"), "{}", exe.display());
    // Whoever reaches the program through /proc cannot change it.
    let error = std::fs::File::options().write(true).open(format!("/proc/{pid}/exe")).and_then(|file| {
        use std::os::unix::fs::FileExt;
        file.write_at(b"x", 0)
    });
    assert!(error.is_err());

    pod.client.shutdown().await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is not reaped");
    assert!(matches!(pod.client.list().await, Err(ShimError::Gone { .. })));
}

#[tokio::test]
async fn a_second_setup_is_refused_and_so_is_work_before_the_first() {
    if !root() {
        return;
    }
    let pod = Pod::bare();
    let header = Default::default();
    let io = orlop::shim::client::ContainerIo::Pipes { log: None, stdin: false };
    let start = orlop::shim::client::StartRequest {
        id: "c",
        header: &header,
        plan: b"",
        cgroup: None,
        pid_of: None,
        io,
        shm: false,
    };
    assert_eq!(pod.client.start(start).await.unwrap_err().kind(), Some(FailureKind::Invalid));
    pod.set_up(pod.plain().request()).await;
    let again = pod.client.setup(pod.plain().request()).await.unwrap_err();
    assert_eq!(again.kind(), Some(FailureKind::Exists));
    for error in [pod.client.forget("nobody").await, pod.client.signal("nobody", 9).await] {
        assert_eq!(error.unwrap_err().kind(), Some(FailureKind::NotFound));
    }
    for id in ["", "a/b", "..", &"x".repeat(65)] {
        let error = pod.client.start(orlop::shim::client::StartRequest { id, ..start }).await.unwrap_err();
        assert_eq!(error.kind(), Some(FailureKind::Invalid), "{id}");
    }
}

#[tokio::test]
async fn namespaces_are_made_and_handed_out() {
    if !root() {
        return;
    }
    let pod = Pod::bare();
    let shm = if detached_mounts_can_be_cloned() { ShmSource::New } else { ShmSource::None };
    let sysctls = [("kernel/shm_rmid_forced", "1"), ("kernel/msgmax", "4096")];
    let plain = pod.plain();
    let request = SetupRequest {
        ipc: NamespaceSource::New,
        uts: NamespaceSource::New,
        hostname: "web-0",
        pod_pid: true,
        shm,
        sysctls: &sysctls,
        ..plain.request()
    };
    let init = pod.set_up(request).await.init.unwrap();
    let link = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let shim = pod.client.pid().to_string();
    assert_eq!(link("self", "net"), link(&shim, "net"));
    assert_ne!(link("self", "ipc"), link(&shim, "ipc"));
    assert_ne!(link("self", "uts"), link(&shim, "uts"));
    assert_eq!(link("self", "pid"), link(&shim, "pid"));
    assert_eq!(link(&shim, "mnt"), link("self", "mnt"));
    assert_ne!(link(&init.to_string(), "pid"), link(&shim, "pid"));
    // It closes what it got last of all.
    until(|| descriptors(init) == 0).await;
    assert_eq!(std::fs::read_to_string(format!("/proc/{init}/comm")).unwrap(), "orlop-init\n");
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    assert!(status.lines().any(|line| line == format!("NSpid:\t{init}\t1")), "{status}");

    let fds = pod.client.pod_fds().await.unwrap();
    assert_eq!(fds.shm.is_some(), matches!(shm, ShmSource::New));
    assert!(fds.pid.is_some());
    // Another pod's shim can be put into the same namespaces, and sees what was set in them.
    let other = Pod::bare();
    let request = SetupRequest {
        ipc: NamespaceSource::Enter(fds.ipc.as_ref().unwrap().as_fd()),
        uts: NamespaceSource::Enter(fds.uts.as_ref().unwrap().as_fd()),
        ..plain.request()
    };
    other.set_up(request).await;
    let other_shim = other.client.pid().to_string();
    assert_eq!(link(&other_shim, "ipc"), link(&shim, "ipc"));
    let (ipc, uts) = (fds.ipc.unwrap(), fds.uts.unwrap());
    let seen = std::thread::spawn(move || {
        for fd in [&ipc, &uts] {
            rustix::thread::move_into_link_name_space(fd.as_fd(), None).unwrap();
        }
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        [read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/shm_rmid_forced"), read("/proc/sys/kernel/msgmax")]
    });
    assert_eq!(seen.join().unwrap(), ["web-0\n", "1\n", "4096\n"]);
    pod.client.shutdown().await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{init}")).exists(), "the init outlives the pod");
}

#[tokio::test]
async fn sysctls_of_the_host_are_out_of_reach() {
    if !root() {
        return;
    }
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    // Network, IPC and UTS are the host's here.
    for path in ["kernel/core_pattern", "net/ipv4/ip_forward", "kernel/shmmax", "kernel/hostname", "vm/swappiness"] {
        let pod = Pod::bare();
        let error =
            pod.client.setup(SetupRequest { sysctls: &[(path, "1")], ..pod.plain().request() }).await.unwrap_err();
        assert_eq!(error.kind(), Some(FailureKind::Invalid));
        assert!(error.to_string().contains(path), "{error}");
    }
    for path in ["kernel/shm/../core_pattern", "kernel/shm_no_such"] {
        let pod = Pod::bare();
        let (sysctls, plain) = ([(path, "1")], pod.plain());
        let request = SetupRequest { sysctls: &sysctls, ipc: NamespaceSource::New, ..plain.request() };
        let error = pod.client.setup(request).await.unwrap_err();
        assert_eq!(error.kind(), Some(FailureKind::System));
        assert!(error.to_string().contains(path), "{error}");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[tokio::test]
async fn a_new_agent_takes_the_place_of_the_old() {
    if !root() {
        return;
    }
    let mut pod = Pod::bare();
    pod.set_up(pod.plain().request()).await;
    let (sender, _events) = mpsc::unbounded_channel();
    let directory = open_dir(pod.directory.path());
    let second = ShimClient::connect("test-pod", directory.as_fd(), sender).await.unwrap();
    let hello = second.hello().unwrap();
    assert_eq!((hello.version, hello.configured, hello.init_died), (VERSION, true, false));
    assert_eq!(second.pid(), pod.client.pid());
    assert_eq!(pod.event().await, ShimEventKind::Gone { died: false });
    assert!(pod.client.is_gone());
    assert!(matches!(pod.client.list().await, Err(ShimError::Gone { .. })));
    assert_eq!(second.list().await.unwrap(), []);
    // And a hundred restarts later there is one connection still.
    let before = descriptors(second.pid());
    drop(second);
    for _ in 0..100 {
        pod.reconnect().await;
    }
    pod.client.list().await.unwrap();
    assert_eq!(descriptors(pod.client.pid()), before);
}

#[tokio::test]
async fn a_shim_that_dies_is_told_and_reaped() {
    if !root() {
        return;
    }
    let mut pod = Pod::bare();
    pod.set_up(pod.plain().request()).await;
    let pid = pod.client.pid();
    // What ends other programs does not end it.
    let pidfd = pidfd_open(rustix::process::Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE, Signal::USR1, Signal::ALARM, Signal::QUIT] {
        pidfd_send_signal(&pidfd, signal).unwrap();
    }
    pod.client.list().await.unwrap();
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    assert_eq!(pod.event().await, ShimEventKind::Gone { died: true });
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is not reaped");
    let (sender, _events) = mpsc::unbounded_channel();
    let error = ShimClient::connect("test-pod", open_dir(pod.directory.path()).as_fd(), sender).await.unwrap_err();
    match error {
        ShimError::Io { source, .. } => assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_shim_that_was_told_nothing_ends_with_its_agent() {
    if !root() {
        return;
    }
    let pod = Pod::bare();
    let pid = pod.client.pid();
    pod.client.disconnect();
    until(|| !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
    let pod = Pod::bare();
    pod.set_up(pod.plain().request()).await;
    pod.client.disconnect();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(std::path::Path::new(&format!("/proc/{}/exe", pod.client.pid())).exists());
}

#[tokio::test]
async fn the_death_of_the_pods_init_is_told() {
    if !root() {
        return;
    }
    let mut pod = Pod::bare();
    let init = pod.set_up(SetupRequest { pod_pid: true, ..pod.plain().request() }).await.init.unwrap();
    let pidfd = pidfd_open(rustix::process::Pid::from_raw(init as i32).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&pidfd, Signal::TERM).unwrap();
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    assert_eq!(pod.event().await, ShimEventKind::PodInitDied { status: ExitStatus::Signal(9) });
    pod.reconnect().await;
    assert!(pod.client.hello().unwrap().init_died);
    assert!(pod.client.pod_fds().await.unwrap().pid.is_none());
}

/// A connection that says what it likes.
fn raw(pod: &Pod) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(pod.path("shim.sock")).unwrap()).unwrap();
    socket
}

fn send(socket: &OwnedFd, packet: &[u8]) -> rustix::io::Result<usize> {
    rustix::net::send(socket, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn receive(socket: &OwnedFd) -> Vec<u8> {
    let mut packet = vec![0; MAX_MESSAGE];
    let (length, _) = rustix::net::recv(socket, &mut packet, RecvFlags::empty()).unwrap();
    packet.truncate(length);
    packet
}

#[tokio::test]
async fn nonsense_is_answered_or_ends_the_connection() {
    if !root() {
        return;
    }
    let mut pod = Pod::bare();
    pod.set_up(pod.plain().request()).await;
    let socket = raw(&pod);
    assert!(matches!(postcard::from_bytes(&receive(&socket)), Ok(ToAgent::Hello(_))));
    // A request of a later version, and one that is cut short.
    for packet in [&[9, 200, 1, 2, 3][..], &[9, 2, 5, b'a']] {
        send(&socket, packet).unwrap();
        match postcard::from_bytes(&receive(&socket)).unwrap() {
            ToAgent::Reply(9, Reply::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Invalid),
            other => panic!("{other:?}"),
        }
    }
    // Flags that do not fit the descriptors, and text that is longer than an answer.
    let long = "x".repeat(MAX_MESSAGE - 100);
    for request in [
        Request::Spawn(Spawn { id: "a", fds: 63, ..Spawn::default() }),
        Request::Spawn(Spawn { id: "a", fds: 1 << 20, ..Spawn::default() }),
        Request::Spawn(Spawn { id: &long, ..Spawn::default() }),
        Request::ReopenLog { id: "a" },
        Request::Resize { id: &long, rows: 1, columns: 1 },
        Request::Setup(Setup { sysctls: long.as_bytes(), ..Setup::default() }),
    ] {
        send(&socket, &postcard::to_allocvec(&(7u32, request)).unwrap()).unwrap();
        let packet = receive(&socket);
        assert!(matches!(postcard::from_bytes(&packet), Ok(ToAgent::Reply(7, Reply::Failed(_)))), "{packet:?}");
    }
    // Longer than a message may be.
    send(&socket, &vec![0; MAX_MESSAGE + 1]).unwrap();
    assert!(receive(&socket).is_empty());
    pod.reconnect().await;
    assert_eq!(pod.client.list().await.unwrap(), []);
}

#[tokio::test]
async fn an_agent_that_does_not_listen_is_not_waited_for() {
    if !root() {
        return;
    }
    let mut pod = Pod::bare();
    pod.set_up(pod.plain().request()).await;
    let socket = raw(&pod);
    let request = postcard::to_allocvec(&(1u32, Request::PodFds)).unwrap();
    // Until both directions are full.
    let start = std::time::Instant::now();
    let mut sent = 0;
    while start.elapsed().as_millis() < 300 {
        match send(&socket, &request) {
            Ok(_) => sent += 1,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
    assert!(sent > 100);
    let ticks = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<u64> = stat.split_ascii_whitespace().skip(13).take(2).map(|n| n.parse().unwrap()).collect();
        fields[0] + fields[1]
    };
    let before = ticks(pod.client.pid());
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(ticks(pod.client.pid()) - before < 10, "the shim spins");
    // It has answered each that it has read once there is room again.
    let mut answers = 0;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_millis(500)),
    )
    .unwrap();
    let mut packet = vec![0; MAX_MESSAGE];
    while let Ok((1.., _)) = rustix::net::recv(&socket, &mut packet, RecvFlags::empty()) {
        answers += 1;
    }
    assert_eq!(answers, sent + 1, "and the greeting");
    pod.reconnect().await;
    assert_eq!(pod.client.list().await.unwrap(), []);
}

/// A process that a shell makes as a runtime does: `script` runs in a directory with a pid file to write.
async fn make(pod: &Pod, id: &str, scripts: &[&str]) -> Result<orlop::shim::client::ExecStarted, ShimError> {
    let words = |script: &&str| ["/bin/sh", "-c", script].map(|word| word.as_bytes().to_vec()).to_vec();
    let programs: Vec<_> = scripts.iter().map(words).collect();
    let directory = open_dir(pod.directory.path());
    let io = orlop::shim::client::ContainerIo::Pipes { log: None, stdin: false };
    let request = orlop::shim::client::MakeRequest {
        id,
        target: None,
        programs: &programs,
        oom_score_adj: Some(100),
        directory: directory.as_fd(),
        pid_file: id,
        console: None,
        io: orlop::shim::client::MakeIo::Container(io),
    };
    pod.client.make(request).await
}

#[tokio::test]
async fn what_programs_make_is_taken_on_however_soon_it_ends() {
    if !root() {
        return;
    }
    let mut pod = Pod::new().await;
    for (id, script, code) in [
        ("after", "sh -c 'sleep 0.3; exit 7' & echo $! > after", 7),
        ("with", "sh -c 'exit 8' & echo $! > with", 8),
        // An orphan before its maker has said which process it is.
        ("before", "(sh -c 'exit 9' & echo $! > aside); sleep 0.3; mv aside before", 9),
    ] {
        let started = make(&pod, id, &[script, "test -e $PWD"]).await.unwrap();
        assert!(started.pid > 1 && started.started_at > 0);
        match pod.event().await {
            ShimEventKind::Exited { id: ended, exec: false, status, .. } => {
                assert_eq!((ended.as_str(), status), (id, ExitStatus::Code(code)));
            }
            other => panic!("{other:?}"),
        }
        pod.client.forget(id).await.unwrap();
    }
    pod.client.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_programs_do_not_make_leaves_nothing() {
    if !root() {
        return;
    }
    let pod = Pod::new().await;
    let long = "sleep 54324 & echo $! > ";
    for (id, scripts, why) in [
        ("none", ["exit 0", "exit 0"], "read the process id"),
        ("fails", ["echo no luck >&2; exit 3", "exit 0"], "exit code 3: no luck"),
        ("late", [&format!("{long}late"), "exit 4"], "exit code 4"),
        ("both", [&format!("{long}both; exit 5"), "exit 0"], "exit code 5"),
        ("stranger", ["echo 1 > stranger", "exit 0"], "wait for the process"),
    ] {
        let refused = make(&pod, id, &scripts).await.unwrap_err();
        assert!(refused.start_stage().is_some() && refused.to_string().contains(why), "{id}: {refused}");
        assert_eq!(pod.client.list().await.unwrap(), []);
    }
    assert!(make(&pod, "one", &[]).await.is_err());
    pod.client.shutdown().await.unwrap();
}
