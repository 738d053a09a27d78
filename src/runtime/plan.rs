//! What a container or an exec is to be, with every decision taken: plain data for [`super::execute`].
//!
//! A plan is written by [`super::compile`] in the agent, encoded with postcard, put into a memfd, and decoded by the
//! forked child that carries it out. The parent of that fork needs only the [`SpawnHeader`]. Paths, names and values
//! are bytes, since nothing on Linux makes them UTF-8; none contains a NUL byte (compile refuses it).

use serde::{Deserialize, Serialize};

/// A path as the kernel has it: bytes without NUL.
pub type PathBytes = Vec<u8>;

/// What the parent of the fork must know, and all that it must know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnHeader {
    /// `CLONE_NEW*` flags for clone3: the namespaces that the child gets new. Never `CLONE_NEWCGROUP`: a new cgroup
    /// namespace is rooted where its maker is, so the child makes it after it has entered its cgroups.
    pub clone_flags: u64,
    /// Enter the PID namespace of [`Attached::pid_namespace`](super::execute::Attached), or of the exec's target.
    pub join_pid_namespace: bool,
    /// clone3 puts the child into [`Attached::cgroup_dir`](super::execute::Attached).
    pub into_cgroup: bool,
}

/// How a process gets into its cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupEntry {
    /// It stays in its parent's.
    #[default]
    None,
    /// By clone3, through the directory that the parent holds.
    V2,
    /// The child writes `0` to each of these `tasks` files of the host.
    V1 { tasks: Vec<PathBytes> },
}

/// The decoded content of a plan's memfd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plan {
    Launch(Box<LaunchPlan>),
    Exec(Box<ExecPlan>),
}

/// A new container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    pub cgroup: CgroupEntry,
    /// Make a cgroup namespace once inside the cgroups.
    pub new_cgroup_namespace: bool,
    /// Namespaces that are entered by path, in this order; the user namespace is in `user`.
    pub join: Vec<JoinNamespace>,
    /// Devices of the caller's network namespace that move into the container's.
    pub net_devices: Vec<NetDevicePlan>,
    /// The network namespace is made by the child, which must reach that of its caller before: there are
    /// [`Self::net_devices`].
    pub new_network_namespace: bool,
    /// A user namespace that is not the caller's. The forked child is a stager then, which clones the container's init.
    pub user: Option<UserPlan>,
    /// A new time namespace.
    pub time: Option<TimePlan>,
    /// Set in the child's UTS namespace.
    pub hostname: Option<Vec<u8>>,
    pub domainname: Option<Vec<u8>>,
    pub root: RootPlan,
    /// In order.
    pub mounts: Vec<MountStep>,
    pub devices: Vec<DevicePlan>,
    /// (link, target), made when the link is not there, after the mounts.
    pub symlinks: Vec<(PathBytes, Vec<u8>)>,
    /// The pseudo terminal is also bound over /dev/console.
    pub bind_console: bool,
    /// Below /proc/sys, with slashes ("net/ipv4/ip_forward"), and the value.
    pub sysctls: Vec<(PathBytes, Vec<u8>)>,
    pub masked: Vec<PathBytes>,
    /// The SELinux label of what masked directories are covered with.
    pub mount_label: Option<Vec<u8>>,
    pub readonly: Vec<PathBytes>,
    /// Flags that mounts get when everything that goes into them is there.
    pub late_changes: Vec<(PathBytes, MountFlags)>,
    pub hooks: HooksPlan,
    pub process: ProcessPlan,
}

/// What is run around the making of a container, seen from its child.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksPlan {
    /// The caller of the executor has hooks of its own to run (prestart, createRuntime): the child reports
    /// [`Report::Hooks`](super::execute::Report::Hooks) when the file system is made, and waits to be told to go on.
    pub pause: bool,
    /// Run by the child before it leaves the host's file systems.
    pub create_container: Vec<HookPlan>,
    /// Run by the child as what its program will be, right before that.
    pub start_container: Vec<HookPlan>,
    /// The state that they are given: a JSON object that has neither status, pid nor its closing brace yet.
    pub state: Vec<u8>,
}

/// A program that is run at a point in the life of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// Absolute.
    pub path: PathBytes,
    /// The name it is run under first; none: its path.
    pub args: Vec<Vec<u8>>,
    /// `NAME=value`: all that it gets.
    pub env: Vec<Vec<u8>>,
    /// Seconds after which it is killed.
    pub timeout: Option<u32>,
}

