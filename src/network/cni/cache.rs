//! What is remembered of each attachment, so that it can be undone after a restart and with the configuration gone.
//!
//! One file an attachment, `<root>/cni/attachments/<id>.<interface>.json`, written before the first plugin runs and
//! again with the result; removed when all plugins have undone their part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CniError;
use super::conf::{NetworkList, Version};

/// The directory of the files.
#[derive(Clone, Debug)]
pub(super) struct Cache(PathBuf);

/// One attachment of a pod to a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub network: String,
    pub container_id: String,
    pub if_name: String,
    pub netns: PathBuf,
    pub cni_args: String,
    pub capability_args: BTreeMap<String, Value>,
    /// The network's configuration as it was at the time.
    pub config: Value,
    /// The final result of ADD; absent while it runs and after it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

impl Entry {
    /// The configuration and the version that was spoken.
    pub fn list(&self, file: &Path) -> Result<(NetworkList, Version), CniError> {
        let fail = |reason: String| CniError::Cache { file: file.to_owned(), reason };
        let Value::Object(config) = &self.config else { return Err(fail("config is not an object".to_owned())) };
        let list = NetworkList::parse(config.clone()).map_err(fail)?;
        let version = list.newest();
        Ok((list, version))
    }
}

impl Cache {
    pub fn new(root: &Path) -> Self {
        Self(root.join("cni").join("attachments"))
    }

    pub fn path(&self, id: &str, interface: &str) -> PathBuf {
        self.0.join(format!("{id}.{interface}.json"))
    }

    pub fn write(&self, entry: &Entry) -> Result<(), CniError> {
        let file = self.path(&entry.container_id, &entry.if_name);
        let text = serde_json::to_vec_pretty(entry).map_err(std::io::Error::from);
        let written = text.and_then(|text| crate::network::write_whole(&file, &text));
        written.map_err(|error| CniError::Cache { file, reason: error.to_string() })
    }

    pub fn read(&self, id: &str, interface: &str) -> Result<Option<Entry>, CniError> {
        let file = self.path(id, interface);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CniError::Cache { file, reason: error.to_string() }),
        };
        let entry = serde_json::from_slice(&text);
        entry.map(Some).map_err(|error| CniError::Cache { file, reason: error.to_string() })
    }

    pub fn remove(&self, id: &str, interface: &str) -> Result<(), CniError> {
        let file = self.path(id, interface);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CniError::Cache { file, reason: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Every attachment: id and interface.
    pub fn list(&self) -> Vec<(String, String)> {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found: Vec<_> = names
            .filter_map(|name| {
                let (id, interface) = name.strip_suffix(".json")?.rsplit_once('.')?;
                Some((id.to_owned(), interface.to_owned()))
            })
            .collect();
        found.sort();
        found
    }
}
