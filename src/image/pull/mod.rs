//! Pulling an image: documents first, then all layers side by side, then the record.
//!
//! Whoever asks gets the manifest with his own [`Source`], which is where credentials live; an image is never given to one
//! whose own source did not name it. What callers share is below that: a layer of one diff id is fetched and unpacked once,
//! by the source of who came first, and the others wait. If that transfer fails they try with their own source. It goes on
//! while anybody waits for it, and stops when nobody does.
//!
//! Layers that are complete stay in the store when a pull fails, so the next attempt takes up there.

mod layers;
mod progress;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt};

use super::config::{self, ImageConfig};
use super::digest::Digest;
use super::manifest::{Descriptor, Document, Manifest, ManifestError};
use super::media;
use super::platform::Platform;
use super::reference::Reference;
use super::store::{Image, ImageLayer, NewImage, Store, StoreError};
use super::unpack::{Limits, UnpackError};

pub use layers::Transfers;
pub use progress::{LayerProgress, Phase, Progress};

/// Indexes within indexes that are followed.
const MAX_NESTING: usize = 4;

/// What a [`Source`] fails with.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// The chunks of a blob.
pub type BlobStream = BoxStream<'static, Result<Bytes, SourceError>>;

/// A document as a source has it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// As the server named it; may be empty.
    pub media_type: String,
    /// Of the bytes, computed by whoever fetched them or said by the server: it is checked.
    pub digest: Digest,
    pub bytes: Bytes,
}

/// Where an image comes from: a repository of a registry with somebody's credentials, a layout, a test.
///
/// A source resumes, retries and tries mirrors by itself. It is asked for things of one repository only.
pub trait Source: Send + Sync + 'static {
    /// An index or manifest by tag or digest. `accept` is what media types are understood, the preferred first. At most
    /// [`super::manifest::MAX_MANIFEST`] bytes have to be returned.
    fn manifest<'a>(&'a self, target: &'a str, accept: &'a [&'a str]) -> BoxFuture<'a, Result<Fetched, SourceError>>;

    /// The content that a descriptor names. The caller verifies it.
    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<BlobStream, SourceError>>;
}

/// Why a pull failed. Clones of it go to all who waited for the same layer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    #[error("pull {reference}: cannot get the manifest {target}: {source}")]
    Manifest { reference: String, target: String, source: Arc<dyn std::error::Error + Send + Sync> },
    #[error("pull {reference}: {target}: {source}")]
    Document { reference: String, target: String, source: Arc<ManifestError> },
    #[error("pull {reference}: the registry sent {found} for {expected}")]
    Digest { reference: String, expected: Digest, found: Digest },
    #[error("pull {reference}: there is no image for {platform} (offered: {offered})")]
    Platform { reference: String, platform: String, offered: String },
    #[error("pull {reference}: it is an artifact ({media_type}), not an image that can be run")]
    NotAnImage { reference: String, media_type: String },
    #[error("pull {reference}: indexes are nested too deep")]
    Nesting { reference: String },
    #[error("pull {reference}: config {digest}: {source}")]
    Config { reference: String, digest: Digest, source: Arc<dyn std::error::Error + Send + Sync> },
    #[error("pull {reference}: layer {digest}: {source}")]
    Layer { reference: String, digest: Digest, source: LayerError },
    #[error("pull {reference}: {source}")]
    Store { reference: String, source: Arc<StoreError> },
}

/// Why a layer did not get into the store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LayerError {
    #[error("cannot be fetched: {0}")]
    Source(Arc<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Unpack(Arc<UnpackError>),
    #[error(transparent)]
    Store(Arc<StoreError>),
    #[error("has the media type {0:?}, which is no layer of an image")]
    MediaType(String),
    #[error("its transfer was given up")]
    Interrupted,
}

/// Pulls images into a store. Clones share transfers under way.
#[derive(Clone, Debug)]
pub struct Puller {
    store: Store,
    transfers: Transfers,
}

/// What of a registry leads to one image of one platform.
struct Resolved {
    /// Raw documents, the outermost first.
    documents: Vec<(Digest, Vec<u8>)>,
    manifest: Manifest,
}

impl Puller {
    /// `parallel` layers are unpacked at a time, of all pulls together.
    pub fn new(store: Store, limits: Limits, parallel: usize) -> Self {
        let transfers = Transfers::new(store.clone(), limits, parallel);
        Self { store, transfers }
    }

