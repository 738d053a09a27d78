//! Every setting, its default, its documentation.
//!
//! There is one file, `/etc/orlop/config.toml`, and it may be absent: the defaults below are enough to run. A section
//! of the file is a struct; the doc comment of a field is its documentation, for a reader of the code, for
//! `orlop config default` and for docs/configuration.md alike ([`docs`] takes it from the source).
//!
//! A key that nothing reads is an error with its line, and so is a value that cannot work: [`parse`] finds them all,
//! not only the first.

mod docs;
mod parse;
mod print;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use parse::{ConfigError, Problem};
pub use print::{default_toml, markdown};

use crate::image::unpack::Limits;
use crate::network::NetworkConfig;
use crate::registry::ClientConfig;

/// Where the file is when nobody names another.
pub const DEFAULT_FILE: &str = "/etc/orlop/config.toml";

/// The whole configuration: a field a section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub paths: Paths,
    pub runtime: Runtime,
    pub network: NetworkConfig,
    pub images: Images,
    pub registry: ClientConfig,
    pub metrics: Metrics,
    pub log: Log,
}

/// Where the agent keeps its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// What survives a reboot: images, and the records of pods and containers. On a filesystem that can be the
    /// lower and upper layer of an overlay (ext4, xfs, btrfs).
    pub root: PathBuf,
    /// What does not outlive the machine's uptime: sockets, process ids, namespaces. On a tmpfs.
    pub state: PathBuf,
    /// The Unix socket that answers CRI. `http.sock` beside it answers /metrics, /healthz and /pulls. Both can be
    /// opened by root alone.
    pub socket: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/orlop"),
            state: PathBuf::from("/run/orlop"),
            socket: PathBuf::from("/run/orlop/orlop.sock"),
        }
    }
}

/// Who moves processes between cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// The agent writes to the cgroup filesystem itself.
    #[default]
    Cgroupfs,
    /// The agent asks systemd over D-Bus.
    Systemd,
}

/// How containers are run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Who makes cgroups: `cgroupfs` (the agent itself) or `systemd`, which has a scope for each pod then. The kubelet
    /// learns it through RuntimeConfig and needs no setting of its own. Pods that run keep what they were made with.
    pub cgroup_driver: CgroupDriver,
    /// The cgroup that pods are put into when nobody says where, as those of `orlop run`. A kubelet always says it.
    /// Under systemd it must be a slice, and `orlop.slice` is the default.
    pub cgroup_parent: String,
    /// The seccomp profile behind `RuntimeDefault`: a JSON file in the format of the OCI runtime-spec. Unset: the
    /// profile that is built in.
    /// Example: `"/etc/orlop/seccomp.json"`
    pub seccomp_profile: Option<PathBuf>,
    /// Sysctls of every pod that has a network namespace of its own; what the pod asks for goes before these. The
    /// defaults let a process without privileges use low ports and ping.
    pub default_sysctls: BTreeMap<String, String>,
    /// What a RuntimeClass may name as its handler: a table each. The handlers "" and "orlop" are always there, and mean
    /// the runtime that is built in.
    pub handlers: BTreeMap<String, Handler>,
}

/// A runtime handler.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handler {
    /// The program of an external OCI runtime that understands runc's command line (crun, runc, youki, runsc), as
    /// an absolute path. Unset: the runtime that is built in, under one more name.
    pub path: Option<PathBuf>,
    /// Words between the program and its global options, such as options that it always needs.
    pub args: Vec<String>,
    /// Where it keeps the state of its containers. Unset: `handlers/NAME` below `paths.state`, and what no container
    /// claims is removed from there.
    pub root: Option<PathBuf>,
}

/// The parent under cgroupfs, and under systemd.
const PARENTS: [&str; 2] = ["/orlop", "orlop.slice"];

impl Runtime {
    /// The parent of pods for which none is asked, as the driver names it.
    pub fn cgroup_parent(&self) -> &str {
        match self.cgroup_driver {
            CgroupDriver::Systemd if self.cgroup_parent == PARENTS[0] => PARENTS[1],
            _ => &self.cgroup_parent,
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroup_parent: PARENTS[0].to_owned(),
            seccomp_profile: None,
            default_sysctls: BTreeMap::from([
                ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
                ("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned()),
            ]),
            handlers: BTreeMap::new(),
        }
    }
}

/// How images are pulled and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Images that a kubelet is told not to remove, by name; `*` stands for anything (`registry.k8s.io/pause:*`).
    pub pinned: Vec<String>,
    /// Layers that are fetched and unpacked at the same time, over all pulls. 0: one a CPU, at least 3.
    pub parallel_layers: usize,
    /// Bytes that one layer may unpack to; a larger one is refused as a bomb.
    pub max_layer_bytes: u64,
    /// Files and directories that one layer may hold.
    pub max_layer_entries: u64,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            pinned: Vec::new(),
            parallel_layers: 0,
            max_layer_bytes: Limits::default().layer_bytes,
            max_layer_entries: Limits::default().entries,
        }
    }
}

/// Where the agent can be watched. http.sock beside the CRI socket answers the same, always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where /metrics (Prometheus) and /healthz are answered: `host:port`, or empty for nowhere. There is no
    /// authentication, so anything but loopback shows counts and timings of this node to whoever can reach it.
    pub address: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { address: "127.0.0.1:9478".to_owned() }
    }
}