/// A process more in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub cgroup: CgroupEntry,
    /// `CLONE_NEW*` flags of the namespaces of the target that are entered. The PID namespace is entered by the parent
    /// of the fork ([`SpawnHeader::join_pid_namespace`]); with a user namespace it is among these.
    pub namespaces: u32,
    pub process: ProcessPlan,
}

/// A namespace that is entered by its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinNamespace {
    /// One `CLONE_NEW*` flag.
    pub kind: u32,
    pub path: PathBytes,
}

/// A network device that moves into the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDevicePlan {
    /// In the caller's network namespace.
    pub host_name: String,
    /// In the container's; with `%d` in it the kernel finds a number.
    pub name: String,
}

/// The user namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPlan {
    /// The one to enter; `None`: a new one.
    pub path: Option<PathBytes>,
    /// What a new one gets. One that is entered must have exactly these, unless there are none.
    pub maps: IdMaps,
    /// `CLONE_NEW*` flags of what is made together with it, and then belongs to it; with `CLONE_NEWUSER` for a new one.
    pub new_namespaces: u64,
    /// newuidmap(1) and newgidmap(1), for a caller that may map no more than its own ids.
    pub tools: Option<(PathBytes, PathBytes)>,
}

/// How ids inside of a user namespace are those outside of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

/// One line of /proc/self/uid_map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

/// A new time namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimePlan {
    pub offsets: Vec<TimeOffset>,
}

/// What is added to a clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffset {
    /// "monotonic" or "boottime".
    pub clock: String,
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// The root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    pub source: RootSource,
    pub readonly: bool,
    /// Move the root over the host's and chroot(2) to it, where pivot_root(2) is not possible (an initial ramdisk).
    pub no_pivot: bool,
    /// What the child makes of its copy of the host's mounts before it mounts anything: `MS_SLAVE` or `MS_PRIVATE`.
    pub host_propagation: u32,
    /// Propagation of the finished root, an `MS_*` type with or without `MS_REC`; 0: as it is.
    pub propagation: u32,
}

/// Where the root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootSource {
    /// A directory of the host, bound with what is mounted below it.
    Directory(PathBytes),
    /// An overlay that lives in the container's mount namespace only.
    Overlay {
        /// Topmost first. At least one.
        lowers: Vec<PathBytes>,
        /// Where changes go. On the same file system as `work`.
        upper: PathBytes,
        work: PathBytes,
        /// No sync at unmount: what the container wrote is lost with the power.
        volatile: bool,
        /// More options of overlayfs, as key and value.
        options: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    },
}

impl Default for RootSource {
    fn default() -> Self {
        Self::Directory(Vec::new())
    }
}

/// One step in building the tree below the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountStep {
    Mount(MountPlan),
    /// A symbolic link in a file system that an earlier step mounted.
    Symlink {
        path: PathBytes,
        target: Vec<u8>,
    },
    /// Other flags for what is mounted at `path` already ("remount", and read-only after it was filled).
    Change {
        path: PathBytes,
        flags: MountFlags,
        /// Options of the super block, that change for all who see it.
        options: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    },
}

/// A mount: made before the root is entered, attached after, so that no path of the image is resolved while the host
/// is in reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Inside the container. Missing directories (or the missing file, for a file's bind) are made.
    pub target: PathBytes,
    pub source: MountSource,
    pub flags: MountFlags,
    /// It must not be reached through a symbolic link: /proc and /sys.
    pub plain: bool,
    /// It may cover something of a procfs.
    pub over_proc: bool,
    /// What the image has at `target` is copied into the new file system.
    pub copy_up: bool,
    /// The SELinux label that the root of the new file system gets, as it takes no option for that.
    pub label: Option<Vec<u8>>,
    /// Owners of files are seen through a mapping.
    pub idmap: Option<MountIdMap>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host.
    Bind { path: PathBytes, recursive: bool },
    /// A new file system.
    Filesystem {
        kind: Vec<u8>,
        source: Vec<u8>,
        /// Options of the super block, as key and value, the generic ones ("ro", "sync", "dirsync") among them.
        options: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        /// tmpfs without `mode`: that of the directory it covers.
        inherit_mode: bool,
        /// If this kernel or this namespace refuses: bind this path of the host instead.
        fallback: Option<PathBytes>,
    },
    /// The tree that the caller of the executor passes ([`Attached::shm`](super::execute::Attached)).
    Attached,
}

