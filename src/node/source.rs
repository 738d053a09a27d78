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
            let stream = self.session.blob(&digest, descriptor.len(), foreign_urls(descriptor)).unverified();
            Ok(stream.map(|chunk| chunk.map_err(SourceError::from)).boxed())
        })
    }
}

/// Other places of a layer that may not be distributed. For any other blob, its maker's addresses are not asked: they
/// could be anything that this node can reach.
fn foreign_urls(descriptor: &Descriptor) -> &[String] {
    let kind = descriptor.media_type.as_str();
    let foreign = kind.contains(".nondistributable.") || kind.contains(".foreign.");
    if foreign { &descriptor.urls } else { &[] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_layers_that_may_not_be_distributed_have_other_places() {
        let of = |kind: &str| {
            let text = serde_json::json!({
                "mediaType": kind,
                "digest": format!("sha256:{}", "0".repeat(64)),
                "size": 1,
                "urls": ["http://169.254.169.254/"],
            });
            let descriptor: Descriptor = serde_json::from_value(text).unwrap();
            foreign_urls(&descriptor).len()
        };
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+gzip"), 0);
        assert_eq!(of("application/vnd.oci.image.config.v1+json"), 0);
        assert_eq!(of("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), 1);
        assert_eq!(of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), 1);
    }
}