/// How log records look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The agent's own log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How much: `error`, `warn`, `info`, `debug`, `trace`, or more finely as in `info,orlop::network=debug`.
    pub level: String,
    /// `text` for people, `json` for collectors: one object a line.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Config {
    /// Reads `file`; without a name, [`DEFAULT_FILE`] if there is one, and the defaults if not.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong; the error holds every problem with its line.
    pub fn load(file: Option<&std::path::Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(std::path::Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => parse::parse(&path.display().to_string(), &text),
            Err(cause) if file.is_none() && cause.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(ConfigError::Unreadable { file: path.to_owned(), cause }),
        }
    }

    /// Parses the text of a configuration file; `name` is what problems call it.
    ///
    /// # Errors
    /// Holds every problem that was found.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        parse::parse(name, text)
    }

    /// The Unix socket beside the CRI socket that answers HTTP.
    pub fn http_socket(&self) -> PathBuf {
        self.paths.socket.with_file_name("http.sock")
    }

    /// What a type cannot say: the path of the key, and what is wrong with its value.
    fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut refuse = |key: &'static str, why: String| wrong.push((key, why));
        for (key, path) in
            [("paths.root", &self.paths.root), ("paths.state", &self.paths.state), ("paths.socket", &self.paths.socket)]
        {
            if !path.is_absolute() {
                refuse(key, format!("\"{}\" is not an absolute path", path.display()));
            }
        }
        // sockaddr_un has 108 bytes, the last of them a zero, and the file beside it has a longer name for a moment.
        if self.paths.socket.as_os_str().len() > 103 {
            refuse("paths.socket", "a path of a socket has 103 bytes at most".to_owned());
        }
        if self.paths.root == self.paths.state {
            refuse("paths.state", "is the same as paths.root; what survives a reboot must be apart".to_owned());
        }
        if let Some(profile) = &self.runtime.seccomp_profile
            && !profile.is_file()
        {
            refuse("runtime.seccomp_profile", format!("\"{}\" is not a file", profile.display()));
        }
        let parent = self.runtime.cgroup_parent();
        if self.runtime.cgroup_driver == CgroupDriver::Systemd {
            if !parent.ends_with(".slice") {
                refuse("runtime.cgroup_parent", format!("\"{parent}\" is not a slice, as in \"orlop.slice\""));
            }
        } else if !parent.starts_with('/') || parent.split('/').any(|part| part == "..") {
            refuse("runtime.cgroup_parent", format!("\"{parent}\" is not the path of a cgroup, as in \"/orlop\""));
        }
        for (name, handler) in &self.runtime.handlers {
            handler.check(name).into_iter().for_each(|why| refuse("runtime.handlers", why));
        }
        let bridge = &self.network.builtin.bridge;
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ', ':']) {
            refuse("network.builtin.bridge", format!("\"{bridge}\" is no name of an interface: 1 to 15 bytes"));
        }
        if !self.metrics.address.is_empty() && self.metrics.address.parse::<std::net::SocketAddr>().is_err() {
            refuse("metrics.address", format!("\"{}\" is not ADDRESS:PORT", self.metrics.address));
        }
        if let Err(cause) = self.log.level.parse::<tracing_subscriber::EnvFilter>() {
            refuse("log.level", cause.to_string());
        }
        wrong
    }
}

/// The handler that is always there, beside the one without a name.
pub const BUILT_IN_HANDLER: &str = "orlop";

impl Handler {
    fn check(&self, name: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 63 || !name.chars().all(letters) {
            wrong.push(format!(
                "\"{name}\" is no name of a handler: Kubernetes takes 1 to 63 of the letters a to z, digits and \"-\""
            ));
        }
        match &self.path {
            Some(_) if name == BUILT_IN_HANDLER => {
                wrong.push(format!("\"{name}\" is the runtime that is built in; give another one another name"));
            }
            Some(path) => wrong.extend(wrong_program(path).map(|why| format!("\"{name}\": path: {why}"))),
            None if !self.args.is_empty() || self.root.is_some() => {
                wrong.push(format!("\"{name}\": args and root are for an external runtime; its path is missing"));
            }
            None => {}
        }
        if self.args.iter().any(|word| word.is_empty() || word.contains('\0')) {
            wrong.push(format!("\"{name}\": args: a word is empty or has a NUL byte"));
        }
        if let Some(root) = self.root.as_ref().filter(|root| !root.is_absolute()) {
            wrong.push(format!("\"{name}\": root: \"{}\" is not an absolute path", root.display()));
        }
        wrong
    }
}

/// Why a path is not that of a program.
fn wrong_program(path: &std::path::Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let shown = path.display();
    if !path.is_absolute() {
        return Some(format!("\"{shown}\" is not an absolute path"));
    }
    match std::fs::metadata(path) {
        Err(cause) => Some(format!("\"{shown}\": {cause}")),
        Ok(found) if !found.is_file() => Some(format!("\"{shown}\" is not a file")),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Some(format!("\"{shown}\" cannot be executed")),
        Ok(_) => None,
    }
}
