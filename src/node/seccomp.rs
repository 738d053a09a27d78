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
        if security.privileged {
            return Ok(None);
        }
        let path = match &security.seccomp {
            None | Some(SecurityProfile::Unconfined) => return Ok(None),
            Some(SecurityProfile::Localhost(path)) => Some(Path::new(path)),
            Some(SecurityProfile::RuntimeDefault) => default.map(PathBuf::as_path),
        };
        match path {
            Some(path) => self.read(path),
            None => self.built_in(&spec::capabilities(security)?),
        }
        .map(Some)
    }

    fn built_in(&self, capabilities: &LinuxCapabilities) -> Result<SeccompPlan> {
        let number = |capability: &Capability| {
            let name = capability.to_string();
            CAPABILITY_NAMES.iter().position(|known| *known == name)
        };
        let numbers = capabilities.bounding().iter().flatten().filter_map(number);
        let bounding = numbers.fold(0_u64, |bits, number| bits | 1 << number);
        self.get(Key::BuiltIn(bounding), || Ok(seccomp::default_profile(bounding)))
    }

    fn read(&self, path: &Path) -> Result<SeccompPlan> {
        let failed = |cause: &dyn std::fmt::Display| {
            let path = path.display();
            NodeError::invalid(format!("seccomp profile {path}: {cause}; it must be JSON as the runtime-spec has it"))
        };
        let text = fs::read(path).map_err(|cause| failed(&cause))?;
        self.get(Key::Text(text.clone()), || serde_json::from_slice(&text).map_err(|cause| failed(&cause)))
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
