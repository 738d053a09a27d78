//! Manifests and indexes: fetched whole, checked against every word that the registry says about them.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::answer;
use super::auth::Scope;
use super::client::Session;
use super::config::Capability;
use super::digest::Digest;
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::exchange::Call;
use super::name::ManifestRef;
use super::text::printable;

/// The types of manifests that are met in registries.
pub mod media_type {
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

    /// What to accept if there is no reason for less.
    pub const ALL: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
}

/// A manifest or an index, byte for byte as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The registry's `Content-Type` and the document's own `mediaType` agree on it.
    pub media_type: String,
    /// Computed from `bytes`.
    pub digest: Digest,
    pub bytes: Bytes,
}

/// What a registry says about a manifest without sending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub media_type: String,
    /// Not every registry says it.
    pub digest: Option<Digest>,
    pub size: Option<u64>,
}

impl Session {
    /// Fetches a manifest. Empty `accept` means [`media_type::ALL`].
    ///
    /// # Errors
    /// Besides what the network and the registry may do: `InvalidContent` if the bytes have not the digest that was
    /// asked for or that the registry names, are larger than the configured limit, or have a type that contradicts
    /// itself (distribution-spec, "Pulling manifests").
    pub async fn manifest(&self, reference: &ManifestRef, accept: &[&str]) -> Result<Manifest> {
        let accept = accept_fields(accept)?;
        let manifest = self
            .on_hosts(capability(reference), reference.as_str(), |host| self.fetch(host, reference, &accept))
            .await?;
        self.inner.counters.add_bytes_received(manifest.bytes.len() as u64);
        Ok(manifest)
    }

    /// Asks for a manifest's type, digest and size only.
    pub async fn manifest_head(&self, reference: &ManifestRef, accept: &[&str]) -> Result<ManifestHead> {
        let accept = accept_fields(accept)?;
        let once = async |host: Arc<Endpoint>| {
            let call = self.manifest_call(&host, Method::HEAD, reference, &accept)?;
            let response = self.exchange(&host, &call).await?;
            let head = ManifestHead {
                media_type: content_type(response.headers()).unwrap_or_default(),
                digest: named_digest(response.headers())?,
                size: answer::content_length(response.headers()),
            };
            match (reference, &head.digest) {
                (ManifestRef::Digest(asked), Some(named)) if same_algorithm(asked, named) && asked != named => {
                    Err(Error::invalid(format!("the registry answers with another manifest, {named}")))
                }
                _ => Ok(head),
            }
        };
        self.on_hosts(capability(reference), reference.as_str(), once).await
    }

    /// A manifest of one host, whatever type it has.
    pub(crate) async fn manifest_at(&self, host: &Arc<Endpoint>, reference: &ManifestRef) -> Result<Manifest> {
        self.fetch(Arc::clone(host), reference, &accept_fields(&[])?).await
    }

    fn manifest_call(
        &self,
        host: &Endpoint,
        method: Method,
        reference: &ManifestRef,
        accept: &[HeaderValue],
    ) -> Result<Call> {
        let path = self.repository.path();
        let uri = host.url(path, &format!("manifests/{reference}"), "")?;
        let mut call = Call::new(method, uri, Scope::new(path, "pull"));
        for value in accept {
            call.headers.append(ACCEPT, value.clone());
        }
        Ok(call)
    }

    async fn fetch(&self, host: Arc<Endpoint>, reference: &ManifestRef, accept: &[HeaderValue]) -> Result<Manifest> {
        let call = self.manifest_call(&host, Method::GET, reference, accept)?;
        let response = self.exchange(&host, &call).await?;
        let config = &self.inner.config;
        let (parts, bytes) = answer::read_small(response, config.max_manifest_size, config.timeouts.response).await?;
        check(reference, &parts.headers, bytes)
    }
}

/// Tags are looked up only where that is allowed; digests are good wherever blobs come from.
fn capability(reference: &ManifestRef) -> Capability {
    match reference {
        ManifestRef::Tag(_) => Capability::Resolve,
        ManifestRef::Digest(_) => Capability::Pull,
    }
}

fn accept_fields(accept: &[&str]) -> Result<Vec<HeaderValue>> {
    let accept = if accept.is_empty() { &media_type::ALL } else { accept };
    accept
        .iter()
        .map(|t| t.parse().map_err(|_| Error::config(format!("media type \"{}\": not one", printable(t, 100)))))
        .collect()
}

fn check(reference: &ManifestRef, headers: &HeaderMap, bytes: Bytes) -> Result<Manifest> {
    let digest = match reference {
        ManifestRef::Digest(asked) => {
            let found = asked.same_kind_of(&bytes);
            if found != *asked {
                return Err(Error::invalid(format!("the manifest that came has the digest {found}")));
            }
            found
        }
        ManifestRef::Tag(_) => Digest::of(&bytes),
    };
    if let Some(named) = named_digest(headers)?
        && named.same_kind_of(&bytes) != named
    {
        return Err(Error::invalid(format!("the registry names the digest {named}, the bytes have {digest}")));
    }
    Ok(Manifest { media_type: agreed_type(headers, &bytes)?, digest, bytes })
}

fn same_algorithm(one: &Digest, other: &Digest) -> bool {
    one.algorithm() == other.algorithm()
}

/// `Docker-Content-Digest`. An algorithm that we cannot compute says nothing to us.
fn named_digest(headers: &HeaderMap) -> Result<Option<Digest>> {
    let Some(value) = headers.get("docker-content-digest").and_then(|v| v.to_str().ok()).map(str::trim) else {
        return Ok(None);
    };
    match value.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(_) if value.starts_with("sha256:") || value.starts_with("sha512:") => {
            Err(Error::invalid(format!("the registry names a digest that is none: {}", printable(value, 150))))
        }
        Err(_) => Ok(None),
    }
}

/// The type without parameters, lower-case; `None` if there is none or one that says nothing.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let plain = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let says_nothing = matches!(
        plain.as_str(),
        "" | "application/json" | "application/octet-stream" | "binary/octet-stream" | "text/plain"
    );
    (!says_nothing).then_some(plain)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// The type on which header and document agree. A document that can be read in two ways is refused: what one program
/// checks must be what another one runs (CVE-2021-41190).
fn agreed_type(headers: &HeaderMap, bytes: &[u8]) -> Result<String> {
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| {
        Error::invalid(format!("the manifest is not a JSON object: {}", printable(&e.to_string(), 100)))
    })?;
    if shape.manifests.is_some() && shape.layers.is_some() {
        return Err(Error::invalid("the manifest has both \"manifests\" and \"layers\": it is ambiguous"));
    }
    let inside = shape.media_type.filter(|t| !t.is_empty());
    match (content_type(headers), inside) {
        (Some(outside), Some(inside)) if outside == inside.to_ascii_lowercase() => Ok(inside),
        (Some(outside), Some(inside)) => Err(Error::invalid(format!(
            "the registry calls the manifest \"{}\", it calls itself \"{}\"",
            printable(&outside, 120),
            printable(&inside, 120)
        ))),
        (Some(outside), None) => Ok(outside),
        (None, Some(inside)) => Ok(inside),
        (None, None) if shape.manifests.is_some() => Ok(media_type::OCI_INDEX.to_owned()),
        (None, None) if shape.layers.is_some() => Ok(media_type::OCI_MANIFEST.to_owned()),
        (None, None) => Err(Error::invalid("neither the registry nor the document says what type of manifest it is")),
    }
}
