//! OCI distribution-spec: a client.
