//! Names of images: `[host[:port]/]path[:tag][@digest]`, read and completed as Docker and containerd do.
//!
//! `nginx` is `docker.io/library/nginx:latest`. A reference with both tag and digest names what the digest says; the tag
//! is kept for people. Image ids (`sha256:<hex>`, bare or shortened hex) are no references: the store knows those.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError, is_lower_hex};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Why a string names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("an image reference is expected, the string is empty")]
    Empty,
    #[error("image reference {0:?}: the repository name must be lowercase")]
    Uppercase(String),
    #[error(
        "image reference {text:?}: {part:?} is no valid part of a repository name (a-z, 0-9, and . _ - between them)"
    )]
    Path { text: String, part: String },
    #[error("image reference {text:?}: {domain:?} is no valid registry host")]
    Domain { text: String, domain: String },
    #[error(
        "image reference {text:?}: {tag:?} is no valid tag (1 to 128 of A-Z a-z 0-9 _ . -, not beginning with . or -)"
    )]
    Tag { text: String, tag: String },
    #[error("image reference {text:?}: {source}")]
    Digest { text: String, source: DigestError },
    #[error("image reference {0:?}: the repository name is longer than 255 characters")]
    TooLong(String),
    #[error("image reference {0:?} is 64 hex digits, which could be an image id; write sha256: before it if it is one")]
    LooksLikeId(String),
}

/// A complete image name: host, repository path, and a tag or a digest or both.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and port of the registry as named: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and path: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask a registry for: the digest, or else the tag.
    pub fn target(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// `name:tag`, the form in which an image's tags are listed. None where only a digest was given, or both.
    pub fn tagged(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// `name@digest`, the form in which an image's repo digests are listed.
    pub fn pinned_to(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// The same repository, another digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (domain, remainder) = split_domain(rest);
        // A colon after the last slash begins the tag; one before it belongs to the host.
        let (path, tag) = match remainder.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (remainder, None),
        };
        check_domain(text, domain)?;
        check_path(text, path)?;
        if let Some(tag) = tag {
            check_tag(text, tag)?;
        }
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong(text.to_owned()));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }
}

/// The first part is a host if it can be nothing else: it has a dot, a colon or an uppercase letter, or is `localhost`.
fn split_domain(rest: &str) -> (&str, &str) {
    match rest.split_once('/') {
        Some((first, remainder))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, remainder)
        }
        _ => (DEFAULT_DOMAIN, rest),
    }
}

fn check_domain(text: &str, domain: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Domain { text: text.to_owned(), domain: domain.to_owned() };
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(bad)?;
            let valid = !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
            if !valid {
                return Err(bad());
            }
            match port.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if port.is_empty() => (None, None),
                None => return Err(bad()),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    if let Some(host) = host {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !host.split('.').all(label) {
            return Err(bad());
        }
    }
    match port {
        Some(port) if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) => Err(bad()),
        Some(port) if port.parse::<u16>().is_err() => Err(bad()),
        _ => Ok(()),
    }
}

fn check_path(text: &str, path: &str) -> Result<(), ReferenceError> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase(text.to_owned()));
    }
    match path.split('/').find(|part| !is_path_component(part.as_bytes())) {
        Some(part) => Err(ReferenceError::Path { text: text.to_owned(), part: part.to_owned() }),
        None => Ok(()),
    }
}

/// Letters and digits, with one of `.`, `_`, `__` or any number of `-` between runs of them.
fn is_path_component(part: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = part.first().is_some_and(alphanumeric) && part.last().is_some_and(alphanumeric);
    ends && part
        .split(alphanumeric)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

fn check_tag(text: &str, tag: &str) -> Result<(), ReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if valid { Ok(()) } else { Err(ReferenceError::Tag { text: text.to_owned(), tag: tag.to_owned() }) }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn completes_names() {
        let digest = format!("sha256:{HEX}");
        for (given, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("docker.io/nginx", "docker.io/library/nginx:latest".to_owned()),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned()),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest".to_owned()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("[2001:db8::1]/app", "[2001:db8::1]/app:latest".to_owned()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_owned()),
            ("Upper/app", "Upper/app:latest".to_owned()),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest".to_owned()),
            (&format!("nginx@{digest}"), format!("docker.io/library/nginx@{digest}")),
            (&format!("nginx:1@{digest}"), format!("docker.io/library/nginx:1@{digest}")),
            (&format!("localhost:5000/a@{digest}"), format!("localhost:5000/a@{digest}")),
        ] {
            let reference: Reference = given.parse().unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(reference.to_string(), full, "{given}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn asks_for_the_digest_first() {
        let both: Reference = format!("r.example/a:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(both.target(), format!("sha256:{HEX}"));
        assert_eq!(both.tagged(), None);
        let tag: Reference = "r.example/a:1".parse().unwrap();
        assert_eq!((tag.target(), tag.tagged().as_deref()), ("1", Some("r.example/a:1")));
        assert_eq!(tag.pinned_to(both.digest().unwrap()), format!("r.example/a@sha256:{HEX}"));
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long = format!("r.example/{}", "a".repeat(250));
        let tag = format!("a:{}", "t".repeat(129));
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            ":a",
            "a:-b",
            "a:.b",
            "a b",
            "a/B",
            "Nginx",
            "a@",
            "a@sha256:abc",
            "a@b@c",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a_.b",
            "http://a/b",
            "r.example:port/a",
            "r.example:99999/a",
            "r..example/a",
            "-r.example/a",
            "[::1/a",
            "[zz]/a",
            "[]:5/a",
            "a:b/c:d:e",
            "../../etc/passwd",
            "a\0b",
            "é/a",
            HEX,
            &long,
            &tag,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
