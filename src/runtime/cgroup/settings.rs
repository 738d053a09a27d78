//! What is to be written where: the pure half of setting limits.
//!
//! `v1` and `v2` turn `LinuxResources` into a list of [`Setting`]s in the order in which the kernel wants them; nothing
//! is touched yet, so all of it is tested without a kernel.

use std::borrow::Cow;

use oci_spec::runtime::LinuxResources;

use super::host::{Controllers, Host, Version};
use super::{CgroupError, Result, v1, v2};

/// One value for one control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The hierarchy (v1) or the controller that must be enabled (v2).
    pub controller: Controllers,
    /// The file's name.
    pub file: Cow<'static, str>,
    /// The text that is written.
    pub value: String,
    /// The field of the resources, for messages.
    pub field: &'static str,
    /// What to do when it does not work.
    pub otherwise: Otherwise,
}

/// What a refused [`Setting`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// An error.
    Fail,
    /// Nothing, if the file is missing: the value asks for no more than what a kernel without the file does.
    FineIfMissing,
    /// Another try once the other settings are written: the kernel checks some values against each other (EINVAL).
    TryLater,
    /// Another file and value, if the file is missing: which one there is depends on the I/O scheduler.
    Instead { file: &'static str, value: String },
}

/// What the cgroup has now, as far as the order or the value of a write depends on it. A fresh cgroup has nothing,
/// and there a value that is the default anyway is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Current {
    /// Whether the cgroup was made just now.
    pub fresh: bool,
    /// v1: the memory limit, `None` for none.
    pub memory: Option<u64>,
    /// v1: the limit of memory and swap together, `None` for none.
    pub memory_and_swap: Option<u64>,
    /// v2: `cpu.max` as it reads.
    pub cpu_max: Option<String>,
}

impl Current {
    /// That of a cgroup just made.
    pub fn fresh() -> Self {
        Self { fresh: true, ..Self::default() }
    }
}

impl Setting {
    pub(super) fn new(
        controller: Controllers,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        field: &'static str,
    ) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), field, otherwise: Otherwise::Fail }
    }

    pub(super) fn or(mut self, otherwise: Otherwise) -> Self {
        self.otherwise = otherwise;
        self
    }
}

/// The settings for `resources` (all but the device rules) on `host`, in order.
///
/// `tolerate_hugetlb`: page limits on a host without that controller are dropped instead of refused.
pub(super) fn plan(
    host: &Host,
    resources: &LinuxResources,
    current: &Current,
    tolerate_hugetlb: bool,
) -> Result<Vec<Setting>> {
    let mut settings = match host.version() {
        Version::V1 => v1::plan(resources, current)?,
        Version::V2 => v2::plan(resources, current, host.controllers())?,
    };
    if tolerate_hugetlb && !host.controllers().contains(Controllers::HUGETLB) {
        settings.retain(|setting| setting.controller != Controllers::HUGETLB);
    }
    match settings.iter().find(|setting| !host.controllers().contains(setting.controller)) {
        None => Ok(settings),
        Some(setting) => Err(CgroupError::MissingController {
            field: format!("{} ({})", setting.field, setting.file),
            controller: setting.controller.to_string(),
            version: host.version(),
        }),
    }
}

/// The settings of page limits: `hugetlb.<size>.rsvd.<suffix>` first where the kernel has it, then the plain one.
pub(super) fn hugepages(resources: &LinuxResources, suffix: &str, out: &mut Vec<Setting>) -> Result<()> {
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        let digits = size.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || !matches!(&size[digits..], "KB" | "MB" | "GB") {
            return Err(CgroupError::invalid("hugepageLimits.pageSize", size, "it must look like 64KB, 2MB or 1GB"));
        }
        let value = if limit.limit() < 0 { "-1".to_owned() } else { limit.limit().to_string() };
        let value = if suffix == "max" && limit.limit() < 0 { "max".to_owned() } else { value };
        let field = "hugepageLimits";
        out.push(
            Setting::new(Controllers::HUGETLB, format!("hugetlb.{size}.rsvd.{suffix}"), &value, field)
                .or(Otherwise::FineIfMissing),
        );
        out.push(Setting::new(Controllers::HUGETLB, format!("hugetlb.{size}.{suffix}"), value, field));
    }
    Ok(())
}

/// The `rdma.max` lines.
pub(super) fn rdma(resources: &LinuxResources, out: &mut Vec<Setting>) -> Result<()> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, limit) in devices {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace()) {
            return Err(CgroupError::invalid("rdma", name, "a device name is one word"));
        }
        let mut line = name.clone();
        if let Some(handles) = limit.hca_handles() {
            line.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects() {
            line.push_str(&format!(" hca_object={objects}"));
        }
        if line.len() > name.len() {
            out.push(Setting::new(Controllers::RDMA, "rdma.max", line, "rdma"));
        }
    }
    Ok(())
}

/// Refuses what is no list of cpus or memory nodes before the kernel says only EINVAL.
pub(super) fn cpu_list<'a>(field: &'static str, list: &'a Option<String>) -> Result<Option<&'a str>> {
    match list.as_deref().map(str::trim) {
        None | Some("") => Ok(None),
        Some(list) if list.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-' | b':' | b'/')) => {
            Ok(Some(list))
        }
        Some(list) => Err(CgroupError::invalid(field, list, "it must be a list such as 0-3,7")),
    }
}

#[cfg(test)]
mod tests;
