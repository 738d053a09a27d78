#![allow(clippy::unwrap_used)]
//! A real shim with real containers: starts, ends, signals, execs, and an agent that comes and goes.

mod shim_support;
#[path = "shim_support/sys.rs"]
mod sys;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use orlop::runtime::execute::Stage;
use orlop::shim::client::{
    ContainerIo, ExecIo, NamespaceSource, SetupRequest, ShimEventKind, ShmSource, detached_mounts_can_be_cloned,
};
use orlop::shim::protocol::{ExitRecord, ExitStatus, FailureKind, ProcessState};
use shim_support::container::*;
use shim_support::*;

/// The next event, which must be an exit: whose, and how.
async fn exit(pod: &mut Pod) -> (String, ExitStatus, bool) {
    match pod.event().await {
        ShimEventKind::Exited { id, status, drained, finished_at, .. } => {
            assert!(finished_at > 1_700_000_000_000_000_000);
            (id, status, drained)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_container_runs_prints_and_ends() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let script = "echo out; echo err >&2; echo $$; printf 'no end'; exit 7";
    let started = Box1::shell(script).run(&pod, "c1").await;
    assert!(started.pid > 0 && started.started_at > 1_700_000_000_000_000_000);
    assert_eq!(exit(&mut pod).await, ("c1".into(), ExitStatus::Code(7), true));
    let mut got = records(&pod.path("c1.log"));
    got.sort();
    assert_eq!(got, ["stderr F err", "stdout F 1", "stdout F out", "stdout P no end"]);

    let list = pod.client.list().await.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].state, list[0].status), (ProcessState::Exited, Some(ExitStatus::Code(7))));
    assert!(list[0].finished_at > list[0].started_at && list[0].started_at == started.started_at);
    let record = ExitRecord::parse(&std::fs::read_to_string(pod.path("c1.exit")).unwrap()).unwrap();
    assert_eq!((record.status, record.finished_at), (ExitStatus::Code(7), list[0].finished_at));
    for error in [pod.client.signal("c1", 9).await, pod.client.pidfd("c1").await.map(drop)] {
        assert_eq!(error.unwrap_err().kind(), Some(FailureKind::NotRunning));
    }
    pod.client.forget("c1").await.unwrap();
    assert!(!pod.path("c1.exit").exists());
    assert_eq!(pod.client.list().await.unwrap(), []);
    pod.client.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_says_at_what_and_leaves_nothing() {
    if !busybox() {
        return;
    }
    let pod = Pod::new().await;
    let before = descriptors(pod.client.pid());
    let mut container = Box1::shell("");
    container.plan.process.args = vec![b"/no/such/program".to_vec()];
    let error = container.start(&pod, "c1", ContainerIo::Pipes { log: None, stdin: true }).await.unwrap_err();
    assert_eq!(error.start_stage(), Some(Stage::Execute));
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    let mut container = Box1::shell("");
    container.plan.root.source = orlop::runtime::plan::RootSource::Directory(b"/no/such/root".to_vec());
    let error = container.start(&pod, "c1", ContainerIo::Terminal { log: None }).await.unwrap_err();
    assert_eq!(error.start_stage(), Some(Stage::Root), "{error}");
    assert_eq!(pod.client.list().await.unwrap(), []);
    assert_eq!(descriptors(pod.client.pid()), before);
    pod.client.shutdown().await.unwrap();
}