    /// Pulls an image, or makes sure that all of it is there. Dropping the future gives it up.
    pub async fn pull(
        &self,
        source: Arc<dyn Source>,
        reference: &Reference,
        platform: &Platform,
        progress: &Progress,
    ) -> Result<Arc<Image>, PullError> {
        let pulled = self.run(source, reference, platform, progress).await;
        self.transfers.rest().await;
        pulled
    }

    async fn run(
        &self,
        source: Arc<dyn Source>,
        reference: &Reference,
        platform: &Platform,
        progress: &Progress,
    ) -> Result<Arc<Image>, PullError> {
        let pull = Pull { puller: self, source, reference, platform };
        let resolved = pull.resolve().await?;
        let (raw, config) = pull.config(&resolved.manifest).await?;
        let lease = pull.layers(&resolved.manifest, &config, progress).await?;
        let layers = std::iter::zip(&resolved.manifest.layers, config.rootfs.diff_ids)
            .map(|(layer, diff_id)| ImageLayer {
                diff_id,
                digest: layer.digest.clone(),
                media_type: layer.media_type.clone(),
                size: layer.len(),
            })
            .collect();
        let new =
            NewImage { config: raw, layers, documents: resolved.documents, reference: Some(reference.clone()), lease };
        let store = self.store.clone();
        progress.committing();
        let committed = tokio::task::spawn_blocking(move || store.commit_image(new)).await;
        let image = committed.map_err(|_| pull.layer_gone())?.map_err(|source| pull.store(source))?;
        progress.done();
        Ok(image)
    }
}

/// One pull's context.
struct Pull<'a> {
    puller: &'a Puller,
    source: Arc<dyn Source>,
    reference: &'a Reference,
    platform: &'a Platform,
}

