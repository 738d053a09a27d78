//! Settings of the client: registries, their mirrors, TLS, time limits. Deserialised from the program's own
//! configuration; directories in the style of `certs.d` are read by `hosts_toml` and come to the same structures.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::split_port;

/// Everything that can be set for access to registries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    /// Directories with one folder a registry, each with a `hosts.toml` and certificates in it. The first directory
    /// that has a folder for the registry (or `_default`) counts. Read anew for each pull.
    pub certs_dirs: Vec<PathBuf>,
    /// Files in the form of Docker's `config.json` or of containers' `auth.json`, asked in this order when a pull
    /// brings no credentials of its own.
    pub auth_files: Vec<PathBuf>,
    /// Obey `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub proxy_from_environment: bool,
    /// The largest manifest or index that is read, in bytes. Registries take at least 4 MiB.
    pub max_manifest_size: u64,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// When and how often to try again.
    pub retry: RetryConfig,
    /// Settings by registry. The key is a host (`registry.example.com:5000`), a host with the beginning of a path
    /// (`docker.io/library`), or `*.example.com` for all hosts below a domain. The longest key that fits counts.
    /// An entry here takes the place of what `certs_dirs` say about the registry.
    pub hosts: BTreeMap<String, HostConfig>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            certs_dirs: vec!["/etc/orlop/certs.d".into(), "/etc/containerd/certs.d".into()],
            auth_files: Vec::new(),
            proxy_from_environment: true,
            max_manifest_size: 8 << 20,
            timeouts: Timeouts::default(),
            retry: RetryConfig::default(),
            hosts: BTreeMap::new(),
        }
    }
}

impl ClientConfig {
    /// The entry for a repository: the longest key that fits.
    pub(crate) fn host_config(&self, registry: &str, path: &str) -> Option<&HostConfig> {
        let full = format!("{registry}/{path}");
        self.hosts
            .iter()
            .filter(|(key, _)| key_fits(key, registry, &full))
            .max_by_key(|(key, _)| (!key.starts_with('*'), key.len()))
            .map(|(_, config)| config)
    }
}

fn key_fits(key: &str, registry: &str, full: &str) -> bool {
    if let Some(domain) = key.strip_prefix('*') {
        return domain.starts_with('.') && (registry.ends_with(domain) || split_port(registry).0.ends_with(domain));
    }
    key == registry || full.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Limits of time for one request to one host. Each host that is tried has the whole of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// To look up the name, connect and finish the TLS handshake.
    #[serde(with = "span")]
    pub connect: Duration,
    /// From the request to the head of the answer; also for the whole of a manifest or token.
    #[serde(with = "span")]
    pub response: Duration,
    /// The time over which the speed of a blob is judged.
    #[serde(with = "span")]
    pub stall_window: Duration,
    /// The least speed of a blob, in bytes a second over `stall_window`; a slower connection is broken off and the
    /// download continued on a new one. Only the waiting for the registry counts, not that for the disk.
    /// 0 turns it off, but a connection without any byte for `stall_window` is still broken off.
    pub min_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(60),
            stall_window: Duration::from_secs(30),
            min_rate: 4096,
        }
    }
}

/// When a request that failed for a passing reason is sent again: after broken connections, 408, 429, 5xx.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// How many times at most a request is sent to the last host of a list. The hosts before it (mirrors) are left
    /// after their first failure. A blob's count starts again with each MiB that came.
    pub attempts: u32,
    /// The wait after the first failure; doubled after each, with jitter.
    #[serde(with = "span")]
    pub base: Duration,
    /// The longest wait between two attempts.
    #[serde(with = "span")]
    pub cap: Duration,
    /// The longest `Retry-After` of a registry that is waited for; a longer one fails at once.
    #[serde(with = "span")]
    pub max_retry_after: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(250),
            cap: Duration::from_secs(15),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

/// Settings of one registry.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Where the registry itself is, if not at `https://` and its name. Like `url` of a mirror.
    pub server: Option<String>,
    /// Speak HTTP without TLS. Default: only for loopback hosts (`localhost`, `127.0.0.0/8`, `::1`) for which there
    /// are no TLS settings.
    pub plain_http: Option<bool>,
    /// PEM files with certificate authorities that are trusted for this host, beside those of the system.
    pub ca: Vec<PathBuf>,
    /// PEM file with the certificate (chain) that this node shows to the host.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of `client_cert`; may be left out if the key is in the same file.
    pub client_key: Option<PathBuf>,
    /// Accept any certificate. Whoever is on the way can then read credentials and change tags.
    pub skip_verify: bool,
    /// Header fields for each request to this host.
    pub headers: BTreeMap<String, String>,
    /// Instead of `timeouts.connect`.
    #[serde(with = "opt_span", skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// Hosts to ask before the registry itself, in this order.
    pub mirrors: Vec<MirrorConfig>,
}

