//! Device rules: which device nodes a container may open or make.
//!
//! The rules of the spec are applied in order upon "nothing is allowed". For each kind of access that a process asks
//! for, the last rule that matches the device and names that access decides. Version 2 has a program for it (see
//! `bpf`); version 1 has a default and a list of exceptions, in which not everything can be said.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};

use super::host::Version;
use super::{CgroupError, Result};

/// Kinds of access, as the kernel numbers them.
pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;
pub const ALL: u8 = MKNOD | READ | WRITE;

/// Block or character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Block,
    Char,
}

/// One rule about one kind of device; `None` is every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub allow: bool,
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

/// Rules in the order of the spec, upon a default. Rules that a later one about everything makes void are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    pub default_allow: bool,
    pub rules: Vec<Rule>,
}

impl Rule {
    fn same_device(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }
}

impl Rules {
    /// Reads the rules of the spec.
    pub fn parse(entries: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut all = Self::default();
        for entry in entries {
            let invalid = |reason: &str| CgroupError::invalid("devices", entry, reason);
            let access =
                access_bits(entry.access().as_deref()).ok_or_else(|| invalid("access is made of r, w and m"))?;
            let number = |value: Option<i64>| match value {
                None | Some(-1) => Ok(None),
                Some(value @ 0..=0x7fff_ffff) => Ok(Some(value as u32)),
                Some(_) => Err(invalid("a device number is from 0 to 2147483647, or -1 for any")),
            };
            let (major, minor) = (number(entry.major())?, number(entry.minor())?);
            let kinds: &[Kind] = match entry.typ().unwrap_or_default() {
                LinuxDeviceType::A => &[Kind::Block, Kind::Char],
                LinuxDeviceType::B => &[Kind::Block],
                LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Char],
                LinuxDeviceType::P => continue, // a FIFO is no device to the kernel
            };
            if kinds.len() == 2 && (access, major, minor) == (ALL, None, None) {
                all = Self { default_allow: entry.allow(), rules: Vec::new() };
                continue;
            }
            all.rules.extend(kinds.iter().map(|&kind| Rule { allow: entry.allow(), kind, major, minor, access }));
        }
        Ok(all)
    }

    /// Whether everything is allowed.
    pub fn allow_everything(&self) -> bool {
        self.default_allow && self.rules.iter().all(|rule| rule.allow)
    }

    /// The default and its exceptions, as version 1 knows them.
    pub fn exceptions(&self) -> Result<Exceptions> {
        let mut state = Exceptions { default_allow: self.default_allow, list: Vec::new() };
        for rule in &self.rules {
            state.apply(rule)?;
        }
        Ok(state)
    }
}

/// The state of a v1 device cgroup: a default and what is otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    pub default_allow: bool,
    /// No two of the same device; `allow` is the opposite of the default.
    pub list: Vec<Rule>,
}

impl Exceptions {
    fn apply(&mut self, rule: &Rule) -> Result<()> {
        let at = self.list.iter().position(|known| known.same_device(rule));
        if rule.allow != self.default_allow {
            match at {
                Some(at) => self.list[at].access |= rule.access,
                None => self.list.push(*rule),
            }
            return Ok(());
        }
        if let Some(at) = at {
            self.list[at].access &= !rule.access;
            if self.list[at].access == 0 {
                self.list.remove(at);
            }
        }
        // What is left and still overlaps was said more widely or more narrowly.
        if self.list.iter().any(|known| known.overlaps(rule) && known.access & rule.access != 0) {
            return Err(CgroupError::Unsupported {
                field: format!("devices ({} {})", if rule.allow { "allow" } else { "deny" }, line(rule)),
                version: Version::V1,
                reason: "the kernel cannot take a part out of an earlier rule: name the devices one by one",
            });
        }
        Ok(())
    }

    /// Reads `devices.list`.
    pub fn parse_list(text: &str) -> Option<Self> {
        if text.trim() == "a *:* rwm" {
            return Some(Self { default_allow: true, list: Vec::new() });
        }
        let mut state = Self::default();
        for entry in text.lines().filter(|entry| !entry.trim().is_empty()) {
            let mut words = entry.split_ascii_whitespace();
            let kind = match words.next()? {
                "b" => Kind::Block,
                "c" => Kind::Char,
                _ => return None,
            };
            let (major, minor) = words.next()?.split_once(':')?;
            let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
            let access = access_bits(words.next())?;
            state.list.push(Rule { allow: true, kind, major: number(major)?, minor: number(minor)?, access });
        }
        Some(state)
    }

    /// The writes that lead from `self` to `wanted`: what is gained first, then what is lost, so that nothing that is
    /// allowed both before and after is refused in between.
    pub fn steps_to(&self, wanted: &Self) -> Vec<(&'static str, String)> {
        if self.default_allow || wanted.default_allow {
            // `devices.list` does not show the exceptions of an allowing default: start anew.
            return wanted.steps();
        }
        let mut steps = Vec::new();
        for rule in &wanted.list {
            let have = self.list.iter().find(|known| known.same_device(rule)).map_or(0, |known| known.access);
            if rule.access & !have != 0 {
                steps.push(("devices.allow", line(&Rule { access: rule.access & !have, ..*rule })));
            }
        }
        for rule in &self.list {
            let keep = wanted.list.iter().find(|known| known.same_device(rule)).map_or(0, |known| known.access);
            if rule.access & !keep != 0 {
                steps.push(("devices.deny", line(&Rule { access: rule.access & !keep, ..*rule })));
            }
        }
        steps
    }

    /// The writes that make this state in a cgroup whatever it has.
    pub fn steps(&self) -> Vec<(&'static str, String)> {
        let (all, one) =
            if self.default_allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        let mut steps = Vec::with_capacity(1 + self.list.len());
        steps.push((all, "a".to_owned()));
        steps.extend(self.list.iter().map(|rule| (one, line(rule))));
        steps
    }
}

/// `c 1:3 rwm`
fn line(rule: &Rule) -> String {
    let kind = if rule.kind == Kind::Block { 'b' } else { 'c' };
    let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let mut text = format!("{kind} {}:{} ", number(rule.major), number(rule.minor));
    text.extend([(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(b, _)| rule.access & b != 0).map(|(_, c)| c));
    text
}

/// No text is every access, as in a rule about everything.
fn access_bits(text: Option<&str>) -> Option<u8> {
    match text {
        None | Some("") => Some(ALL),
        Some(text) => text.chars().try_fold(0, |bits, c| match c {
            'r' => Some(bits | READ),
            'w' => Some(bits | WRITE),
            'm' => Some(bits | MKNOD),
            _ => None,
        }),
    }
}

/// The rules that every container gets beside its own: it may make any node (a node is no access), and use the
/// devices that the spec puts into every `/dev`.
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{B, C};
    let rule = |typ, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(true).typ(typ).access(access);
        if let Some(major) = major {
            rule = rule.major(major);
        }
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rule.build().expect("every field of the builder has a default")
    };
    let node = |major, minor| rule(C, Some(major), minor, "rwm");
    vec![
        rule(C, None, None, "m"),
        rule(B, None, None, "m"),
        node(1, Some(3)), // null
        node(1, Some(5)), // zero
        node(1, Some(7)), // full
        node(1, Some(8)), // random
        node(1, Some(9)), // urandom
        node(5, Some(0)), // tty
        node(5, Some(2)), // ptmx
        node(136, None),  // pts
    ]
}

#[cfg(test)]
mod tests;
