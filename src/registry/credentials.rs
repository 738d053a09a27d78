//! Credentials of one caller for one registry, and the forms in which they arrive.

use std::fmt;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use super::config::StaticCredentials;
use super::error::{Error, Result};
use super::name::split_port;

/// What a caller may show to a registry. Never printed, not even by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// No credentials. Public repositories, and registries behind a client certificate.
    #[default]
    Anonymous,
    /// A user name and a password; with token registries they buy a token.
    Basic { username: String, password: String },
    /// An OAuth2 refresh token, to be exchanged for an access token.
    IdentityToken(String),
    /// A bearer token to send as it is.
    RegistryToken(String),
}

/// The fields of CRI's `AuthConfig`, and of an entry of Docker's `config.json`. Empty means not given.
#[derive(Clone, Copy, Default)]
pub struct AuthFields<'a> {
    pub username: &'a str,
    pub password: &'a str,
    /// `username:password` in base64.
    pub auth: &'a str,
    /// The registry that the credentials are for; empty if that is known otherwise.
    pub server_address: &'a str,
    pub identity_token: &'a str,
    pub registry_token: &'a str,
}

impl fmt::Debug for AuthFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFields").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// How a hashed credential is told from others without keeping it.
pub(crate) type Fingerprint = [u8; 32];

impl Credentials {
    /// From the fields of an `AuthConfig`, for use at `registry`. Credentials that name another server are not used:
    /// the answer is then [`Credentials::Anonymous`], as the request may well be served without.
    ///
    /// # Errors
    /// `auth` that is not base64 of `username:password`.
    pub fn from_fields(fields: &AuthFields<'_>, registry: &str) -> Result<Self> {
        if !fields.server_address.is_empty() && !same_registry(fields.server_address, registry) {
            tracing::warn!(registry, "the credentials that came with the request are for another server; not used");
            return Ok(Self::Anonymous);
        }
        if !fields.registry_token.is_empty() {
            return Ok(Self::RegistryToken(fields.registry_token.to_owned()));
        }
        if !fields.identity_token.is_empty() {
            return Ok(Self::IdentityToken(fields.identity_token.to_owned()));
        }
        if !fields.username.is_empty() || !fields.password.is_empty() {
            return Ok(Self::basic(fields.username, fields.password));
        }
        if !fields.auth.is_empty() {
            let (username, password) = decode_auth(fields.auth)?;
            return Ok(Self::basic(&username, &password));
        }
        Ok(Self::Anonymous)
    }

    /// A user name and a password. Credential helpers write `<token>` as the user name of an identity token.
    pub fn basic(username: &str, password: &str) -> Self {
        if username == "<token>" {
            Self::IdentityToken(password.to_owned())
        } else {
            Self::Basic { username: username.to_owned(), password: password.to_owned() }
        }
    }

    pub fn is_anonymous(&self) -> bool {
        *self == Self::Anonymous
    }

    /// Distinguishes credentials in caches. The salt is of this process, so the value says nothing elsewhere.
    pub(crate) fn fingerprint(&self, salt: &[u8; 16]) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(salt);
        for (kind, part) in self.parts() {
            hash.update([kind]);
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().into()
    }

    fn parts(&self) -> Vec<(u8, &str)> {
        match self {
            Self::Anonymous => vec![],
            Self::Basic { username, password } => vec![(1, username), (2, password)],
            Self::IdentityToken(token) => vec![(3, token)],
            Self::RegistryToken(token) => vec![(4, token)],
        }
    }

    /// Takes the secret parts out of a text, should a server have repeated them in its answer.
    pub(crate) fn scrub(&self, text: String) -> String {
        let mut text = text;
        for (kind, secret) in self.parts() {
            if kind != 1 && secret.len() >= 4 && text.contains(secret) {
                text = text.replace(secret, "(hidden)");
            }
        }
        text
    }
}

impl From<&StaticCredentials> for Credentials {
    fn from(from: &StaticCredentials) -> Self {
        if !from.registry_token.is_empty() {
            Self::RegistryToken(from.registry_token.clone())
        } else if !from.identity_token.is_empty() {
            Self::IdentityToken(from.identity_token.clone())
        } else if !from.username.is_empty() || !from.password.is_empty() {
            Self::basic(&from.username, &from.password)
        } else {
            Self::Anonymous
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(hidden)",
            Self::IdentityToken(_) => "IdentityToken(hidden)",
            Self::RegistryToken(_) => "RegistryToken(hidden)",
        })
    }
}

