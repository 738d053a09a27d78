//! `ps`: the processes of a container.

use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::Result;
use super::control;
use super::record::Root;
use crate::cli::output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// A table as ps(1) makes it, or a list of process ids
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    format: Format,
    id: String,
    /// What ps(1) is told for the table, instead of -ef
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<String>,
}

pub(super) fn ps(root: &Root, args: &PsArgs) -> Result<()> {
    let record = root.load(&args.id)?;
    let pids = control::cgroup(&record)?.map_or(Ok(Vec::new()), |cgroup| cgroup.pids())?;
    if args.format == Format::Json {
        return Ok(output::print(&(serde_json::to_string(&pids)? + "\n"))?);
    }
    let default = ["-ef".to_owned()];
    let options = if args.options.is_empty() { default.as_slice() } else { &args.options };
    let listed = Command::new("ps").args(options).output().context("run ps(1), of the package procps")?;
    if !listed.status.success() {
        bail!("ps {}: {}", options.join(" "), String::from_utf8_lossy(&listed.stderr).trim());
    }
    Ok(output::print(&chosen(&String::from_utf8_lossy(&listed.stdout), &pids)?)?)
}

/// The header, and the lines that are about `pids`.
pub(super) fn chosen(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let Some(column) = header.split_ascii_whitespace().position(|name| name == "PID") else {
        bail!("the output of ps has no column PID: {header:?}");
    };
    let mut text = format!("{header}\n");
    for line in lines {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}