impl Default for MountSource {
    fn default() -> Self {
        Self::Bind { path: Vec::new(), recursive: false }
    }
}

/// An id-mapped mount: an id on disk is the `inside` of a range, and the `outside` is what the kernel sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdMap {
    /// What is mounted below it too.
    pub recursive: bool,
    /// `None`: as the container's user namespace has it.
    pub maps: Option<IdMaps>,
}

/// Flags of a mount, as mount_setattr(2) takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFlags {
    /// `MOUNT_ATTR_*` for the mount itself.
    pub set: u64,
    pub clear: u64,
    /// The same for it and all below it.
    pub recursive_set: u64,
    pub recursive_clear: u64,
    /// `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE`, with or without `MS_REC`, in this order of application.
    pub propagation: [u32; 4],
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    pub path: PathBytes,
    /// File type and permissions as mknod(2) takes them.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bind this node of the host, as nodes cannot be made here.
    pub bind: Option<PathBytes>,
    /// A default device: a node that is there already is left alone if it is the right one.
    pub default: bool,
}

/// The process, for a container as for an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// None where the configuration has no process: the container can be created, not started. `args[0]` is looked up in
    /// the `PATH` of `env` when it has no slash.
    pub args: Vec<Vec<u8>>,
    /// `NAME=value`, each name once.
    pub env: Vec<Vec<u8>>,
    /// `env` has no HOME, or an empty one: it is taken from /etc/passwd of the container.
    pub default_home: bool,
    /// Absolute; made when missing.
    pub cwd: PathBytes,
    pub uid: u32,
    pub gid: u32,
    /// Exactly these.
    pub groups: Vec<u32>,
    pub umask: u32,
    /// The session keyring of this name, made when there is none; `None`: the parent's.
    pub keyring: Option<Vec<u8>>,
    pub capabilities: CapabilitySets,
    pub no_new_privileges: bool,
    /// `tasks` files of resctrl that it writes `0` to, to be in their groups.
    pub resctrl: Vec<PathBytes>,
    /// The AppArmor profile of the program.
    pub apparmor: Option<Vec<u8>>,
    /// The SELinux label of the program, and of the keys that are made for it.
    pub selinux: Option<Vec<u8>>,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    pub scheduler: Option<SchedulerPlan>,
    /// As ioprio_set(2) takes it: the class above bit 13, and the priority in it.
    pub io_priority: Option<u32>,
    /// As personality(2) takes it.
    pub personality: Option<u64>,
    pub memory_policy: Option<MemoryPolicyPlan>,
    /// The CPUs that it runs on once it is in its cgroups, as sched_setaffinity(2) takes them; empty: as it comes.
    pub cpus: Vec<u64>,
    pub seccomp: Option<SeccompPlan>,
    pub terminal: Option<TerminalPlan>,
    /// Killed when its parent dies: that of a shim must not outlive it. A set-user-ID program sheds this.
    pub die_with_parent: bool,
}

/// Bit n is capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// As set_mempolicy(2) takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicyPlan {
    /// `MPOL_*` with `MPOL_F_*`.
    pub mode: u32,
    /// Bit n of word m is node 64 m + n.
    pub nodes: Vec<u64>,
}

/// `struct sched_attr` of sched_setattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerPlan {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`; so are the next two.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// A compiled filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompPlan {
    /// `struct sock_filter` after `struct sock_filter`, in this machine's byte order.
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Some of its calls wait for the word of an agent.
    pub listener: Option<ListenerPlan>,
}

/// An agent that decides on system calls: it gets the filter's listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerPlan {
    /// Its Unix socket, as the runtime sees it.
    pub path: PathBytes,
    /// What the profile wants it to be told.
    pub metadata: String,
    /// `ContainerProcessState` as JSON, in pieces: between every two comes the process id as the runtime sees it.
    pub message: Vec<Vec<u8>>,
}

/// Size in characters; zero: the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalPlan {
    pub rows: u16,
    pub columns: u16,
}

impl IdRange {
    /// The id outside that `id` is.
    pub fn outside(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.inside).filter(|offset| *offset < self.size)?;
        self.outside.checked_add(offset)
    }
}

impl IdMaps {
    /// The user outside that a user inside is.
    pub fn uid(&self, inside: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.outside(inside))
    }

    /// The group outside that a group inside is.
    pub fn gid(&self, inside: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.outside(inside))
    }

    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }
}

impl Plan {
    /// The bytes for the memfd.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_allocvec(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}
