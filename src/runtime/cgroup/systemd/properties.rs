//! Limits as properties of a unit: the pure half.

use super::super::devices::{Exceptions, Rules};
use super::super::host::Version;
use super::super::settings::{Otherwise, Setting};
use super::super::{CgroupError, Result};
use super::Value;

/// A property that wants a systemd of at least this version.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Property {
    pub since: u32,
    pub value: Value,
}

/// The one that only a new unit can be given, and that not every systemd of its version knows for scopes. Where it
/// is unknown, systemd leaves `memory.oom.group` alone.
pub(super) const OOM_POLICY: &str = "OOMPolicy";

impl Property {
    pub fn is(&self, name: &str) -> bool {
        matches!(&self.value, Value::Struct(fields) if fields.first().and_then(Value::as_str) == Some(name))
    }
}

/// The longest list of cpus that is taken: the kernel's own limit is 8192.
const MAX_CPU: usize = 8192;

/// The properties that say what `settings` do; what systemd has none for is left out.
pub(super) fn of_settings(settings: &[Setting]) -> Result<Vec<Property>> {
    let mut out = Vec::new();
    let mut quota = Quota::default();
    for setting in settings {
        let (file, value) = (setting.file.as_ref(), setting.value.as_str());
        let mut add = |since, name: &str, value| out.push(Property { since, value: Value::property(name, value) });
        match file {
            "cpu.weight" => add(0, "CPUWeight", number(setting)?),
            "cpu.shares" => add(0, "CPUShares", number(setting)?),
            // A weight of 0 is what systemd calls idle.
            "cpu.idle" if value == "1" => add(252, "CPUWeight", Value::U64(0)),
            "cpu.max" => {
                let mut words = value.split(' ');
                quota.quota = words.next().map(|word| word.parse().unwrap_or(-1));
                quota.period = words.next().and_then(|word| word.parse().ok()).or(quota.period);
            }
            "cpu.cfs_quota_us" => quota.quota = value.parse().ok(),
            "cpu.cfs_period_us" => quota.period = value.parse().ok(),
            "cpuset.cpus" => add(244, "AllowedCPUs", bits(setting)?),
            "cpuset.mems" => add(244, "AllowedMemoryNodes", bits(setting)?),
            "memory.max" => add(0, "MemoryMax", number(setting)?),
            "memory.high" => add(0, "MemoryHigh", number(setting)?),
            "memory.low" => add(0, "MemoryLow", number(setting)?),
            "memory.min" => add(0, "MemoryMin", number(setting)?),
            "memory.swap.max" => add(0, "MemorySwapMax", number(setting)?),
            "memory.zswap.max" => add(253, "MemoryZSwapMax", number(setting)?),
            "memory.limit_in_bytes" => add(0, "MemoryLimit", number(setting)?),
            "memory.oom.group" => {
                add(252, OOM_POLICY, Value::str(if value == "1" { "kill" } else { "continue" }));
            }
            "pids.max" => add(0, "TasksMax", number(setting)?),
            "blkio.weight" | "blkio.bfq.weight" => add(0, "BlockIOWeight", number(setting)?),
            "io.weight" | "io.bfq.weight" => {
                // Weights of single devices have a colon and no property that a machine without the device takes.
                let text = match &setting.otherwise {
                    Otherwise::Instead { value, .. } => value.as_str(),
                    _ => value,
                };
                if let Ok(weight) = text.trim_start_matches("default ").parse() {
                    add(0, "IOWeight", Value::U64(weight));
                }
            }
            _ => {}
        }
    }
    if let Some((per_second, period)) = quota.per_second() {
        out.push(Property { since: 0, value: Value::property("CPUQuotaPerSecUSec", Value::U64(per_second)) });
        out.push(Property { since: 242, value: Value::property("CPUQuotaPeriodUSec", Value::U64(period)) });
    }
    Ok(out)
}

/// Quota and period in microseconds.
#[derive(Default)]
struct Quota {
    quota: Option<i64>,
    period: Option<u64>,
}

