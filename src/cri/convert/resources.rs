//! `LinuxContainerResources`, both ways.

use crate::cri::v1;
use crate::cri::validate::{
    At, Checked, Invalid, KEY_LIMIT, LIST_LIMIT, NAME_LIMIT, PATH_LIMIT, cpu_list, each, line, named, quoted, within,
};
use crate::node::types::{HugepageLimit, Resources};

/// Microseconds that the kernel takes as a period of the CPU controller.
const CPU_PERIOD: std::ops::RangeInclusive<i64> = 1000..=1_000_000;
/// Microseconds; the kernel takes no smaller quota.
const CPU_QUOTA_MIN: i64 = 1000;

/// A request's resources. 0 is "not set", as everywhere in CRI.
pub fn resources(r: v1::LinuxContainerResources) -> Checked<Resources> {
    if r.cpu_period != 0 {
        within(r.cpu_period, CPU_PERIOD, "microseconds").at("cpu_period")?;
    }
    // Kubelets say -1 for "no limit"; no other negative number means anything.
    if r.cpu_quota != 0 && r.cpu_quota != -1 {
        within(r.cpu_quota, CPU_QUOTA_MIN..=i64::MAX, "microseconds").at("cpu_quota")?;
    }
    within(r.cpu_shares, 0..=i64::MAX, "").at("cpu_shares")?;
    within(r.memory_limit_in_bytes, 0..=i64::MAX, "bytes").at("memory_limit_in_bytes")?;
    within(r.memory_swap_limit_in_bytes, -1..=i64::MAX, "bytes").at("memory_swap_limit_in_bytes")?;
    let (memory, swap) = (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes);
    if memory > 0 && swap > 0 && swap < memory {
        return Err(Invalid::of(
            "memory_swap_limit_in_bytes",
            format!("{swap} bytes for memory and swap are less than the {memory} for memory alone"),
        ));
    }
    within(r.oom_score_adj, -1000..=1000, "").at("oom_score_adj")?;
    cpu_list(&r.cpuset_cpus).at("cpuset_cpus")?;
    cpu_list(&r.cpuset_mems).at("cpuset_mems")?;
    for (key, value) in &r.unified {
        unified(key, value).at("unified")?;
    }
    Ok(Resources {
        cpu_period: set(r.cpu_period),
        cpu_quota: set(r.cpu_quota),
        cpu_shares: set(r.cpu_shares),
        memory_limit: set(memory),
        oom_score_adj: r.oom_score_adj,
        cpuset_cpus: r.cpuset_cpus,
        cpuset_mems: r.cpuset_mems,
        hugepage_limits: each(r.hugepage_limits, LIST_LIMIT, hugepages).at("hugepage_limits")?,
        unified: r.unified,
        memory_swap_limit: set(swap),
    })
}

/// The limits in force, for a status.
pub fn resources_view(r: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: r.cpu_period.unwrap_or(0),
        cpu_quota: r.cpu_quota.unwrap_or(0),
        cpu_shares: r.cpu_shares.unwrap_or(0),
        memory_limit_in_bytes: r.memory_limit.unwrap_or(0),
        oom_score_adj: r.oom_score_adj,
        cpuset_cpus: r.cpuset_cpus.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        hugepage_limits: r
            .hugepage_limits
            .iter()
            .map(|h| v1::HugepageLimit { page_size: h.page_size.clone(), limit: h.limit })
            .collect(),
        unified: r.unified.clone(),
        memory_swap_limit_in_bytes: r.memory_swap_limit.unwrap_or(0),
    }
}

fn set(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

/// One file of a cgroup: its name is one component, or the value would land anywhere.
fn unified(key: &str, value: &str) -> Checked {
    named(key, KEY_LIMIT.min(NAME_LIMIT))?;
    if !key.contains('.') || key.starts_with('.') || key.contains(['/', '\n']) {
        return Err(Invalid::new(format!("{} is no name of a cgroup file", quoted(key))));
    }
    // Some files take a key a line, so a line break is right here.
    crate::cri::validate::text(value, PATH_LIMIT)
}

fn hugepages(h: v1::HugepageLimit) -> Checked<HugepageLimit> {
    line(&h.page_size, NAME_LIMIT).at("page_size")?;
    let digits = h.page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &h.page_size[digits.len()..];
    let number = digits.parse::<u32>().is_ok_and(|n| n > 0) && !digits.starts_with(['+', '0']);
    if !number || !matches!(unit, "KB" | "MB" | "GB") {
        return Err(Invalid::of("page_size", format!("{} is no size such as \"2MB\"", quoted(&h.page_size))));
    }
    Ok(HugepageLimit { page_size: h.page_size, limit: h.limit })
}
