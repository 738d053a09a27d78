//! The same life of pods and containers with every runtime: the one that is built in, Debian's runc and crun, and our own
//! command line as an external runtime.

#![allow(clippy::unwrap_used)] // It is all test code.

mod odd;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orlop::cri::v1;
use support::agent::{Agent, end_shim, in_netns};
use support::image::busybox;
use support::kubelet::{Kubelet, code};
use support::registry::TestRegistry;
use support::rig::{image, security};
use tonic::Code;

/// A runtime to test: the handler's name, and its table in the configuration.
#[derive(Clone, Copy, Debug)]
struct Runtime {
    handler: &'static str,
    path: &'static str,
    args: &'static str,
}

const BUILT_IN: Runtime = Runtime { handler: "", path: "", args: "[]" };
const RUNC: Runtime = Runtime { handler: "runc", path: "/usr/sbin/runc", args: "[]" };
const CRUN: Runtime = Runtime { handler: "crun", path: "/usr/bin/crun", args: "[]" };
/// By a symlink: under this name the program is runc.
const OURS: Runtime =
    Runtime { handler: "ours", path: concat!(env!("CARGO_TARGET_TMPDIR"), "/handlers/runc"), args: "[]" };

/// An agent with one handler, and a pod that it runs.
struct Rig {
    _registry: TestRegistry,
    runtime: Runtime,
    kubelet: Kubelet,
    config: v1::PodSandboxConfig,
    pod: String,
    agent: Agent,
}

impl Rig {
    async fn new(runtime: Runtime, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Self {
        let registry = TestRegistry::start().expect("docker-registry");
        let image = busybox(image()).push(&registry, "test/busybox", "1").await;
        let table = match runtime.handler {
            "" => String::new(),
            name => format!("[runtime.handlers.{name}]\npath = \"{}\"\nargs = {}\n", runtime.path, runtime.args),
        };
        let agent = Agent::start(&table).await;
        let mut kubelet = Kubelet::new(&agent, &image).await;
        kubelet.handler = runtime.handler.to_owned();
        kubelet.pull(&image).await.unwrap();
        let mut config = kubelet.pod("pod");
        change(&mut config);
        let pod = kubelet.run_pod(&config).await.unwrap();
        Self { _registry: registry, runtime, kubelet, config, pod, agent }
    }

    async fn run(&mut self, name: &str, command: &[&str]) -> String {
        self.try_run(name, command, |_| {}).await.unwrap()
    }

    async fn try_run(
        &mut self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<String, tonic::Status> {
        let mut spec = self.kubelet.container(name, command);
        change(&mut spec);
        self.kubelet.run(&self.pod, spec, &self.config).await
    }

    fn log(&self, name: &str) -> Vec<String> {
        self.kubelet.log("pod", name).into_iter().map(|(stream, tag, text)| format!("{stream} {tag} {text}")).collect()
    }

    /// Waits until the log has this many lines.
    async fn log_of(&self, name: &str, lines: usize) -> Vec<String> {
        eventually(|| Some(self.log(name)).filter(|log| log.len() >= lines)).await
    }

    async fn end(mut self) {
        self.kubelet.end_pod(&self.pod).await;
        self.assert_clean().await;
    }

    /// crun makes directories in what hides the second hierarchy from it, too: these are files of the test's own.
    async fn assert_clean(&self) {
        let hidden = Path::new("/sys/fs/cgroup/unified").join(self.agent.cgroup().trim_start_matches('/'));
        if self.runtime.handler == "crun" && hidden.exists() {
            std::fs::remove_dir_all(hidden).unwrap();
        }
        self.agent.assert_clean().await;
    }
}

/// What `look` finds, within some seconds.
async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "what was waited for does not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs a scenario with one runtime, where the machine has it.
fn scenario<F: Future<Output = ()>>(runtime: Runtime, test: impl FnOnce(Runtime) -> F) {
    name_ours();
    if !runtime.path.is_empty() && !Path::new(runtime.path).exists() {
        eprintln!("skipped: there is no {}", runtime.path);
        return;
    }
    in_netns(|| async {
        if runtime.handler == "crun" {
            hide_second_hierarchy();
        }
        test(runtime).await;
    });
}

/// Gives our program its other name. Tests run side by side, so the link is made aside and renamed.
fn name_ours() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let link = Path::new(OURS.path);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        let aside = link.with_extension(std::process::id().to_string());
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_orlop"), &aside).unwrap();
        std::fs::rename(aside, link).unwrap();
    });
}