impl Quota {
    /// Microseconds of processor time a second, and the period. systemd keeps whole percents and would round down: so
    /// it is rounded up to ten milliseconds, and the control file gets the exact value afterwards.
    fn per_second(&self) -> Option<(u64, u64)> {
        let quota = self.quota?;
        let period = self.period.filter(|period| *period > 0).unwrap_or(100_000);
        if quota <= 0 {
            return Some((u64::MAX, period));
        }
        let exact = u128::from(quota.unsigned_abs()) * 1_000_000 / u128::from(period);
        Some((u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(u64::MAX), period))
    }
}

/// A number; `max` and what is negative is systemd's "infinity".
fn number(setting: &Setting) -> Result<Value> {
    let text = setting.value.as_str();
    if text == "max" || text.starts_with('-') {
        return Ok(Value::U64(u64::MAX));
    }
    // Unified values may have a suffix, as the kernel takes them.
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "T" | "t" => 1 << 40,
        _ => return Err(CgroupError::invalid(setting.field, text, "it must be a number")),
    };
    let value: u64 = digits.parse().map_err(|_| CgroupError::invalid(setting.field, text, "it must be a number"))?;
    Ok(Value::U64(value.saturating_mul(unit)))
}

/// A list such as `0-3,7` as systemd wants it: bits, the lowest first.
fn bits(setting: &Setting) -> Result<Value> {
    let refuse = || CgroupError::invalid(setting.field, &setting.value, "it must be a list such as 0-3,7");
    let mut bytes: Vec<u8> = Vec::new();
    for range in setting.value.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.trim().parse().map_err(|_| refuse())?;
        let last: usize = last.trim().parse().map_err(|_| refuse())?;
        if first > last || last >= MAX_CPU {
            return Err(refuse());
        }
        for index in first..=last {
            if bytes.len() <= index / 8 {
                bytes.resize(index / 8 + 1, 0);
            }
            bytes[index / 8] |= 1 << (index % 8);
        }
    }
    Ok(Value::bytes(&bytes))
}

/// Device rules. On version 2 the rules are a program of ours, which stays beside systemd's; so systemd is told
/// nothing, for it drops what has no node in /dev/char. On version 1 both write to the same file, and a reload would
/// allow everything.
pub(super) fn of_devices(rules: &Rules, version: Version) -> Result<Vec<Value>> {
    if version == Version::V2 {
        return Ok(Vec::new());
    }
    let wanted: Exceptions = rules.exceptions()?;
    if wanted.default_allow {
        return Ok(vec![
            Value::property("DevicePolicy", Value::str("auto")),
            Value::property("DeviceAllow", Value::Array("(ss)".to_owned(), Vec::new())),
        ]);
    }
    let groups = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let mut allow = Vec::new();
    for (_, line) in wanted.steps() {
        if let Some((node, access)) = device_of(&line, &groups) {
            allow.push(Value::Struct(vec![Value::str(node), Value::str(access)]));
        }
    }
    Ok(vec![
        Value::property("DevicePolicy", Value::str("strict")),
        Value::property("DeviceAllow", Value::Array("(ss)".to_owned(), Vec::new())),
        Value::property("DeviceAllow", Value::Array("(ss)".to_owned(), allow)),
    ])
}

/// `c 1:3 rwm` as systemd says it. `/proc/devices` has the names of what has only a major number.
fn device_of(line: &str, groups: &str) -> Option<(String, String)> {
    let mut words = line.split(' ');
    let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = numbers.split_once(':')?;
    let (directory, group, heading) = match kind {
        "c" => ("char", "char", "Character devices:"),
        "b" => ("block", "block", "Block devices:"),
        _ => return None,
    };
    let node = match (major, minor) {
        ("*", _) => format!("{group}-*"),
        (major, "*") => {
            let section = groups.split_once(heading)?.1;
            let name = section.lines().skip(1).take_while(|line| !line.is_empty()).find_map(|line| {
                let (number, name) = line.trim().split_once(' ')?;
                (number == major).then_some(name)
            })?;
            format!("{group}-{name}")
        }
        (major, minor) => format!("/dev/{directory}/{major}:{minor}"),
    };
    Some((node, access.to_owned()))
}
