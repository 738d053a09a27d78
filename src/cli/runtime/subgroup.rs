//! Which cgroups an exec goes into: the container's, or one below it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Result;
use crate::runtime::cgroup::{Cgroup, CgroupPath, Entry, Version};

/// What the arguments of `--cgroup` say: a path below the container's cgroup for each controller, or "" for all.
fn parse(asked: &[String]) -> Result<BTreeMap<&str, &str>> {
    let mut paths = BTreeMap::new();
    for argument in asked {
        let Some((controllers, path)) = argument.split_once(':') else {
            if asked.len() != 1 {
                bail!("invalid --cgroup argument: {argument} (missing <controller>: prefix)");
            }
            paths.insert("", argument.as_str());
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                bail!("invalid --cgroup argument: {argument} (empty <controller> prefix)");
            }
            if paths.insert(controller, path).is_some() {
                bail!("invalid --cgroup argument(s): controller {controller} specified multiple times");
            }
        }
    }
    Ok(paths)
}

/// `path` below `base`, which it cannot leave.
fn below(base: &str, path: &str) -> Result<CgroupPath> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        bail!("{path} is not a sub cgroup path");
    }
    Ok(CgroupPath::new(&format!("{base}/{}", parts.join("/")))?)
}

/// The way in.
pub(super) fn entry(cgroup: &Cgroup, asked: &[String]) -> Result<Entry> {
    let paths = parse(asked)?;
    if paths.is_empty() {
        return Ok(cgroup.entry()?);
    }
    let base = cgroup.path().as_str();
    if cgroup.host().version() == Version::V2 {
        let Some(path) = paths.get("") else { bail!("--cgroup: cgroup v2 has no controllers to name") };
        let group = cgroup.host().open(&below(base, path)?).with_context(|| format!("--cgroup {path}"))?;
        return Ok(group.entry()?);
    }
    let names = |mount: &Path| -> Vec<String> {
        let name = mount.file_name().unwrap_or_default().to_string_lossy();
        name.split(',').map(str::to_owned).collect()
    };
    let mounts: Vec<&Path> = cgroup.host().mounts().collect();
    for controller in paths.keys().filter(|controller| !controller.is_empty()) {
        if !mounts.iter().any(|mount| names(mount).iter().any(|name| name == controller)) {
            bail!("unknown controller {controller} in --cgroup");
        }
    }
    let of_mount = |mount: &Path| -> Option<&str> {
        let named = names(mount).into_iter().find_map(|name| paths.get(name.as_str()));
        named.or_else(|| paths.get("")).copied()
    };
    let tasks = mounts.into_iter().map(|mount| {
        let group = below(base, of_mount(mount).unwrap_or_default())?;
        let tasks = mount.join(group.as_str().trim_start_matches('/')).join("tasks");
        if !tasks.exists() {
            bail!("--cgroup: there is no {}", tasks.display());
        }
        Ok(tasks)
    });
    Ok(Entry::V1(tasks.collect::<Result<Vec<PathBuf>>>()?))
}

/// The cgroup (v2) that the container's first process is in, if it is one below the container's: a process in the
/// container may have moved everybody there to hand controllers down, and no process can enter the one above then.
pub(super) fn of_process(cgroup: &Cgroup, pid: i32) -> Result<Entry> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).with_context(|| format!("{file} has no v2"))?;
    let base = cgroup.path().as_str();
    let Some(path) = own.strip_prefix(base).filter(|rest| rest.starts_with('/')) else {
        bail!("the container's first process is in the cgroup {own}, which is not below {base}");
    };
    Ok(cgroup.host().open(&below(base, path)?)?.entry()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_containers() {
        for (path, whole) in [("a", "/c/a"), ("/a/b/", "/c/a/b"), ("", "/c"), ("/", "/c"), ("./a/.", "/c/a")] {
            assert_eq!(below("/c", path).unwrap().as_str(), whole, "{path:?}");
        }
        for path in ["..", "../c", "a/../..", "/..", "a/.."] {
            assert!(below("/c", path).unwrap_err().to_string().contains("is not a sub cgroup path"), "{path:?}");
        }
    }

    #[test]
    fn controllers_are_named_once_and_all_or_none() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            super::parse(&words).map(|paths| paths.len()).map_err(|error| error.to_string())
        };
        assert_eq!(parse(&["a"]), Ok(1));
        assert_eq!(parse(&["cpu,cpuacct:a", "memory:b"]), Ok(3));
        assert!(parse(&["cpu:a", "b"]).unwrap_err().contains("missing <controller>"));
        assert!(parse(&[":a"]).unwrap_err().contains("empty <controller>"));
        assert!(parse(&["cpu:a", "cpu:b"]).unwrap_err().contains("multiple times"));
    }
}
