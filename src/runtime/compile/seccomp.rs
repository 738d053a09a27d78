//! The system call filter, and what the agent that some profiles name is told of the process.

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::{HostFacts, Result, hooks, invalid};
use crate::runtime::plan::{ListenerPlan, SeccompPlan};
use crate::runtime::seccomp::{self, SECCOMP_FD};

/// What the caller has compiled before, or what the specification says.
pub(super) fn filter(spec: &Spec, host: &HostFacts) -> Result<Option<SeccompPlan>> {
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let mut filter = match (&host.seccomp, profile) {
        (Some(filter), _) => filter.clone(),
        (None, Some(profile)) => seccomp::compile(profile)?,
        (None, None) => return Ok(None),
    };
    if let Some(listener) = &mut filter.listener {
        complete(listener, spec, host)?;
    }
    Ok(Some(filter))
}

fn complete(listener: &mut ListenerPlan, spec: &Spec, host: &HostFacts) -> Result<()> {
    if listener.path.contains(&0) {
        return invalid("linux.seccomp.listenerPath", "contains a NUL byte");
    }
    if !listener.path.starts_with(b"/") {
        let bundle = host.bundle.as_os_str().as_encoded_bytes();
        listener.path = [bundle, b"/", listener.path.as_slice()].concat();
    }
    let metadata = match listener.metadata.as_str() {
        "" => String::new(),
        text => format!(",\"metadata\":{}", Value::from(text)),
    };
    let head = format!("{{\"ociVersion\":{},\"fds\":[\"{SECCOMP_FD}\"],\"pid\":", Value::from(spec.version().as_str()));
    let state = hooks::state_text(spec, &host.id, &host.bundle.to_string_lossy());
    let state = [format!("{metadata},\"state\":").as_bytes(), &state].concat();
    listener.message = match host.running {
        // Of a new container it is the same process.
        None => vec![head.into(), [&state, b",\"status\":\"creating\",\"pid\":".as_slice()].concat(), b"}}".to_vec()],
        Some(pid) => {
            vec![head.into(), [&state, format!(",\"status\":\"running\",\"pid\":{pid}}}}}").as_bytes()].concat()]
        }
    };
    Ok(())
}