/// `base64(username:password)`, with or without padding; some tools leave a NUL at the end of the password.
pub(crate) fn decode_auth(auth: &str) -> Result<(String, String)> {
    let wrong = || Error::config("credentials: the field \"auth\" is not base64 of username:password");
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let bytes = engine.decode(auth.trim()).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (username, password) = text.split_once(':').ok_or_else(wrong)?;
    Ok((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Is the address of a server, as found in credentials (`https://index.docker.io/v1/`, `host:5000`, `host/path`), that of
/// the registry?
pub(crate) fn same_registry(address: &str, registry: &str) -> bool {
    canonical_host(address) == canonical_host(registry)
}

/// The host of an address with its port, lower-case, without what is usual: scheme, path, port 443, Docker's aliases.
pub(crate) fn canonical_host(address: &str) -> String {
    let address = address.trim();
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => (String::new(), address),
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    // A user name before the host must not make one host look like another.
    let host = host.rsplit('@').next().unwrap_or_default().to_owned();
    let host = match split_port(&host) {
        (name, Some("443")) if scheme != "http" => name.to_owned(),
        (name, Some("80")) if scheme == "http" => name.to_owned(),
        _ => host,
    };
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<'a>() -> AuthFields<'a> {
        AuthFields::default()
    }

    #[test]
    fn each_field_has_its_meaning() {
        let get = |f: AuthFields<'_>| Credentials::from_fields(&f, "r.io").unwrap();
        assert_eq!(get(fields()), Credentials::Anonymous);
        let basic = Credentials::Basic { username: "u".into(), password: "p:q".into() };
        assert_eq!(get(AuthFields { username: "u", password: "p:q", ..fields() }), basic);
        // "u:p:q", without and with padding, and with a NUL behind.
        assert_eq!(get(AuthFields { auth: "dTpwOnE", ..fields() }), basic);
        assert_eq!(get(AuthFields { auth: "dTpwOnE=", ..fields() }), basic);
        assert_eq!(get(AuthFields { auth: "dTpwOnEA", ..fields() }), basic);
        assert_eq!(
            get(AuthFields { identity_token: "i", username: "u", ..fields() }),
            Credentials::IdentityToken("i".into())
        );
        assert_eq!(
            get(AuthFields { registry_token: "r", identity_token: "i", ..fields() }),
            Credentials::RegistryToken("r".into())
        );
        assert_eq!(
            get(AuthFields { username: "<token>", password: "i", ..fields() }),
            Credentials::IdentityToken("i".into())
        );
        for auth in ["%%%", "bm9jb2xvbg==", "/////w=="] {
            assert!(Credentials::from_fields(&AuthFields { auth, ..fields() }, "r.io").is_err(), "{auth}");
        }
    }

    #[test]
    fn only_for_the_server_that_they_name() {
        let get = |address: &str, registry: &str| {
            let fields = AuthFields { username: "u", password: "p", server_address: address, ..fields() };
            !Credentials::from_fields(&fields, registry).unwrap().is_anonymous()
        };
        for (address, registry) in [
            ("", "r.io"),
            ("r.io", "r.io"),
            ("https://r.io/v2/", "r.io"),
            ("R.IO:443", "r.io"),
            ("r.io/namespace", "r.io"),
            ("http://r.io:5000", "r.io:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
        ] {
            assert!(get(address, registry), "{address} {registry}");
        }
        for (address, registry) in [
            ("r.io", "r.io:5000"),
            ("r.io.evil.com", "r.io"),
            ("https://r.io@evil.com", "r.io"),
            ("evil.com/r.io", "r.io"),
            ("docker.io", "registry.example.com"),
        ] {
            assert!(!get(address, registry), "{address} {registry}");
        }
    }

    #[test]
    fn never_printed_and_never_confused() {
        let one = Credentials::basic("ab", "c");
        let two = Credentials::basic("a", "bc");
        let salt = [7; 16];
        assert_ne!(one.fingerprint(&salt), two.fingerprint(&salt));
        assert_ne!(one.fingerprint(&salt), one.fingerprint(&[8; 16]));
        assert_eq!(format!("{:?}", Credentials::basic("user", "hush-hush")), "Basic(hidden)");
        assert_eq!(Credentials::basic("user", "hush-hush").scrub("bad hush-hush".into()), "bad (hidden)");
    }
}
