//! Hooks: what the specification says of them, checked.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{Hook, Spec};
use serde_json::{Value, json};

use super::{HostFacts, Result, absolute, invalid, without_nul};
use crate::runtime::plan::{HookPlan, HooksPlan};

/// The hooks that the container's child runs.
pub(super) fn of_child(spec: &Spec, host: &HostFacts) -> Result<HooksPlan> {
    let Some(hooks) = spec.hooks() else { return Ok(HooksPlan::default()) };
    let has = |list: &Option<Vec<Hook>>| list.as_ref().is_some_and(|list| !list.is_empty());
    Ok(HooksPlan {
        // Deprecated, but in the specification, and what engines still write.
        pause: has(hooks.prestart()) || has(hooks.create_runtime()),
        create_container: compile("createContainer", hooks.create_container())?,
        start_container: compile("startContainer", hooks.start_container())?,
        state: state_text(spec, &host.id, &host.bundle.to_string_lossy()),
    })
}

/// The hooks that are run in the runtime's own namespaces, by whoever calls the executor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeHooks {
    pub prestart: Vec<HookPlan>,
    pub create_runtime: Vec<HookPlan>,
    pub poststart: Vec<HookPlan>,
    pub poststop: Vec<HookPlan>,
}

impl RuntimeHooks {
    pub fn of(spec: &Spec) -> Result<Self> {
        let Some(hooks) = spec.hooks() else { return Ok(Self::default()) };
        Ok(Self {
            prestart: compile("prestart", hooks.prestart())?,
            create_runtime: compile("createRuntime", hooks.create_runtime())?,
            poststart: compile("poststart", hooks.poststart())?,
            poststop: compile("poststop", hooks.poststop())?,
        })
    }
}

/// The state of a container as JSON, without status, pid and closing brace, which change from hook to hook.
pub fn state_text(spec: &Spec, id: &str, bundle: &str) -> Vec<u8> {
    let annotations = spec.annotations().as_ref().map_or_else(|| json!({}), |a| json!(a));
    let fields = [
        ("ociVersion", Value::from(spec.version().as_str())),
        ("id", id.into()),
        ("bundle", bundle.into()),
        ("annotations", annotations),
    ];
    let fields = fields.map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}", fields.join(",")).into_bytes()
}

fn compile(kind: &str, listed: &Option<Vec<Hook>>) -> Result<Vec<HookPlan>> {
    let listed = listed.iter().flatten().enumerate();
    listed.map(|(number, hook)| one(&format!("hooks.{kind}[{number}]"), hook)).collect()
}

fn one(field: &str, hook: &Hook) -> Result<HookPlan> {
    let strings = |name: &str, list: &Option<Vec<String>>| {
        list.iter().flatten().map(|s| without_nul(&format!("{field}.{name}"), s.as_bytes())).collect::<Result<Vec<_>>>()
    };
    let env = strings("env", hook.env())?;
    if let Some(entry) = env.iter().find(|e| !e.iter().skip(1).any(|&b| b == b'=')) {
        return invalid(format!("{field}.env"), format!("{:?} has no name and value", String::from_utf8_lossy(entry)));
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds @ 1..) => Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
        Some(seconds) => return invalid(format!("{field}.timeout"), format!("{seconds} is not greater than zero")),
    };
    Ok(HookPlan {
        path: absolute(&format!("{field}.path"), hook.path().as_os_str().as_bytes())?,
        args: strings("args", hook.args())?,
        env,
        timeout,
    })
}
