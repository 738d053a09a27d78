//! Indexes and manifests, OCI and Docker schema 2, read leniently and without ambiguity.
//!
//! Lenient: unknown fields and types pass, `null` is absent. Not ambiguous: a document that could be read both as an index
//! and as a manifest is refused (CVE-2021-41190), and so is one whose `mediaType` says something else than the server did.
//! Who holds a document keeps its bytes beside it: a digest is one of bytes, never of what was parsed.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::platform::Platform;
use super::{media, null_default};

/// Bytes of an index or manifest that are accepted. Registries have to take 4 MiB.
pub const MAX_MANIFEST: usize = 8 << 20;
/// Entries of an index, or layers of a manifest, that are accepted.
const MAX_ENTRIES: usize = 4096;

/// Why bytes are no index and no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest has {size} bytes, more than the {MAX_MANIFEST} that are accepted")]
    TooLarge { size: usize },
    #[error("the manifest is no valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the document could be read as an index and as a manifest; it is refused as ambiguous")]
    Ambiguous,
    #[error("the document says that it is {field:?}, the registry says {header:?}")]
    MediaType { field: String, header: String },
    #[error("{0:?} is neither an image index nor an image manifest")]
    Unknown(String),
    #[error(
        "the image has a manifest of Docker schema 1, which registries gave up in 2019; push it again with a current tool"
    )]
    Schema1,
    #[error("schemaVersion is {0}, only 2 is known")]
    SchemaVersion(i64),
    #[error("the document has {0} entries, more than {MAX_ENTRIES}")]
    TooMany(usize),
    #[error("the size of {digest} is {size}, and sizes are not negative")]
    Size { digest: Digest, size: i64 },
}

/// Content, by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default, deserialize_with = "null_default")]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: i64,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The content itself in base64, where the author embedded it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub data: String,
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: String::new(),
            data: String::new(),
        }
    }

    /// Bytes; documents with a negative one are refused when they are parsed.
    pub fn len(&self) -> u64 {
        u64::try_from(self.size).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.size < 0 {
            return Err(ManifestError::Size { digest: self.digest.clone(), size: self.size });
        }
        Ok(())
    }
}

/// Several images, one for each platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: i64,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// Entries that may hold an image for `platform`, the best first. An entry without a platform may be one too.
    pub fn candidates(&self, platform: &Platform) -> Vec<&Descriptor> {
        let rank = |entry: &Descriptor| match &entry.platform {
            Some(offered) if !offered.os.is_empty() || !offered.architecture.is_empty() => platform.rank(offered),
            _ => Some(0),
        };
        let kind = |entry: &&Descriptor| media::is_index(&entry.media_type) || media::is_manifest(&entry.media_type);
        let mut found: Vec<_> =
            self.manifests.iter().filter(kind).filter_map(|entry| Some((rank(entry)?, entry))).collect();
        // Stable: of equals the first stays first.
        found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        found.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// One image or artifact.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: i64,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    pub config: Descriptor,
    /// The base first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a registry or a layout has under a digest or tag.
#[derive(Clone, Debug)]
pub enum Document {
    Index(Box<Index>),
    Manifest(Box<Manifest>),
}

/// The fields that tell the kinds apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: Option<i64>,
    #[serde(default, deserialize_with = "null_default")]
    media_type: String,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads a document. `content_type` is what the server said, empty or generic if it said nothing of use.
    pub fn parse(bytes: &[u8], content_type: &str) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLarge { size: bytes.len() });
        }
        let header = media::essence(content_type);
        let probe: Probe = serde_json::from_slice(bytes)?;
        let specific = |kind: &str| media::is_index(kind) || media::is_manifest(kind);
        if media::is_schema1(&header) || probe.schema_version == Some(1) || probe.fs_layers.is_some() {
            return Err(ManifestError::Schema1);
        }
        if !probe.media_type.is_empty() && specific(&header) && probe.media_type != header {
            return Err(ManifestError::MediaType { field: probe.media_type, header });
        }
        let image = probe.layers.is_some() || probe.config.is_some();
        if probe.manifests.is_some() && image {
            return Err(ManifestError::Ambiguous);
        }
        let kind = match (specific(&header), specific(&probe.media_type)) {
            (true, _) => header.as_str(),
            (_, true) => probe.media_type.as_str(),
            _ if !probe.media_type.is_empty() => return Err(ManifestError::Unknown(probe.media_type)),
            _ if probe.manifests.is_some() => media::OCI_INDEX,
            _ if image => media::OCI_MANIFEST,
            _ => return Err(ManifestError::Unknown(header)),
        };
        if media::is_index(kind) {
            if image {
                return Err(ManifestError::Ambiguous);
            }
            Self::index(bytes)
        } else if probe.manifests.is_some() {
            Err(ManifestError::Ambiguous)
        } else {
            Self::manifest(bytes)
        }
    }

    fn index(bytes: &[u8]) -> Result<Self, ManifestError> {
        let index: Index = serde_json::from_slice(bytes)?;
        check(index.schema_version, index.manifests.len())?;
        index.manifests.iter().try_for_each(Descriptor::check)?;
        Ok(Self::Index(Box::new(index)))
    }

    fn manifest(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        check(manifest.schema_version, manifest.layers.len())?;
        manifest.config.check()?;
        manifest.layers.iter().try_for_each(Descriptor::check)?;
        Ok(Self::Manifest(Box::new(manifest)))
    }
}