#[tokio::test]
async fn signals_reach_the_process() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    Box1::shell("trap 'exit 3' TERM; echo ready; while true; do sleep 0.01; done").run(&pod, "polite").await;
    Box1::shell("trap '' TERM; echo ready; while true; do sleep 0.01; done").run(&pod, "deaf").await;
    for id in ["polite", "deaf"] {
        until(|| !records(&pod.path(&format!("{id}.log"))).is_empty()).await;
        pod.client.signal(id, libc::SIGTERM).await.unwrap();
    }
    assert_eq!(exit(&mut pod).await, ("polite".into(), ExitStatus::Code(3), true));
    // Its init has no handler for it.
    pod.client.signal("deaf", libc::SIGRTMIN()).await.unwrap();
    assert_eq!(pod.client.signal("deaf", 99).await.unwrap_err().kind(), Some(FailureKind::Invalid));
    let again = Box1::shell("").start(&pod, "deaf", ContainerIo::Pipes { log: None, stdin: false }).await;
    assert_eq!(again.unwrap_err().kind(), Some(FailureKind::Exists));
    assert_eq!(pod.client.forget("deaf").await.unwrap_err().kind(), Some(FailureKind::Busy));
    assert_eq!(pod.client.shutdown().await.unwrap_err().kind(), Some(FailureKind::Busy));
    pod.client.signal("deaf", libc::SIGKILL).await.unwrap();
    assert_eq!(exit(&mut pod).await, ("deaf".into(), ExitStatus::Signal(9), true));
}

#[tokio::test]
async fn an_exec_runs_in_its_container() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    Box1::shell("exec sleep 1000").run(&pod, "c1").await;
    let (mut read, write) = std::io::pipe().unwrap();
    let (read_error, write_error) = std::io::pipe().unwrap();
    let (stdin, mut feed) = std::io::pipe().unwrap();
    let io = ExecIo::Fds { stdin: Some(stdin.as_fd()), stdout: Some(write.as_fd()), stderr: Some(write_error.as_fd()) };
    let script = "echo $$; cat; readlink /proc/self/exe; echo oops >&2; exit 5";
    let started = exec(&pod, "e1", "c1", script, io).await.unwrap();
    assert!(started.terminal.is_none());
    drop((stdin, write, write_error));
    std::io::Write::write_all(&mut feed, b"fed\n").unwrap();
    drop(feed);
    assert_eq!(exit(&mut pod).await, ("e1".into(), ExitStatus::Code(5), true));
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].parse::<u32>().unwrap() > 1);
    assert_eq!(lines[1..], ["fed", "/bin/busybox"]);
    text.clear();
    (&read_error).read_to_string(&mut text).unwrap();
    assert_eq!(text, "oops\n");
    pod.client.forget("e1").await.unwrap();

    let nothing = ExecIo::Fds { stdin: None, stdout: None, stderr: None };
    exec(&pod, "e2", "c1", "exec sleep 1000", nothing).await.unwrap();
    let list = pod.client.list().await.unwrap();
    let exec_info = list.iter().find(|process| process.id == "e2").unwrap();
    assert_eq!(exec_info.target.as_deref(), Some("c1"));
    let error = exec(&pod, "e3", "nobody", "true", nothing).await.unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::NotFound));
    // The end of the container is the end of its PID namespace.
    pod.client.signal("c1", libc::SIGKILL).await.unwrap();
    let mut ended = [exit(&mut pod).await, exit(&mut pod).await];
    ended.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        ended.map(|(id, status, _)| (id, status)),
        [("c1".into(), ExitStatus::Signal(9)), ("e2".into(), ExitStatus::Signal(9))]
    );
    let error = exec(&pod, "e3", "c1", "true", nothing).await.unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::NotRunning));
}

#[tokio::test]
async fn terminals_lead_to_the_log_or_to_the_agent() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let container = Box1::shell("stty size; echo err >&2; sleep 1000").terminal();
    let log = open_log(&pod.path("t.log"));
    container.start(&pod, "t", ContainerIo::Terminal { log: Some(log.as_fd()) }).await.unwrap();
    until(|| records(&pod.path("t.log")).len() == 2).await;
    assert_eq!(records(&pod.path("t.log")), ["stdout F 24 80", "stdout F err"]);
    pod.client.resize("t", 50, 132).await.unwrap();

    let started = exec(&pod, "e", "t", "stty size; stty size < /proc/1/fd/0; exit 4", ExecIo::Terminal).await.unwrap();
    let mut terminal = File::from(started.terminal.unwrap());
    assert_eq!(exit(&mut pod).await, ("e".into(), ExitStatus::Code(4), true));
    let mut text = Vec::new();
    // A terminal without processes ends in EIO.
    let _ = terminal.read_to_end(&mut text);
    assert_eq!(String::from_utf8(text).unwrap(), "30 100\r\n50 132\r\n");
    pod.client.signal("t", libc::SIGKILL).await.unwrap();
    assert_eq!(exit(&mut pod).await, ("t".into(), ExitStatus::Signal(9), true));
}