/// crun takes no machine that has both v1 controllers and a v2 hierarchy with controllers: the latter is hidden from this
/// thread and all that it starts.
fn hide_second_hierarchy() {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if !unified.exists() {
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
    mount("none", &unified, "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::SHARED).unwrap();
}

/// Each scenario with each runtime.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        scenarios!(built_in BUILT_IN: $($name),*);
        scenarios!(runc RUNC: $($name),*);
        scenarios!(crun CRUN: $($name),*);
        scenarios!(ours OURS: $($name),*);
    };
    ($module:ident $runtime:ident: $($name:ident),*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::scenario(super::$runtime, super::$name);
                }
            )*
        }
    };
}

scenarios!(
    a_container_lives,
    exit_codes_and_signals_are_told,
    commands_run_in_a_container,
    a_terminal_is_one,
    stop_signals_come_before_the_kill,
    logs_go_on_in_another_file,
    memory_has_an_end,
    a_pod_shares_what_it_shares,
    rights_are_those_of_the_request,
    an_agent_finds_its_containers_again,
    a_dead_shim_takes_all_along,
    what_cannot_run_says_why,
);

async fn a_container_lives(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    // The trap first: a signal that the first process of a PID namespace does not handle is lost.
    let script = "trap 'exit 7' TERM; echo out; echo err >&2; hostname; id -u; cat /etc/hostname; touch /written; \
                  while true; do sleep 0.1; done";
    let id = rig.run("main", &["sh", "-c", script]).await;
    let status = rig.kubelet.status(&id).await.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    let mut log = rig.log_of("main", 5).await;
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F 0", "stdout F out", "stdout F pod", "stdout F pod"]);
    let stats = v1::ContainerStatsRequest { container_id: id.clone() };
    let stats = rig.kubelet.runtime.container_stats(stats).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert!(stats.writable_layer.unwrap().inodes_used.unwrap().value > 0);
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid_of(&rig, &id).await)).unwrap();
    assert!(cgroups.contains(&format!("{}/{id}", rig.config.linux.as_ref().unwrap().cgroup_parent)), "{cgroups}");
    rig.kubelet.stop(&id, 10).await.unwrap();
    let ended = rig.kubelet.status(&id).await.unwrap();
    assert_eq!((ended.state(), ended.exit_code), (v1::ContainerState::ContainerExited, 7));
    assert!(ended.started_at > 0 && ended.finished_at >= ended.started_at);
    // Nothing of it is left but its record, though the pod goes on.
    let bundle = rig.agent.dir.join("run/pods").join(&rig.pod).join("bundles").join(&id);
    eventually(|| (!bundle.exists()).then_some(())).await;
    rig.kubelet.remove(&id).await.unwrap();
    rig.end().await;
}

async fn pid_of(rig: &Rig, id: &str) -> u64 {
    let mut runtime = rig.kubelet.runtime.clone();
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let info = runtime.container_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    info["pid"].as_u64().unwrap()
}

async fn exit_codes_and_signals_are_told(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    for (n, (script, code, reason)) in
        [("true", 0, "Completed"), ("exit 3", 3, "Error"), ("kill -9 $$; sleep 9", 137, "Error")]
            .into_iter()
            .enumerate()
    {
        // Of a PID namespace of its own no signal kills the first process from inside: so by way of a child.
        let command = if code == 137 { "sh -c 'kill -9 $$'; exit $?" } else { script };
        let id = rig.run(&format!("c{n}"), &["sh", "-c", command]).await;
        let ended = rig.kubelet.ended(&id).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (code, reason), "{script}");
    }
    let id = rig.run("killed", &["sleep", "1000"]).await;
    let pid = i32::try_from(pid_of(&rig, &id).await).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(rig.kubelet.ended(&id).await.exit_code, 137);
    // What ends at once, many times over: no exit is lost.
    for n in 0..5 {
        let id = rig.run(&format!("quick{n}"), &["sh", "-c", "exit 5"]).await;
        assert_eq!(rig.kubelet.ended(&id).await.exit_code, 5);
    }
    rig.end().await;
}

