//! The checks that every request passes before the node sees it, and the error that says which field is wrong.
//!
//! What is refused here can never succeed, whatever the node's state: a missing name, a path that leads out of its
//! directory, a byte that no kernel interface takes. What depends on the node (does the pod exist, does the kernel have
//! the feature) is the node's to refuse. Limits are far above what a kubelet sends; they stop a request from growing
//! state files and replies without bound.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// A field that can never be right, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid {
    /// As `config.mounts[3].host_path`.
    field: String,
    reason: String,
}

impl Invalid {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { field: String::new(), reason: reason.into() }
    }

    /// What is wrong with the field `name` of the message that is looked at.
    pub fn of(name: &str, reason: impl Into<String>) -> Self {
        Self { field: name.to_owned(), reason: reason.into() }
    }

    /// The same error, seen from the message that holds the field.
    fn within(mut self, outer: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner if inner.starts_with('[') => format!("{outer}{inner}"),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.field, self.reason) }
    }
}

impl std::error::Error for Invalid {}

/// What a check yields.
pub type Checked<T = ()> = Result<T, Invalid>;

/// Names the field that a check was about.
pub trait At<T> {
    /// The error is in field `name` of this message.
    fn at(self, name: &str) -> Checked<T>;
    /// The error is in the element `index` of this list.
    fn item(self, index: usize) -> Checked<T>;
}

impl<T> At<T> for Checked<T> {
    fn at(self, name: &str) -> Checked<T> {
        self.map_err(|error| error.within(name))
    }

    fn item(self, index: usize) -> Checked<T> {
        self.map_err(|error| error.within(&format!("[{index}]")))
    }
}

/// Turns each element of a list, naming the one that is wrong.
pub fn each<A, B>(items: Vec<A>, limit: usize, mut turn: impl FnMut(A) -> Checked<B>) -> Checked<Vec<B>> {
    if items.len() > limit {
        return Err(Invalid::new(format!("has {} entries, at most {limit} are taken", items.len())));
    }
    items.into_iter().enumerate().map(|(i, item)| turn(item).item(i)).collect()
}

/// A message that must be there.
pub fn required<T>(message: Option<T>) -> Checked<T> {
    message.ok_or_else(|| Invalid::new("is missing"))
}

/// Entries in any list of a request.
pub const LIST_LIMIT: usize = 16_384;
/// Bytes of an id of a pod or a container.
pub const ID_LIMIT: usize = 256;
/// Bytes of a name, and of a filesystem's name (NAME_MAX).
pub const NAME_LIMIT: usize = 255;
/// Bytes of a path, its end included (PATH_MAX).
pub const PATH_LIMIT: usize = 4096;
/// Bytes of an argument or an environment entry of a process, its end included (MAX_ARG_STRLEN, execve(2)).
pub const ARGUMENT_LIMIT: usize = 131_072;
/// Bytes of a label's or annotation's key.
pub const KEY_LIMIT: usize = 1024;
/// Bytes of all labels of an object.
pub const LABELS_LIMIT: usize = 256 * 1024;
/// Bytes of all annotations of an object. Kubernetes allows a pod 256 KiB, to which kubelets add their own.
pub const ANNOTATIONS_LIMIT: usize = 1024 * 1024;
/// Bytes of an image reference.
pub const REFERENCE_LIMIT: usize = 1024;
/// Bytes of one credential. Identity tokens of clouds have some KiB.
pub const CREDENTIAL_LIMIT: usize = 256 * 1024;

/// At most `limit` bytes and no NUL, which no kernel interface takes.
pub fn text(value: &str, limit: usize) -> Checked {
    if value.len() > limit {
        return Err(Invalid::new(format!("has {} bytes, at most {limit} are taken", value.len())));
    }
    if value.contains('\0') {
        return Err(Invalid::new("has a NUL byte"));
    }
    Ok(())
}

/// [`text`], and not empty.
pub fn named(value: &str, limit: usize) -> Checked {
    if value.is_empty() {
        return Err(Invalid::new("is missing"));
    }
    text(value, limit)
}

/// One line: what goes into files that are read by lines, such as resolv.conf and cgroup files.
pub fn line(value: &str, limit: usize) -> Checked {
    text(value, limit)?;
    if value.contains(['\n', '\r']) {
        return Err(Invalid::new(format!("{} has a line break", quoted(value))));
    }
    Ok(())
}

/// One word: a [`line`] without blanks, and not empty.
pub fn word(value: &str, limit: usize) -> Checked {
    named(value, limit)?;
    if value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Invalid::new(format!("{} has a blank or a control character", quoted(value))));
    }
    Ok(())
}