#[tokio::test]
async fn stdin_is_nothing_or_a_pipe_that_can_be_closed() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    Box1::shell("cat; exit 2").run(&pod, "none").await;
    assert_eq!(exit(&mut pod).await, ("none".into(), ExitStatus::Code(2), true));
    let container = Box1::shell("cat; exit 3");
    container.start(&pod, "pipe", ContainerIo::Pipes { log: None, stdin: true }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pod.client.list().await.unwrap()[1].state, ProcessState::Running);
    pod.client.close_stdin("pipe").await.unwrap();
    assert_eq!(exit(&mut pod).await, ("pipe".into(), ExitStatus::Code(3), true));
}

#[tokio::test]
async fn exits_wait_for_an_agent_that_was_away() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    Box1::shell("exec sleep 1000").run(&pod, "long").await;
    let slow = Box1::shell("while [ ! -e /go ]; do sleep 0.01; done; echo bye; exit 9");
    slow.run(&pod, "slow").await;
    Box1::shell("exec sleep 1000").run(&pod, "stays").await;
    let nothing = ExecIo::Fds { stdin: None, stdout: None, stderr: None };
    exec(&pod, "e1", "slow", "while [ ! -e /go ]; do sleep 0.01; done; exit 6", nothing).await.unwrap();

    // The agent dies: all that the shim sees of it is the end of the connection.
    pod.disconnect().await;
    File::create(slow.path("go")).unwrap();
    until(|| pod.path("slow.exit").exists() && records(&pod.path("slow.log")) == ["stdout F bye"]).await;

    pod.reconnect().await;
    assert!(pod.client.hello().unwrap().configured);
    let list = pod.client.list().await.unwrap();
    let of = |id: &str| list.iter().find(|process| process.id == id).unwrap();
    assert_eq!(of("slow").status, Some(ExitStatus::Code(9)));
    assert_eq!((of("stays").state, of("long").state), (ProcessState::Running, ProcessState::Running));
    // The exec may have ended by itself or with its container.
    let record = ExitRecord::parse(&std::fs::read_to_string(pod.path("e1.exit")).unwrap()).unwrap();
    assert_eq!(of("e1").status, Some(record.status));
    // And the connection works as the first one did.
    pod.client.forget("slow").await.unwrap();
    pod.client.signal("stays", libc::SIGKILL).await.unwrap();
    assert_eq!(exit(&mut pod).await, ("stays".into(), ExitStatus::Signal(9), true));
}

#[tokio::test]
async fn an_answer_nobody_waits_for_does_no_harm() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let container = Box1::shell("exec sleep 1000");
    let io = ContainerIo::Pipes { log: None, stdin: false };
    // The caller's deadline passes at once; what was begun goes on.
    let _ = tokio::time::timeout(Duration::ZERO, container.start(&pod, "c1", io)).await;
    until_listed(&pod, "c1", ProcessState::Running).await;
    // The connection ends with the answer under way.
    let _ = tokio::time::timeout(Duration::ZERO, container.start(&pod, "c2", io)).await;
    pod.reconnect().await;
    until_listed(&pod, "c2", ProcessState::Running).await;
    let mut broken = Box1::shell("");
    broken.plan.process.args = vec![b"/no/such/program".to_vec()];
    let _ = tokio::time::timeout(Duration::ZERO, broken.start(&pod, "c3", io)).await;
    pod.reconnect().await;
    let start = Instant::now();
    while pod.client.list().await.unwrap().len() != 2 {
        assert!(start.elapsed() < PATIENCE);
    }
}

