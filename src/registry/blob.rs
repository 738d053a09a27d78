//! Blobs: streams that go on where a connection broke, on a new connection or at another host.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use hyper::{Method, Response, Uri};

use super::answer::content_length;
use super::auth::Scope;
use super::client::Session;
use super::config::Capability;
use super::digest::{Digest, Hasher};
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, Result};
use super::exchange::Call;
use super::retry::Retrier;
use super::transport::classify;

/// Chunks are at least this long, the last one excepted, so that a reader on another thread is woken seldom.
const CHUNK: usize = 256 << 10;
/// A piece of this size is handed on as it is; smaller ones are copied together.
const BIG: usize = 128 << 10;
/// So many bytes on, a download counts as well again and gets all its attempts anew.
const RENEWAL: u64 = 1 << 20;

/// The bytes of one blob, in order, each exactly once.
///
/// By default the digest is computed on the way, and the last chunk is only handed out when it is right: a stream that
/// ends without an error has brought the blob. The size is checked in any case.
///
/// Read it with [`BlobStream::next_chunk`], or as a `Stream`. Time that the reader takes between chunks is not held
/// against the registry.
#[derive(Debug)]
pub struct BlobStream {
    state: State,
}

/// A download that is at work on its next chunk, and comes back with it.
type Advancing = dyn Future<Output = (Box<Download>, Result<Option<Bytes>>)> + Send;

enum State {
    Idle(Box<Download>),
    Running(Pin<Box<Advancing>>),
    Ended,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idle(download) => write!(f, "{} at {} of {}", download.digest, download.offset, download.size),
            Self::Running(_) => f.write_str("reading"),
            Self::Ended => f.write_str("ended"),
        }
    }
}

impl Session {
    /// Opens a blob of a known size (its descriptor has it). Nothing is sent before the first chunk is asked for.
    ///
    /// `urls` are other places of the same content; they are for layers that may not be distributed, and asked after
    /// the registry, without credentials. Pass none for any other blob.
    pub fn blob(&self, digest: &Digest, size: u64, urls: &[String]) -> BlobStream {
        let download = Download {
            retrier: self.inner.retrier(0),
            session: self.clone(),
            hasher: Some(digest.hasher()),
            digest: digest.clone(),
            size,
            urls: urls.to_vec(),
            sources: Vec::new(),
            at: 0,
            no_range: false,
            proved: false,
            offset: 0,
            mark: 0,
            body: None,
            pending: BytesMut::new(),
            pace: Pace::default(),
            earlier: Vec::new(),
        };
        BlobStream { state: State::Idle(Box::new(download)) }
    }

    /// A small blob as a whole (an image's config), verified.
    ///
    /// # Errors
    /// As those of the stream; and a size above the limit for manifests.
    pub async fn blob_bytes(&self, digest: &Digest, size: u64) -> Result<Bytes> {
        let limit = self.inner.config.max_manifest_size;
        if size > limit {
            let error = Error::invalid(format!("a blob of {size} bytes is too large to be read into memory ({limit})"));
            return Err(error.about(self.repository.path(), digest.as_str()));
        }
        let mut stream = self.blob(digest, size, &[]);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next_chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

impl BlobStream {
    /// Leaves the digest to the caller, who hashes the bytes anyway. Sizes are still checked.
    #[must_use]
    pub fn unverified(mut self) -> Self {
        if let State::Idle(download) = &mut self.state {
            download.hasher = None;
        }
        self
    }

    /// The next bytes; `None` at the end. After an error there is nothing more.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if let State::Idle(download) = &mut self.state {
            let result = download.advance().await;
            if !matches!(result, Ok(Some(_))) {
                self.state = State::Ended;
            }
            return result;
        }
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await.transpose()
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut running = match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return Poll::Ready(None),
            State::Running(running) => running,
            State::Idle(mut download) => Box::pin(async move {
                let result = download.advance().await;
                (download, result)
            }),
        };
        match running.as_mut().poll(cx) {
            Poll::Pending => {
                self.state = State::Running(running);
                Poll::Pending
            }
            Poll::Ready((download, result)) => {
                if let Ok(Some(_)) = result {
                    self.state = State::Idle(download);
                }
                Poll::Ready(result.transpose())
            }
        }
    }
}

/// One blob on its way.
struct Download {
    session: Session,
    digest: Digest,
    size: u64,
    urls: Vec<String>,
    /// Where it can be had; empty until the first request.
    sources: Vec<(Arc<Endpoint>, Uri)>,
    at: usize,
    /// The source at hand answers ranges with an error.
    no_range: bool,
    /// The source at hand has broken off once already.
    proved: bool,
    /// Bytes received, of which those in `pending` are not handed out yet.
    offset: u64,
    /// Where the attempts were counted from.
    mark: u64,
    body: Option<Part>,
    pending: BytesMut,
    hasher: Option<Hasher>,
    pace: Pace,
    retrier: Retrier,
    /// What the sources before this one said.
    earlier: Vec<String>,
}

