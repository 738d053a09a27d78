//! `orlop config`: the configuration, explained and checked.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{output, usage};
use crate::config::{Config, ConfigError, DEFAULT_FILE, default_toml};

/// Print, check or explain the configuration
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop config default >/etc/orlop/config.toml   a file to start from, every key explained
  orlop config validate                          check /etc/orlop/config.toml
  orlop config validate new.toml                 check another file")]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the defaults as a commented file
    Default,
    /// Name every problem in a configuration file
    Validate {
        /// The file; without it, /etc/orlop/config.toml
        file: Option<PathBuf>,
    },
}

pub(super) fn run(args: ConfigArgs) -> anyhow::Result<u8> {
    match args.command {
        ConfigCommand::Default => output::print(&default_toml())?,
        ConfigCommand::Validate { file } => {
            let file = file.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
            load(Some(&file))?;
            output::print(&format!("{}: no problems\n", file.display()))?;
        }
    }
    Ok(0)
}

/// The configuration for a command; whatever is wrong with it is a usage error.
///
/// # Errors
/// Every problem of the file, a line each.
pub(super) fn load(file: Option<&std::path::Path>) -> anyhow::Result<Config> {
    Config::load(file).map_err(|error| match error {
        ConfigError::Invalid { ref problems } if problems.len() > 1 => {
            usage(format!("{} problems in the configuration\n{error}", problems.len()))
        }
        error => usage(error.to_string()),
    })
}
