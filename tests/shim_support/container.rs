//! Containers with busybox, as plain as they can be.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use orlop::runtime::plan::{
    CapabilitySets, DevicePlan, ExecPlan, LaunchPlan, MountFlags, MountPlan, MountSource, MountStep, Plan, ProcessPlan,
    RootPlan, RootSource, SpawnHeader, TerminalPlan,
};
use orlop::shim::client::{ContainerIo, ExecIo, ExecRequest, ExecStarted, ShimError, StartRequest, Started};

use super::Pod;

const BUSYBOX: &str = "/bin/busybox";

/// A root file system, and the plan of a shell in it.
pub struct Box1 {
    pub rootfs: Rc<tempfile::TempDir>,
    pub header: SpawnHeader,
    pub plan: LaunchPlan,
}

/// True if containers can be started; tells why not otherwise.
pub fn busybox() -> bool {
    let there = Path::new(BUSYBOX).exists();
    if !there {
        eprintln!("skipped: needs {BUSYBOX} (package busybox-static)");
    }
    super::root() && there
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

fn filesystem(kind: &str, target: &str, options: &[(&str, &str)]) -> MountStep {
    let value = |v: &str| (!v.is_empty()).then(|| v.as_bytes().to_vec());
    let options = options.iter().map(|(k, v)| (k.as_bytes().to_vec(), value(v))).collect();
    let (kind, source) = (kind.as_bytes().to_vec(), kind.as_bytes().to_vec());
    let source = MountSource::Filesystem { kind, source, options, inherit_mode: false, fallback: None };
    let flags = MountFlags::default();
    MountStep::Mount(MountPlan { target: target.as_bytes().to_vec(), source, flags, ..MountPlan::default() })
}

fn process(script: &str) -> ProcessPlan {
    // CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID: what every root has, on this machine as elsewhere.
    let all = 0b1110_0011;
    ProcessPlan {
        args: ["/bin/sh", "-c", script].map(|arg| arg.as_bytes().to_vec()).to_vec(),
        env: vec![b"PATH=/bin".to_vec(), b"HOME=/".to_vec()],
        cwd: b"/".to_vec(),
        umask: 0o022,
        die_with_parent: true,
        capabilities: CapabilitySets { bounding: all, effective: all, permitted: all, ..CapabilitySets::default() },
        ..ProcessPlan::default()
    }
}

impl Box1 {
    /// A shell that runs `script`, in a PID and a mount namespace of its own.
    pub fn shell(script: &str) -> Self {
        let rootfs = Rc::new(tempfile::tempdir().unwrap());
        for name in ["bin", "proc", "dev", "tmp"] {
            fs::create_dir(rootfs.path().join(name)).unwrap();
        }
        fs::copy(BUSYBOX, rootfs.path().join("bin/busybox")).unwrap();
        for applet in "sh cat ls echo sleep true false seq stty yes head kill readlink hostname dd".split(' ') {
            symlink("busybox", rootfs.path().join("bin").join(applet)).unwrap();
        }
        let source = RootSource::Directory(bytes(rootfs.path()));
        let host_propagation = (libc::MS_SLAVE | libc::MS_REC) as u32;
        let plan = LaunchPlan {
            root: RootPlan { source, host_propagation, ..RootPlan::default() },
            mounts: vec![
                filesystem("proc", "/proc", &[]),
                filesystem("tmpfs", "/dev", &[("mode", "755")]),
                filesystem("devpts", "/dev/pts", &[("newinstance", ""), ("ptmxmode", "0666")]),
            ],
            devices: vec![DevicePlan {
                path: b"/dev/null".to_vec(),
                mode: libc::S_IFCHR | 0o666,
                major: 1,
                minor: 3,
                default: true,
                ..DevicePlan::default()
            }],
            symlinks: vec![(b"/dev/ptmx".to_vec(), b"pts/ptmx".to_vec())],
            process: process(script),
            ..LaunchPlan::default()
        };
        let header =
            SpawnHeader { clone_flags: (libc::CLONE_NEWNS | libc::CLONE_NEWPID) as u64, ..SpawnHeader::default() };
        Self { rootfs, header, plan }
    }

    /// With the pod's /dev/shm.
    pub fn shm(mut self) -> Self {
        let (target, source) = (b"/dev/shm".to_vec(), MountSource::Attached);
        self.plan.mounts.push(MountStep::Mount(MountPlan { target, source, ..MountPlan::default() }));
        self
    }

    pub fn terminal(mut self) -> Self {
        self.plan.process.terminal = Some(TerminalPlan { rows: 24, columns: 80 });
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.rootfs.path().join(name)
    }

    pub async fn start(&self, pod: &Pod, id: &str, io: ContainerIo<'_>) -> Result<Started, ShimError> {
        pod.keep(&self.rootfs);
        let plan = Plan::Launch(Box::new(self.plan.clone())).encode().unwrap();
        let attached =
            |step: &MountStep| matches!(step, MountStep::Mount(mount) if mount.source == MountSource::Attached);
        let shm = self.plan.mounts.iter().any(attached);
        let request = StartRequest { id, header: &self.header, plan: &plan, cgroup: None, pid_of: None, io, shm };
        pod.client.start(request).await
    }

    /// Starts it with a log at `<pod>/<id>.log`.
    pub async fn run(&self, pod: &Pod, id: &str) -> Started {
        let log = open_log(&pod.path(&format!("{id}.log")));
        self.start(pod, id, ContainerIo::Pipes { log: Some(log.as_fd()), stdin: false }).await.unwrap()
    }
}

/// Runs `script` in the container `target`.
pub async fn exec(pod: &Pod, id: &str, target: &str, script: &str, io: ExecIo<'_>) -> Result<ExecStarted, ShimError> {
    let mut process = process(script);
    if let ExecIo::Terminal = io {
        process.terminal = Some(TerminalPlan { rows: 30, columns: 100 });
    }
    let plan = ExecPlan { namespaces: libc::CLONE_NEWNS as u32, process, ..ExecPlan::default() };
    let plan = Plan::Exec(Box::new(plan)).encode().unwrap();
    let header = SpawnHeader { join_pid_namespace: true, ..SpawnHeader::default() };
    pod.client.exec(ExecRequest { id, target, header: &header, plan: &plan, cgroup: None, io }).await
}

pub fn open_log(path: &Path) -> OwnedFd {
    use std::os::unix::fs::OpenOptionsExt;
    fs::File::options().append(true).create(true).mode(0o640).open(path).unwrap().into()
}

/// The records of a log file, without their times.
pub fn records(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}