async fn until_listed(pod: &Pod, id: &str, state: ProcessState) {
    let start = Instant::now();
    while !pod.client.list().await.unwrap().iter().any(|process| process.id == id && process.state == state) {
        assert!(start.elapsed() < PATIENCE, "{id} is never {state:?}");
    }
}

#[tokio::test]
async fn two_hundred_quick_containers_leave_nothing() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let container = Box1::shell("echo hello; exit 1");
    container.run(&pod, "warm").await;
    exit(&mut pod).await;
    pod.client.forget("warm").await.unwrap();
    let before = descriptors(pod.client.pid());
    let start = Instant::now();
    for i in 0..200 {
        let id = format!("c{i}");
        container.start(&pod, &id, ContainerIo::Pipes { log: None, stdin: false }).await.unwrap();
        assert_eq!(exit(&mut pod).await, (id.clone(), ExitStatus::Code(1), true));
        pod.client.forget(&id).await.unwrap();
    }
    println!("200 containers, one after the other: {:?} each", start.elapsed() / 200);
    assert_eq!(descriptors(pod.client.pid()), before);
    assert_eq!(children(pod.client.pid()), "");
    // All at once, more than a list's packet holds.
    let ids: Vec<_> = (0..40).map(|i| format!("{i:0>64}")).collect();
    let io = ContainerIo::Pipes { log: None, stdin: false };
    let starts = ids.iter().map(|id| container.start(&pod, id, io));
    for result in futures_util::future::join_all(starts).await {
        result.unwrap();
    }
    for _ in &ids {
        exit(&mut pod).await;
    }
    let list = pod.client.list().await.unwrap();
    assert_eq!(list.len(), 40);
    assert!(list.iter().all(|process| process.status == Some(ExitStatus::Code(1)) && ids.contains(&process.id)));
    for id in &ids {
        pod.client.forget(id).await.unwrap();
    }
    assert_eq!(descriptors(pod.client.pid()), before);
    pod.client.shutdown().await.unwrap();
}

fn children(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

#[tokio::test]
async fn orphans_are_reaped_and_do_not_hold_an_exit_back() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    // No PID namespace of its own: what it leaves behind becomes the shim's child, and it holds the log's pipe.
    let mut container = Box1::shell("(sleep 0.3; echo late) & (sleep 0.1) & echo early; exit 0");
    container.header.clone_flags = libc::CLONE_NEWNS as u64;
    container.run(&pod, "c1").await;
    assert_eq!(exit(&mut pod).await, ("c1".into(), ExitStatus::Code(0), false));
    until(|| records(&pod.path("c1.log")) == ["stdout F early", "stdout F late"]).await;
    let pid = pod.client.pid();
    until(|| children(pid).is_empty()).await;
    let start = Instant::now();
    while !pod.client.list().await.unwrap()[0].drained {
        assert!(start.elapsed() < PATIENCE);
    }
}

/// Sets a pod up with this /dev/shm, and lets one container leave there what another finds.
async fn share_memory(shm: ShmSource<'_>) -> String {
    let mut pod = Pod::bare();
    let plain = pod.plain();
    pod.set_up(SetupRequest { shm, ipc: NamespaceSource::New, ..plain.request() }).await;
    Box1::shell("echo shared > /dev/shm/x").shm().run(&pod, "c1").await;
    assert_eq!(exit(&mut pod).await, ("c1".into(), ExitStatus::Code(0), true));
    // It is the pod's, so it is there still; and what the first container did to its mount is not.
    Box1::shell("cat /dev/shm/x; ls -ld /dev/shm; cat /proc/self/mountinfo").shm().run(&pod, "c2").await;
    assert_eq!(exit(&mut pod).await, ("c2".into(), ExitStatus::Code(0), true));
    let text = records(&pod.path("c2.log")).join("\n");
    assert!(text.starts_with("stdout F shared\nstdout F drwxrwxrwt"), "{text}");
    pod.client.shutdown().await.unwrap();
    text.lines().find(|line| line.contains(" /dev/shm ")).unwrap().to_owned()
}

