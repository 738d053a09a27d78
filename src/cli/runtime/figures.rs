//! What a container uses, as runc's `events` has it.

use serde_json::{Map, Value, json};

use super::Result;
use crate::runtime::cgroup::{Cgroup, Controllers, Pressure, Stats, Version};

/// The `data` of a "stats" event.
pub(super) fn of(cgroup: &Cgroup, pid: i32) -> Result<Value> {
    let stats = cgroup.stats()?;
    let v1 = cgroup.host().version() == Version::V1;
    let files = Files { cgroup, v1 };
    Ok(json!({
        "cpu": files.cpu(&stats)?,
        "cpuset": files.cpuset()?,
        "memory": files.memory(&stats)?,
        "pids": { "current": stats.pids.current.unwrap_or(0), "limit": stats.pids.limit.unwrap_or(0) },
        "blkio": files.blkio(&stats)?,
        "hugetlb": files.hugetlb()?,
        "intel_rdt": {},
        "network_interfaces": interfaces(pid),
    }))
}

struct Files<'a> {
    cgroup: &'a Cgroup,
    v1: bool,
}

fn pressure(of: Option<Pressure>) -> Value {
    let line = |line: crate::runtime::cgroup::PressureLine| {
        let percent = |hundredths: u64| hundredths as f64 / 100.0;
        json!({
            "avg10": percent(line.avg10), "avg60": percent(line.avg60), "avg300": percent(line.avg300),
            "total": line.total_ns / 1000,
        })
    };
    of.map_or(Value::Null, |p| json!({ "some": line(p.some), "full": line(p.full) }))
}

fn number(text: &str) -> u64 {
    text.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// `key value` lines.
fn pairs(text: &str) -> Map<String, Value> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), json!(value.parse::<u64>().ok()?)))
    };
    text.lines().filter_map(pair).collect()
}

/// "0-2,5" in full.
fn list(text: &str) -> Vec<u16> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    text.split(',').filter_map(part).flatten().collect()
}

impl Files<'_> {
    fn text(&self, controller: Controllers, file: &str) -> Result<String> {
        Ok(self.cgroup.text(controller, file)?.unwrap_or_default())
    }

    fn number(&self, controller: Controllers, file: &str) -> Result<u64> {
        let text = self.text(controller, file)?;
        // "No limit" is the largest number there, as on v1.
        Ok(if text == "max" { u64::MAX } else { number(&text) })
    }

    fn cpu(&self, stats: &Stats) -> Result<Value> {
        let cpu = &stats.cpu;
        let mut usage = json!({ "total": cpu.usage_ns, "kernel": cpu.system_ns, "user": cpu.user_ns });
        if self.v1 {
            let each = |file| -> Result<Vec<u64>> {
                Ok(self.text(Controllers::CPUACCT, file)?.split_ascii_whitespace().map(number).collect())
            };
            usage["percpu"] = json!(each("cpuacct.usage_percpu")?);
            usage["percpu_kernel"] = json!(each("cpuacct.usage_percpu_sys")?);
            usage["percpu_user"] = json!(each("cpuacct.usage_percpu_user")?);
        }
        let mut all = json!({
            "usage": usage,
            "throttling": {
                "periods": cpu.periods, "throttledPeriods": cpu.throttled_periods, "throttledTime": cpu.throttled_ns,
            },
        });
        put(&mut all, "psi", pressure(stats.cpu_pressure));
        Ok(all)
    }

    fn cpuset(&self) -> Result<Value> {
        let set = Controllers::CPUSET;
        let (cpus, mems) =
            if self.v1 { ("cpuset.cpus", "cpuset.mems") } else { ("cpuset.cpus.effective", "cpuset.mems.effective") };
        let mut all = json!({ "cpus": list(&self.text(set, cpus)?), "mems": list(&self.text(set, mems)?) });
        if self.v1 {
            for (name, file) in [
                ("cpu_exclusive", "cpuset.cpu_exclusive"),
                ("mem_hardwall", "cpuset.mem_hardwall"),
                ("mem_exclusive", "cpuset.mem_exclusive"),
                ("memory_migrate", "cpuset.memory_migrate"),
                ("memory_spread_page", "cpuset.memory_spread_page"),
                ("memory_spread_slab", "cpuset.memory_spread_slab"),
                ("memory_pressure", "cpuset.memory_pressure"),
                ("sched_load_balance", "cpuset.sched_load_balance"),
            ] {
                all[name] = json!(self.number(set, file)?);
            }
            let level = self.text(set, "cpuset.sched_relax_domain_level")?;
            all["sched_relax_domain_level"] = json!(level.parse::<i64>().unwrap_or(0));
        }
        Ok(all)
    }

    fn memory(&self, stats: &Stats) -> Result<Value> {
        let memory = Controllers::MEMORY;
        let raw = pairs(&self.text(memory, "memory.stat")?);
        let mut all = json!({
            "cache": raw.get(if self.v1 { "total_cache" } else { "file" }).cloned().unwrap_or(json!(0)),
        });
        if self.v1 {
            for (name, part) in [
                ("usage", "memory"),
                ("swap", "memory.memsw"),
                ("kernel", "memory.kmem"),
                ("kernelTCP", "memory.kmem.tcp"),
            ] {
                all[name] = json!({
                    "limit": self.number(memory, &format!("{part}.limit_in_bytes"))?,
                    "usage": self.number(memory, &format!("{part}.usage_in_bytes"))?,
                    "max": self.number(memory, &format!("{part}.max_usage_in_bytes"))?,
                    "failcnt": self.number(memory, &format!("{part}.failcnt"))?,
                });
            }
        } else {
            let events = pairs(&self.text(memory, "memory.events")?);
            let failed = events.get("max").cloned().unwrap_or(json!(0));
            let (usage, limit) = (self.number(memory, "memory.current")?, self.number(memory, "memory.max")?);
            all["usage"] = json!({
                "limit": limit, "usage": usage, "max": self.number(memory, "memory.peak")?, "failcnt": failed,
            });
            // Memory and swap together, as on v1.
            let swap = self.number(memory, "memory.swap.current")?;
            let swap_limit = self.number(memory, "memory.swap.max")?;
            all["swap"] = json!({
                "limit": swap_limit.saturating_add(limit), "usage": swap.saturating_add(usage), "failcnt": 0,
            });
        }
        all["raw"] = Value::Object(raw);
        put(&mut all, "psi", pressure(stats.memory_pressure));
        Ok(all)
    }

    fn blkio(&self, stats: &Stats) -> Result<Value> {
        let io = Controllers::BLKIO;
        let mut all = Map::new();
        if self.v1 {
            for (name, file) in [
                ("ioServiceBytesRecursive", "blkio.throttle.io_service_bytes_recursive"),
                ("ioServicedRecursive", "blkio.throttle.io_serviced_recursive"),
            ] {
                all.insert(name.into(), entries_v1(&self.text(io, file)?));
            }
        } else {
            let text = self.text(io, "io.stat")?;
            all.insert("ioServiceBytesRecursive".into(), entries_v2(&text, &[("rbytes", "Read"), ("wbytes", "Write")]));
            all.insert("ioServicedRecursive".into(), entries_v2(&text, &[("rios", "Read"), ("wios", "Write")]));
        }
        let mut all = Value::Object(all);
        put(&mut all, "psi", pressure(stats.io_pressure));
        Ok(all)
    }

    fn hugetlb(&self) -> Result<Value> {
        let mut all = Map::new();
        for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(size) = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")) else { continue };
            let Some(size) = size.parse::<u64>().ok().map(page_size) else { continue };
            let (usage, max, failed) = match self.v1 {
                true => ("usage_in_bytes", "max_usage_in_bytes", "failcnt"),
                false => ("current", "max", "events"),
            };
            let file = |suffix: &str| format!("hugetlb.{size}.{suffix}");
            if self.cgroup.text(Controllers::HUGETLB, &file(usage))?.is_none() {
                continue;
            }
            let failed = match self.text(Controllers::HUGETLB, &file(failed))? {
                text if self.v1 => number(&text),
                text => pairs(&text).get("max").and_then(Value::as_u64).unwrap_or(0),
            };
            let mut entry = json!({ "usage": self.number(Controllers::HUGETLB, &file(usage))?, "failcnt": failed });
            if self.v1 {
                entry["max"] = json!(self.number(Controllers::HUGETLB, &file(max))?);
            }
            all.insert(size, entry);
        }
        Ok(Value::Object(all))
    }
}

