//! Referrers (signatures, SBOMs, attestations …) of a manifest: by the API, or by the list under a tag where the
//! registry has no such API (distribution-spec, "Listing Referrers", "Referrers Tag Schema").

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::answer;
use super::auth::Scope;
use super::client::Session;
use super::config::Capability;
use super::digest::Digest;
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, Result};
use super::exchange::Call;
use super::manifest::{content_type, media_type};
use super::name::ManifestRef;
use super::tags::next_page;
use super::text;

/// A descriptor in a list of referrers. Fields that are not named here are kept when a list is written back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    /// As it stands in the list; to be parsed before use.
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewIndex<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: &'a [Descriptor],
}

/// Lists with more entries than this are cut off.
const MAX_REFERRERS: usize = 100_000;

impl Session {
    /// The referrers of a manifest, of one type if that is given. No referrers, an unknown manifest and a registry that
    /// knows nothing of referrers all give an empty list.
    ///
    /// The list is what the registry says. Whether an entry really refers to the manifest is told by the entry's own
    /// `subject`, which the caller should look at before it believes in it.
    pub async fn referrers(&self, subject: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let once = async |host: Arc<Endpoint>| match self.referrers_by_api(&host, subject, artifact_type).await {
            Err(error) if is_missing(&error) => self.referrers_by_tag(&host, subject).await,
            result => result,
        };
        let mut list = match self.on_hosts(Capability::Referrers, subject.as_str(), once).await {
            Err(error) if is_missing(&error) => Vec::new(),
            result => result?,
        };
        // A registry may ignore the filter, and the list under a tag has none.
        list.retain(|d| artifact_type.is_none_or(|wanted| d.artifact_type.as_deref() == Some(wanted)));
        Ok(list)
    }

    async fn referrers_by_api(
        &self,
        host: &Endpoint,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let path = self.repository.path();
        let query = artifact_type.map(|t| text::query([("artifactType", t)])).unwrap_or_default();
        let mut next = Some(host.url(path, &format!("referrers/{subject}"), &query)?);
        let mut list = Vec::new();
        while let Some(uri) = next {
            let response = self.exchange(host, &Call::new(Method::GET, uri.clone(), Scope::new(path, "pull"))).await?;
            let config = &self.inner.config;
            let (parts, body) =
                answer::read_small(response, config.max_manifest_size, config.timeouts.response).await?;
            // Some front ends answer every unknown path with 200 and a page.
            if content_type(&parts.headers).is_some_and(|t| t != media_type::OCI_INDEX) {
                return Err(Error::new(ErrorKind::NotFound, "the registry has no referrers API"));
            }
            list.extend(parse_index(&body)?);
            next = if list.len() < MAX_REFERRERS { next_page(&uri, &parts.headers)? } else { None };
        }
        list.truncate(MAX_REFERRERS);
        Ok(list)
    }

    async fn referrers_by_tag(&self, host: &Arc<Endpoint>, subject: &Digest) -> Result<Vec<Descriptor>> {
        let manifest = self.manifest_at(host, &fallback_tag(subject)?).await?;
        // GitLab answers with the subject itself (oras-go#1396): that is no list.
        if manifest.media_type != media_type::OCI_INDEX || manifest.digest == *subject {
            return Ok(Vec::new());
        }
        parse_index(&manifest.bytes)
    }

    /// Does the registry keep lists of referrers by itself?
    pub(crate) async fn keeps_referrers(&self, host: &Endpoint, subject: &Digest) -> Result<bool> {
        match self.referrers_by_api(host, subject, None).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes the list under the subject's tag; `edit` says whether it changed anything. Two writers at the same time
    /// can lose one entry: the protocol has no way to prevent that.
    pub(crate) async fn edit_fallback(
        &self,
        host: &Arc<Endpoint>,
        subject: &Digest,
        edit: impl Fn(&mut Vec<Descriptor>) -> bool,
    ) -> Result<()> {
        let mut list = match self.referrers_by_tag(host, subject).await {
            Err(error) if is_missing(&error) => Vec::new(),
            result => result?,
        };
        if !edit(&mut list) {
            return Ok(());
        }
        let index = NewIndex { schema_version: 2, media_type: media_type::OCI_INDEX, manifests: &list };
        let bytes =
            Bytes::from(serde_json::to_vec(&index).map_err(|e| Error::invalid(format!("a list of referrers: {e}")))?);
        let digest = Digest::of(&bytes);
        self.put_manifest(host, &fallback_tag(subject)?, media_type::OCI_INDEX, &bytes, &digest).await?;
        Ok(())
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported)
}

fn parse_index(body: &[u8]) -> Result<Vec<Descriptor>> {
    let index: Index = serde_json::from_slice(body).map_err(|e| {
        Error::invalid(format!("the list of referrers is not an index: {}", text::printable(&e.to_string(), 100)))
    })?;
    if index.media_type.is_some_and(|t| t != media_type::OCI_INDEX) {
        return Err(Error::invalid("the list of referrers is not an index"));
    }
    Ok(index.manifests.unwrap_or_default())
}

/// `sha256-<hex>`: the algorithm cut to 32 characters, the hash to 64.
fn fallback_tag(subject: &Digest) -> Result<ManifestRef> {
    let cut = |text: &str, length: usize| text.chars().take(length).collect::<String>();
    ManifestRef::tag(&format!("{}-{}", cut(subject.algorithm(), 32), cut(subject.hex(), 64)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referring {
    subject: Option<SubjectOf>,
    artifact_type: Option<String>,
    config: Option<ConfigOf>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct SubjectOf {
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigOf {
    media_type: String,
}

/// The subject of a manifest, and the entry that the manifest gets in its subject's list.
pub(crate) fn as_referrer(media_type: &str, digest: &Digest, bytes: &[u8]) -> Option<(Digest, Descriptor)> {
    let referring: Referring = serde_json::from_slice(bytes).ok()?;
    let subject = referring.subject?.digest.parse().ok()?;
    let config_type = referring.config.map(|c| c.media_type);
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: bytes.len() as u64,
        artifact_type: referring.artifact_type.filter(|t| !t.is_empty()).or(config_type),
        annotations: referring.annotations,
        other: serde_json::Map::new(),
    };
    Some((subject, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_long_hashes_are_cut() {
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(fallback_tag(&long).unwrap().as_str(), format!("sha512-{}", "a".repeat(64)));
    }

    #[test]
    fn entries_keep_what_they_do_not_know() {
        let text = r#"{"manifests":[{"mediaType":"m","digest":"d","size":1,"platform":{"os":"linux"}}]}"#;
        let list = parse_index(text.as_bytes()).unwrap();
        assert!(serde_json::to_string(&list).unwrap().contains(r#""platform":{"os":"linux"}"#));
        assert_eq!(parse_index(br#"{"manifests":null}"#).unwrap(), []);
        assert!(parse_index(b"[]").is_err());
        assert!(parse_index(br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#).is_err());
    }

    #[test]
    fn what_a_manifest_says_of_itself() {
        let subject = Digest::of(b"subject");
        let text = format!(
            r#"{{"subject":{{"digest":"{subject}"}},"config":{{"mediaType":"application/x"}},"annotations":{{"a":"b"}}}}"#
        );
        let (found, entry) = as_referrer("m", &Digest::of(b""), text.as_bytes()).unwrap();
        assert_eq!((found, entry.artifact_type.as_deref()), (subject, Some("application/x")));
        assert_eq!(entry.annotations.unwrap()["a"], "b");
        assert!(as_referrer("m", &Digest::of(b""), b"{}").is_none());
    }
}
