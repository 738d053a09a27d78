//! `orlop runtime`: containers from OCI bundles, with the verbs of runc, over the same plan and executor as pods.
//!
//! No process stays: a created container's init waits by itself, and what is known of it is one file. Everything here
//! runs in one thread, as the executor demands. Under the name `runc` (or one that ends in `-runc`) this program is
//! nothing but these verbs, so that engines can call it in the place of runc.

mod begin;
mod cgroup;
mod control;
mod descriptors;
mod events;
mod exec;
mod features;
mod figures;
mod foreground;
mod hooks;
mod kill;
mod list;
mod log;
mod ps;
mod record;
mod rootless;
mod spec;
mod subgroup;
#[cfg(test)]
mod tests;
mod update;
mod version;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use log::LogFormat;

/// Run containers from OCI bundles
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cd bundle; orlop runtime run demo; orlop runtime delete demo")]
#[command(version = version::VERSION, disable_version_flag = true)]
pub struct RuntimeArgs {
    /// Where the state of containers is kept, on a tmpfs [default: /run/orlop/runtime, of a plain user
    /// $XDG_RUNTIME_DIR/orlop/runtime; under the name runc runc's]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write warnings, errors and with --debug more to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How to write them
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Also write what is done
    #[arg(long)]
    debug: bool,
    /// Ask systemd for the cgroups; cgroupsPath is then SLICE:PREFIX:NAME
    #[arg(long)]
    systemd_cgroup: bool,
    /// Whether limits that a plain user cannot set are left out
    #[arg(long, value_enum, default_value_t = Rootless::Auto)]
    rootless: Rootless,
    /// Of no effect: criu is found by PATH
    #[arg(long, hide = true, value_name = "FILE")]
    criu: Option<PathBuf>,
    /// Print the version, also that of the specification
    #[arg(short, long, action = ArgAction::Version)]
    version: (),
    #[command(subcommand)]
    verb: Verb,
}

/// Run containers from OCI bundles: orlop in the place of runc
#[derive(Debug, Parser)]
#[command(name = "runc", after_help = "Example:\n  cd bundle; runc run demo; runc delete demo")]
#[command(version = version::VERSION, disable_version_flag = true, arg_required_else_help = true)]
pub(super) struct Runc {
    #[command(flatten)]
    args: RuntimeArgs,
}

