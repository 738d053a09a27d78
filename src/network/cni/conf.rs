//! Network configurations: read, checked, and turned into what a plugin gets (CNI spec 1.1, sections 1 and 3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CniError;

/// Versions of the spec that this client speaks, oldest first.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A version of the spec, ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(usize);

impl Version {
    /// Has plugin lists and `prevResult`.
    pub const V0_3_0: Self = Self(2);
    /// Has CHECK, and `prevResult` on DEL.
    pub const V0_4_0: Self = Self(4);
    /// Has STATUS and GC.
    pub const V1_1_0: Self = Self(6);

    pub fn parse(text: &str) -> Option<Self> {
        VERSIONS.iter().position(|version| *version == text).map(Self)
    }

    pub fn text(self) -> &'static str {
        VERSIONS[self.0]
    }
}

/// One network: the plugins that attach a pod to it, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NetworkList {
    pub name: String,
    /// The versions that the configuration allows, oldest first; never empty.
    pub versions: Vec<Version>,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<Plugin>,
}

/// One plugin of a network.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plugin {
    /// The name of the program.
    pub kind: String,
    /// Its configuration as it is in the file.
    pub config: Map<String, Value>,
}

/// What the directory says.
#[derive(Clone, Debug, Default)]
pub(super) struct Loaded {
    pub networks: Vec<NetworkList>,
    /// Files that were passed over, with the reason.
    pub errors: Vec<String>,
}

/// Reads the configurations of a directory: by name, the first `limit` valid ones (0: all of them).
pub(super) fn load(dir: &Path, limit: usize) -> Loaded {
    let mut loaded = Loaded::default();
    let files = match files(dir, &["conf", "conflist", "json"]) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return loaded,
        Err(error) => {
            loaded.errors.push(format!("{}: {error}", dir.display()));
            return loaded;
        }
    };
    for file in files {
        if limit != 0 && loaded.networks.len() >= limit {
            break;
        }
        match NetworkList::read(&file) {
            Ok(list) if loaded.networks.iter().any(|other| other.name == list.name) => {
                loaded.errors.push(format!("{}: a network named {:?} exists already", file.display(), list.name));
            }
            Ok(list) => loaded.networks.push(list),
            Err(error) => loaded.errors.push(error.to_string()),
        }
    }
    loaded
}

