//! What a verb has to tell beside its result: to standard error, and to the file that engines read (`--log`).
//!
//! Engines give each call a file of its own and take the last line of level "error" for the reason of a failure.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Context;
use clap::ValueEnum;

use super::Result;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug)]
struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
    /// What this program is called, before a message for people.
    program: &'static str,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the file. Until then, and where there is none, everything goes to standard error.
pub(super) fn open(path: Option<&Path>, format: LogFormat, debug: bool, program: &'static str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o644);
    let file = path.map(|path| options.open(path).with_context(|| format!("open the log {}", path.display())));
    let (file, failed) = match file.transpose() {
        Ok(file) => (file, Ok(())),
        Err(error) => (None, Err(error)),
    };
    let _ = LOG.set(Log { file, format, debug, program }); // one call, one log
    failed
}

/// Why the verb failed.
pub(super) fn error(text: &str) {
    write("error", text, true);
}

/// What did not work and is no reason to fail. Standard error is the container's too: with a log it is left alone.
pub(super) fn warning(text: &str) {
    write("warning", text, false);
}

/// For who reads the file, when people were told already.
pub(super) fn only_to_file(level: &str, text: &str) {
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        write(level, text, false);
    }
}

/// What `--debug` shows.
pub(super) fn debug(text: impl FnOnce() -> String) {
    if LOG.get().is_some_and(|log| log.debug) {
        write("debug", &text(), false);
    }
}

/// `also`: a log file does not keep it from standard error. What cannot be written is no second error.
fn write(level: &str, text: &str, also: bool) {
    let (file, format, program) = match LOG.get() {
        Some(log) => (log.file.as_ref(), log.format, log.program),
        None => (None, LogFormat::Text, "orlop runtime"),
    };
    if let Some(mut file) = file {
        // One write a line: several processes may have the same log.
        let _ = file.write_all(line(level, text, format).as_bytes());
        if !also {
            return;
        }
    }
    let _ = match (format, level) {
        (LogFormat::Json, _) if file.is_none() => std::io::stderr().write_all(line(level, text, format).as_bytes()),
        (_, "error") => writeln!(std::io::stderr(), "{program}: {text}"),
        _ => writeln!(std::io::stderr(), "{program}: {level}: {text}"),
    };
}

fn line(level: &str, text: &str, format: LogFormat) -> String {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    match format {
        LogFormat::Json => serde_json::json!({ "level": level, "msg": text, "time": time }).to_string() + "\n",
        LogFormat::Text => format!("time={time:?} level={level} msg={text:?}\n"),
    }
}
