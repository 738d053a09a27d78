//! What an external runtime can do, by its own words: the document that `features` prints, as the runtime-spec has it.

use std::time::Duration;

use serde::Serialize;
use tracing::{debug, info};

use super::ExternalRuntime;
use crate::node::index::Node;

/// How long a runtime may take to say what it can do. Nobody waits for it but a container that needs to know, and what a
/// machine with much to do at its start makes of it stays until the next start.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of a runtime. Nothing, where it does not have the verb: older ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// The mount option `rro`.
    pub recursive_read_only_mounts: bool,
    /// Mounts with mapped ids, which pods with user namespaces need.
    pub id_mapped_mounts: bool,
    pub user_namespaces: bool,
    /// The newest version of the runtime-spec that it knows.
    pub spec_version: Option<String>,
}

impl Features {
    /// Reads the document (features-linux.md of the runtime-spec).
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let document: serde_json::Value = serde_json::from_slice(text)?;
        let lists = |pointer: &str, wanted: &str| {
            document
                .pointer(pointer)
                .and_then(|list| list.as_array())
                .is_some_and(|list| list.iter().any(|entry| entry.as_str() == Some(wanted)))
        };
        let id_mapped = document.pointer("/linux/mountExtensions/idmap/enabled").and_then(|enabled| enabled.as_bool());
        Ok(Self {
            recursive_read_only_mounts: lists("/mountOptions", "rro"),
            id_mapped_mounts: id_mapped.unwrap_or(false),
            user_namespaces: lists("/linux/namespaces", "user"),
            spec_version: document.get("ociVersionMax").and_then(|version| version.as_str()).map(str::to_owned),
        })
    }
}

/// Asks a runtime. What it does not say it cannot do.
pub(super) async fn ask(runtime: &ExternalRuntime) -> Features {
    let said = runtime.run(None, &["features"], PATIENCE).await;
    match said.and_then(|text| Features::parse(&text).map_err(|cause| runtime.failure("features", &cause.to_string())))
    {
        Ok(features) => {
            debug!(handler = %runtime.handler, ?features, "runtime handler is known");
            features
        }
        Err(cause) => {
            info!(handler = %runtime.handler, %cause, "the runtime does not say what it can do; no optional feature is offered");
            Features::default()
        }
    }
}

impl Node {
    /// Asks all external runtimes what they can do, while other things go on.
    pub(in crate::node) fn learn_features(&self) {
        for name in self.inner.handlers.names().map(str::to_owned).collect::<Vec<_>>() {
            if self.inner.handlers.runtime(&name).is_some() {
                let node = self.clone();
                tokio::spawn(async move { node.inner.handlers.features(&name).await });
            }
        }
    }
}
