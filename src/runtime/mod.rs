//! OCI runtime-spec: a spec in, processes and cgroups out.
