//! Where the bytes of a push come from: anything that can be read again from any place, for uploads break too.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::error::{Error, Result};
use super::transport::Body;

/// The content of a blob to push.
#[derive(Clone, Debug)]
pub enum BlobSource {
    Bytes(Bytes),
    /// A file that is not changed while it is read; its position is not used.
    File(Arc<std::fs::File>),
}

impl From<Bytes> for BlobSource {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<std::fs::File> for BlobSource {
    fn from(file: std::fs::File) -> Self {
        Self::File(Arc::new(file))
    }
}

/// Read from a file at once.
const PIECE: u64 = 512 << 10;

/// A part of a source, as the body of a request.
#[derive(Clone, Debug)]
pub(crate) struct SourcePart {
    pub(crate) source: BlobSource,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl SourcePart {
    /// A new body with these bytes. Without a length of its own: the request says it.
    pub(crate) fn body(&self) -> Body {
        let part = self.clone();
        let pieces = stream::try_unfold((part, 0), |(part, done)| async move {
            let want = (part.length - done).min(PIECE);
            if want == 0 {
                return Ok::<_, io::Error>(None);
            }
            let bytes = part.source.read(part.start + done, want as usize).await?;
            let done = done + bytes.len() as u64;
            Ok(Some((Frame::data(bytes), (part, done))))
        });
        StreamBody::new(pieces).boxed_unsync()
    }
}

impl BlobSource {
    /// Is there enough of it?
    pub(crate) fn check(&self, size: u64) -> Result<()> {
        let length = match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.metadata().map_err(|e| Error::config(format!("the file to push: {e}")))?.len(),
        };
        if length < size {
            return Err(Error::config(format!("there are {length} bytes to push, the descriptor says {size}")));
        }
        Ok(())
    }

    async fn read(&self, at: u64, length: usize) -> io::Result<Bytes> {
        let short = || {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the source of the blob is shorter than its descriptor says")
        };
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(at).map_err(|_| short())?;
                let end = start.checked_add(length).filter(|end| *end <= bytes.len()).ok_or_else(short)?;
                Ok(bytes.slice(start..end))
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                let read = move || {
                    let mut buffer = vec![0; length];
                    std::os::unix::fs::FileExt::read_exact_at(&*file, &mut buffer, at)?;
                    Ok(Bytes::from(buffer))
                };
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
            }
        }
    }
}
