//! Orlop makes a Linux machine a Kubernetes node.
//!
//! The rooms, from the wire down. Arrows point down only: a module uses those below it, never one above or beside it.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | a file a subcommand; arguments in, exit code out |
//! | [`cri`] | gRPC services, CRI <-> domain conversion, error codes |
//! | [`node`] | pods and containers of this node: life, state, recovery, stats, specs, pulls |
//! | [`shim`] | the process that stays with each pod, its protocol, its client |
//! | [`image`] | OCI image-spec: references, manifests, layers, the store |
//! | [`network`] | CNI client, and the built-in bridge |
//! | [`runtime`] | OCI runtime-spec: a spec in, processes and cgroups out |
//! | [`registry`] | OCI distribution-spec: a client |
//! | [`netlink`] | sockets and messages of the kernel's network, for `network` and `runtime` |
//! | [`telemetry`] | metrics and logs; [`config`]: every setting. Both are usable from everywhere. |
//!
//! `runtime`, `image` and `registry` know nothing of CRI, of pods or of each other. `shim`, `netlink` and the part of
//! `runtime` that they use build without the `agent` feature: that is the small static program that a pod costs.

pub mod netlink;
pub mod runtime;
pub mod shim;

#[cfg(feature = "agent")]
pub mod cli;
#[cfg(feature = "agent")]
pub mod config;
#[cfg(feature = "agent")]
pub mod cri;
#[cfg(feature = "agent")]
pub mod image;
#[cfg(feature = "agent")]
pub mod network;
#[cfg(feature = "agent")]
pub mod node;
#[cfg(feature = "agent")]
pub mod registry;
#[cfg(feature = "agent")]
pub mod telemetry;