#[tokio::test]
async fn containers_share_memory_that_is_mounted_nowhere() {
    if !busybox() {
        return;
    }
    if !detached_mounts_can_be_cloned() {
        eprintln!("skipped: this kernel cannot clone a mount that is attached nowhere");
        return;
    }
    let line = share_memory(ShmSource::New).await;
    assert!(line.contains("rw,nosuid,nodev,noexec") && line.contains("tmpfs shm rw,size=65536k"), "{line}");
}

/// As it is done where the kernel is older: the agent mounts it. In a mount namespace of its own here.
#[test]
fn containers_share_memory_that_the_agent_mounted() {
    if !busybox() {
        return;
    }
    let alone = std::thread::spawn(|| {
        let own = std::path::Path::new("/proc/thread-self/ns/mnt");
        let before = own.read_link().unwrap();
        sys::unshare_mounts();
        assert_ne!(own.read_link().unwrap(), before);
        let directory = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::NOSUID;
        rustix::mount::mount("agents", directory.path(), "tmpfs", flags, c"mode=1777,size=1m").unwrap();
        let mount = open_dir(directory.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let line = runtime.block_on(share_memory(ShmSource::Mount(mount.as_fd())));
        assert!(line.contains("tmpfs agents rw,size=1024k"), "{line}");
        drop(mount);
        rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    });
    alone.join().unwrap();
}

/// A kernel that kills what is cloned into a cgroup that was once killed, or the OOM killer at a bad moment: the program
/// never ran, so this must not look like a container that did.
#[tokio::test]
async fn a_process_killed_on_its_way_is_a_failed_start() {
    if !busybox() {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let Some(root) = mounts.lines().find_map(|line| line.strip_prefix("cgroup2 ")?.split(' ').next()) else {
        eprintln!("skipped: no cgroup v2 is mounted");
        return;
    };
    let cgroup = std::path::Path::new(root).join(format!("orlop-shim-test-{}", std::process::id()));
    std::fs::create_dir(&cgroup).unwrap();
    let killed = std::fs::write(cgroup.join("cgroup.kill"), "1");
    let pod = Pod::new().await;
    let mut container = Box1::shell("sleep 1000");
    container.header.into_cgroup = true;
    let directory = open_dir(&cgroup);
    let plan = orlop::runtime::plan::Plan::Launch(Box::new(container.plan.clone())).encode().unwrap();
    let (header, io) = (&container.header, ContainerIo::Pipes { log: None, stdin: false });
    let request = orlop::shim::client::StartRequest {
        id: "c1",
        header,
        plan: &plan,
        cgroup: Some(directory.as_fd()),
        pid_of: None,
        io,
        shm: false,
    };
    let result = pod.client.start(request).await;
    match &result {
        Err(error) => {
            assert_eq!(error.start_stage(), Some(Stage::Execute));
            assert!(error.to_string().contains("it ended (signal 9) before its program ran"), "{error}");
            assert_eq!(pod.client.list().await.unwrap(), []);
        }
        Ok(started) => {
            eprintln!("skipped: this kernel ({killed:?}) does not kill what is cloned into a killed cgroup");
            let inside = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
            assert_eq!(inside.trim(), started.pid.to_string());
            pod.client.signal("c1", libc::SIGKILL).await.unwrap();
        }
    }
    until(|| std::fs::remove_dir(&cgroup).is_ok()).await;
}

#[tokio::test]
async fn containers_share_the_pid_namespace_of_the_pod() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::bare();
    let plain = pod.plain();
    pod.set_up(SetupRequest { pod_pid: true, ..plain.request() }).await;
    let joins = |script: &str| {
        let mut container = Box1::shell(script);
        container.header.clone_flags = libc::CLONE_NEWNS as u64;
        container.header.join_pid_namespace = true;
        container
    };
    joins("exec sleep 1000").run(&pod, "first").await;
    joins("cat /proc/1/comm; kill -0 2 && echo two; echo $$; (sleep 0.05 &)").run(&pod, "second").await;
    let (id, status, _) = exit(&mut pod).await;
    assert_eq!((id.as_str(), status), ("second", ExitStatus::Code(0)));
    assert_eq!(records(&pod.path("second.log"))[..3], ["stdout F orlop-init", "stdout F two", "stdout F 3"]);
    // One in the PID namespace of another container.
    let target = Box1::shell("exec sleep 1000").run(&pod, "target").await;
    let debugger = joins("readlink /proc/self/ns/pid");
    let plan = orlop::runtime::plan::Plan::Launch(Box::new(debugger.plan.clone())).encode().unwrap();
    let log = open_log(&pod.path("debugger.log"));
    let io = ContainerIo::Pipes { log: Some(log.as_fd()), stdin: false };
    let (header, pid_of) = (&debugger.header, Some("target"));
    let request =
        orlop::shim::client::StartRequest { id: "debugger", header, plan: &plan, cgroup: None, pid_of, io, shm: false };
    pod.client.start(request).await.unwrap();
    assert_eq!(exit(&mut pod).await, ("debugger".into(), ExitStatus::Code(0), true));
    let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", target.pid)).unwrap();
    assert_eq!(records(&pod.path("debugger.log")), [format!("stdout F {}", namespace.display())]);
    // The init's death is that of all in its namespace, and of no other.
    let init = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.client.pid())).unwrap();
    let init: i32 = init.split_ascii_whitespace().next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(init).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let mut kinds = [pod.event().await, pod.event().await];
    kinds.sort_by_key(|kind| matches!(kind, ShimEventKind::Exited { .. }));
    assert_eq!(kinds[0], ShimEventKind::PodInitDied { status: ExitStatus::Signal(9) });
    assert!(matches!(&kinds[1], ShimEventKind::Exited { id, .. } if id == "first"), "{kinds:?}");
    let error = joins("true").start(&pod, "late", ContainerIo::Pipes { log: None, stdin: false }).await.unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::NotRunning));
}