/// The same without the rest of the command line: starting a container takes no longer than making that known.
#[derive(Debug, Parser)]
#[command(name = "orlop-runtime", bin_name = "orlop runtime", arg_required_else_help = true)]
struct Alone {
    #[command(flatten)]
    args: RuntimeArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Rootless {
    True,
    False,
    /// If the caller is not root
    #[default]
    Auto,
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
    Kill(kill::KillArgs),
    /// Forget a stopped container
    Delete {
        /// Kill it first if it runs, and do not mind if there is none
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// Run a command in a running container
    Exec(exec::ExecArgs),
    /// Print the processes of a container
    Ps(ps::PsArgs),
    /// Print all containers
    List(list::ListArgs),
    /// Stop all processes of a container
    Pause { id: String },
    /// Let the processes of a paused container go on
    Resume { id: String },
    /// Change the limits of a container
    Update(Box<update::UpdateArgs>),
    /// Print what a container uses, and when its memory runs out
    Events(events::EventsArgs),
    /// Write a config.json to begin with
    Spec(spec::SpecArgs),
    /// Print what this runtime can do as JSON
    Features,
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
    /// Send a descriptor of the container's first process to this Unix socket
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Give the program so many more descriptors of the caller, from 3 on, or from the last of LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Do not use pivot_root(2), which the root of an initial ramdisk refuses; containers are shut in less well then
    #[arg(long)]
    no_pivot: bool,
    /// The global flag of this name.
    #[arg(skip)]
    systemd_cgroup: bool,
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
    /// Of no effect: processes that lose their parent are never taken over
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

/// Why a verb failed.
type Result<T> = anyhow::Result<T>;

/// Where runc keeps its containers, and where we keep ours.
const ROOT_OF_RUNC: &str = "runc";
const OWN_ROOT: &str = "orlop/runtime";

/// Whether a program that is called so is to be runc.
pub(super) fn is_runc(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    name == "runc" || name.ends_with("-runc")
}

/// The whole program, where it is called as runc.
pub(super) fn run_as_runc(arguments: &[OsString]) -> u8 {
    match Runc::try_parse_from(arguments) {
        Ok(runc) => carry_out(runc.args, "runc", ROOT_OF_RUNC),
        Err(error) => refuse(&error, arguments),
    }
}

/// `orlop runtime`; `arguments` are those of the whole program.
pub(super) fn run_alone(arguments: &[OsString]) -> u8 {
    match Alone::try_parse_from(&arguments[1..]) {
        Ok(alone) => run(alone.args),
        Err(error) => refuse(&error, arguments),
    }
}

/// Carries one verb out. Exits with 1 when it fails, or with the code of the container's program where one was waited
/// for. The process must have one thread.
pub fn run(args: RuntimeArgs) -> u8 {
    carry_out(args, "orlop runtime", OWN_ROOT)
}

/// Arguments that cannot be used: engines learn of it by exit code 1, as from runc, and from the log that they named.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> u8 {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print(); // nothing can be done about a closed output
        return 0;
    }
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let value = |name: &str| {
        let at = texts.iter().position(|text| *text == name || text.starts_with(&format!("{name}=")))?;
        texts[at].split_once('=').map(|(_, value)| value.to_owned()).or_else(|| Some(texts.get(at + 1)?.to_string()))
    };
    if let Some(path) = value("--log") {
        let json = value("--log-format").is_some_and(|format| format == "json");
        let format = if json { LogFormat::Json } else { LogFormat::Text };
        if log::open(Some(Path::new(&path)), format, false, "").is_ok() {
            log::only_to_file("error", error.to_string().trim());
        }
    }
    let _ = error.print();
    1
}

fn carry_out(args: RuntimeArgs, program: &'static str, below: &str) -> u8 {
    let exec = matches!(args.verb, Verb::Exec(_));
    let opened = log::open(args.log.as_deref(), args.log_format, args.debug, program);
    match opened.and_then(|()| verb(args, below)) {
        Ok(code) => code,
        Err(error) if super::output::is_broken_pipe(&error) => 0,
        Err(error) => {
            log::error(&format!("{error:#}"));
            // Of an exec 1 could be the command's own.
            if exec { 255 } else { 1 }
        }
    }
}

/// On a tmpfs that goes with the machine, or with the user's session.
fn default_root(below: &str) -> PathBuf {
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| is_plain_user());
    Path::new(session.as_deref().unwrap_or(OsStr::new("/run"))).join(below)
}

/// Whether the caller is not root, or root only in a user namespace, as below Podman.
fn is_plain_user() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    // Of a machine that is a container itself, root is root.
    !map.is_empty() && !everybody && std::env::var_os("USER").is_none_or(|user| user != "root")
}

fn verb(args: RuntimeArgs, below: &str) -> Result<u8> {
    log::debug(|| format!("{:?}", args.verb));
    let root = record::Root::new(args.root.unwrap_or_else(|| default_root(below)));
    let mut verb = args.verb;
    if let Verb::Create(create) | Verb::Run(RunArgs { create, .. }) = &mut verb {
        create.systemd_cgroup = args.systemd_cgroup;
    }
    let limits = rootless::Limits::of(args.rootless);
    match verb {
        Verb::Create(create) => begin::create(&root, limits, &create),
        Verb::Run(run) => return begin::run(&root, limits, &run),
        Verb::Exec(exec) => return exec::exec(&root, &exec),
        Verb::Start { id } => control::start(&root, &id),
        Verb::State { id } => control::state(&root, &id),
        Verb::Kill(args) => kill::kill(&root, &args),
        Verb::Delete { force, id } => control::delete(&root, &id, force),
        Verb::Ps(args) => ps::ps(&root, &args),
        Verb::List(args) => list::list(&root, &args),
        Verb::Pause { id } => control::pause(&root, &id),
        Verb::Resume { id } => control::resume(&root, &id),
        Verb::Update(args) => update::update(&root, &args),
        Verb::Events(args) => events::events(&root, &args),
        Verb::Spec(args) => spec::spec(&args),
        Verb::Features => features::features(),
    }?;
    Ok(0)
}
