//! TOML to [`Config`], with every problem found and placed.
//!
//! serde stops at the first error. So the entry that it stopped at is noted and taken out of the document, and serde
//! is asked again, until nothing more is wrong.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::Config;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {cause}", file.display())]
    Unreadable { file: PathBuf, cause: std::io::Error },
    #[error("{}", lines(problems))]
    Invalid { problems: Vec<Problem> },
}

/// One thing that is wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// 1 is the first.
    pub line: usize,
    /// The path of the key, as `paths.root`; empty where the text is not TOML.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, message } = self;
        if key.is_empty() {
            write!(f, "{file}:{line}: {message}")
        } else {
            write!(f, "{file}:{line}: {key}: {message}")
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// See [`Config::parse`].
pub(super) fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let place = |span: Option<Range<usize>>| span.map_or(1, |span| line_of(text, span.start));
    let problem = |line, key: String, message: String| Problem { file: file.to_owned(), line, key, message };
    let mut problems: Vec<Problem> =
        errors.iter().map(|error| problem(place(error.span()), String::new(), error.message().to_owned())).collect();
    // A document that is only half understood would give errors that are none.
    if !problems.is_empty() {
        return Err(ConfigError::Invalid { problems });
    }

    let mut rest = document.clone();
    let config = loop {
        let error = match Config::deserialize(Deserializer::from(rest.clone())) {
            Ok(config) => break config,
            Err(error) => error,
        };
        let taken = error.span().and_then(|span| take(rest.get_mut(), &span));
        let key = taken.clone().unwrap_or_default();
        problems.push(problem(place(error.span()), key, explain(error.message())));
        if taken.is_none() {
            return Err(ConfigError::Invalid { problems });
        }
    };
    for (key, message) in config.check() {
        let line = find(document.get_ref(), key).map_or(1, |span| line_of(text, span.start));
        problems.push(problem(line, key.to_owned(), message));
    }
    if problems.is_empty() {
        return Ok(config);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(ConfigError::Invalid { problems })
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Removes the innermost entry that `span` lies in, and returns the path of its key.
fn take(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let hit = |key: Range<usize>, value: &Spanned<DeValue<'_>>| {
        within(key) || within(value.span()) || value.get_ref().as_table().is_some_and(|table| holds(table, span))
    };
    let key = table.iter().find(|(key, value)| hit(key.span(), value)).map(|(key, _)| key.clone())?;
    let name = key.get_ref().to_string();
    if !within(key.span())
        && let Some(DeValue::Table(inner)) = table.get_mut(&key).map(Spanned::get_mut)
        && let Some(path) = take(inner, span)
    {
        return Some(format!("{name}.{path}"));
    }
    table.remove(&key);
    Some(name)
}

/// Whether an entry of `table`, at any depth, covers `span`. A table's own span is its header alone, so its entries
/// have to be asked.
fn holds(table: &DeTable<'_>, span: &Range<usize>) -> bool {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    table.iter().any(|(key, value)| {
        within(key.span()) || within(value.span()) || value.get_ref().as_table().is_some_and(|t| holds(t, span))
    })
}

/// Where the key of a dotted path stands; for a key that is absent, where its nearest parent does.
fn find(table: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    let deeper = value.get_ref().as_table().and_then(|table| find(table, rest));
    Some(deeper.unwrap_or(key.span()))
}

/// serde's message; for an unknown name, with the known one that is nearest.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let kind = match message.split('`').next() {
        Some("unknown field ") => "unknown key",
        Some("unknown variant ") => "unknown value",
        _ => return message.to_owned(),
    };
    let Some(name) = quoted.next() else { return message.to_owned() };
    let known: Vec<&str> = quoted.collect();
    let nearest = known.iter().map(|k| (distance(name, k), *k)).min().filter(|(d, k)| *d <= k.len().div_ceil(3));
    let way_out = match nearest {
        Some((_, near)) => format!("did you mean \"{near}\"?"),
        None => format!("known are {}", known.join(", ")),
    };
    if kind == "unknown key" {
        format!("unknown key; {way_out}")
    } else {
        format!("unknown value \"{name}\"; {way_out}")
    }
}

/// How many letters to insert, delete, change or swap with their neighbour to make one word of the other.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i.max(j)
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    rows[a.len()][b.len()]
}