/// A host that is asked before the registry itself.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorConfig {
    /// `https://mirror.example.com`, or with a path, to which `/v2` is added unless `override_path` is set.
    pub url: String,
    /// What the mirror is used for. Default: `["pull", "resolve"]`. A mirror that may lag behind should not
    /// `resolve` tags.
    pub capabilities: Option<Vec<Capability>>,
    /// The path of `url` is the whole path of the API; no `/v2` is added.
    pub override_path: bool,
    /// As in the settings of a registry.
    pub ca: Vec<PathBuf>,
    /// As in the settings of a registry.
    pub client_cert: Option<PathBuf>,
    /// As in the settings of a registry.
    pub client_key: Option<PathBuf>,
    /// As in the settings of a registry.
    pub skip_verify: bool,
    /// Header fields for each request to this mirror.
    pub headers: BTreeMap<String, String>,
    /// Instead of `timeouts.connect`.
    #[serde(with = "opt_span", skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// Credentials for this mirror. Those of the registry never go to a mirror unless `forward_credentials` is set.
    #[serde(skip_serializing)]
    pub credentials: Option<StaticCredentials>,
    /// Send the credentials that the pull brought for the registry to this mirror too.
    pub forward_credentials: bool,
}

/// What a host may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Manifests by digest, and blobs.
    Pull,
    /// Tags.
    Resolve,
    Push,
    /// Lists of tags and of referrers (as other programs name it; the same as `resolve` here).
    Referrers,
}

/// A user name and password, or a token, in a settings file.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StaticCredentials {
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub registry_token: String,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticCredentials(hidden)")
    }
}

impl fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConfig")
            .field("server", &self.server)
            .field("plain_http", &self.plain_http)
            .field("ca", &self.ca)
            .field("client_cert", &self.client_cert)
            .field("skip_verify", &self.skip_verify)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("mirrors", &self.mirrors)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MirrorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorConfig")
            .field("url", &self.url)
            .field("capabilities", &self.capabilities)
            .field("override_path", &self.override_path)
            .field("skip_verify", &self.skip_verify)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("forward_credentials", &self.forward_credentials)
            .finish_non_exhaustive()
    }
}

/// Spans of time as people write them: `250ms`, `30s`, `2m`, `1h`, or several of them after each other.
pub(crate) mod span {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        let mut total = Duration::ZERO;
        let mut rest = text.trim();
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = match &rest[..letters] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            rest = rest[letters..].trim_start();
            total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        }
        Some(total)
    }

    pub(crate) fn print(value: Duration) -> String {
        let millis = value.as_millis();
        if !millis.is_multiple_of(1000) { format!("{millis}ms") } else { format!("{}s", millis / 1000) }
    }

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&print(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .ok_or_else(|| D::Error::custom(format!("\"{text}\" is no span of time; write for example \"30s\"")))
    }
}

mod opt_span {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::span::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::span::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("1m30s", 90_000), ("1.5s", 1500), ("0s", 0), ("2h", 7_200_000)]
        {
            assert_eq!(span::parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1 day", "1e9h", "1s x"] {
            assert_eq!(span::parse(text), None, "{text}");
        }
    }

    #[test]
    fn defaults_round_trip_and_unknown_keys_are_refused() {
        let text = toml::to_string(&ClientConfig::default()).unwrap();
        assert_eq!(toml::from_str::<ClientConfig>(&text).unwrap(), ClientConfig::default());
        assert_eq!(toml::from_str::<ClientConfig>("").unwrap(), ClientConfig::default());
        for text in ["x = 1", "[hosts.a]\ninsecure = true", "[timeouts]\nconnect = 3", "[[hosts.a.mirrors]]\nurls = 1"]
        {
            assert!(toml::from_str::<ClientConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_key_counts() {
        let config: ClientConfig = toml::from_str(
            "[hosts.'docker.io']\nserver='1'\n[hosts.'docker.io/library']\nserver='2'\n\
             [hosts.'*.example.com']\nserver='3'\n[hosts.'a.example.com:5000']\nserver='4'\n",
        )
        .unwrap();
        let server = |registry: &str, path: &str| config.host_config(registry, path).and_then(|h| h.server.as_deref());
        assert_eq!(server("docker.io", "library/busybox"), Some("2"));
        assert_eq!(server("docker.io", "librarything/busybox"), Some("1"));
        assert_eq!(server("a.example.com:5000", "x"), Some("4"));
        assert_eq!(server("b.example.com:5000", "x"), Some("3"));
        assert_eq!(server("b.example.com", "x"), Some("3"));
        assert_eq!(server("example.com", "x"), None);
        assert_eq!(server("evildocker.io", "x"), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let config: ClientConfig = toml::from_str(
            "[hosts.a]\nheaders = { Authorization = 'hush1' }\n[[hosts.a.mirrors]]\nurl = 'https://m'\n\
             headers = { X-Key = 'hush2' }\ncredentials = { username = 'u', password = 'hush3' }\n",
        )
        .unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        assert!(!toml::to_string(&config).unwrap().contains("hush3"));
    }
}
