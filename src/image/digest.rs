//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>`, and hashing of streams.
//!
//! A [`Digest`] is always one that this program can verify. The image specification lets unknown algorithms pass as
//! long as nothing has to be verified; what is pulled has to be, so they are refused where they are read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Why a string is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("digest {0:?} has no algorithm: sha256:<64 hex digits> is expected")]
    NoAlgorithm(String),
    #[error("digest {0:?} has an algorithm that is not supported: sha256 and sha512 are")]
    Algorithm(String),
    #[error("digest {text:?} must have {expected} lowercase hex digits after the colon")]
    Encoding { text: String, expected: usize },
}

/// The hash functions of the image specification that registries use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The word before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Hex digits of a digest.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// Begins to hash a stream.
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher(Inner::Sha256(sha2::Sha256::new())),
            Self::Sha512 => Hasher(Inner::Sha512(sha2::Sha512::new())),
        }
    }
}

/// A content digest, in its canonical text form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Box<str>);

impl Digest {
    /// The sha256 of some bytes.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Algorithm::Sha256.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with("sha256:") { Algorithm::Sha256 } else { Algorithm::Sha512 }
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        &self.0[self.algorithm().name().len() + 1..]
    }

    /// `sha256:…`
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether some bytes have this digest.
    pub fn verifies(&self, bytes: &[u8]) -> bool {
        let mut hasher = self.algorithm().hasher();
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(text.to_owned()))?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm(text.to_owned())),
        };
        let expected = algorithm.hex_len();
        if hex.len() != expected || !hex.bytes().all(is_lower_hex) {
            return Err(DigestError::Encoding { text: text.to_owned(), expected });
        }
        Ok(Self(text.into()))
    }
}

/// Whether a byte is one of `0-9a-f`.
pub(crate) fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream; [`Hasher::finish`] tells its digest.
#[derive(Clone)]
pub struct Hasher(Inner);

#[derive(Clone)]
enum Inner {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha256(hash) => hash.update(bytes),
            Inner::Sha512(hash) => hash.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        let (name, hex) = match self.0 {
            Inner::Sha256(hash) => ("sha256", hex::encode(hash.finalize())),
            Inner::Sha512(hash) => ("sha512", hex::encode(hash.finalize())),
        };
        Digest(format!("{name}:{hex}").into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Sha256(_) => "Hasher(sha256)",
            Inner::Sha512(_) => "Hasher(sha512)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parses_what_it_prints() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.hex().len(), 64);
        assert_eq!(digest, Digest::sha256(b""));
        assert!(digest.verifies(b"") && !digest.verifies(b"x"));
        let long = Algorithm::Sha512.hasher().finish();
        assert_eq!(long.hex().len(), 128);
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
    }

    #[test]
    fn refuses_what_cannot_be_verified() {
        let upper = EMPTY.replace('e', "E");
        for bad in
            ["", "sha256", "sha256:", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", upper.as_str(), &EMPTY[1..]]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(format!("{EMPTY}0").parse::<Digest>().is_err());
        assert!("sha256:../../../../../../../../../../../../../../../../../../../../../x".parse::<Digest>().is_err());
    }
}