fn put(object: &mut Value, key: &str, value: Value) {
    if !value.is_null() {
        object[key] = value;
    }
}

/// As the files of the hugetlb controller are named.
fn page_size(kib: u64) -> String {
    match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    }
}

fn entry(device: &str, op: &str, value: u64) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let [major, minor] = [major, minor].map(|n| n.parse::<u64>().ok());
    Some(json!({ "major": major?, "minor": minor?, "op": op, "value": value }))
}

/// `8:0 Read 4096` lines; the sum of all at the end has no device.
fn entries_v1(text: &str) -> Value {
    let one = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (device, op, value) = (words.next()?, words.next()?, words.next()?);
        entry(device, op, value.parse().ok()?)
    };
    text.lines().filter_map(one).collect()
}

/// `8:0 rbytes=1 wbytes=2 …` lines; `keys`: which of them, and what they are called.
fn entries_v2(text: &str, keys: &[(&str, &str)]) -> Value {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(device) = words.next() else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            if let Some((_, op)) = keys.iter().find(|(known, _)| *known == key) {
                all.extend(entry(device, op, number(value)));
            }
        }
    }
    Value::Array(all)
}

/// The counters of the network interfaces that a process sees, the loopback aside.
fn interfaces(pid: i32) -> Value {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let one = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let name = name.trim();
        let n: Vec<u64> = counters.split_ascii_whitespace().map(number).collect();
        (name != "lo" && n.len() >= 12).then(|| {
            json!({
                "Name": name,
                "RxBytes": n[0], "RxPackets": n[1], "RxErrors": n[2], "RxDropped": n[3],
                "TxBytes": n[8], "TxPackets": n[9], "TxErrors": n[10], "TxDropped": n[11],
            })
        })
    };
    text.lines().skip(2).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_operations_are_told_apart() {
        let v1 = entries_v1("8:0 Read 4096\n8:0 Write 0\n8:16 Sync 5\nTotal 4101\n");
        assert_eq!(v1.as_array().map(Vec::len), Some(3));
        assert_eq!(v1[0], json!({ "major": 8, "minor": 0, "op": "Read", "value": 4096 }));
        let v2 = entries_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0", &[("rbytes", "Read"), ("wbytes", "Write")]);
        assert_eq!(v2[1], json!({ "major": 8, "minor": 0, "op": "Write", "value": 2 }));
    }

    #[test]
    fn lists_are_written_out() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert!(list("").is_empty());
        assert_eq!((page_size(2048), page_size(1 << 20), page_size(64)), ("2MB".into(), "1GB".into(), "64KB".into()));
    }
}
