//! The command line: a file a subcommand.
//!
//! Exit codes: 0 success; 64 (EX_USAGE of sysexits.h) for arguments or a configuration that cannot be used; 1 for
//! anything that was tried and failed. `orlop exec` and `orlop run --attach` end with the code of what they ran.
//! Results go to standard output, all else to standard error.

mod client;
mod config;
mod exec;
mod images;
mod logs;
mod names;
mod output;
mod pods;
mod ps;
mod pull;
mod rm;
mod run;
mod runtime;
mod serve;
mod stats;
mod stop;
mod version;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// What cannot be used: EX_USAGE.
const EXIT_USAGE: u8 = 64;

const ABOUT: &str = "Makes this machine a Kubernetes node";

const LONG_ABOUT: &str = "\
Orlop makes this machine a Kubernetes node: the kubelet speaks CRI to it, and it pulls images, keeps them, and runs \
pods by itself.

`orlop serve` is that agent. The other commands look at a running agent and make it work by hand, over the same \
socket that a kubelet uses; most of them want to be root.";

const EXAMPLES: &str = "\
Examples:
  orlop serve                          run the agent with the defaults
  orlop run pod.yaml                   start a pod from a Kubernetes manifest
  orlop pods; orlop ps -a              what is there
  orlop logs -f web                    follow a container's log
  orlop exec web -- sh -c 'id; ls /'   run a command in it
  orlop stop demo; orlop rm demo       end a pod, forget it

Objects are named by their name, their id, or as much of the beginning of the id as is unique; a container also as \
POD/CONTAINER.";

#[derive(Debug, Parser)]
#[command(name = "orlop", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // The words about a command are at its arguments; a comment here would take the place of the long ones.
    Serve(serve::ServeArgs),
    Config(config::ConfigArgs),
    Version(version::VersionArgs),
    Run(run::RunArgs),
    Pods(pods::PodsArgs),
    Ps(ps::PsArgs),
    Images(images::ImagesArgs),
    Pull(pull::PullArgs),
    Logs(logs::LogsArgs),
    Exec(exec::ExecArgs),
    Stop(stop::StopArgs),
    Rm(rm::RmArgs),
    Stats(stats::StatsArgs),
    Runtime(Box<runtime::RuntimeArgs>),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  orlop completion bash >/etc/bash_completion.d/orlop")]
    Completion {
        shell: clap_complete::Shell,
    },
}

/// An error of the caller's, not of the work: it ends with [`EXIT_USAGE`].
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A usage error as the command's result.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

/// The whole program: the process's arguments in, its exit code out.
pub fn main() -> ExitCode {
    ExitCode::from(run_with(std::env::args_os()))
}

fn run_with(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.first().is_some_and(|program| runtime::is_runc(program)) {
        return runtime::run_as_runc(&arguments);
    }
    if arguments.get(1).is_some_and(|command| command == "runtime") {
        return runtime::run_alone(&arguments);
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as "errors" too, for standard output. Nothing can be done about a closed one.
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE } else { 0 };
        }
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => 0,
        Err(error) => {
            eprintln!("orlop: {error:#}");
            if error.is::<Usage>() { EXIT_USAGE } else { 1 }
        }
    }
}

impl Command {
    /// The exit code of what was done.
    fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Serve(args) => serve::run(args),
            Self::Config(args) => config::run(args),
            Self::Version(args) => client::block_on(version::run(args)),
            Self::Run(args) => client::block_on(run::run(args)),
            Self::Pods(args) => client::block_on(pods::run(args)),
            Self::Ps(args) => client::block_on(ps::run(args)),
            Self::Images(args) => client::block_on(images::run(args)),
            Self::Pull(args) => client::block_on(pull::run(args)),
            Self::Logs(args) => client::block_on(logs::run(args)),
            Self::Exec(args) => client::block_on(exec::run(args)),
            Self::Stop(args) => client::block_on(stop::run(args)),
            Self::Rm(args) => client::block_on(rm::run(args)),
            Self::Runtime(args) => Ok(runtime::run(*args)),
            Self::Stats(args) => client::block_on(stats::run(args)),
            Self::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "orlop", &mut script);
                output::print(&String::from_utf8_lossy(&script))?;
                Ok(0)
            }
        }
    }
}
