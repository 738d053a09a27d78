//! Hooks: programs that are run at points in the life of a container, with its state on their standard input.
//!
//! The same code runs those of the runtime's namespaces (called by the command line) and those of the container's
//! (called by its child). The input is a file in memory, so a hook that does not read it holds nobody up; what it
//! writes is read as it comes, and the end of it is kept for the error.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, chdir, kill_process_group, setpgid, umask, waitpid};

use super::context::{Context, Step, refuse, show};
use super::program::c_string;
use super::status::{Notice, Reporter, Stage};
use crate::runtime::plan::{HookPlan, HooksPlan, SeccompPlan};
use crate::runtime::sys::clone::{Clone3, Forked};
use crate::runtime::sys::process::{self as sys, CStringArray};

/// How much of the end of a hook's output an error shows.
const TAIL: usize = 400;
/// What a hook is said to have exited with when it could not be executed; so do shells.
const NOT_EXECUTED: i32 = 127;

/// How hooks are run, beside what their own plans say.
#[derive(Clone, Copy, Debug, Default)]
pub struct HookSettings<'a> {
    /// Their working directory; `None`: the caller's.
    pub directory: Option<&'a [u8]>,
    /// The environment of those that have none of their own.
    pub default_env: &'a [Vec<u8>],
    /// The filter that they are put under.
    pub filter: Option<&'a SeccompPlan>,
}

/// The state that a hook gets: `text` of [`HooksPlan::state`], completed.
pub fn hook_state(text: &[u8], status: &str, pid: Option<i32>) -> Vec<u8> {
    let pid = pid.map(|pid| format!(",\"pid\":{pid}")).unwrap_or_default();
    [text, format!(",\"status\":\"{status}\"{pid}}}").as_bytes()].concat()
}

/// Runs hooks one after the other, until one fails. `kind` is for the message. The caller has one thread.
pub fn run_hooks(kind: &str, hooks: &[HookPlan], state: &[u8], settings: HookSettings<'_>) -> Result<(), Notice> {
    hooks.iter().enumerate().try_for_each(|hook| run(kind, hook, state, settings))
}

/// Runs all of them, and returns what failed.
pub fn run_all_hooks(kind: &str, hooks: &[HookPlan], state: &[u8], settings: HookSettings<'_>) -> Vec<Notice> {
    hooks.iter().enumerate().filter_map(|hook| run(kind, hook, state, settings).err()).collect()
}

/// The file system is made: the parent's hooks, and then those that see the host's files in the container's namespaces.
pub(super) fn before_entering(plan: &HooksPlan, reporter: &Reporter) -> Step<()> {
    if plan.pause && !reporter.hooks().at(Stage::Hook, || "wait for the hooks of the runtime".into())? {
        return refuse(Stage::Hook, "the runtime has gone while its hooks ran");
    }
    let state = hook_state(&plan.state, "created", Some(std::process::id() as i32));
    let before = umask(Mode::from_raw_mode(0o022));
    let settings = HookSettings { directory: Some(b"/"), ..HookSettings::default() };
    let done = run_hooks("createContainer", &plan.create_container, &state, settings);
    umask(before);
    done
}

/// The container is started. As other runtimes have it, these hooks get the program's environment if they have none of
/// their own. They are the container's own programs, so its filter is theirs.
pub(super) fn before_program(plan: &HooksPlan, env: &[Vec<u8>], filter: Option<&SeccompPlan>) -> Step<()> {
    if plan.start_container.is_empty() {
        return Ok(());
    }
    let state = hook_state(&plan.state, "created", Some(std::process::id() as i32));
    let settings = HookSettings { directory: None, default_env: env, filter };
    run_hooks("startContainer", &plan.start_container, &state, settings)
}

/// What the child of the fork needs, laid out before it.
#[derive(Debug)]
struct Laid<'a> {
    path: std::ffi::CString,
    args: CStringArray,
    env: CStringArray,
    input: OwnedFd,
    settings: HookSettings<'a>,
}

fn run(kind: &str, (number, hook): (usize, &HookPlan), state: &[u8], settings: HookSettings<'_>) -> Step<()> {
    let name = &format!("{kind} hook #{number} {}", show(&hook.path));
    let failed = |what: &'static str| move || format!("{name}: {what}");
    let laid = lay(hook, state, settings)?;
    let (output, output_end) = pipe_with(PipeFlags::CLOEXEC).at(Stage::Hook, failed("make a pipe"))?;
    let (errors, errors_end) = pipe_with(PipeFlags::CLOEXEC).at(Stage::Hook, failed("make a pipe"))?;
    let (pid, pidfd) = match (Clone3 { flags: 0, cgroup: None }).fork().at(Stage::Hook, failed("fork"))? {
        Forked::Child => become_hook(&laid, output_end.as_fd(), errors_end.as_fd()),
        Forked::Parent { pid, pidfd } => (Pid::from_raw(pid), pidfd),
    };
    drop((output_end, errors_end));
    // Both sides do it, so that it is done whoever comes first; afterwards it fails, and need not be done.
    let _ = setpgid(pid, pid);

    let deadline = hook.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let mut streams = [Stream::new(errors), Stream::new(output)];
    let in_time = attend(&pidfd, &mut streams, deadline);
    if let (Ok(false) | Err(_), Some(group)) = (&in_time, pid) {
        // The group: whatever it has started dies with it.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let status = wait(pid).at(Stage::Hook, failed("wait for it"));
    streams.iter_mut().for_each(Stream::drain);
    if !in_time.at(Stage::Hook, failed("wait for it"))? {
        let seconds = hook.timeout.unwrap_or_default();
        return refuse(Stage::Hook, format!("{name}: killed, as it did not end within {seconds} s{}", said(&streams)));
    }
    match outcome(status?) {
        None => Ok(()),
        Some(outcome) => refuse(Stage::Hook, format!("{name}: {outcome}{}", said(&streams))),
    }
}

fn lay<'a>(hook: &HookPlan, state: &[u8], settings: HookSettings<'a>) -> Step<Laid<'a>> {
    let strings = |list: &[Vec<u8>]| list.iter().map(|s| c_string(s, Stage::Hook)).collect::<Step<Vec<_>>>();
    let args = if hook.args.is_empty() { std::slice::from_ref(&hook.path) } else { hook.args.as_slice() };
    let env = if hook.env.is_empty() { settings.default_env } else { hook.env.as_slice() };
    Ok(Laid {
        path: c_string(&hook.path, Stage::Hook)?,
        args: CStringArray::new(strings(args)?),
        env: CStringArray::new(strings(env)?),
        input: input(state).at(Stage::Hook, || format!("make the input of hook {}", show(&hook.path)))?,
        settings,
    })
}

