//! Names: a repository on a registry, and a tag or digest in it.

use std::fmt;

use super::digest::Digest;
use super::error::{Error, Result};
use super::text::printable;

/// A repository: the registry as people write it (`docker.io`, `localhost:5000`) and the path on it
/// (`library/busybox`). Short names and defaults are the caller's business; here both parts are given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Checks both parts (distribution-spec, "Pulling manifests", the grammar of `<name>`).
    pub fn new(registry: &str, path: &str) -> Result<Self> {
        if !valid_host(registry) {
            return Err(Error::config(format!(
                "registry \"{}\": not a host name or host:port",
                printable(registry, 160)
            )));
        }
        if !valid_path(path) {
            return Err(Error::config(format!(
                "repository \"{}\" of {registry}: only lower-case letters, digits and single separators ._- between slashes",
                printable(path, 300)
            )));
        }
        Ok(Self { registry: registry.to_ascii_lowercase(), path: path.to_owned() })
    }

    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

fn valid_host(host: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let (name, port) = split_port(host);
    let name_ok = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(plain),
    };
    name_ok && host.len() <= 260 && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
}

/// `host:port` to its parts; the brackets of an IPv6 address stay with the host.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

fn valid_path(path: &str) -> bool {
    path.len() <= 255 && path.split('/').all(valid_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn valid_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let Some(last) = component.bytes().last() else { return false };
    if !word(component.as_bytes()[0]) || !word(last) {
        return false;
    }
    for byte in component.bytes() {
        if word(byte) {
            let good = matches!(separator.as_str(), "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            if !good {
                return false;
            }
            separator.clear();
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.push(byte as char);
        } else {
            return false;
        }
    }
    true
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ManifestRef {
    Tag(String),
    Digest(Digest),
}

impl ManifestRef {
    /// A tag, or a digest if there is a colon in it.
    pub fn parse(text: &str) -> Result<Self> {
        if text.contains(':') { text.parse().map(Self::Digest) } else { Self::tag(text) }
    }

    /// Checks the grammar of tags: at most 128 of letters, digits, `_`, `.`, `-`, not beginning with `.` or `-`.
    pub fn tag(text: &str) -> Result<Self> {
        let good = !text.is_empty()
            && text.len() <= 128
            && !text.starts_with(['.', '-'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if good {
            Ok(Self::Tag(text.to_owned()))
        } else {
            Err(Error::config(format!("tag \"{}\": not a valid tag", printable(text, 160))))
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag,
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl From<Digest> for ManifestRef {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for ManifestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for (registry, path) in [
            ("docker.io", "library/busybox"),
            ("localhost:5000", "a"),
            ("[::1]:5000", "a/b/c-d--e.f_g__h"),
            ("127.0.0.1", "x1"),
            ("Reg.Example.COM", "x"),
        ] {
            Repository::new(registry, path).unwrap();
        }
        for (registry, path) in [
            ("", "a"),
            ("host/evil", "a"),
            ("user@host", "a"),
            ("host:port", "a"),
            ("host:0", "a"),
            ("host?x", "a"),
            ("[::1", "a"),
            ("host", ""),
            ("host", "A"),
            ("host", "a//b"),
            ("host", "../a"),
            ("host", "a/..b"),
            ("host", "a..b"),
            ("host", "a___b"),
            ("host", "a/b?c"),
            ("host", "a%2fb"),
            ("host", "-a"),
            ("host", "a/"),
        ] {
            assert!(Repository::new(registry, path).is_err(), "{registry} {path}");
        }
    }

    #[test]
    fn references() {
        assert_eq!(ManifestRef::parse("v1.2").unwrap(), ManifestRef::Tag("v1.2".into()));
        assert!(matches!(ManifestRef::parse(Digest::of(b"").as_str()).unwrap(), ManifestRef::Digest(_)));
        for wrong in ["", ".a", "-a", "a/b", "a?b", "sha256:xyz", &"a".repeat(129)] {
            assert!(ManifestRef::parse(wrong).is_err(), "{wrong}");
        }
    }
}
