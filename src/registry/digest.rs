//! Content digests: the algorithms that a registry may name, and a hasher for each.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

use super::error::{Error, Result};

/// `algorithm:hex`, checked (image-spec, descriptor.md, "Digests").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// The digest of some bytes, with sha256.
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(Sha256::digest(bytes))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The part behind the colon.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    pub(crate) fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" { Hasher::Sha512(Sha512::new()) } else { Hasher::Sha256(Sha256::new()) }
    }

    /// The digest of these bytes, with the same algorithm as this digest.
    pub(crate) fn same_kind_of(&self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Err(Error::config(format!("digest \"{}\": {why}", super::text::printable(text, 160))));
        let Some((algorithm, hex)) = text.split_once(':') else {
            return wrong("is not of the form algorithm:hex");
        };
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return wrong("only sha256 and sha512 can be verified"),
        };
        if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return wrong("wrong length, or not lower-case hexadecimal");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A running hash.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest(format!("sha256:{}", hex::encode(hash.finalize()))),
            Self::Sha512(hash) => Digest(format!("sha512:{}", hex::encode(hash.finalize()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_verified_parses() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Digest = empty.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.hasher().finish(), digest);
        let upper = empty.to_uppercase();
        let sha1 = format!("sha1:{}", "0".repeat(40));
        for wrong in ["", "sha256", "sha256:", "sha256:00", &upper, &sha1, "../../x", &format!("{empty} ")] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(long.same_kind_of(b"").algorithm(), "sha512");
    }
}