/// An id of a pod or a container. Ours are 64 hexadecimal digits; a foreign one is unknown, not wrong, as long as it
/// could be an id.
pub fn id(value: &str) -> Checked {
    named(value, ID_LIMIT)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !value.contains(|c: char| c.is_ascii_alphanumeric()) || !value.chars().all(plain) {
        return Err(Invalid::new(format!("{} is no id", quoted(value))));
    }
    Ok(())
}

/// A part of an object's name: it becomes part of file names and of log fields.
pub fn name(value: &str) -> Checked {
    named(value, NAME_LIMIT)?;
    if value.contains('/') || value.contains(char::is_control) {
        return Err(Invalid::new(format!("{} has a '/' or a control character", quoted(value))));
    }
    Ok(())
}

/// An absolute path.
pub fn absolute(path: &str) -> Checked {
    named(path, PATH_LIMIT - 1)?;
    if !path.starts_with('/') {
        return Err(Invalid::new(format!("{} is not an absolute path", quoted(path))));
    }
    Ok(())
}

/// A path without `..`, so that it stays below where it begins.
pub fn confined(path: &str) -> Checked {
    text(path, PATH_LIMIT - 1)?;
    if path.split('/').any(|part| part == "..") {
        return Err(Invalid::new(format!("{} leads out of its directory", quoted(path))));
    }
    Ok(())
}

/// A relative path that stays below where it begins.
pub fn beneath(path: &str) -> Checked {
    if path.starts_with('/') {
        return Err(Invalid::new(format!("{} must be relative", quoted(path))));
    }
    confined(path)
}

/// Labels or annotations, `limit` bytes of keys and values together. They travel back as they came.
pub fn pairs(pairs: &BTreeMap<String, String>, limit: usize) -> Checked {
    let mut bytes = 0;
    for (key, value) in pairs {
        if key.is_empty() {
            return Err(Invalid::new("has an empty key"));
        }
        if key.len() > KEY_LIMIT {
            return Err(Invalid::new(format!("has a key of {} bytes, at most {KEY_LIMIT} are taken", key.len())));
        }
        bytes += key.len() + value.len();
    }
    if bytes > limit {
        return Err(Invalid::new(format!("has {bytes} bytes, at most {limit} are taken")));
    }
    Ok(())
}

/// A number within `range`, named with its unit in the error.
pub fn within(value: i64, range: std::ops::RangeInclusive<i64>, unit: &str) -> Checked {
    if range.contains(&value) {
        return Ok(());
    }
    let space = if unit.is_empty() { "" } else { " " };
    Err(Invalid::new(format!("{value}{space}{unit} is not within {} and {}", range.start(), range.end())))
}

/// A name of a sysctl, with dots or slashes. Which ones a pod may set is the node's to say.
pub fn sysctl(name: &str) -> Checked {
    named(name, NAME_LIMIT)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@');
    let parts = name.split(['.', '/']);
    if !name.chars().all(plain) || parts.clone().any(str::is_empty) || parts.count() < 2 {
        return Err(Invalid::new(format!("{} is no name of a sysctl", quoted(name))));
    }
    Ok(())
}

/// The value of a sysctl: words, numbers and ranges, and nothing that could be a second setting to anyone.
pub fn sysctl_value(value: &str) -> Checked {
    let plain = |c: char| c.is_ascii_alphanumeric() || " \t._:,/-".contains(c);
    match value.chars().find(|c| !plain(*c)) {
        Some(bad) => Err(Invalid::new(format!("{bad:?} is no part of a value of a sysctl"))),
        None => Ok(()),
    }
}

/// A list of CPUs or memory nodes as the kernel reads it: `0-3,8`. Empty is unset.
pub fn cpu_list(list: &str) -> Checked {
    let number = |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let part = |text: &str| match text.split_once('-') {
        None => number(text),
        Some((low, high)) => {
            number(low) && number(high) && low.parse::<u32>().ok().zip(high.parse().ok()).is_some_and(|(l, h)| l <= h)
        }
    };
    if list.is_empty() || (list.len() <= PATH_LIMIT && list.split(',').all(part)) {
        return Ok(());
    }
    Err(Invalid::new(format!("{} is no list of numbers and ranges", quoted(list))))
}

/// A value for an error's text: cut short, and with what a terminal would take as a command made visible.
pub fn quoted(value: &str) -> String {
    const SHOWN: usize = 120;
    let cut = value.floor_char_boundary(SHOWN);
    let mut shown = format!("{:?}", &value[..cut]);
    if cut < value.len() {
        // Writing to a String does not fail.
        let _ = write!(shown, "… ({} bytes)", value.len());
    }
    shown
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
