//! `orlop runtime`: containers from OCI bundles, with the verbs of runc, over the same plan and executor as pods.
//!
//! No process stays: a created container's init waits by itself, and what is known of it is one file. Everything here
//! runs in one thread, as the executor demands.

mod begin;
mod control;
mod exec;
mod foreground;
mod hooks;
mod record;
mod sealed;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Run containers from OCI bundles
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cd bundle; orlop runtime run demo; orlop runtime delete demo")]
pub struct RuntimeArgs {
    /// Where the state of containers is kept, on a tmpfs
    #[arg(long, value_name = "DIR", default_value = "/run/orlop/runtime")]
    root: PathBuf,
    /// Also write an error to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How to write it
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Taken for the sake of engines that say it; there is nothing more to tell
    #[arg(long)]
    debug: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a container; its program waits for `start`
    Create(CreateArgs),
    /// Start a created container
    Start { id: String },
    /// Make and start a container
    Run(RunArgs),
    /// Print the state of a container as JSON
    State { id: String },
    /// Send a signal to a container's first process
    Kill {
        /// To all of its processes
        #[arg(long, short)]
        all: bool,
        id: String,
        /// A name, with or without SIG, or a number
        #[arg(default_value = "TERM")]
        signal: String,
    },
    /// Forget a stopped container
    Delete {
        /// Kill it first if it runs, and do not mind if there is none
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// Run a command in a running container
    Exec(exec::ExecArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The directory with config.json
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write the process id there
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Send the terminal's master to this Unix socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    id: String,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    create: CreateArgs,
    /// Do not wait for its end
    #[arg(long, short)]
    detach: bool,
    /// Leave its state when it ends
    #[arg(long)]
    keep: bool,
}

/// Why a verb failed.
type Result<T> = anyhow::Result<T>;

/// Carries one verb out. Exits with 1 when it fails, or with the code of the container's program where one was waited
/// for. The process must have one thread.
pub fn run(args: RuntimeArgs) -> u8 {
    let root = record::Root::new(args.root.clone());
    let done = match args.verb {
        Verb::Create(create) => sealed::ensure().and_then(|()| begin::create(&root, &create)).map(|()| 0),
        Verb::Start { id } => control::start(&root, &id).map(|()| 0),
        Verb::Run(run) => sealed::ensure().and_then(|()| begin::run(&root, &run)),
        Verb::State { id } => control::state(&root, &id).map(|()| 0),
        Verb::Kill { all, id, signal } => control::kill(&root, &id, &signal, all).map(|()| 0),
        Verb::Delete { force, id } => control::delete(&root, &id, force).map(|()| 0),
        Verb::Exec(exec) => sealed::ensure().and_then(|()| exec::exec(&root, &exec)),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("orlop runtime: {text}");
            if let Some(log) = &args.log {
                write_log(log, args.log_format, &text);
            }
            1
        }
    }
}

/// Engines read the last line of this file for what went wrong. That it cannot be written is no second error.
fn write_log(path: &std::path::Path, format: LogFormat, text: &str) {
    let time = jiff::Timestamp::now().to_string();
    let line = match format {
        LogFormat::Json => serde_json::json!({ "level": "error", "msg": text, "time": time }).to_string(),
        LogFormat::Text => format!("time={time:?} level=error msg={text:?}"),
    };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = writeln!(file, "{line}");
    }
}
