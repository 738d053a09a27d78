//! Pushing blobs: whole, in chunks, or by mounting them from another repository (distribution-spec, "Push").

use std::sync::Arc;

use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use hyper::{Method, StatusCode, Uri};

use super::auth::Scope;
use super::client::Session;
use super::config::Capability;
use super::digest::Digest;
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, Result};
use super::exchange::{Call, Payload};
use super::name::Repository;
use super::origin;
use super::source::{BlobSource, SourcePart};
use super::text;

/// A blob to push.
#[derive(Clone, Debug)]
pub struct BlobPush<'a> {
    pub digest: &'a Digest,
    pub size: u64,
    pub source: BlobSource,
    /// A repository on the same registry that has the blob already, perhaps.
    pub mount_from: Option<&'a str>,
    pub mode: UploadMode,
}

/// How the bytes of a blob travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UploadMode {
    /// All in one request. What every registry takes.
    #[default]
    Whole,
    /// In chunks of so many bytes (more if the registry asks for it). A broken upload goes on after the last chunk.
    Chunked(u64),
}

/// What a push came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobPushed {
    /// The registry had it already.
    Existed,
    /// It was mounted from another repository.
    Mounted,
    Uploaded,
}

/// An upload that the registry has opened.
#[derive(Debug)]
struct Upload {
    location: Uri,
    /// `OCI-Chunk-Min-Length`
    least_chunk: u64,
}

impl Session {
    /// Is the blob there? With its size, if the registry says it.
    pub async fn blob_exists(&self, digest: &Digest) -> Result<bool> {
        let once = async |host: Arc<Endpoint>| self.has_blob(&host, digest).await;
        self.at_push_host(digest.as_str(), once).await
    }

    /// Pushes a blob, unless the registry has it already.
    ///
    /// # Errors
    /// `Config` if no host may be pushed to; what network and registry do; a source that is not as long as `size`.
    pub async fn push_blob(&self, push: &BlobPush<'_>) -> Result<BlobPushed> {
        let prepared = match push.mount_from {
            Some(from) => Repository::new(self.repository.registry(), from).map(|_| ()),
            None => Ok(()),
        };
        prepared
            .and_then(|()| push.source.check(push.size))
            .map_err(|e| e.about(self.repository.path(), push.digest.as_str()))?;
        let once = async |host: Arc<Endpoint>| {
            if self.has_blob(&host, push.digest).await? {
                return Ok(BlobPushed::Existed);
            }
            let Some(upload) = self.open_upload(&host, push).await? else { return Ok(BlobPushed::Mounted) };
            match push.mode {
                UploadMode::Whole => self.upload_whole(&host, push, &upload).await?,
                UploadMode::Chunked(size) => self.upload_chunks(&host, push, upload, size).await?,
            }
            Ok(BlobPushed::Uploaded)
        };
        self.at_push_host(push.digest.as_str(), once).await
    }

