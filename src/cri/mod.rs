//! The wire: gRPC services, CRI to domain conversion, error codes.
//!
//! A request goes through four steps, each in a room of its own: [`runtime_service`] and [`image_service`] route it,
//! [`convert`] checks it (with [`validate`]'s rules) and turns it into the node's types, a [`backend::Backend`] does
//! it, and `convert` turns what came back into a reply. [`error`] chooses the code of a failure. [`server`] listens.

#![forbid(unsafe_code)]

pub mod backend;
pub mod convert;
pub mod error;
pub mod image_service;
mod local;
pub mod observe;
pub mod operations;
mod runtime;
pub mod runtime_service;
pub mod server;
pub mod socket;
pub mod validate;

pub use backend::Backend;
pub use observe::Observer;

/// The messages and services of `proto/api.proto`, generated at build time.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// `proto/api.proto` as a serialized `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.bin"));
