//! The wire: gRPC services, CRI to domain conversion, error codes.

/// The messages and services of `proto/api.proto`, generated at build time.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
