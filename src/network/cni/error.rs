//! What can go wrong between the agent and CNI plugins.

use std::path::PathBuf;

/// A failed CNI operation.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// A configuration file is wrong.
    #[error("CNI configuration {}: {reason}", file.display())]
    Config { file: PathBuf, reason: String },
    /// A plugin's program is not there.
    #[error("CNI plugin {plugin:?} of network {network:?} is not in {dirs}; install it or set network.cni.bin_dirs")]
    Missing { plugin: String, network: String, dirs: String },
    /// A plugin's program cannot be started.
    #[error("CNI plugin {plugin}: {verb}: cannot start: {source}")]
    Start { plugin: String, verb: &'static str, source: std::io::Error },
    /// A plugin reported an error. `code` is one of the CNI spec (section 5, Error), or the plugin's own from 100 on.
    #[error("CNI plugin {plugin}: {verb}: {message}")]
    Plugin { plugin: String, verb: &'static str, code: u32, message: String },
    /// A plugin took too long and was killed.
    #[error("CNI plugin {plugin}: {verb}: no answer within {seconds} s; it was killed")]
    Timeout { plugin: String, verb: &'static str, seconds: u64 },
    /// A plugin answered something that is not what the spec says.
    #[error("CNI plugin {plugin}: {verb}: {reason}")]
    Output { plugin: String, verb: &'static str, reason: String },
    /// The plugins succeeded but gave the pod no address.
    #[error("CNI network {network:?} gave the pod no address on {interface}")]
    NoAddress { network: String, interface: String },
    /// A pod asks for what cannot be passed on.
    #[error("annotation {name}: {value:?} {reason}")]
    Annotation { name: String, value: String, reason: &'static str },
    /// A value of the pod would break out of CNI_ARGS.
    #[error("{name} {value:?} cannot be passed to CNI plugins")]
    Argument { name: &'static str, value: String },
    /// The remembered state of an attachment is unreadable.
    #[error("CNI state {}: {reason}", file.display())]
    Cache { file: PathBuf, reason: String },
}
