//! OCI distribution-spec: a client.
//!
//! One [`Client`] serves the whole process: it owns the connections, the tokens and the counters. A [`Session`] is what
//! one caller does with one repository, with its own [`Credentials`]; nothing that was won with the credentials of one
//! caller is ever used for another.
//!
//! ```text
//! Client::new(config) -> session(repository, credentials) -> manifest(tag or digest) -> Manifest
//!                                                         -> blob(digest, size, urls) -> BlobStream
//!                                                         -> push_blob, push_manifest, tags, referrers, delete_…
//! ```
//!
//! A session knows the hosts that can serve its repository (mirrors first, the registry itself last) and asks them in
//! turn, each with the whole of its time limits. Broken, stalled and refused transfers go on where they stopped. What
//! is handed out was checked: digests, sizes and types.
//!
//! Dropping a future or a stream breaks the operation off.

mod answer;
mod auth;
mod blob;
mod challenge;
mod client;
mod config;
mod counters;
mod credentials;
mod dial;
mod digest;
mod docker_config;
mod endpoint;
mod error;
mod exchange;
mod hosts_toml;
mod manifest;
mod name;
mod origin;
mod proxy;
mod push;
mod push_manifest;
mod referrers;
mod retry;
mod source;
mod tags;
mod text;
mod tls;
mod transport;

pub use blob::BlobStream;
pub use client::{Client, Session};
pub use config::{Capability, ClientConfig, HostConfig, MirrorConfig, RetryConfig, StaticCredentials, Timeouts};
pub use counters::{CounterSnapshot, Counters};
pub use credentials::{AuthFields, Credentials};
pub use digest::Digest;
pub use docker_config::AuthFile;
pub use error::{Error, ErrorKind, RegistryMessage, Result};
pub use manifest::{Manifest, ManifestHead, media_type};
pub use name::{ManifestRef, Repository};
pub use push::{BlobPush, BlobPushed, UploadMode};
pub use referrers::Descriptor;
pub use source::BlobSource;
