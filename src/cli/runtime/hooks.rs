//! Hooks of the runtime's namespaces: prestart and createRuntime, poststart, poststop.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::Result;
use crate::runtime::compile::{RuntimeHooks, state_text};
use crate::runtime::execute::{HookSettings, hook_state, run_all_hooks, run_hooks};
use crate::runtime::plan::HookPlan;

/// A container's hooks, with the state that they are given.
#[derive(Debug)]
pub(super) struct Hooks {
    hooks: RuntimeHooks,
    state: Vec<u8>,
    bundle: PathBuf,
}

impl Hooks {
    pub fn of(spec: &Spec, id: &str, bundle: &Path) -> Result<Self> {
        let state = state_text(spec, id, &bundle.to_string_lossy());
        Ok(Self { hooks: RuntimeHooks::of(spec)?, state, bundle: bundle.to_owned() })
    }

    /// When the file system is made and not yet entered. `pid` is that of the container's init, as seen here. The status
    /// is that of what comes after step 2 of the specification's lifecycle.
    pub fn before_entering(&self, pid: i32) -> Result<()> {
        self.run("prestart", &self.hooks.prestart, "created", Some(pid))?;
        self.run("createRuntime", &self.hooks.create_runtime, "created", Some(pid))
    }

    pub fn poststart(&self, pid: i32) -> Result<()> {
        self.run("poststart", &self.hooks.poststart, "running", Some(pid))
    }

    /// When nothing of the container is left. One that fails is told of, and the others are run all the same.
    pub fn poststop(&self) {
        let hooks = &self.hooks.poststop;
        if hooks.is_empty() {
            return;
        }
        for notice in run_all_hooks("poststop", hooks, &hook_state(&self.state, "stopped", None), self.settings()) {
            super::log::warning(&notice.to_string());
        }
    }

    fn run(&self, kind: &str, hooks: &[HookPlan], status: &str, pid: Option<i32>) -> Result<()> {
        if hooks.is_empty() {
            return Ok(());
        }
        Ok(run_hooks(kind, hooks, &hook_state(&self.state, status, pid), self.settings())?)
    }

    /// In the bundle's directory, which no image has a say in.
    fn settings(&self) -> HookSettings<'_> {
        HookSettings { directory: Some(self.bundle.as_os_str().as_bytes()), ..HookSettings::default() }
    }
}