/// A file in memory: it can be read as a pipe can, and waits for nobody.
fn input(state: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create("state", MemfdFlags::CLOEXEC)?;
    let mut left = state;
    while !left.is_empty() {
        let written = rustix::io::pwritev(&file, &[IoSlice::new(left)], (state.len() - left.len()) as u64)?;
        left = &left[written..];
    }
    Ok(file)
}

fn become_hook(laid: &Laid<'_>, output: BorrowedFd<'_>, errors: BorrowedFd<'_>) -> ! {
    let _ = setpgid(None, None);
    let error = match arrange(laid, output, errors) {
        Ok(()) => sys::execute(&laid.path, &laid.args, &laid.env),
        Err(error) => error,
    };
    // From its standard error it gets into the message.
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("it cannot be executed: {error}\n").as_bytes());
    sys::exit_now(NOT_EXECUTED)
}

fn arrange(laid: &Laid<'_>, output: BorrowedFd<'_>, errors: BorrowedFd<'_>) -> std::io::Result<()> {
    // Above 2, whatever the caller had open, so that none is overwritten before it is in its place.
    let aside = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let streams = [aside(laid.input.as_fd())?, aside(output)?, aside(errors)?];
    for (number, stream) in streams.iter().enumerate() {
        sys::dup_onto(stream.as_fd(), number as i32, false)?;
    }
    if let Some(directory) = laid.settings.directory {
        chdir(directory)?;
    }
    sys::reset_signal_actions();
    sys::unblock_signals();
    // Closed with all others, so they must not be closed by their owners.
    std::mem::forget(streams);
    sys::close_from(3)?;
    match laid.settings.filter {
        Some(filter) => sys::load_seccomp(&filter.program, filter.flags).map(drop),
        None => Ok(()),
    }
}

/// Reads what it writes until it ends. False: it has not ended in time.
fn attend(pidfd: &OwnedFd, streams: &mut [Stream; 2], deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let left = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Ok(false),
            left => left.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() }),
        };
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        fds.extend(streams.iter().filter_map(|s| s.fd.as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, left.as_ref()) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
        let ready: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        let open = streams.iter_mut().filter(|s| s.fd.is_some());
        for (stream, _) in open.zip(ready).filter(|(_, ready)| *ready) {
            stream.read();
        }
    }
}

fn wait(pid: Option<Pid>) -> Result<WaitStatus, Errno> {
    loop {
        match waitpid(pid, WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) => return Err(Errno::CHILD),
            Err(e) => return Err(e),
        }
    }
}

/// What is wrong with how it ended.
fn outcome(status: WaitStatus) -> Option<String> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, signal) => Some(format!("killed by signal {}", signal.unwrap_or_default())),
    }
}

/// The end of what it wrote, to standard error if there is anything.
fn said(streams: &[Stream; 2]) -> String {
    let text = streams.iter().map(|s| show(s.tail.trim_ascii())).find(|text| !text.is_empty());
    text.map(|text| format!(": {text}")).unwrap_or_default()
}

/// One of a hook's output streams.
struct Stream {
    /// Until its end.
    fd: Option<OwnedFd>,
    tail: Vec<u8>,
}

impl Stream {
    fn new(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), tail: Vec::new() }
    }

    /// Reads once; to be called when there is something to read, or the end.
    fn read(&mut self) -> bool {
        let Some(fd) = &self.fd else { return false };
        let mut bytes = [0u8; 4096];
        match rustix::io::read(fd, &mut bytes) {
            Ok(read @ 1..) => {
                self.tail.extend_from_slice(&bytes[..read]);
                let surplus = self.tail.len().saturating_sub(TAIL);
                self.tail.drain(..surplus);
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            Ok(_) | Err(_) => {
                self.fd = None;
                false
            }
        }
    }

    /// What is left of one that has ended. Others that it has left behind may have its streams open; they are not waited
    /// for, and they may write faster than is read here.
    fn drain(&mut self) {
        const MOST: usize = 64;
        let Some(fd) = &self.fd else { return };
        if rustix::io::ioctl_fionbio(fd, true).is_ok() {
            (0..MOST).take_while(|_| self.read()).count();
        }
    }
}
