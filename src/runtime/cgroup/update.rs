//! Changing the limits of a cgroup that is in use: all of them or none.

use oci_spec::runtime::LinuxResources;

use super::devices::Rules;
use super::group::Cgroup;
use super::host::{Controllers, Version};
use super::io::Dir;
use super::settings::{self, Current, Otherwise, Setting};
use super::{CgroupError, Result, parse};

impl Cgroup {
    /// Sets what `resources` mentions and leaves the rest. If one value is refused, those already written are put
    /// back, and the error is that of the refused one.
    ///
    /// A memory limit below what is in use and cannot be reclaimed is [`CgroupError::LimitBelowUsage`].
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let settings = settings::plan(&self.host, resources, &self.current()?, true)?;
        let rules = resources.devices().as_deref().map(Rules::parse).transpose()?;
        self.check_memory(resources)?;
        let undo: Vec<Setting> = settings.iter().filter_map(|setting| self.undo_of(setting)).collect();
        // The devices come first: their change is whole or refused before anything is written.
        if let Some(rules) = &rules {
            self.set_devices(rules, false)?;
        }
        let told = self.apply(&settings).and_then(|()| self.tell_systemd(&settings, rules.as_ref()));
        told.inspect_err(|_| {
            let back: Vec<Setting> = undo.into_iter().rev().collect();
            for setting in &back {
                let _ = self.apply(std::slice::from_ref(setting)); // the first error is the one to tell
            }
        })
    }

    /// systemd writes what it is told to the same files, rounded: the exact values are written after it.
    fn tell_systemd(&self, settings: &[Setting], rules: Option<&Rules>) -> Result<()> {
        let Some(scope) = &self.scope else { return Ok(()) };
        scope.set(self, settings, rules)?;
        self.apply(settings)
    }

    /// What the cgroup has, as far as planning an update asks for it.
    pub(super) fn current(&self) -> Result<Current> {
        let mut current = Current::default();
        let Some(memory) = self.host.dir_of(Controllers::MEMORY, &self.path) else { return Ok(current) };
        match self.host.version() {
            Version::V1 => {
                current.memory = memory.read_limit("memory.limit_in_bytes")?;
                // Missing where the kernel does not count swap.
                current.memory_and_swap = memory.read_limit("memory.memsw.limit_in_bytes").ok().flatten();
            }
            Version::V2 => current.cpu_max = memory.try_read("cpu.max").ok(),
        }
        Ok(current)
    }

    /// v1 refuses a limit that it cannot reach. v2 takes it and kills: so what cannot be given back is counted here.
    fn check_memory(&self, resources: &LinuxResources) -> Result<()> {
        let Some(memory) = resources.memory() else { return Ok(()) };
        let Some(limit) = memory.limit().filter(|limit| *limit > 0).map(|limit| limit as u64) else { return Ok(()) };
        let strict = memory.check_before_update() == Some(true);
        let (version, dir) = (self.host.version(), self.dir_of(Controllers::MEMORY)?);
        if version == Version::V1 && !strict {
            return Ok(());
        }
        let file = if version == Version::V1 { "memory.usage_in_bytes" } else { "memory.current" };
        let usage = dir.read_limit(file)?.unwrap_or(0);
        let given_back = if strict { 0 } else { page_cache(&dir) };
        if usage.saturating_sub(given_back) > limit {
            return Err(CgroupError::LimitBelowUsage { path: dir.path(""), limit, usage });
        }
        Ok(())
    }

    /// The setting that brings back what `setting` is about to change.
    fn undo_of(&self, setting: &Setting) -> Option<Setting> {
        let dir = self.host.dir_of(setting.controller, &self.path)?;
        let mut undo = setting.clone();
        let mut old = dir.try_read(&setting.file);
        if let (Err(_), Otherwise::Instead { file, value }) = (&old, &setting.otherwise) {
            old = dir.try_read(file);
            undo.file = (*file).into();
            undo.value.clone_from(value);
        }
        undo.value = old_value(&undo.file, &undo.value, &old.ok()?)?;
        undo.otherwise = Otherwise::Fail;
        Some(undo)
    }
}

/// File pages that nobody has locked: what the kernel can drop.
fn page_cache(dir: &Dir<'_>) -> u64 {
    let Ok(text) = dir.try_read("memory.stat") else { return 0 };
    let of = |key| parse::value_of(text.as_bytes(), key).unwrap_or(0);
    of(b"inactive_file") + of(b"active_file")
}

/// What has to be written to `file` so that it reads `old` again, when `new` is about to be written.
fn old_value(file: &str, new: &str, old: &str) -> Option<String> {
    let first = |text: &str| text.split(' ').next().map(str::to_owned);
    let line_of = |key: &str| old.lines().find(|line| first(line).as_deref() == Some(key)).map(str::to_owned);
    let key = first(new)?;
    let fallback = match file {
        "memory.oom_control" => return parse::value_of(old.as_bytes(), b"oom_kill_disable").map(|v| v.to_string()),
        "io.max" => format!("{key} rbps=max wbps=max riops=max wiops=max"),
        "rdma.max" => format!("{key} hca_handle=max hca_object=max"),
        "io.weight" | "io.bfq.weight" if key.contains(':') => format!("{key} default"),
        "io.weight" | "io.bfq.weight" => return line_of("default").or_else(|| first(old)),
        _ if file.starts_with("blkio.throttle.") || file.ends_with("weight_device") => format!("{key} 0"),
        "net_prio.ifpriomap" => format!("{key} 0"),
        // Nothing was set: an empty write does nothing, a line end clears.
        _ if old.is_empty() => return Some("\n".to_owned()),
        _ => return Some(old.to_owned()),
    };
    Some(line_of(&key).unwrap_or(fallback))
}

#[cfg(test)]
mod tests {
    use super::old_value;

    #[test]
    fn every_kind_of_file_can_be_put_back() {
        let back = |file, new, old| old_value(file, new, old).unwrap();
        assert_eq!(back("cpu.max", "5000 10000", "max 100000"), "max 100000");
        assert_eq!(back("cpuset.cpus", "0", ""), "\n");
        assert_eq!(back("io.max", "8:0 rbps=1", ""), "8:0 rbps=max wbps=max riops=max wiops=max");
        let old = "8:16 rbps=9 wbps=max riops=max wiops=max\n8:0 rbps=5 wbps=max riops=max wiops=max";
        assert_eq!(back("io.max", "8:0 rbps=1", old), "8:0 rbps=5 wbps=max riops=max wiops=max");
        assert_eq!(back("io.weight", "default 50", "default 100\n8:0 7"), "default 100");
        assert_eq!(back("io.weight", "8:0 50", "default 100\n8:0 7"), "8:0 7");
        assert_eq!(back("io.weight", "8:16 50", "default 100\n8:0 7"), "8:16 default");
        assert_eq!(back("blkio.throttle.read_bps_device", "8:0 5", ""), "8:0 0");
        assert_eq!(back("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 2"), "0");
    }
}