#[tokio::test]
async fn a_killed_shim_takes_its_containers_along() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let init = Box1::shell("sleep 1000 & exec sleep 1001").run(&pod, "c1").await;
    let nothing = ExecIo::Fds { stdin: None, stdout: None, stderr: None };
    let inside = exec(&pod, "e1", "c1", "exec sleep 1002", nothing).await.unwrap();
    Box1::shell("exit 4").run(&pod, "over").await;
    assert_eq!(exit(&mut pod).await, ("over".into(), ExitStatus::Code(4), true));
    pod.client.kill().unwrap();
    assert_eq!(pod.event().await, ShimEventKind::Gone { died: true });
    for pid in [init.pid, inside.pid] {
        until(|| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Whether the machine's init reaps it is not ours to see to.
            stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ")
        })
        .await;
    }
    // What it had on record is there for the agent.
    let record = ExitRecord::parse(&std::fs::read_to_string(pod.path("over.exit")).unwrap()).unwrap();
    assert_eq!(record.status, ExitStatus::Code(4));
}

/// A figure for the performance page: from the request to the exit's arrival.
#[tokio::test]
async fn execs_are_quick() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    Box1::shell("exec sleep 1000").run(&pod, "c1").await;
    let nothing = ExecIo::Fds { stdin: None, stdout: None, stderr: None };
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    for i in 0..200 {
        let start = Instant::now();
        let id = format!("e{i}");
        exec(&pod, &id, "c1", "exit 0", nothing).await.unwrap();
        started.push(start.elapsed());
        assert_eq!(exit(&mut pod).await.0, id);
        ended.push(start.elapsed());
        pod.client.forget(&id).await.unwrap();
    }
    for (what, mut times) in [("started", started), ("ended", ended)] {
        times.sort();
        println!("200 execs of a shell, {what}: p50 {:?}, p95 {:?}", times[100], times[190]);
    }
}