/// The body of one answer.
struct Part {
    body: Incoming,
    /// Bytes at its beginning that we have already.
    skip: u64,
}

impl Download {
    async fn advance(&mut self) -> Result<Option<Bytes>> {
        let result = self.advance_unnamed().await;
        result.map_err(|e| e.about(self.session.repository.path(), self.digest.as_str()))
    }

    async fn advance_unnamed(&mut self) -> Result<Option<Bytes>> {
        if self.sources.is_empty() {
            self.find_sources().await?;
        }
        loop {
            if self.offset == self.size {
                return self.finish();
            }
            let outcome = match self.body {
                None => self.open().await,
                Some(_) => match self.frame().await {
                    Ok(Some(data)) => match self.take(data) {
                        Ok(Some(chunk)) => return Ok(Some(chunk)),
                        Ok(None) => Ok(()),
                        Err(error) => Err(error),
                    },
                    Ok(None) => Err(Error::transport(
                        ErrorKind::Unavailable,
                        format!("the answer ends after {} of {} bytes", self.offset, self.size),
                    )),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = outcome {
                self.broken(error).await?;
            }
        }
    }

    async fn find_sources(&mut self) -> Result<()> {
        let path = self.session.repository.path();
        let rest = format!("blobs/{}", self.digest);
        for host in self.session.hosts_for(Capability::Pull).await? {
            let uri = host.url(path, &rest, "")?;
            self.sources.push((host, uri));
        }
        for url in &self.urls {
            let uri: Uri = url.parse().map_err(|_| Error::invalid("a layer's descriptor has a URL that is none"))?;
            self.sources.push((Arc::new(Endpoint::foreign(&self.session.inner, &uri)?), uri));
        }
        self.retrier = self.attempts();
        Ok(())
    }

    /// Attempts at the source at hand: all for the last, and for another one a second one only if it has shown that
    /// it has the blob.
    fn attempts(&self) -> Retrier {
        let last = self.at + 1 == self.sources.len();
        let most = self.session.inner.config.retry.attempts;
        self.session.inner.retrier(match (last, self.offset > self.mark) {
            (true, _) => most,
            (false, true) => most.min(2),
            (false, false) => 1,
        })
    }

    async fn open(&mut self) -> Result<()> {
        let Some((host, uri)) = self.sources.get(self.at) else {
            return Err(Error::new(ErrorKind::Config, "no host to ask"));
        };
        let mut call = Call::new(Method::GET, uri.clone(), Scope::new(self.session.repository.path(), "pull"));
        if self.offset > 0 && !self.no_range {
            let range = format!("bytes={}-{}", self.offset, self.size - 1);
            call.headers.insert(RANGE, range.parse().unwrap_or_else(|_| HeaderValue::from_static("bytes=0-")));
        }
        let response = match self.session.exchange(host, &call).await {
            Err(error) if error.status() == Some(416) && !self.no_range => {
                self.no_range = true;
                return Ok(());
            }
            response => response?,
        };
        let skip = self.check(&response)?;
        self.pace = Pace::default();
        self.body = Some(Part { body: response.into_body(), skip });
        Ok(())
    }

    /// What the answer's head says against what we know. Returns how many bytes at its beginning to leave out.
    fn check(&self, response: &Response<Incoming>) -> Result<u64> {
        let headers = response.headers();
        if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Error::invalid("the registry sends the blob in a coding that nobody asked for"));
        }
        match response.status().as_u16() {
            200 => match content_length(headers) {
                Some(length) if length != self.size => {
                    Err(Error::invalid(format!("the registry has {length} bytes, the descriptor says {}", self.size)))
                }
                _ => Ok(self.offset),
            },
            206 => {
                let (start, end, total) = content_range(headers)
                    .ok_or_else(|| Error::invalid("a part of the blob without a usable Content-Range"))?;
                if total.is_some_and(|total| total != self.size) {
                    return Err(Error::invalid(format!(
                        "the registry has {} bytes, the descriptor says {}",
                        total.unwrap_or_default(),
                        self.size
                    )));
                }
                if start != self.offset || end < start || end >= self.size {
                    return Err(Error::invalid(format!("asked for bytes from {}, got {start} to {end}", self.offset)));
                }
                Ok(0)
            }
            other => Err(Error::invalid("an answer without the blob").with_status(other)),
        }
    }

