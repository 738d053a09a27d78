//! The domain: pods and containers of this node, their life, state, recovery and statistics.
//!
//! | file | what it is |
//! |---|---|
//! | [`Node`] (`index.rs`) | what there is, and how to find it |
//! | `pods.rs`, `containers.rs` | the life of a pod, of a container |
//! | `exec.rs`, `stats.rs`, `images.rs`, `status.rs` | the other things that are asked of a node |
//! | `exits.rs` | what happens when a container or a shim ends |
//! | `recovery.rs` | from the records and the living shims back to memory |
//! | [`spec`], `launch.rs` | from a configuration to a plan |
//! | `external/` | handlers that name another OCI runtime |
//! | [`records`], `files.rs` | what is on disk |

#![forbid(unsafe_code)]

mod cgroups;
mod container;
mod containers;
pub mod error;
mod exec;
mod exits;
mod external;
mod files;
mod ids;
mod image_volumes;
mod images;
mod index;
mod info;
mod joins;
mod launch;
mod open;
mod plan;
mod pod;
mod pods;
mod rate;
pub mod records;
mod recovery;
mod seccomp;
mod settings;
mod source;
pub mod spec;
mod stats;
mod status;
pub mod types;
mod user;
pub mod views;

pub use images::PullProgress;
pub use index::Node;
pub use settings::Settings;
