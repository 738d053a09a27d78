//! The wire: gRPC services, CRI to domain conversion, error codes.
