//! External runtimes that misbehave: they hang, fail and lie in one of their verbs.

use std::path::Path;
use std::time::{Duration, Instant};

use orlop::cri::v1;
use tonic::Code;

use super::support::agent::in_netns;
use super::support::kubelet::code;
use super::{RUNC, Rig, Runtime};

/// A runtime that is runc, but for what `case` says of some of its command lines.
fn odd_runc(case: &str) -> (tempfile::TempDir, Runtime) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd-runc");
    let script = format!("#!/bin/sh\ncase \" $* \" in\n{case}\nesac\nexec {} \"$@\"\n", RUNC.path);
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Few and small; a name has to live as long as the test's program.
    let path: &'static str = Box::leak(path.display().to_string().into_boxed_str());
    (dir, Runtime { handler: "odd", path, args: "[]" })
}

fn with_odd_runc<F: Future<Output = ()>>(case: &str, test: impl FnOnce(Rig) -> F) {
    if !Path::new(RUNC.path).exists() {
        eprintln!("skipped: there is no {}", RUNC.path);
        return;
    }
    let (_dir, runtime) = odd_runc(case);
    in_netns(|| async { test(Rig::new(runtime, |_| {}).await).await });
}

#[test]
fn a_runtime_that_hangs_in_a_command_is_killed_at_the_deadline() {
    with_odd_runc("*' exec '*sh*) ;;\n*' exec '*) sleep 1000;;", |mut rig| async move {
        let id = rig.run("main", &["sleep", "1000"]).await;
        let began = Instant::now();
        let late = rig.kubelet.exec_for(&id, &["true"], 1).await;
        assert_eq!(code(late), Code::DeadlineExceeded);
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        rig.end().await;
    });
}

#[test]
fn a_runtime_that_makes_nothing_is_told_of() {
    with_odd_runc("*' create '*) exit 0;;", |mut rig| async move {
        let failed = rig.try_run("main", &["sleep", "1000"], |_| {}).await.expect_err("nothing was made");
        assert!(failed.message().contains("process id that the program left"), "{failed}");
        rig.end().await;
    });
}

#[test]
fn a_runtime_that_leaves_no_log_is_quoted_all_the_same() {
    with_odd_runc("*' create '*) echo 'out of cheese' >&2; exit 3;;", |mut rig| async move {
        let failed = rig.try_run("main", &["sleep", "1000"], |_| {}).await.expect_err("it fails");
        assert!(failed.message().contains("exit code 3: out of cheese"), "{failed}");
        assert!(rig.log("main").is_empty(), "the log is the container's, not the runtime's");
        rig.end().await;
    });
}

#[test]
fn a_container_that_cannot_be_started_is_not_left_created() {
    with_odd_runc("*' start '*) exit 1;;", |mut rig| async move {
        let failed = rig.try_run("main", &["sleep", "54323"], |_| {}).await.expect_err("it fails");
        assert!(failed.message().contains("exit code 1"), "{failed}");
        rig.end().await;
    });
}

#[test]
fn a_runtime_that_does_not_forget_keeps_nobody_from_removing() {
    with_odd_runc("*' kill '*|*' delete '*) exit 1;;", |mut rig| async move {
        let id = rig.run("main", &["sh", "-c", "trap 'exit 4' TERM; echo up; while true; do sleep 0.1; done"]).await;
        rig.log_of("main", 1).await;
        rig.kubelet.stop(&id, 10).await.unwrap();
        assert_eq!(rig.kubelet.status(&id).await.unwrap().exit_code, 4, "the signal finds another way");
        rig.kubelet.remove(&id).await.unwrap();
        rig.end().await;
    });
}

#[test]
fn a_start_goes_on_while_the_agent_is_dead() {
    with_odd_runc("*' create '*|*' start '*) sleep 0.7;;", |mut rig| async move {
        let config = rig.kubelet.container("main", &["sh", "-c", "echo up; sleep 1000"]);
        let id = rig.kubelet.create(&rig.pod.clone(), config, &rig.config.clone()).await.unwrap();
        let mut runtime = rig.kubelet.runtime.clone();
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let starting = tokio::spawn(async move { runtime.start_container(request).await });
        tokio::time::sleep(Duration::from_millis(400)).await;
        rig.agent.restart().await;
        assert!(starting.await.unwrap().is_err());
        rig.kubelet.reconnect(&rig.agent).await;
        assert_eq!(rig.kubelet.status(&id).await.unwrap().state(), v1::ContainerState::ContainerRunning);
        assert_eq!(rig.log_of("main", 1).await, ["stdout F up"]);
        assert_eq!(rig.kubelet.sh(&id, "echo here").await, "here");
        rig.end().await;
    });
}
