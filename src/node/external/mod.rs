//! External OCI runtimes: what runs the containers of pods whose handler names one.
//!
//! Everything but the runtime itself is as with the one that is built in: the pod's shim holds its namespaces, is the
//! parent of the containers, writes their logs and keeps their exit codes; cgroups, statistics and limits are looked at in
//! the same place. Only the steps in which a process comes to be are the runtime's, called by its command line, which is
//! runc's: `create` and `start` for a container, `exec` for a command, both as children of the shim; `kill` for the stop
//! signal and `delete` for what the runtime remembers, as children of the agent.
//!
//! | file | what it is |
//! |---|---|
//! | `command.rs` | the runtime's command line, and what it says when it fails |
//! | `features.rs` | what it can do |
//! | `specification.rs` | from our spec of a container to the config.json of its bundle |
//! | `bundle.rs` | the bundle on disk, its root filesystem, and their end |
//! | `launch.rs` | containers and commands |
//! | `cgroups.rs` | cgroups that only such a runtime makes |
//!
//! A bundle is in `<state>/pods/<pod>/bundles/<container>` from the start of the container until its end was taken note
//! of. Its root filesystem is mounted on the host as long, as some runtimes serve it to the container all the time.

mod bundle;
mod cgroups;
mod command;
mod features;
mod launch;
mod specification;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

pub(super) use bundle::remove_all;
pub(super) use cgroups::remove_everywhere;
pub(super) use features::Features;

use super::settings::Settings;
use super::views::CgroupDriver;
use crate::config::{BUILT_IN_HANDLER, Handler};

/// An external runtime, as a pod's record keeps it: what made the pod's containers has to remove them, whatever the
/// configuration says by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRuntime {
    /// The name of the handler.
    pub handler: String,
    pub path: PathBuf,
    /// Words before its global options.
    pub args: Vec<String>,
    /// Where it keeps the state of its containers.
    pub root: PathBuf,
    pub systemd_cgroup: bool,
}

/// One handler that is not built in under another name.
#[derive(Debug)]
struct External {
    runtime: ExternalRuntime,
    /// The directory of its state is ours alone, so what nobody claims in it can be removed.
    own_root: bool,
    features: OnceCell<Features>,
}

/// The handlers that there are.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    /// Without a runtime: the built-in one.
    named: BTreeMap<String, Option<External>>,
}

impl Handlers {
    pub fn new(settings: &Settings) -> Self {
        Self::of(&settings.handlers, &settings.state, settings.cgroup_driver == CgroupDriver::Systemd)
    }

    fn of(configured: &BTreeMap<String, Handler>, state: &Path, systemd_cgroup: bool) -> Self {
        let external = |(name, handler): (&String, &Handler)| {
            let external = handler.path.clone().map(|path| External {
                runtime: ExternalRuntime {
                    handler: name.clone(),
                    path,
                    args: handler.args.clone(),
                    root: handler.root.clone().unwrap_or_else(|| root_of(state, name)),
                    systemd_cgroup,
                },
                own_root: handler.root.is_none(),
                features: OnceCell::new(),
            });
            (name.clone(), external)
        };
        let mut named: BTreeMap<String, Option<External>> = configured.iter().map(external).collect();
        named.entry(BUILT_IN_HANDLER.to_owned()).or_insert(None);
        Self { named }
    }

    /// The names, without the empty one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    pub fn knows(&self, name: &str) -> bool {
        name.is_empty() || self.named.contains_key(name)
    }

    /// The external runtime behind a handler; `None` for the built-in one.
    pub fn runtime(&self, name: &str) -> Option<&ExternalRuntime> {
        self.external(name).map(|external| &external.runtime)
    }

    /// What an external runtime can do: `None` for the built-in one, and as long as nobody knows.
    pub fn known_features(&self, name: &str) -> Option<&Features> {
        self.external(name)?.features.get()
    }

    /// What an external runtime can do, asked for now if that is not known yet. Nothing, for one that is not there.
    pub async fn features(&self, name: &str) -> Features {
        match self.external(name) {
            Some(external) => external.features.get_or_init(|| features::ask(&external.runtime)).await.clone(),
            None => Features::default(),
        }
    }

    /// The external runtimes whose state is kept in directories of ours.
    fn with_own_roots(&self) -> impl Iterator<Item = &ExternalRuntime> {
        self.named.values().flatten().filter(|external| external.own_root).map(|external| &external.runtime)
    }

    fn external(&self, name: &str) -> Option<&External> {
        self.named.get(name)?.as_ref()
    }
}

fn root_of(state: &Path, handler: &str) -> PathBuf {
    state.join("handlers").join(handler)
}
