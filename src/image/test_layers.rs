//! Layers and images for tests: a tar writer that can also write what no sane tool would.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;

use super::digest::Digest;
use super::manifest::Descriptor;
use super::media;
use super::pull::{BlobStream, Fetched, Source, SourceError};

/// Writes tar entries.
#[derive(Clone, Default)]
pub(crate) struct Tar {
    pub(crate) bytes: Vec<u8>,
}

/// A header under construction; the checksum comes last.
#[derive(Clone)]
pub(crate) struct Head(pub(crate) [u8; 512]);

impl Head {
    pub(crate) fn new(name: &str, flag: u8, size: u64) -> Self {
        let mut head = Self([0; 512]);
        head.0[257..265].copy_from_slice(b"ustar\x0000");
        head.0[156] = flag;
        head.put(0, &name.as_bytes()[..name.len().min(100)])
            .octal(100, 8, if flag == b'5' { 0o755 } else { 0o644 })
            .octal(108, 8, 0)
            .octal(116, 8, 0);
        head.octal(124, 12, size).octal(136, 12, 1_000_000_000);
        head
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        let end = (at + bytes.len()).min(512);
        self.0[at..end].copy_from_slice(&bytes[..end - at]);
        self
    }

    pub(crate) fn octal(&mut self, at: usize, width: usize, value: u64) -> &mut Self {
        self.put(at, format!("{value:0digits$o}\0", digits = width - 1).as_bytes())
    }

    pub(crate) fn link(&mut self, target: &str) -> &mut Self {
        self.put(157, target.as_bytes())
    }

    pub(crate) fn mode(&mut self, mode: u64) -> &mut Self {
        self.octal(100, 8, mode)
    }

    pub(crate) fn owner(&mut self, uid: u64, gid: u64) -> &mut Self {
        self.octal(108, 8, uid).octal(116, 8, gid)
    }

    pub(crate) fn device(&mut self, major: u64, minor: u64) -> &mut Self {
        self.octal(329, 8, major).octal(337, 8, minor)
    }

    fn summed(mut self) -> [u8; 512] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A header as it is.
    pub(crate) fn head(mut self, head: &Head) -> Self {
        self.bytes.extend_from_slice(&head.clone().summed());
        self
    }

    /// Data with its padding.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.head(&Head::new(name, b'0', data.len() as u64)).data(data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.head(&Head::new(name, b'5', 0))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.head(Head::new(name, b'2', 0).link(target))
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.head(Head::new(name, b'1', 0).link(target))
    }

    /// An `x` header with records as given.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw_pax(b'x', &data)
    }

    pub(crate) fn raw_pax(self, flag: u8, data: &[u8]) -> Self {
        self.head(&Head::new("PaxHeaders/x", flag, data.len() as u64)).data(data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

/// A registry's repository in memory.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) documents: Vec<(String, String, Bytes)>,
    pub(crate) blobs: Vec<(Digest, Bytes)>,
    /// Bytes of each chunk of a blob.
    pub(crate) chunk: usize,
    /// Blobs after how many chunks the stream fails.
    pub(crate) broken: Option<(Digest, usize)>,
    /// Blobs that never end.
    pub(crate) stuck: Option<Digest>,
    pub(crate) fetched: AtomicUsize,
    pub(crate) streams: Arc<AtomicUsize>,
}

/// One layer of a test image.
pub(crate) struct TestLayer {
    pub(crate) media_type: &'static str,
    pub(crate) tar: Vec<u8>,
    pub(crate) blob: Vec<u8>,
}

impl TestLayer {
    pub(crate) fn gzip(tar: Tar) -> Self {
        let tar = tar.end();
        Self { media_type: "application/vnd.oci.image.layer.v1.tar+gzip", blob: gzip(&tar), tar }
    }
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { chunk: 700, ..Self::default() }
    }

    pub(crate) fn add_blob(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::sha256(&bytes);
        self.blobs.push((digest.clone(), bytes.into()));
        digest
    }

    pub(crate) fn add_document(&mut self, tag: &str, media_type: &str, text: String) -> Descriptor {
        let digest = Digest::sha256(text.as_bytes());
        let descriptor = Descriptor::new(media_type, digest.clone(), text.len() as u64);
        for target in [tag.to_owned(), digest.to_string()] {
            self.documents.push((target, media_type.to_owned(), text.clone().into()));
        }
        descriptor
    }

    /// Adds an image under a tag. Returns its id.
    pub(crate) fn add_image(&mut self, tag: &str, layers: &[TestLayer], config: &str) -> (Digest, Descriptor) {
        let diff_ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::sha256(&layer.tar))).collect();
        let arch = super::platform::Platform::host().architecture;
        let config = format!(
            r#"{{"os":"linux","architecture":"{arch}","config":{config},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let size = config.len();
        let id = self.add_blob(config.into_bytes());
        let mut entries = Vec::new();
        for layer in layers {
            let digest = self.add_blob(layer.blob.clone());
            entries.push(format!(
                r#"{{"mediaType":"{}","digest":"{digest}","size":{}}}"#,
                layer.media_type,
                layer.blob.len()
            ));
        }
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{id}","size":{size}}},"layers":[{}]}}"#,
            media::OCI_MANIFEST,
            media::OCI_CONFIG,
            entries.join(",")
        );
        (id, self.add_document(tag, media::OCI_MANIFEST, text))
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source for Memory {
    fn manifest<'a>(&'a self, target: &'a str, _accept: &'a [&'a str]) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let found = self.documents.iter().rev().find(|(known, ..)| known == target);
            let (_, media_type, bytes) = found.ok_or("manifest unknown")?;
            Ok(Fetched { media_type: media_type.clone(), digest: Digest::sha256(bytes), bytes: bytes.clone() })
        })
    }

    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<BlobStream, SourceError>> {
        Box::pin(async move {
            let found = self.blobs.iter().find(|(known, _)| *known == descriptor.digest);
            let (digest, bytes) = found.ok_or("blob unknown")?;
            self.fetched.fetch_add(1, Ordering::SeqCst);
            self.streams.fetch_add(1, Ordering::SeqCst);
            let counted = Counted(self.streams.clone());
            let broken = self.broken.as_ref().filter(|(known, _)| known == digest).map(|(_, after)| *after);
            let stuck = self.stuck.as_ref() == Some(digest);
            let chunks: Vec<Bytes> = (0..bytes.len())
                .step_by(self.chunk)
                .map(|at| bytes.slice(at..(at + self.chunk).min(bytes.len())))
                .collect();
            let stream = futures_util::stream::iter(chunks.into_iter().enumerate()).then(move |(at, chunk)| {
                let _counted = &counted;
                async move {
                    if stuck && at > 0 {
                        std::future::pending::<()>().await;
                    }
                    match broken {
                        Some(after) if at >= after => Err(SourceError::from("connection reset")),
                        _ => Ok(chunk),
                    }
                }
            });
            Ok(stream.boxed())
        })
    }
}
