//! Names of units, and the cgroups that belong to them.

use super::super::{CgroupError, CgroupPath, Result};

/// A scope: a unit of processes that systemd did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeName {
    /// The slice that it is in, such as `kubepods-burstable.slice`.
    pub slice: String,
    /// The unit, such as `orlop-1234.scope`.
    pub unit: String,
}

impl ScopeName {
    /// The scope `<prefix>-<name>.scope` in `slice`; without a prefix, `<name>.scope`.
    pub fn new(slice: &str, prefix: &str, name: &str) -> Result<Self> {
        let refuse = |path: &str, reason| CgroupError::Path { path: path.to_owned(), reason };
        expand_slice(slice)?;
        if name.is_empty() {
            return Err(refuse(name, "a systemd unit needs a name"));
        }
        if name.ends_with(".slice") {
            return Err(refuse(name, "a container lives in a scope, not in a slice"));
        }
        let stem = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
        let unit = format!("{}.scope", escape(&stem));
        if unit.len() > 255 {
            return Err(refuse(&unit, "the name of a systemd unit has 255 characters at most"));
        }
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// What `cgroupsPath` says under the systemd driver: `slice:prefix:name`. An empty slice is `default_slice`, and
    /// an empty path stands for the container `id`.
    pub fn parse(cgroups_path: &str, default_slice: &str, id: &str) -> Result<Self> {
        if cgroups_path.is_empty() {
            return Self::new(default_slice, "orlop", id);
        }
        let mut parts = cgroups_path.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(slice), Some(prefix), Some(name), None) => {
                Self::new(if slice.is_empty() { default_slice } else { slice }, prefix, name)
            }
            _ => Err(CgroupError::Path {
                path: cgroups_path.to_owned(),
                reason: "under the systemd driver it must be slice:prefix:name, such as system.slice:orlop:c1",
            }),
        }
    }

    /// Where the machine's systemd puts it.
    pub fn path(&self) -> Result<CgroupPath> {
        CgroupPath::new(&format!("{}/{}", expand_slice(&self.slice)?, self.unit))
    }
}

/// The path of a slice: `a-b.slice` lies in `a.slice`, so it is `/a.slice/a-b.slice`. `-.slice` is the root.
pub fn expand_slice(slice: &str) -> Result<String> {
    let refuse = |reason| Err(CgroupError::Path { path: slice.to_owned(), reason });
    let Some(name) = slice.strip_suffix(".slice") else {
        return refuse("under the systemd driver a parent must be a slice, such as kubepods.slice");
    };
    if slice.contains('/') {
        return refuse("the name of a slice has no '/'");
    }
    if name == "-" {
        return Ok(String::new());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if slice.len() > 255 || !name.chars().all(plain) {
        return refuse("this cannot be the name of a systemd unit");
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return refuse("a slice has a name between each two dashes");
        }
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
    }
    Ok(path)
}

/// The slice that a parent given as a path means: its last component, which must lie where systemd puts it. Kubelets
/// say `/kubepods.slice/kubepods-burstable.slice`, others only `kubepods-burstable.slice`.
pub fn slice_of_path(path: &str) -> Result<String> {
    let slice = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let expanded = expand_slice(slice)?;
    if path.contains('/') && format!("/{}", path.trim_matches('/')) != expanded {
        return Err(CgroupError::Path { path: path.to_owned(), reason: "systemd puts a slice of this name elsewhere" });
    }
    Ok(slice.to_owned())
}

/// A text as part of a unit's name: what cannot be in one becomes `\x..`, as `systemd-escape` does it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}
