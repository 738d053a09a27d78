//! Tables for people, JSON for programs.

use std::io::{self, Write, stdout};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// A JSON document
    Json,
}

/// `-o`, for every command that shows something.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OutputArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl OutputArgs {
    pub(super) fn json(self) -> bool {
        self.output == Format::Json
    }

    /// Prints `items` as they are, or as the table that `header` and `row` make of them.
    pub(super) fn list<T: Serialize, const N: usize>(
        self,
        items: &[T],
        header: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> io::Result<()> {
        match self.output {
            Format::Json => json(&items),
            Format::Table => {
                let rows: Vec<[String; N]> = items.iter().map(row).collect();
                print(&table(header, &rows))
            }
        }
    }
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    print(&format!("{text}\n"))
}

/// Writes to standard output; a reader that has gone is an error and no panic.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether the cause is that nobody reads any more, as in `orlop logs web | head`.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Left-aligned columns, two spaces apart, without spaces at the end of a line.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let mut widths = [0; N];
    for row in std::iter::once(&header).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// The first 12 letters of an id, as `sha256:…` without its algorithm.
pub(super) fn short_id(id: &str) -> String {
    let bare = id.strip_prefix("sha256:").unwrap_or(id);
    bare.chars().take(12).collect()
}

/// Bytes as `1.5GB`, in powers of 1000 as disks and registries count.
pub(super) fn bytes(count: u64) -> String {
    scaled(count, 1000.0, ["B", "kB", "MB", "GB", "TB"])
}

/// Bytes as `1.5MiB`, in powers of 1024 as memory is counted.
pub(super) fn memory(count: u64) -> String {
    scaled(count, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

fn scaled(count: u64, step: f64, units: [&str; 5]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= step && unit < 4 {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{count}{}", units[0]) } else { format!("{value:.1}{}", units[unit]) }
}

/// Nanoseconds since the epoch as "3m ago"; "-" for 0, which is CRI's "not yet".
pub(super) fn ago(nanoseconds: i64) -> String {
    if nanoseconds <= 0 {
        return "-".to_owned();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(nanoseconds as u64 / 1_000_000_000);
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86400),
    }
}