fn check(schema_version: i64, entries: usize) -> Result<(), ManifestError> {
    match schema_version {
        2 if entries <= MAX_ENTRIES => Ok(()),
        2 => Err(ManifestError::TooMany(entries)),
        other => Err(ManifestError::SchemaVersion(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(extra: &str) -> String {
        format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"x/y","digest":"{D}","size":0}},"layers":null{extra}}}"#)
    }

    #[test]
    fn reads_both_kinds() {
        let text = manifest(r#","unknown":{"a":[1]},"annotations":null,"subject":null"#);
        for content_type in
            ["", "application/json", "application/octet-stream", media::OCI_MANIFEST, media::DOCKER_MANIFEST]
        {
            assert!(
                matches!(Document::parse(text.as_bytes(), content_type), Ok(Document::Manifest(_))),
                "{content_type}"
            );
        }
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        for content_type in ["", media::OCI_INDEX, media::DOCKER_LIST] {
            assert!(
                matches!(Document::parse(index.as_bytes(), content_type), Ok(Document::Index(_))),
                "{content_type}"
            );
        }
        let typed = manifest(&format!(r#","mediaType":"{}""#, media::OCI_MANIFEST));
        let header = format!("{}; charset=utf-8", media::OCI_MANIFEST);
        assert!(Document::parse(typed.as_bytes(), &header).is_ok());
    }

    #[test]
    fn refuses_ambiguous_documents() {
        let both = manifest(r#","manifests":[]"#);
        for content_type in ["", media::OCI_MANIFEST, media::OCI_INDEX] {
            let error = Document::parse(both.as_bytes(), content_type).unwrap_err();
            assert!(matches!(error, ManifestError::Ambiguous), "{error}");
        }
        assert!(matches!(Document::parse(manifest("").as_bytes(), media::OCI_INDEX), Err(ManifestError::Ambiguous)));
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(index, media::OCI_MANIFEST), Err(ManifestError::Ambiguous)));
        let typed = manifest(&format!(r#","mediaType":"{}""#, media::OCI_MANIFEST));
        assert!(matches!(
            Document::parse(typed.as_bytes(), media::DOCKER_MANIFEST),
            Err(ManifestError::MediaType { .. })
        ));
        let twice = manifest(&format!(r#","config":{{"digest":"{D}","size":1}}"#));
        assert!(matches!(Document::parse(twice.as_bytes(), ""), Err(ManifestError::Json(_))));
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        let v1 = r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
        assert!(matches!(Document::parse(v1.as_bytes(), ""), Err(ManifestError::Schema1)));
        let v3 = manifest("").replace(":2,", ":3,");
        assert!(matches!(Document::parse(v3.as_bytes(), ""), Err(ManifestError::SchemaVersion(3))));
        let negative = manifest("").replace(r#""size":0"#, r#""size":-1"#);
        assert!(matches!(Document::parse(negative.as_bytes(), ""), Err(ManifestError::Size { .. })));
        let fraction = manifest("").replace(r#""size":0"#, r#""size":1.5"#);
        assert!(Document::parse(fraction.as_bytes(), "").is_err());
        assert!(matches!(Document::parse(b"{}", ""), Err(ManifestError::Unknown(_))));
        assert!(matches!(Document::parse(b"<html>", "text/html"), Err(ManifestError::Json(_))));
        assert!(matches!(Document::parse(&vec![b' '; MAX_MANIFEST + 1], ""), Err(ManifestError::TooLarge { .. })));
        let deep = "[".repeat(100_000);
        assert!(Document::parse(deep.as_bytes(), "").is_err());
        let layer = format!(r#"{{"digest":"{D}","size":1}}"#);
        let many = manifest("").replace("null", &format!("[{}]", vec![layer; MAX_ENTRIES + 1].join(",")));
        assert!(matches!(Document::parse(many.as_bytes(), ""), Err(ManifestError::TooMany(_))));
    }

    #[test]
    fn picks_candidates_in_order() {
        let entry = |kind: &str, platform: &str, size: u32| {
            format!(r#"{{"mediaType":"{kind}","digest":"{D}","size":{size}{platform}}}"#)
        };
        let platform = |os: &str, arch: &str, variant: &str| {
            format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#)
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            [
                entry(media::OCI_MANIFEST, &platform("unknown", "unknown", ""), 1),
                entry("application/unknown", &platform("linux", "amd64", ""), 2),
                entry(media::OCI_MANIFEST, "", 3),
                entry(media::OCI_MANIFEST, &platform("linux", "amd64", ""), 4),
                entry(media::DOCKER_MANIFEST, &platform("linux", "amd64", "v2"), 5),
                entry(media::OCI_MANIFEST, &platform("linux", "amd64", ""), 6),
                entry(media::OCI_INDEX, r#","platform":null"#, 7),
                entry(media::OCI_MANIFEST, &platform("linux", "arm64", "v8"), 8),
            ]
            .join(",")
        );
        let Document::Index(index) = Document::parse(text.as_bytes(), "").unwrap() else { panic!("no index") };
        let order = |host: Platform| index.candidates(&host).iter().map(|entry| entry.size).collect::<Vec<_>>();
        assert_eq!(order(Platform::new("linux", "amd64", "v3")), [5, 4, 6, 3, 7]);
        assert_eq!(order(Platform::new("linux", "arm64", "")), [8, 3, 7]);
    }
}
