//! The operations of a network: its plugins in order, or in reverse (CNI spec 1.1, section 3).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::CniError;
use super::cache::Entry;
use super::conf::{NetworkList, Plugin, Version};
use super::exec::{Call, Executor};

impl Executor {
    /// ADD: each plugin gets the result of the one before. The last result is the network's.
    pub async fn add(&self, list: &NetworkList, version: Version, entry: &Entry) -> Result<Value, CniError> {
        let mut result = None;
        for plugin in &list.plugins {
            let input = attachment_input(list, version, plugin, entry, result.as_ref());
            let output = self.attachment(list, plugin, "ADD", entry, &entry.netns, input).await?;
            result = Some(parse_result(&plugin.kind, version, &output)?);
        }
        result.ok_or_else(|| CniError::Output {
            plugin: list.name.clone(),
            verb: "ADD",
            reason: "the network has no plugins".to_owned(),
        })
    }

    /// DEL, in reverse order, with the final result of ADD. `netns` is empty when the namespace is gone.
    pub async fn del(&self, list: &NetworkList, version: Version, entry: &Entry, netns: &Path) -> Result<(), CniError> {
        let previous = entry.result.as_ref().filter(|_| version >= Version::V0_4_0);
        for plugin in list.plugins.iter().rev() {
            let input = attachment_input(list, version, plugin, entry, previous);
            self.attachment(list, plugin, "DEL", entry, netns, input).await?;
        }
        Ok(())
    }

    /// CHECK, with the final result of ADD. Networks that forbid it or are too old for it pass.
    pub async fn check(&self, list: &NetworkList, version: Version, entry: &Entry) -> Result<(), CniError> {
        if list.disable_check || version < Version::V0_4_0 {
            return Ok(());
        }
        for plugin in &list.plugins {
            let input = attachment_input(list, version, plugin, entry, entry.result.as_ref());
            self.attachment(list, plugin, "CHECK", entry, &entry.netns, input).await?;
        }
        Ok(())
    }

    /// GC: the plugins forget every attachment but these. All are asked; the first error is the result.
    pub async fn gc(&self, list: &NetworkList, version: Version, valid: &[(String, String)]) -> Result<(), CniError> {
        if list.disable_gc || version < Version::V1_1_0 {
            return Ok(());
        }
        let valid: Vec<Value> =
            valid.iter().map(|(id, interface)| json!({"containerID": id, "ifname": interface})).collect();
        let mut result = Ok(());
        for plugin in &list.plugins {
            let mut input = plugin.request(&list.name, version);
            input.insert("cni.dev/valid-attachments".to_owned(), Value::Array(valid.clone()));
            result = result.and(self.call(list, plugin, "GC", Vec::new(), input).await.map(drop));
        }
        result
    }

    /// STATUS: whether the plugins can attach pods now. Networks that are too old to say can.
    pub async fn status(&self, list: &NetworkList, version: Version) -> Result<(), CniError> {
        if version < Version::V1_1_0 {
            return Ok(());
        }
        for plugin in &list.plugins {
            let input = plugin.request(&list.name, version);
            self.call(list, plugin, "STATUS", Vec::new(), input).await?;
        }
        Ok(())
    }

    /// The version to speak: the newest that the configuration allows and every plugin understands. Plugins are asked
    /// only where there is a choice.
    pub async fn negotiate(&self, list: &NetworkList) -> Result<Version, CniError> {
        let mut versions = list.versions.clone();
        if versions.len() > 1 {
            for plugin in &list.plugins {
                let supported = self.supported(list, plugin).await?;
                versions.retain(|version| supported.contains(version));
            }
        }
        versions.last().copied().ok_or_else(|| CniError::Output {
            plugin: list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect::<Vec<_>>().join(", "),
            verb: "VERSION",
            reason: format!("no version of network {:?} is understood by all of its plugins", list.name),
        })
    }

    async fn supported(&self, list: &NetworkList, plugin: &Plugin) -> Result<Vec<Version>, CniError> {
        let input = Map::from_iter([("cniVersion".to_owned(), Value::from(list.newest().text()))]);
        let output = self.call(list, plugin, "VERSION", Vec::new(), input).await?;
        let answer: Value = serde_json::from_slice(&output).map_err(|error| CniError::Output {
            plugin: plugin.kind.clone(),
            verb: "VERSION",
            reason: error.to_string(),
        })?;
        let versions = answer.get("supportedVersions").and_then(Value::as_array);
        Ok(versions.into_iter().flatten().filter_map(|version| Version::parse(version.as_str()?)).collect())
    }

    async fn attachment(
        &self,
        list: &NetworkList,
        plugin: &Plugin,
        verb: &'static str,
        entry: &Entry,
        netns: &Path,
        input: Map<String, Value>,
    ) -> Result<Vec<u8>, CniError> {
        let env = vec![
            ("CNI_CONTAINERID", entry.container_id.clone()),
            ("CNI_NETNS", netns.to_string_lossy().into_owned()),
            ("CNI_IFNAME", entry.if_name.clone()),
            ("CNI_ARGS", entry.cni_args.clone()),
        ];
        self.call(list, plugin, verb, env, input).await
    }

    async fn call(
        &self,
        list: &NetworkList,
        plugin: &Plugin,
        verb: &'static str,
        env: Vec<(&'static str, String)>,
        input: Map<String, Value>,
    ) -> Result<Vec<u8>, CniError> {
        let input = Value::Object(input).to_string().into_bytes();
        self.run(Call { plugin: &plugin.kind, network: &list.name, verb, env, input }).await
    }
}

/// What a plugin reads for an attachment.
fn attachment_input(
    list: &NetworkList,
    version: Version,
    plugin: &Plugin,
    entry: &Entry,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut input = plugin.request(&list.name, version);
    let arguments: &BTreeMap<String, Value> = &entry.capability_args;
    let runtime_config = plugin.runtime_config(arguments);
    if !runtime_config.is_empty() {
        input.insert("runtimeConfig".to_owned(), Value::Object(runtime_config));
    }
    if let Some(previous) = previous.filter(|_| version >= Version::V0_3_0) {
        input.insert("prevResult".to_owned(), previous.clone());
    }
    input
}

/// A plugin's result. One without a version is of the version that was spoken.
fn parse_result(plugin: &str, version: Version, output: &[u8]) -> Result<Value, CniError> {
    let fail = |reason: String| CniError::Output { plugin: plugin.to_owned(), verb: "ADD", reason };
    match serde_json::from_slice(output) {
        Ok(Value::Object(mut result)) => {
            result.entry("cniVersion").or_insert_with(|| version.text().into());
            Ok(Value::Object(result))
        }
        Ok(_) => Err(fail("its result is not an object".to_owned())),
        Err(_) if output.is_empty() => Err(fail("it printed no result".to_owned())),
        Err(error) => Err(fail(format!("its result is not JSON: {error}"))),
    }
}