    /// Runs an operation at the one host that is pushed to: the registry itself, or, where that is not allowed, the
    /// first host that is.
    pub(crate) async fn at_push_host<T, F, Fut>(&self, reference: &str, operation: F) -> Result<T>
    where
        F: Fn(Arc<Endpoint>) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let name = |error: Error| error.about(self.repository.path(), reference);
        let hosts = self.hosts_for(Capability::Push).await.map_err(name)?;
        let host = hosts.iter().find(|host| host.upstream).unwrap_or(&hosts[0]);
        let mut retrier = self.inner.retrier(self.inner.config.retry.attempts);
        loop {
            match operation(Arc::clone(host)).await {
                Ok(value) => return Ok(value),
                Err(error) => {
                    retrier.wait_after(error.at_host(&host.name), &self.inner.counters).await.map_err(name)?;
                }
            }
        }
    }

    pub(crate) fn push_scope(&self) -> Scope {
        Scope::new(self.repository.path(), "pull,push")
    }

    async fn has_blob(&self, host: &Endpoint, digest: &Digest) -> Result<bool> {
        let uri = host.url(self.repository.path(), &format!("blobs/{digest}"), "")?;
        let mut call = Call::new(Method::HEAD, uri, self.push_scope());
        // A redirect to where the blob is stored says enough; an address signed for GET would refuse the HEAD.
        call.follow = false;
        match self.exchange(host, &call).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens an upload; `None` if the blob was mounted instead.
    async fn open_upload(&self, host: &Endpoint, push: &BlobPush<'_>) -> Result<Option<Upload>> {
        let mut scope = self.push_scope();
        let digest = push.digest.as_str();
        let query = match push.mount_from {
            Some(from) => {
                scope.also = Some(format!("repository:{from}:pull"));
                text::query([("mount", digest), ("from", from)])
            }
            None => String::new(),
        };
        let uri = host.url(self.repository.path(), "blobs/uploads/", &query)?;
        let mut call = Call::new(Method::POST, uri, scope);
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = self.exchange(host, &call).await?;
        if response.status() == StatusCode::CREATED && push.mount_from.is_some() {
            return Ok(None);
        }
        let location = next_location(&call.uri, response.headers())?
            .ok_or_else(|| Error::invalid("the registry opens an upload without saying where"))?;
        let least_chunk = number(response.headers(), "oci-chunk-min-length").unwrap_or(0);
        Ok(Some(Upload { location, least_chunk }))
    }

    async fn upload_whole(&self, host: &Endpoint, push: &BlobPush<'_>, upload: &Upload) -> Result<()> {
        let part = SourcePart { source: push.source.clone(), start: 0, length: push.size };
        let result = self.close_upload(host, push.digest, &upload.location, Some(part)).await;
        self.settle(host, push.digest, &upload.location, result).await
    }

    /// PATCH after PATCH. After a failure the registry says how far it came; the attempts are counted anew with each
    /// chunk that arrived.
    async fn upload_chunks(&self, host: &Endpoint, push: &BlobPush<'_>, upload: Upload, size: u64) -> Result<()> {
        let size = size.max(upload.least_chunk).max(1);
        let (mut location, mut done) = (upload.location, 0);
        let mut retrier = self.inner.retrier(self.inner.config.retry.attempts);
        while done < push.size {
            let part = SourcePart { source: push.source.clone(), start: done, length: size.min(push.size - done) };
            let length = part.length;
            match self.patch(host, &location, part).await {
                Ok((next, end)) => {
                    location = next;
                    // Less than all of it, if the registry says so; that nothing arrived is not believed of a success.
                    done = end.filter(|end| *end > done).unwrap_or(done + length).min(push.size);
                    retrier = self.inner.retrier(self.inner.config.retry.attempts);
                }
                Err(error) if error.status() == Some(416) || error.retry() != super::error::Retry::No => {
                    let out_of_step = error.status() == Some(416);
                    let error = if out_of_step { error.with_retry(super::error::Retry::Backoff) } else { error };
                    retrier.wait_after(error, &self.inner.counters).await?;
                    (location, done) = self.upload_state(host, &location).await?;
                }
                Err(error) => {
                    self.abort_upload(host, &location).await;
                    return Err(error);
                }
            }
        }
        let result = self.close_upload(host, push.digest, &location, None).await;
        self.settle(host, push.digest, &location, result).await
    }

    /// One chunk. Returns where the next one goes, and how far the registry says it has come.
    async fn patch(&self, host: &Endpoint, location: &Uri, part: SourcePart) -> Result<(Uri, Option<u64>)> {
        let mut call = Call::new(Method::PATCH, location.clone(), self.push_scope());
        let range = format!("{}-{}", part.start, part.start + part.length - 1);
        call.headers.insert(CONTENT_RANGE, header(&range)?);
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.body = Payload::Part(part);
        let response = self.exchange(host, &call).await?;
        let next = next_location(location, response.headers())?.unwrap_or_else(|| location.clone());
        Ok((next, received(response.headers())))
    }

    /// How far an upload came (GET of its location, 204 with `Range`).
    async fn upload_state(&self, host: &Endpoint, location: &Uri) -> Result<(Uri, u64)> {
        let call = Call::new(Method::GET, location.clone(), self.push_scope());
        let response = self.exchange(host, &call).await?;
        let next = next_location(location, response.headers())?.unwrap_or_else(|| location.clone());
        Ok((next, received(response.headers()).unwrap_or(0)))
    }

    /// PUT with the digest, and with the whole blob if it was not sent before.
    async fn close_upload(
        &self,
        host: &Endpoint,
        digest: &Digest,
        location: &Uri,
        part: Option<SourcePart>,
    ) -> Result<()> {
        let uri = origin::with_query(location, &text::query([("digest", digest.as_str())]))?;
        let mut call = Call::new(Method::PUT, uri, self.push_scope());
        match part {
            Some(part) => {
                call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                call.body = Payload::Part(part);
            }
            None => {
                call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        self.exchange(host, &call).await.map(|_| ())
    }

    /// After the last request of an upload failed: it may have arrived all the same.
    async fn settle(&self, host: &Endpoint, digest: &Digest, location: &Uri, result: Result<()>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if error.is_transport() && self.has_blob(host, digest).await.unwrap_or(false) {
            return Ok(());
        }
        self.abort_upload(host, location).await;
        Err(error)
    }

    /// Tells the registry that an upload will not go on; it forgets it by itself otherwise.
    async fn abort_upload(&self, host: &Endpoint, location: &Uri) {
        let call = Call::new(Method::DELETE, location.clone(), self.push_scope());
        if let Err(error) = self.exchange(host, &call).await {
            tracing::debug!(%error, "the registry keeps a broken upload");
        }
    }
}

fn next_location(base: &Uri, headers: &HeaderMap) -> Result<Option<Uri>> {
    headers.get(LOCATION).and_then(|l| l.to_str().ok()).map(|l| origin::resolve(base, l)).transpose()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// `Range: 0-99` means that 100 bytes are there.
fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let (_, end) = text.trim().trim_start_matches("bytes=").split_once('-')?;
    // Nothing at all is written 0-0 by some, as one byte would be; then the first byte is sent again and refused with
    // 416 by a strict registry, which is answered by asking anew.
    match end.trim().parse::<u64>().ok()? {
        0 => Some(0),
        end => Some(end + 1),
    }
}

fn header(text: &str) -> Result<HeaderValue> {
    text.parse().map_err(|_| Error::config(format!("\"{}\" cannot be a header field", text::printable(text, 100))))
}
