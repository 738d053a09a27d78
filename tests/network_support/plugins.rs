//! CNI plugins that are shell scripts: they note how they were called, and behave as the test says.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use orlop::network::{Network, NetworkConfig};
use serde_json::{Value, json};

/// A directory with plugins and configurations for one test.
pub struct Plugins {
    pub dir: tempfile::TempDir,
}

/// One noted call of a plugin.
#[derive(Debug)]
pub struct Call {
    pub plugin: String,
    pub verb: String,
    pub env: BTreeMap<String, String>,
    pub input: Value,
}

const SCRIPT: &str = r#"#!/bin/sh
dir=@DIR@
plugin=${0##*/}
input=$(cat)
{
    echo "CALL $plugin $CNI_COMMAND"
    env | sort
    echo "INPUT $input"
} >> "$dir/calls"
if [ -f "$dir/do.$plugin.$CNI_COMMAND" ]; then . "$dir/do.$plugin.$CNI_COMMAND"; fi
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"host0"},{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}],
    "ips":[{"address":"10.1.0.1/24","interface":0},{"address":"fd00::5/64","interface":1},
    {"address":"10.1.0.5/24","interface":1}],"routes":[{"dst":"0.0.0.0/0"}]}' ;;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
esac
"#;

impl Plugins {
    pub fn new(names: &[&str]) -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["bin", "conf", "root", "state"] {
            std::fs::create_dir(this.path(dir)).unwrap();
        }
        names.iter().for_each(|name| this.install(name));
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn install(&self, name: &str) {
        let path = self.path("bin").join(name);
        std::fs::write(&path, SCRIPT.replace("@DIR@", self.dir.path().to_str().unwrap())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What a plugin does at a verb, before and unless it exits, instead of its usual answer.
    pub fn behave(&self, plugin: &str, verb: &str, script: &str) {
        std::fs::write(self.path(&format!("do.{plugin}.{verb}")), script).unwrap();
    }

    pub fn behave_well(&self, plugin: &str, verb: &str) {
        std::fs::remove_file(self.path(&format!("do.{plugin}.{verb}"))).unwrap();
    }

    pub fn configure(&self, file: &str, config: &Value) {
        std::fs::write(self.path("conf").join(file), config.to_string()).unwrap();
    }

    /// A list of plugins without further settings.
    pub fn list(&self, version: &str, plugins: &[&str]) -> Value {
        let plugins: Vec<Value> = plugins.iter().map(|plugin| json!({"type": plugin})).collect();
        json!({"cniVersion": version, "name": "net", "plugins": plugins})
    }

    pub fn config(&self) -> NetworkConfig {
        let mut config = NetworkConfig::default();
        config.cni.conf_dir = self.path("conf");
        config.cni.bin_dirs = vec![self.path("none"), self.path("bin")];
        config
    }

    pub async fn open(&self) -> Network {
        self.open_with(&self.config()).await
    }

    pub async fn open_with(&self, config: &NetworkConfig) -> Network {
        Network::open(config, &self.path("root"), &self.path("state")).await.unwrap()
    }

    /// The calls since the last time.
    pub fn calls(&self) -> Vec<Call> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("calls"));
        let mut calls: Vec<Call> = Vec::new();
        for line in text.lines() {
            if let Some(call) = line.strip_prefix("CALL ") {
                let (plugin, verb) = call.split_once(' ').unwrap();
                let (plugin, verb) = (plugin.to_owned(), verb.to_owned());
                calls.push(Call { plugin, verb, env: BTreeMap::new(), input: Value::Null });
            } else if let Some(input) = line.strip_prefix("INPUT ") {
                calls.last_mut().unwrap().input = serde_json::from_str(input).unwrap();
            } else if let Some((name, value)) = line.split_once('=') {
                calls.last_mut().unwrap().env.insert(name.to_owned(), value.to_owned());
            }
        }
        calls
    }

    /// `plugin VERB` of the calls since the last time.
    pub fn verbs(&self) -> Vec<String> {
        self.calls().iter().map(|call| format!("{} {}", call.plugin, call.verb)).collect()
    }

    /// The files of a directory that tell of a pod: cached attachments, pins.
    pub fn traces(&self) -> Vec<PathBuf> {
        let dirs = [self.path("root").join("cni/attachments"), self.path("state").join("netns")];
        dirs.iter().flat_map(|dir| files(dir)).collect()
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}
