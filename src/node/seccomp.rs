//! The system call filters of containers, each compiled once.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxSeccomp};

use super::error::{NodeError, Result};
use super::spec;
use super::types::{ContainerSecurity, SecurityProfile};
use crate::runtime::compile::CAPABILITY_NAMES;
use crate::runtime::plan::SeccompPlan;
use crate::runtime::seccomp;

/// Compiled filters by what they were made of. There are as many as there are sets of capabilities and files.
#[derive(Debug, Default)]
pub struct Filters {
    compiled: Mutex<HashMap<Key, SeccompPlan>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The built-in profile, which depends on the capabilities that the container has.
    BuiltIn(u64),
    /// A file, by its content: it may be changed under its name.
    Text(Vec<u8>),
}

impl Filters {
    /// The filter of a container; `None` where nothing confines its system calls. `default` is a profile that takes
    /// the place of the built-in one.
    pub fn of(&self, security: &ContainerSecurity, default: Option<&PathBuf>) -> Result<Option<SeccompPlan>> {
        match source(security, default) {
            Source::None => Ok(None),
            Source::File(path) => self.read(path).map(Some),
            Source::BuiltIn => self.built_in(&spec::capabilities(security)?).map(Some),
        }
    }

    /// The profile of a container, for a runtime that compiles it itself.
    pub fn profile(&self, security: &ContainerSecurity, default: Option<&PathBuf>) -> Result<Option<LinuxSeccomp>> {
        match source(security, default) {
            Source::None => Ok(None),
            Source::File(path) => parse(path, &text(path)?).map(Some),
            Source::BuiltIn => Ok(Some(seccomp::default_profile(bounding(&spec::capabilities(security)?)))),
        }
    }

    fn built_in(&self, capabilities: &LinuxCapabilities) -> Result<SeccompPlan> {
        let bounding = bounding(capabilities);
        self.get(Key::BuiltIn(bounding), || Ok(seccomp::default_profile(bounding)))
    }

    fn read(&self, path: &Path) -> Result<SeccompPlan> {
        let text = text(path)?;
        self.get(Key::Text(text.clone()), || parse(path, &text))
    }

    fn get(&self, key: Key, profile: impl FnOnce() -> Result<LinuxSeccomp>) -> Result<SeccompPlan> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = compiled.get(&key) {
            return Ok(filter.clone());
        }
        let failed = |cause: seccomp::SeccompError| NodeError::invalid(format!("seccomp profile: {cause}"));
        let filter = seccomp::compile(&profile()?).map_err(failed)?;
        compiled.insert(key, filter.clone());
        Ok(filter)
    }
}

/// Where the profile of a container comes from.
enum Source<'a> {
    None,
    BuiltIn,
    File(&'a Path),
}

fn source<'a>(security: &'a ContainerSecurity, default: Option<&'a PathBuf>) -> Source<'a> {
    match &security.seccomp {
        _ if security.privileged => Source::None,
        None | Some(SecurityProfile::Unconfined) => Source::None,
        Some(SecurityProfile::Localhost(path)) => Source::File(Path::new(path)),
        Some(SecurityProfile::RuntimeDefault) => default.map_or(Source::BuiltIn, |path| Source::File(path)),
    }
}

/// The capabilities that a container can ever have, bit by number.
fn bounding(capabilities: &LinuxCapabilities) -> u64 {
    let number = |capability: &Capability| {
        let name = capability.to_string();
        CAPABILITY_NAMES.iter().position(|known| *known == name)
    };
    let numbers = capabilities.bounding().iter().flatten().filter_map(number);
    numbers.fold(0_u64, |bits, number| bits | 1 << number)
}

fn text(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|cause| failed(path, &cause))
}

fn parse(path: &Path, text: &[u8]) -> Result<LinuxSeccomp> {
    serde_json::from_slice(text).map_err(|cause| failed(path, &cause))
}

fn failed(path: &Path, cause: &dyn std::fmt::Display) -> NodeError {
    let path = path.display();
    NodeError::invalid(format!("seccomp profile {path}: {cause}; it must be JSON as the runtime-spec has it"))
}
