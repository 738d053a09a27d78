//! `list`: all containers of a root.

use std::os::unix::fs::MetadataExt;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::record::Root;
use super::{Result, log};
use crate::cli::output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only the ids, one a line
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn list(root: &Root, args: &ListArgs) -> Result<()> {
    if args.quiet {
        let ids: String = root.ids()?.into_iter().map(|id| id + "\n").collect();
        return Ok(output::print(&ids)?);
    }
    let mut states = Vec::new();
    for id in root.ids()? {
        match root.load(&id) {
            Ok(record) => {
                let mut state = record.state();
                state["owner"] = Value::from(owner(root, &id));
                states.push(state);
            }
            // Gone meanwhile, or broken: no reason not to show the others.
            Err(error) => log::warning(&format!("{error:#}")),
        }
    }
    let text = match args.format {
        Format::Json => serde_json::to_string(&states)? + "\n",
        Format::Table => table(&states),
    };
    Ok(output::print(&text)?)
}

/// Whose container it is: a name where /etc/passwd has one.
fn owner(root: &Root, id: &str) -> String {
    let uid = std::fs::metadata(root.directory(id)).map_or(0, |m| m.uid());
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

fn table(states: &[Value]) -> String {
    const COLUMNS: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let header = COLUMNS.map(str::to_ascii_uppercase);
    let rows = states.iter().map(|state| COLUMNS.map(|column| text(&state[column])));
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    // Never narrower than twelve, and three blanks between.
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|c| rows.iter().map(|row| row[c].chars().count() + 3).max().unwrap_or(0).max(12))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
