//! OCI image-spec: references, manifests, layers, the store.
