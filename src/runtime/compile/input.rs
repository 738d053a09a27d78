//! `config.json` and `process.json`, read as the specification wants them read: more leniently than their types.
//!
//! A capability that this version does not know is a warning, not an error; an empty list of CPUs is none; and two flags
//! of the scheduler have other names in the types than in the specification.

use oci_spec::runtime::{Process, Spec};
use serde_json::Value;

use super::{CAPABILITY_NAMES, Result, invalid};

/// Reads `config.json`. What had to be left out is said in the texts beside it, one a warning.
pub fn read_spec(text: &[u8]) -> Result<(Spec, Vec<String>)> {
    // Read once is enough for nearly all, and half the work.
    if let Ok(spec) = serde_json::from_slice::<Spec>(text)
        && spec.process().as_ref().is_none_or(|process| process.exec_cpu_affinity().is_none())
    {
        return Ok((spec, Vec::new()));
    }
    let mut value = value("config.json", text)?;
    let warnings = value.get_mut("process").map(lenient).unwrap_or_default();
    typed("config.json", value).map(|spec| (spec, warnings))
}

/// Reads the process of an exec, as [`read_spec`] does.
pub fn read_process(text: &[u8]) -> Result<(Process, Vec<String>)> {
    let mut value = value("process.json", text)?;
    let warnings = lenient(&mut value);
    typed("process.json", value).map(|process| (process, warnings))
}

fn value(name: &str, text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).or_else(|e| invalid(name, format!("is no JSON: {e}")))
}

fn typed<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).or_else(|e| invalid(name, e.to_string()))
}

/// (The specification's name, the name that the type is read by.)
const SCHEDULER_FLAGS: [(&str, &str); 2] =
    [("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];

fn lenient(process: &mut Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let flags = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")).and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if let Some((_, name)) = SCHEDULER_FLAGS.iter().find(|(name, _)| flag == name) {
            *flag = (*name).into();
        }
    }
    for cpus in ["initial", "final"] {
        let affinity = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut);
        if let Some(affinity) = affinity
            && affinity.get(cpus).is_some_and(|list| list == "")
        {
            affinity.remove(cpus);
        }
    }
    let known = |name: &Value| {
        let name = name.as_str().unwrap_or_default().to_ascii_uppercase();
        CAPABILITY_NAMES.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
    };
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for (set, list) in sets.into_iter().flatten() {
        let Some(list) = list.as_array_mut() else { continue };
        // What is no text is an error, of the typed reading.
        let (kept, unknown) = std::mem::take(list).into_iter().partition(|name| !name.is_string() || known(name));
        *list = kept;
        let unknown: Vec<Value> = unknown;
        for name in unknown {
            warnings.push(format!("process.capabilities.{set}: {name} is not known here and left out"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_capabilities_are_warnings() {
        let text = br#"{"cwd":"/","user":{"uid":0,"gid":0},"args":["x"],
            "capabilities":{"bounding":["CAP_KILL","CAP_FLY"],"effective":["CAP_FLY"]}}"#;
        let (process, warnings) = read_process(text).unwrap();
        assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
        let text = |set| format!("process.capabilities.{set}: \"CAP_FLY\" is not known here and left out");
        assert_eq!(warnings, [text("bounding"), text("effective")]);
    }

    #[test]
    fn empty_lists_of_cpus_are_none() {
        let text = br#"{"cwd":"/","user":{"uid":0,"gid":0},"execCPUAffinity":{"initial":"","final":"0-1"}}"#;
        let (process, warnings) = read_process(text).unwrap();
        let affinity = process.exec_cpu_affinity().as_ref().unwrap();
        assert_eq!((affinity.initial(), affinity.cpu_affinity_final().as_deref()), (&None, Some("0-1")));
        assert!(warnings.is_empty());
    }

    #[test]
    fn the_scheduler_has_all_flags_of_the_specification() {
        for flag in
            ["RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX"]
        {
            let flag = format!("SCHED_FLAG_{flag}");
            let text = serde_json::json!({ "cwd": "/", "user": { "uid": 0, "gid": 0 },
                "scheduler": { "policy": "SCHED_RR", "flags": [flag] } });
            let (process, _) = read_process(text.to_string().as_bytes()).unwrap();
            assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 1, "{flag}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_wrong_ones_named() {
        assert!(
            read_spec(
                br#"{"ociVersion":"1.0.0","new":{"a":1},"process":{"cwd":"/","user":{"uid":0,"gid":0},"later":[]}}"#
            )
            .is_ok()
        );
        let error = read_spec(br#"{"ociVersion":"1.0.0","process":{"cwd":7}}"#).unwrap_err().to_string();
        assert!(error.starts_with("config.json of the OCI specification: invalid type"), "{error}");
        assert!(read_spec(b"{").unwrap_err().to_string().contains("is no JSON"));
        assert!(read_spec(br#"{"ociVersion":"1.0.0","process":{"capabilities":{"bounding":[7]}}}"#).is_err());
    }
}