/// The files of a directory with one of these extensions, by name.
fn files(dir: &Path, extensions: &[&str]) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let wanted = path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
        if wanted && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl NetworkList {
    /// Reads a file: a list, or a single plugin in the older form. Plugins from the sibling folder with the network's
    /// name are appended unless the list says `loadOnlyInlinedPlugins`.
    fn read(file: &Path) -> Result<Self, CniError> {
        let fail = |reason: String| CniError::Config { file: file.to_owned(), reason };
        let text = std::fs::read(file).map_err(|error| fail(error.to_string()))?;
        let config: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
        let inline_only = config.get("loadOnlyInlinedPlugins").is_some_and(truthy);
        let mut list = Self::parse(config).map_err(fail)?;
        let folder = file.parent().unwrap_or(Path::new(".")).join(&list.name);
        if !inline_only && let Ok(more) = files(&folder, &["conf", "json"]) {
            for file in more {
                let fail = |reason: String| CniError::Config { file: file.clone(), reason };
                let text = std::fs::read(&file).map_err(|error| fail(error.to_string()))?;
                let config = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
                list.plugins.push(Plugin::parse(config).map_err(fail)?);
            }
        }
        if list.plugins.is_empty() {
            return Err(CniError::Config { file: file.to_owned(), reason: "it has no plugins".to_owned() });
        }
        Ok(list)
    }

    /// Checks a configuration.
    pub fn parse(config: Map<String, Value>) -> Result<Self, String> {
        let name = config.get("name").and_then(Value::as_str).unwrap_or_default();
        if !valid_name(name) {
            return Err(format!("the network name {name:?} is not letters, digits, '_', '.' and '-'"));
        }
        let plugins = match config.get("plugins") {
            None => vec![Plugin::parse(config.clone())?],
            Some(Value::Array(plugins)) => plugins
                .iter()
                .map(|plugin| match plugin {
                    Value::Object(config) => Plugin::parse(config.clone()),
                    _ => Err("a plugin is not an object".to_owned()),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err("\"plugins\" is not a list".to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            versions: versions(&config)?,
            disable_check: config.get("disableCheck").is_some_and(truthy),
            disable_gc: config.get("disableGC").is_some_and(truthy),
            plugins,
        })
    }

    /// The newest version that the configuration allows.
    pub fn newest(&self) -> Version {
        *self.versions.last().expect("parse() refuses a configuration without a version")
    }

    /// The list as a value that [`NetworkList::parse`] reads again, with everything that plugins need.
    pub fn to_value(&self, version: Version) -> Value {
        let plugins: Vec<Value> = self.plugins.iter().map(|plugin| Value::Object(plugin.config.clone())).collect();
        serde_json::json!({
            "cniVersion": version.text(),
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "plugins": plugins,
        })
    }
}

/// Go's JSON takes a boolean; some configurations have it as a string.
fn truthy(value: &Value) -> bool {
    value.as_bool().unwrap_or(value.as_str() == Some("true"))
}

fn valid_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(rest)
}

/// `cniVersion` and `cniVersions` as far as this client speaks them. A configuration without either is of 0.2.0.
fn versions(config: &Map<String, Value>) -> Result<Vec<Version>, String> {
    let mut named: Vec<&str> = Vec::new();
    named.extend(config.get("cniVersion").and_then(Value::as_str).filter(|version| !version.is_empty()));
    if let Some(Value::Array(versions)) = config.get("cniVersions") {
        named.extend(versions.iter().filter_map(Value::as_str));
    }
    if named.is_empty() {
        named.push("0.2.0");
    }
    let mut versions: Vec<Version> = named.iter().filter_map(|version| Version::parse(version)).collect();
    versions.sort();
    versions.dedup();
    if versions.is_empty() {
        return Err(format!("CNI version {} is not one that Orlop speaks ({})", named.join(", "), VERSIONS.join(", ")));
    }
    Ok(versions)
}

impl Plugin {
    fn parse(config: Map<String, Value>) -> Result<Self, String> {
        let kind = config.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind.is_empty() || kind.contains('/') || kind == "." || kind == ".." {
            return Err(format!("a plugin's type {kind:?} is not the name of a program"));
        }
        Ok(Self { kind: kind.to_owned(), config })
    }

    /// The plugin that this one delegates addresses to.
    pub fn ipam(&self) -> Option<&str> {
        self.config.get("ipam")?.get("type")?.as_str().filter(|kind| !kind.is_empty())
    }

    /// What the plugin reads from its standard input, apart from what an operation adds.
    pub fn request(&self, network: &str, version: Version) -> Map<String, Value> {
        let mut request = self.config.clone();
        // `capabilities` is for the runtime; what starts with cni.dev/ is the runtime's to set.
        request.retain(|key, _| key != "capabilities" && !key.starts_with("cni.dev/"));
        request.insert("cniVersion".to_owned(), version.text().into());
        request.insert("name".to_owned(), network.into());
        request
    }

    /// The arguments of a pod that this plugin declared to understand.
    pub fn runtime_config(&self, arguments: &BTreeMap<String, Value>) -> Map<String, Value> {
        let Some(Value::Object(capabilities)) = self.config.get("capabilities") else { return Map::new() };
        let wanted = capabilities.iter().filter(|(_, wanted)| truthy(wanted)).map(|(name, _)| name);
        wanted.filter_map(|name| Some((name.clone(), arguments.get(name)?.clone()))).collect()
    }
}

/// Something that changes whenever a file of the directory does: names, sizes, times and inodes, through links.
pub(super) fn fingerprint(dir: &Path, networks: &[NetworkList]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;
    let mut hasher = DefaultHasher::new();
    let folders = networks.iter().map(|network| dir.join(&network.name));
    for dir in std::iter::once(dir.to_owned()).chain(folders) {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            false.hash(&mut hasher);
            continue;
        };
        let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        entries.sort();
        for entry in entries {
            entry.hash(&mut hasher);
            if let Ok(metadata) = std::fs::metadata(&entry) {
                let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
                (metadata.dev(), metadata.ino(), metadata.size(), times).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}