async fn commands_run_in_a_container(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let id = rig.try_run("main", &["sleep", "1000"], |spec| {
        spec.envs = vec![v1::KeyValue { key: "KEY".into(), value: "value of it".into() }];
        spec.working_dir = "/var/www".into();
    });
    let id = id.await.unwrap();
    let (exit, out, err) = rig.kubelet.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 4"]).await.unwrap();
    assert_eq!((exit, out.as_str(), err.as_str()), (4, "out\n", "err\n"));
    assert_eq!(rig.kubelet.sh(&id, "echo $KEY; pwd; hostname").await, "value of it\n/var/www\npod");
    let began = Instant::now();
    let late = rig.kubelet.exec_for(&id, &["sleep", "54322"], 1).await;
    assert_eq!(code(late), Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(rig.kubelet.sh(&id, "ps | grep -c '[s]leep 54322' || true").await, "0");
    let missing = rig.kubelet.exec(&id, &["no-such-program"]).await.expect_err("there is no such program");
    assert!(missing.message().contains("no-such-program"), "{missing}");
    for n in 0..5 {
        assert_eq!(rig.kubelet.exec(&id, &["sh", "-c", &format!("exit {n}")]).await.unwrap().0, n);
    }
    let big = rig.kubelet.exec(&id, &["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"]).await.unwrap();
    assert_eq!(big.1.len(), 1_000_000);
    rig.end().await;
}

async fn a_terminal_is_one(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let script = "tty >/dev/null && echo terminal; test -t 0 -a -t 1 -a -t 2 && echo all; sleep 1000";
    let id = rig.try_run("main", &["sh", "-c", script], |spec| spec.tty = true).await.unwrap();
    let log = rig.log_of("main", 2).await;
    assert_eq!(log, ["stdout F terminal", "stdout F all"]);
    rig.kubelet.stop(&id, 0).await.unwrap();
    assert_eq!(rig.kubelet.status(&id).await.unwrap().exit_code, 137);
    rig.end().await;
}

async fn stop_signals_come_before_the_kill(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let deaf = rig.run("deaf", &["sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done"]).await;
    let other =
        rig.try_run("other", &["sh", "-c", "trap 'exit 9' USR1; echo ready; while true; do sleep 0.1; done"], |spec| {
            spec.stop_signal = v1::Signal::Sigusr1.into();
        });
    let other = other.await.unwrap();
    rig.log_of("deaf", 1).await;
    rig.log_of("other", 1).await;
    let began = Instant::now();
    rig.kubelet.stop(&deaf, 1).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(rig.kubelet.status(&deaf).await.unwrap().exit_code, 137);
    rig.kubelet.stop(&other, 10).await.unwrap();
    assert_eq!(rig.kubelet.status(&other).await.unwrap().exit_code, 9);
    // Again, and without any grace.
    rig.kubelet.stop(&deaf, 1).await.unwrap();
    let last = rig.run("last", &["sleep", "1000"]).await;
    rig.kubelet.stop(&last, 0).await.unwrap();
    assert_eq!(rig.kubelet.status(&last).await.unwrap().exit_code, 137);
    rig.end().await;
}

async fn logs_go_on_in_another_file(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let id = rig
        .run("main", &["sh", "-c", "echo one; while ! test -e /tmp/go; do sleep 0.05; done; echo two; sleep 1000"])
        .await;
    rig.log_of("main", 1).await;
    let path = rig.agent.dir.join("logs/pod/main.log");
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
    rig.kubelet.runtime.reopen_container_log(request).await.unwrap();
    rig.kubelet.sh(&id, "touch /tmp/go").await;
    assert_eq!(rig.log_of("main", 1).await, ["stdout F two"]);
    assert!(std::fs::read_to_string(path.with_extension("old")).unwrap().ends_with("stdout F one\n"));
    rig.end().await;
}

async fn memory_has_an_end(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let limited = |spec: &mut v1::ContainerConfig| {
        let limits = v1::LinuxContainerResources {
            memory_limit_in_bytes: 24 << 20,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            oom_score_adj: 500,
            ..Default::default()
        };
        spec.linux.as_mut().unwrap().resources = Some(limits);
    };
    let id = rig.try_run("main", &["sleep", "1000"], limited).await.unwrap();
    assert_eq!(rig.kubelet.sh(&id, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj").await, "500\n500");
    let stats = v1::ContainerStatsRequest { container_id: id.clone() };
    let stats = rig.kubelet.runtime.container_stats(stats).await.unwrap().into_inner().stats.unwrap();
    let available = stats.memory.unwrap().available_bytes.unwrap().value;
    assert!(available > 0 && available <= 24 << 20, "{available}");
    // tail keeps a line, however long.
    let id = rig.try_run("eats", &["sh", "-c", "exec tail /dev/zero"], limited).await.unwrap();
    let ended = rig.kubelet.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
    rig.end().await;
}

async fn a_pod_shares_what_it_shares(runtime: Runtime) {
    let pod_pids = |config: &mut v1::PodSandboxConfig| {
        let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        linux.namespace_options.as_mut().unwrap().pid = v1::NamespaceMode::Pod.into();
    };
    let mut rig = Rig::new(runtime, pod_pids).await;
    let in_pids = |mode: v1::NamespaceMode, target: &str| {
        let target = target.to_owned();
        move |spec: &mut v1::ContainerConfig| {
            let options = security(spec).namespace_options.as_mut().unwrap();
            options.pid = mode.into();
            options.target_id = target;
        }
    };
    let sleep = ["sleep", "1000"];
    let own = rig.try_run("own", &sleep, in_pids(v1::NamespaceMode::Container, "")).await.unwrap();
    let one = rig.try_run("one", &sleep, in_pids(v1::NamespaceMode::Pod, "")).await.unwrap();
    let two = rig.try_run("two", &sleep, in_pids(v1::NamespaceMode::Pod, "")).await.unwrap();
    let target = rig.try_run("target", &sleep, in_pids(v1::NamespaceMode::Target, &own)).await.unwrap();
    let host = rig.try_run("host", &sleep, in_pids(v1::NamespaceMode::Node, "")).await.unwrap();
    let shared = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; readlink /proc/self/ns/net";
    let (a, b) = (rig.kubelet.sh(&one, shared).await, rig.kubelet.sh(&own, shared).await);
    assert_eq!(a, b);
    for kind in ["ipc", "uts", "net"] {
        let of_host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(!a.contains(of_host.to_str().unwrap()), "{kind} is the host's");
    }
    let pids = "readlink /proc/self/ns/pid";
    let (own_pids, pod_pids) = (rig.kubelet.sh(&own, pids).await, rig.kubelet.sh(&one, pids).await);
    assert_eq!(rig.kubelet.sh(&two, pids).await, pod_pids);
    assert_eq!(rig.kubelet.sh(&target, pids).await, own_pids);
    assert_ne!(own_pids, pod_pids);
    assert_eq!(rig.kubelet.sh(&host, pids).await, std::fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap());
    rig.kubelet.sh(&one, "echo shared > /dev/shm/x").await;
    assert_eq!(rig.kubelet.sh(&own, "cat /dev/shm/x").await, "shared");
    assert_eq!(rig.kubelet.sh(&one, "cat /sys/class/net/lo/operstate; ls /sys/class/net | wc -l").await, "unknown\n2");
    // A container that leaves processes in a shared namespace takes them along when it ends.
    let leaves = rig.try_run("leaves", &["sh", "-c", "sleep 54321 & exit 0"], in_pids(v1::NamespaceMode::Pod, ""));
    let leaves = leaves.await.unwrap();
    rig.kubelet.ended(&leaves).await;
    // They are killed before the end is told, and gone a moment later.
    let gone = "for i in $(seq 50); do ps | grep -q '[s]leep 54321' || exit 0; sleep 0.1; done; exit 1";
    assert_eq!(rig.kubelet.exec(&one, &["sh", "-c", gone]).await.unwrap().0, 0);
    rig.end().await;
}

async fn rights_are_those_of_the_request(runtime: Runtime) {
    let privileged_pod = |config: &mut v1::PodSandboxConfig| {
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    };
    let mut rig = Rig::new(runtime, privileged_pod).await;
    let status =
        "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status | awk '{print $2}' | tr '\\n' ' '";
    let tight = |spec: &mut v1::ContainerConfig| {
        let security = security(spec);
        security.no_new_privs = true;
        security.capabilities = Some(v1::Capability {
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        });
        security.seccomp = Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
        security.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
        security.readonly_paths = vec!["/proc/sys".into()];
        security.readonly_rootfs = true;
    };
    let id = rig.try_run("tight", &["sleep", "1000"], tight).await.unwrap();
    let expected = "0000000000000000 0000000000001000 0000000000001000 0000000000001000 1 2";
    assert_eq!(rig.kubelet.sh(&id, status).await.trim(), expected);
    assert_eq!(rig.kubelet.sh(&id, &status.replace("/proc/1/", "/proc/self/")).await.trim(), expected);
    let (exit, _, _) = rig.kubelet.exec(&id, &["unshare", "-U", "true"]).await.unwrap();
    assert_ne!(exit, 0, "RuntimeDefault forbids new user namespaces");
    for script in ["echo 1 > /proc/sys/kernel/panic", "touch /x"] {
        assert_ne!(rig.kubelet.exec(&id, &["sh", "-c", script]).await.unwrap().0, 0, "{script}");
    }
    assert_eq!(rig.kubelet.sh(&id, "cat /proc/kcore | wc -c").await, "0");
    let web = |spec: &mut v1::ContainerConfig| {
        security(spec).run_as_username = "web".into();
        spec.devices = vec![v1::Device {
            container_path: "/dev/noise".into(),
            host_path: "/dev/urandom".into(),
            permissions: "r".into(),
        }];
    };
    let id = rig.try_run("web", &["sleep", "1000"], web).await.unwrap();
    assert_eq!(rig.kubelet.sh(&id, "id -u; id -G; head -c 4 /dev/noise | wc -c").await, "1000\n1000 2000\n4");
    let id = rig.try_run("privileged", &["sleep", "1000"], |spec| security(spec).privileged = true).await.unwrap();
    assert_eq!(rig.kubelet.sh(&id, "test -c /dev/kmsg && mount -t tmpfs x /tmp && echo yes").await, "yes");
    // Where the machine does not allow it, as near as it comes.
    let guaranteed = |spec: &mut v1::ContainerConfig| {
        let resources = v1::LinuxContainerResources { oom_score_adj: -997, ..Default::default() };
        spec.linux.as_mut().unwrap().resources = Some(resources);
    };
    let id = rig.try_run("guaranteed", &["sleep", "1000"], guaranteed).await.unwrap();
    let score: i32 = rig.kubelet.sh(&id, "cat /proc/1/oom_score_adj").await.parse().unwrap();
    assert!((-997..=0).contains(&score), "{score}");
    rig.end().await;
}

async fn an_agent_finds_its_containers_again(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let stays = rig.run("stays", &["sh", "-c", "trap 'exit 6' TERM; echo up; while true; do sleep 0.1; done"]).await;
    let ends = rig.run("ends", &["sh", "-c", "while ! test -e /tmp/go; do sleep 0.05; done; exit 8"]).await;
    let made = rig.kubelet.container("made", &["sleep", "1000"]);
    let made = rig.kubelet.create(&rig.pod.clone(), made, &rig.config.clone()).await.unwrap();
    rig.log_of("stays", 1).await;
    let pid = pid_of(&rig, &ends).await;
    rig.kubelet.sh(&ends, "touch /tmp/go").await;
    rig.agent.kill();
    eventually(|| (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).await;
    rig.agent.spawn().await;
    rig.kubelet.reconnect(&rig.agent).await;
    let status = rig.kubelet.pod_status(&rig.pod.clone()).await.unwrap().status.unwrap();
    assert_eq!((status.state(), status.runtime_handler.as_str()), (v1::PodSandboxState::SandboxReady, runtime.handler));
    assert_eq!(rig.kubelet.status(&stays).await.unwrap().state(), v1::ContainerState::ContainerRunning);
    assert_eq!(rig.kubelet.ended(&ends).await.exit_code, 8);
    rig.kubelet.start(&made).await.unwrap();
    assert_eq!(rig.kubelet.sh(&stays, "echo here").await, "here");
    rig.kubelet.stop(&stays, 10).await.unwrap();
    assert_eq!(rig.kubelet.status(&stays).await.unwrap().exit_code, 6);
    // The handler is taken out of the configuration: what it has made can still be removed.
    let file = rig.agent.dir.join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.split("[runtime.handlers").next().unwrap()).unwrap();
    rig.agent.restart().await;
    rig.kubelet.reconnect(&rig.agent).await;
    assert_eq!(rig.kubelet.sh(&made, "echo here").await, "here");
    rig.end().await;
}

async fn a_dead_shim_takes_all_along(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let id = rig.run("main", &["sleep", "1000"]).await;
    let pid = pid_of(&rig, &id).await;
    end_shim(&rig.pod);
    let ended = rig.kubelet.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (255, "Unknown"));
    eventually(|| (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).await;
    let status = rig.kubelet.pod_status(&rig.pod.clone()).await.unwrap().status.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    rig.kubelet.end_pod(&rig.pod.clone()).await;
    rig.assert_clean().await;
    // The same with nobody there to see it.
    rig.config = rig.kubelet.pod("pod2");
    rig.pod = rig.kubelet.run_pod(&rig.config).await.unwrap();
    let id = rig.run("main2", &["sleep", "1000"]).await;
    let pid = pid_of(&rig, &id).await;
    rig.agent.kill();
    end_shim(&rig.pod);
    rig.agent.spawn().await;
    rig.kubelet.reconnect(&rig.agent).await;
    assert_eq!(rig.kubelet.ended(&id).await.reason, "Unknown");
    eventually(|| (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).await;
    rig.end().await;
}

async fn what_cannot_run_says_why(runtime: Runtime) {
    let mut rig = Rig::new(runtime, |_| {}).await;
    let config = rig.kubelet.container("missing", &["/no/such/program"]);
    let id = rig.kubelet.create(&rig.pod.clone(), config, &rig.config.clone()).await.unwrap();
    let failed = rig.kubelet.start(&id).await.expect_err("there is no such program");
    assert!(failed.message().contains("/no/such/program"), "{failed}");
    if !runtime.handler.is_empty() {
        let named = format!("runtime handler \"{}\" ({} create)", runtime.handler, runtime.path);
        assert!(failed.message().contains(&named), "{failed}");
    }
    let ended = rig.kubelet.status(&id).await.unwrap();
    assert_eq!(
        (ended.state(), ended.exit_code, ended.reason.as_str()),
        (v1::ContainerState::ContainerExited, 128, "StartError")
    );
    assert!(ended.message.contains("/no/such/program"), "{}", ended.message);
    // The pod is none the worse for it.
    let id = rig.run("good", &["sleep", "1000"]).await;
    rig.kubelet.sh(&id, "true").await;
    rig.kubelet.handler = "unknown".into();
    let other = rig.kubelet.pod("other");
    let refused = rig.kubelet.run_pod(&other).await.expect_err("there is no such handler");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("unknown"), "{refused}");
    rig.end().await;
}

#[test]
fn handlers_are_listed_with_what_they_can_do() {
    name_ours();
    in_netns(|| async {
        let table = |runtime: Runtime| {
            format!("[runtime.handlers.{}]\npath = \"{}\"\nargs = {}\n", runtime.handler, runtime.path, runtime.args)
        };
        let installed = |runtime: &Runtime| Path::new(runtime.path).exists();
        let tables: Vec<String> = [RUNC, CRUN, OURS].into_iter().filter(installed).map(table).collect();
        let agent = Agent::start(&tables.concat()).await;
        let mut runtime = agent.runtime().await;
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let status = runtime.status(v1::StatusRequest { verbose: false }).await.unwrap().into_inner();
            let of = |name: &str| {
                let found = status.runtime_handlers.iter().find(|handler| handler.name == name)?;
                found.features.map(|features| (features.recursive_read_only_mounts, features.user_namespaces))
            };
            assert_eq!((of(""), of("orlop")), (Some((true, false)), Some((true, false))));
            // Debian's crun has no verb `features`; what it does not say, it cannot do.
            assert_eq!(of("crun"), installed(&CRUN).then_some((false, false)));
            // runc is asked in the background.
            if of("ours") == Some((true, false)) && (!installed(&RUNC) || of("runc") == Some((true, false))) {
                return;
            }
            assert!(Instant::now() < deadline, "{:?} {:?}", of("runc"), of("ours"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn read_only_mounts_are_recursive_where_the_runtime_says_so() {
    scenario(CRUN, |runtime| async move {
        let mut rig = Rig::new(runtime, |_| {}).await;
        let refused = rig.try_run("main", &["sleep", "1000"], |spec| {
            spec.mounts = vec![v1::Mount {
                host_path: "/etc".into(),
                container_path: "/host".into(),
                readonly: true,
                recursive_read_only: true,
                ..Default::default()
            }];
        });
        let refused = refused.await.expect_err("crun does not say that it can");
        assert!(refused.message().starts_with("RROUnsupported"), "{refused}");
        assert_eq!(rig.runtime.handler, "crun");
        rig.end().await;
    });
}
