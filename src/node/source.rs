//! A registry as the source of a pull: the two rooms meet here.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use crate::image::manifest::Descriptor;
use crate::image::pull::{BlobStream, Fetched, Source, SourceError};
use crate::registry::{Digest, ManifestRef, Session};

/// One caller's session with the repository of an image.
#[derive(Debug)]
pub(super) struct RegistrySource {
    session: Session,
}

impl RegistrySource {
    pub fn new(session: Session) -> Self {
        Self { session }
    }
}

impl Source for RegistrySource {
    fn manifest<'a>(&'a self, target: &'a str, accept: &'a [&'a str]) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let manifest = self.session.manifest(&ManifestRef::parse(target)?, accept).await?;
            let digest = manifest.digest.as_str().parse()?;
            Ok(Fetched { media_type: manifest.media_type, digest, bytes: manifest.bytes })
        })
    }

    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<BlobStream, SourceError>> {
        Box::pin(async move {
            let digest: Digest = descriptor.digest.to_string().parse()?;
            // The unpacker computes the digest anyway, beside the network and not in it.
            let stream = self.session.blob(&digest, descriptor.len(), &descriptor.urls).unverified();
            Ok(stream.map(|chunk| chunk.map_err(SourceError::from)).boxed())
        })
    }
}