impl Pull<'_> {
    async fn resolve(&self) -> Result<Resolved, PullError> {
        let mut documents = Vec::new();
        let found = self.follow(self.reference.target().to_owned(), None, &mut documents, 0).await?;
        match found {
            Some(manifest) => Ok(Resolved { documents, manifest }),
            None => Err(self.no_platform(&documents)),
        }
    }

    /// Gets a document and, if it is an index, the best of its images, and so on. `None` if there is no image for the
    /// platform.
    fn follow<'f>(
        &'f self,
        target: String,
        expected: Option<&'f str>,
        documents: &'f mut Vec<(Digest, Vec<u8>)>,
        depth: usize,
    ) -> BoxFuture<'f, Result<Option<Manifest>, PullError>> {
        Box::pin(async move {
            if depth > MAX_NESTING {
                return Err(PullError::Nesting { reference: self.reference.to_string() });
            }
            let fetched = self.document(&target).await?;
            // An index's entry says what it is; a server's word counts only where nothing else does.
            let media_type = expected.unwrap_or(&fetched.media_type);
            let document = Document::parse(&fetched.bytes, media_type).map_err(|source| PullError::Document {
                reference: self.reference.to_string(),
                target: target.clone(),
                source: Arc::new(source),
            })?;
            documents.push((fetched.digest, fetched.bytes.to_vec()));
            let index = match document {
                Document::Manifest(manifest) => return Ok(Some(*manifest)),
                Document::Index(index) => index,
            };
            for entry in index.candidates(self.platform) {
                let kept = documents.len();
                let entry_type = entry.media_type.as_str();
                let found = self.follow(entry.digest.to_string(), Some(entry_type), documents, depth + 1).await?;
                match found {
                    // An entry with no platform is tried last; the config tells in the end.
                    Some(manifest) => return Ok(Some(manifest)),
                    None => documents.truncate(kept),
                }
            }
            Ok(None)
        })
    }

    async fn document(&self, target: &str) -> Result<Fetched, PullError> {
        let fetched = self.source.manifest(target, &media::MANIFESTS).await.map_err(|source| PullError::Manifest {
            reference: self.reference.to_string(),
            target: target.to_owned(),
            source: source.into(),
        })?;
        let expected = target.parse::<Digest>().unwrap_or_else(|_| fetched.digest.clone());
        let found = {
            let mut hasher = expected.algorithm().hasher();
            hasher.update(&fetched.bytes);
            hasher.finish()
        };
        if found != expected {
            return Err(PullError::Digest { reference: self.reference.to_string(), expected, found });
        }
        Ok(Fetched { digest: found, ..fetched })
    }

    /// The config, raw and read. It is fetched even if the store has it: it says nothing new, but it is small, and a source
    /// that cannot give it cannot give the image.
    async fn config(&self, manifest: &Manifest) -> Result<(Vec<u8>, ImageConfig), PullError> {
        let descriptor = &manifest.config;
        let kind = media::essence(&descriptor.media_type);
        if !media::is_image_config(&kind) {
            let named = [&manifest.artifact_type, &kind].into_iter().find(|kind| !kind.is_empty());
            let media_type = named.cloned().unwrap_or_default();
            return Err(PullError::NotAnImage { reference: self.reference.to_string(), media_type });
        }
        let fail = |source: SourceError| PullError::Config {
            reference: self.reference.to_string(),
            digest: descriptor.digest.clone(),
            source: source.into(),
        };
        let raw = self.small_blob(descriptor).await.map_err(fail)?;
        let config = ImageConfig::parse(&raw, manifest.layers.len()).map_err(|error| fail(error.into()))?;
        let built_for = config.platform();
        let said = !built_for.os.is_empty() && !built_for.architecture.is_empty();
        let same = built_for.os == self.platform.os && built_for.architecture == self.platform.architecture;
        if said && !same {
            return Err(PullError::Platform {
                reference: self.reference.to_string(),
                platform: self.platform.to_string(),
                offered: built_for.to_string(),
            });
        }
        Ok((raw, config))
    }

    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let size = descriptor.len();
        if size > config::MAX_CONFIG as u64 {
            return Err(config::ConfigError::TooLarge { size: usize::try_from(size).unwrap_or(usize::MAX) }.into());
        }
        let mut stream = self.source.blob(descriptor).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > size {
                break;
            }
        }
        if bytes.len() as u64 != size {
            return Err(UnpackError::Size { expected: size, found: bytes.len() as u64 }.into());
        }
        if !descriptor.digest.verifies(&bytes) {
            return Err("its content does not have this digest".into());
        }
        Ok(bytes)
    }

    /// Gets all layers into the store, the largest first.
    async fn layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        progress: &Progress,
    ) -> Result<super::store::Lease, PullError> {
        let mut wanted: Vec<(&Descriptor, &Digest)> =
            std::iter::zip(&manifest.layers, &config.rootfs.diff_ids).collect();
        if let Some((layer, _)) = wanted.iter().find(|(layer, _)| !media::is_layer(&media::essence(&layer.media_type)))
        {
            return Err(self.layer(&layer.digest, LayerError::MediaType(layer.media_type.clone())));
        }
        let mut seen = HashSet::new();
        wanted.retain(|(_, diff_id)| seen.insert(*diff_id));
        progress.layers(wanted.iter().map(|(layer, _)| (layer.digest.clone(), layer.len())));
        wanted.sort_by_key(|(layer, _)| std::cmp::Reverse(layer.len()));
        let mut running: FuturesUnordered<_> = wanted
            .into_iter()
            .map(|(layer, diff_id)| async move {
                let leased = self.puller.transfers.get(&self.source, layer, diff_id, progress).await;
                leased.map_err(|error| self.layer(&layer.digest, error))
            })
            .collect();
        let mut lease = self.puller.store.empty_lease();
        while let Some(layer) = running.next().await {
            lease.merge(layer?);
        }
        drop(running);
        Ok(lease)
    }

    fn layer(&self, digest: &Digest, source: LayerError) -> PullError {
        PullError::Layer { reference: self.reference.to_string(), digest: digest.clone(), source }
    }

    fn store(&self, source: StoreError) -> PullError {
        PullError::Store { reference: self.reference.to_string(), source: Arc::new(source) }
    }

    /// The thread that wrote the record panicked, or the runtime is going down.
    fn layer_gone(&self) -> PullError {
        let source = std::io::Error::other("the write was given up");
        let path = self.puller.store.root().to_owned();
        self.store(StoreError::Io { action: "write the image's record in", path, source })
    }

    fn no_platform(&self, documents: &[(Digest, Vec<u8>)]) -> PullError {
        let offered = documents.iter().filter_map(|(_, bytes)| match Document::parse(bytes, "") {
            Ok(Document::Index(index)) => Some(index),
            _ => None,
        });
        let names: Vec<String> = offered
            .flat_map(|index| index.manifests)
            .filter_map(|entry| entry.platform)
            .map(|platform| platform.normalised().to_string())
            .filter(|platform| platform != "unknown/unknown")
            .collect();
        PullError::Platform {
            reference: self.reference.to_string(),
            platform: self.platform.to_string(),
            offered: if names.is_empty() { "nothing".into() } else { names.join(", ") },
        }
    }
}

#[cfg(test)]
mod tests;
