//! Pushing and deleting manifests and tags, with what that means for the list of referrers.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap};

use super::auth::Scope;
use super::client::Session;
use super::digest::Digest;
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, Result};
use super::exchange::{Call, Payload};
use super::name::ManifestRef;
use super::referrers::{self, Descriptor};
use super::text::printable;

impl Session {
    /// Pushes a manifest or an index, byte for byte, under a tag or its digest. If it has a `subject` and the registry
    /// does not keep lists of referrers by itself, the list under the subject's tag is brought up to date too
    /// (distribution-spec, "Pushing Manifests with Subject").
    ///
    /// # Errors
    /// `InvalidContent` if the registry stored something else, or `reference` is not the digest of the bytes.
    pub async fn push_manifest(&self, reference: &ManifestRef, media_type: &str, bytes: Bytes) -> Result<Digest> {
        let digest = match reference {
            ManifestRef::Digest(asked) => asked.same_kind_of(&bytes),
            ManifestRef::Tag(_) => Digest::of(&bytes),
        };
        if let ManifestRef::Digest(asked) = reference
            && *asked != digest
        {
            let error = Error::invalid(format!("the manifest to push has the digest {digest}"));
            return Err(error.about(self.repository.path(), asked.as_str()));
        }
        let once = async |host: Arc<Endpoint>| {
            let subject_known = self.put_manifest(&host, reference, media_type, &bytes, &digest).await?;
            let listed = referrers::as_referrer(media_type, &digest, &bytes);
            if let (false, Some((subject, descriptor))) = (subject_known, listed) {
                self.edit_fallback(&host, &subject, |list| {
                    if list.iter().any(|d| d.digest == descriptor.digest) {
                        return false;
                    }
                    list.push(descriptor.clone());
                    true
                })
                .await?;
            }
            Ok(())
        };
        self.at_push_host(reference.as_str(), once).await?;
        Ok(digest)
    }

    /// Deletes a tag, or a manifest with all its tags. A list of referrers that is kept under a tag loses it too.
    ///
    /// # Errors
    /// `Unsupported` if the registry does not delete; `NotFound`.
    pub async fn delete_manifest(&self, reference: &ManifestRef) -> Result<()> {
        let once = async |host: Arc<Endpoint>| {
            let referrer = match reference {
                ManifestRef::Digest(digest) => self.referrer_at(&host, digest).await?,
                ManifestRef::Tag(_) => None,
            };
            self.delete(&host, &format!("manifests/{reference}")).await?;
            if let Some((subject, descriptor)) = referrer
                && !self.keeps_referrers(&host, &subject).await?
            {
                self.edit_fallback(&host, &subject, |list| {
                    let before = list.len();
                    list.retain(|d| d.digest != descriptor.digest);
                    list.len() != before
                })
                .await?;
            }
            Ok(())
        };
        self.at_push_host(reference.as_str(), once).await
    }

    /// Deletes a blob.
    ///
    /// # Errors
    /// `Unsupported` if the registry does not delete; `NotFound`.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let once = async |host: Arc<Endpoint>| self.delete(&host, &format!("blobs/{digest}")).await;
        self.at_push_host(digest.as_str(), once).await
    }

    async fn delete(&self, host: &Endpoint, rest: &str) -> Result<()> {
        let path = self.repository.path();
        let call = Call::new(Method::DELETE, host.url(path, rest, "")?, Scope::new(path, "delete"));
        self.exchange(host, &call).await.map(|_| ())
    }

    /// What the manifest refers to, if anything.
    async fn referrer_at(&self, host: &Arc<Endpoint>, digest: &Digest) -> Result<Option<(Digest, Descriptor)>> {
        match self.manifest_at(host, &digest.clone().into()).await {
            Ok(manifest) => Ok(referrers::as_referrer(&manifest.media_type, digest, &manifest.bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidContent) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// PUT. Returns whether the registry says that it noted the subject.
    pub(crate) async fn put_manifest(
        &self,
        host: &Endpoint,
        reference: &ManifestRef,
        media_type: &str,
        bytes: &Bytes,
        digest: &Digest,
    ) -> Result<bool> {
        let uri = host.url(self.repository.path(), &format!("manifests/{reference}"), "")?;
        let mut call = Call::new(Method::PUT, uri, self.push_scope());
        let content_type = media_type
            .parse()
            .map_err(|_| Error::config(format!("media type \"{}\": not one", printable(media_type, 100))))?;
        call.headers.insert(CONTENT_TYPE, content_type);
        call.body = Payload::Bytes(bytes.clone());
        let response = self.exchange(host, &call).await?;
        let stored = plain(response.headers(), "docker-content-digest").and_then(|d| d.parse::<Digest>().ok());
        if let Some(stored) = stored
            && stored != stored.same_kind_of(bytes)
        {
            return Err(Error::invalid(format!("the registry stored {stored} instead of {digest}")));
        }
        Ok(plain(response.headers(), "oci-subject").is_some())
    }
}

fn plain<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}
