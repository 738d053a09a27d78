//! The image config: what the author said of how to run it, and the diff ids of its layers.
//!
//! Every optional field may be missing or `null`; unknown ones are ignored. The raw bytes stay in the store.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::digest::Digest;
use super::null_default;
use super::platform::Platform;

/// Bytes of a config that are accepted.
pub const MAX_CONFIG: usize = 16 << 20;

/// Why bytes are no image config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the image config has {size} bytes, more than the {MAX_CONFIG} that are accepted")]
    TooLarge { size: usize },
    #[error("the image config is no valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the image config's rootfs has type {0:?}, only \"layers\" is known")]
    RootfsType(String),
    #[error("the image config names {diff_ids} layers, the manifest {layers}")]
    LayerCount { diff_ids: usize, layers: usize },
}

/// The config of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    #[serde(deserialize_with = "null_default")]
    pub os: String,
    #[serde(deserialize_with = "null_default")]
    pub variant: String,
    /// RFC 3339; may be empty.
    #[serde(deserialize_with = "null_default")]
    pub created: String,
    #[serde(deserialize_with = "null_default")]
    pub config: RunConfig,
    #[serde(deserialize_with = "null_default")]
    pub rootfs: Rootfs,
}

/// How a container of the image is run, where the request does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user`, `uid`, `user:group`, …; empty is root.
    #[serde(deserialize_with = "null_default")]
    pub user: String,
    /// `KEY=value`.
    #[serde(deserialize_with = "null_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub working_dir: String,
    /// Absolute paths that get a volume each.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// `80/tcp`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`, `TERM`, `15`, `RTMIN+3`; empty if not said.
    #[serde(deserialize_with = "null_default")]
    pub stop_signal: String,
}

/// The layers, by the digest of each uncompressed tar, the base first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rootfs {
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a config and checks it against the number of layers of its manifest.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_CONFIG {
            return Err(ConfigError::TooLarge { size: bytes.len() });
        }
        let config: Self = serde_json::from_slice(bytes)?;
        if !matches!(config.rootfs.kind.as_str(), "layers" | "") {
            return Err(ConfigError::RootfsType(config.rootfs.kind));
        }
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != layers {
            return Err(ConfigError::LayerCount { diff_ids, layers });
        }
        Ok(config)
    }

    /// What the image was built for.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }
}

/// Go writes sets as objects with empty values.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let map: Option<BTreeMap<String, IgnoredAny>> = Option::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_a_config() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","author":null,"config":{{
              "User":"app:staff","Env":["A=b"],"Entrypoint":["/e"],"Cmd":null,"WorkingDir":"/w","Volumes":{{"/v":{{}},"/a":null}},
              "ExposedPorts":{{"80/tcp":{{}}}},"Labels":{{"k":"v"}},"StopSignal":"SIGQUIT","Healthcheck":{{}},"ArgsEscaped":true}},
              "rootfs":{{"type":"layers","diff_ids":["{D}"]}},"history":[{{"empty_layer":true}}],"container_config":null}}"#
        );
        let config = ImageConfig::parse(text.as_bytes(), 1).unwrap();
        assert_eq!(config.config.user, "app:staff");
        assert_eq!(config.config.volumes, ["/a", "/v"]);
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert!(config.config.cmd.is_empty());
        assert_eq!(config.platform().to_string(), "linux/amd64");
        assert!(matches!(
            ImageConfig::parse(text.as_bytes(), 2),
            Err(ConfigError::LayerCount { diff_ids: 1, layers: 2 })
        ));
    }

    #[test]
    fn everything_may_be_null_or_missing() {
        for text in [
            "{}",
            r#"{"config":null,"rootfs":null,"os":null}"#,
            r#"{"config":{"User":null,"Env":null,"Entrypoint":null,"Cmd":null,"WorkingDir":null,"Volumes":null,
                "ExposedPorts":null,"Labels":null,"StopSignal":null},"rootfs":{"type":null,"diff_ids":null}}"#,
        ] {
            assert_eq!(ImageConfig::parse(text.as_bytes(), 0).unwrap(), ImageConfig::default(), "{text}");
        }
    }

    #[test]
    fn refuses_other_kinds() {
        let kind = r#"{"rootfs":{"type":"magic","diff_ids":[]}}"#;
        assert!(matches!(ImageConfig::parse(kind.as_bytes(), 0), Err(ConfigError::RootfsType(_))));
        let digest = r#"{"rootfs":{"type":"layers","diff_ids":["../../x"]}}"#;
        assert!(matches!(ImageConfig::parse(digest.as_bytes(), 1), Err(ConfigError::Json(_))));
        assert!(ImageConfig::parse(b"3", 0).is_err());
    }
}