    /// The next piece of the body. Breaks off when it comes too slowly.
    async fn frame(&mut self) -> Result<Option<Bytes>> {
        let timeouts = &self.session.inner.config.timeouts;
        let Some(part) = &mut self.body else { return Ok(None) };
        loop {
            let begin = Instant::now();
            let left = timeouts.stall_window.saturating_sub(self.pace.waited);
            let frame = match tokio::time::timeout(left, part.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => Some(frame.map_err(|e| classify(&e))?),
                Err(_) => None,
            };
            let data = frame.and_then(|frame| frame.into_data().ok());
            self.pace.add(begin.elapsed(), data.as_ref().map_or(0, Bytes::len));
            self.pace.judge(timeouts.stall_window, timeouts.min_rate)?;
            if let Some(mut data) = data {
                let skipped = part.skip.min(data.len() as u64);
                part.skip -= skipped;
                let _ = data.split_to(skipped as usize);
                if !data.is_empty() {
                    return Ok(Some(data));
                }
            }
        }
    }

    /// Takes a piece in; gives back a chunk if there is enough for one.
    fn take(&mut self, data: Bytes) -> Result<Option<Bytes>> {
        let length = data.len() as u64;
        if length > self.size - self.offset {
            return Err(Error::invalid(format!(
                "the registry sends more than the {} bytes of the descriptor",
                self.size
            )));
        }
        self.offset += length;
        self.session.inner.counters.add_bytes_received(length);
        if self.offset == self.size {
            self.body = None;
        }
        if self.pending.is_empty() && data.len() >= BIG && self.offset < self.size {
            return Ok(Some(self.hashed(data)));
        }
        if self.pending.is_empty() && self.offset == self.size {
            // The last piece, whole: `finish` hands it out without copying it.
            self.pending = BytesMut::from(data);
            return Ok(None);
        }
        if self.pending.capacity() == 0 {
            self.pending.reserve((CHUNK + BIG).min((self.size - self.offset + length) as usize));
        }
        self.pending.extend_from_slice(&data);
        if self.pending.len() < CHUNK || self.offset == self.size {
            return Ok(None);
        }
        let chunk = std::mem::take(&mut self.pending).freeze();
        Ok(Some(self.hashed(chunk)))
    }

    fn hashed(&mut self, chunk: Bytes) -> Bytes {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        chunk
    }

    /// All bytes are here: checks the digest, then hands out the last chunk, then nothing.
    fn finish(&mut self) -> Result<Option<Bytes>> {
        let chunk = std::mem::take(&mut self.pending).freeze();
        let chunk = self.hashed(chunk);
        if let Some(hasher) = self.hasher.take() {
            let found = hasher.finish();
            if found != self.digest {
                let error = Error::invalid(format!("the blob that came has the digest {found}"));
                return Err(self.named(error));
            }
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn named(&self, error: Error) -> Error {
        match self.sources.get(self.at) {
            Some((host, _)) => error.at_host(&host.name),
            None => error,
        }
    }

    /// After a failure: waits and goes on at the same source, or at the next, or gives up.
    async fn broken(&mut self, error: Error) -> Result<()> {
        self.body = None;
        let error = self.named(error);
        let first = self.offset > self.mark && !std::mem::replace(&mut self.proved, true);
        if self.offset - self.mark >= RENEWAL || first {
            self.retrier = self.attempts();
            self.mark = self.offset;
        }
        let counters = &self.session.inner.counters;
        match self.retrier.wait_after(error, counters).await {
            Ok(()) => {
                if self.offset > 0 {
                    counters.add_resumes(1);
                }
                Ok(())
            }
            Err(error) if self.at + 1 < self.sources.len() => {
                if let Some((host, _)) = self.sources.get(self.at) {
                    self.session.leave(host, &error);
                }
                self.earlier.push(error.brief());
                self.at += 1;
                self.no_range = false;
                self.proved = false;
                self.mark = self.offset;
                self.retrier = self.attempts();
                Ok(())
            }
            Err(error) => Err(error.after(std::mem::take(&mut self.earlier))),
        }
    }
}

/// How fast a connection is, over a window of time spent waiting for it.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn add(&mut self, waited: Duration, bytes: usize) {
        self.waited += waited;
        self.bytes += bytes as u64;
    }

    /// At the end of a window: was it enough?
    fn judge(&mut self, window: Duration, min_rate: u64) -> Result<()> {
        if self.waited < window {
            return Ok(());
        }
        let least = (window.as_secs_f64() * min_rate as f64) as u64;
        if self.bytes < least.max(1) {
            let text = format!("stalled: {} bytes in {}", self.bytes, super::config::span::print(self.waited));
            return Err(Error::transport(ErrorKind::Unavailable, text));
        }
        *self = Self::default();
        Ok(())
    }
}

/// `bytes 5-9/10` to (5, 9, Some(10)).
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim();
    let (range, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    Some((start.trim().parse().ok()?, end.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests;
