//! The process of a container: what runs, where, as whom, with which environment.

use oci_spec::runtime::{Process, ProcessBuilder, UserBuilder};

use super::{Input, ResolvedUser, SpecError, security};
use crate::node::types::{ContainerConfig, EnvVar};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn container(input: &Input<'_>) -> Result<Process, SpecError> {
    let config = input.config;
    let args = command(input)?;
    let env = environment(input)?.into_iter().map(|entry| String::from_utf8_lossy(&entry).into_owned());
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .args(args)
        .env(env.collect::<Vec<_>>())
        .cwd(working_directory(input)?)
        .user(
            UserBuilder::default()
                .uid(input.user.uid)
                .gid(input.user.gid)
                .additional_gids(additional_groups(input.user))
                .build()?,
        )
        .capabilities(security::capabilities(&config.security)?)
        .no_new_privileges(config.security.no_new_privs)
        .oom_score_adj(oom_score_adj(config));
    if let Some(profile) = security::apparmor_profile(&config.security) {
        process = process.apparmor_profile(profile);
    }
    let mut process = process.build()?;
    // The builder's default is a set of limits; a container has those of the node unless it is told otherwise.
    process.set_rlimits(None);
    Ok(process)
}

/// The kernel's supplementary list; the primary group is a process's own already.
fn additional_groups(user: &ResolvedUser) -> Vec<u32> {
    user.groups.clone()
}

fn oom_score_adj(config: &ContainerConfig) -> i32 {
    let wanted = config.resources.as_ref().map_or(0, |resources| resources.oom_score_adj);
    wanted.clamp(-1000, 1000) as i32
}

/// The rule of Kubernetes: a command replaces the entrypoint and, with it, the image's cmd; arguments replace the cmd.
fn command(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let (config, image) = (input.config, input.image);
    let mut args = if config.command.is_empty() { image.entrypoint.clone() } else { config.command.clone() };
    if !config.args.is_empty() {
        args.extend(config.args.iter().cloned());
    } else if config.command.is_empty() {
        args.extend(image.cmd.iter().cloned());
    }
    match args.first() {
        Some(first) if !first.is_empty() => Ok(args),
        _ => Err(SpecError::NoCommand(config.metadata.name.clone())),
    }
}

fn working_directory(input: &Input<'_>) -> Result<String, SpecError> {
    let chosen = [input.config.working_dir.as_str(), input.image.working_dir.as_str(), "/"];
    let cwd = chosen.into_iter().find(|dir| !dir.is_empty()).unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(SpecError::WorkingDirectory(cwd.to_owned()));
    }
    Ok(cwd.to_owned())
}

/// `KEY=value` entries: the image's, then the pod's hostname, then the request's, each name once, the last wins.
pub fn environment(input: &Input<'_>) -> Result<Vec<Vec<u8>>, SpecError> {
    let mut entries: Vec<Vec<u8>> = Vec::with_capacity(input.image.env.len() + input.config.envs.len() + 4);
    put(&mut entries, DEFAULT_PATH.as_bytes().to_vec());
    if input.config.tty {
        put(&mut entries, b"TERM=xterm".to_vec());
    }
    let hostname = if input.pod.hostname.is_empty() { input.host_name } else { &input.pod.hostname };
    put(&mut entries, format!("HOSTNAME={hostname}").into_bytes());
    for entry in &input.image.env {
        put(&mut entries, entry.clone().into_bytes());
    }
    for variable in &input.config.envs {
        put(&mut entries, entry_of(variable)?);
    }
    if !entries.iter().any(|entry| entry.starts_with(b"HOME=") && entry.len() > 5) {
        let home = input.user.home.as_deref().filter(|home| home.starts_with('/')).unwrap_or("/");
        put(&mut entries, format!("HOME={home}").into_bytes());
    }
    Ok(entries)
}

fn entry_of(variable: &EnvVar) -> Result<Vec<u8>, SpecError> {
    let bad_key = variable.key.is_empty() || variable.key.contains(['=', '\0']);
    if bad_key || variable.value.contains(&0) {
        return Err(SpecError::Environment(variable.key.clone()));
    }
    let mut entry = variable.key.clone().into_bytes();
    entry.push(b'=');
    entry.extend_from_slice(&variable.value);
    Ok(entry)
}

/// Adds an entry, in the place of an earlier one of the same name.
fn put(entries: &mut Vec<Vec<u8>>, entry: Vec<u8>) {
    let name_len = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
    let name = &entry[..name_len];
    let same = |other: &Vec<u8>| other.len() > name_len && other.starts_with(name) && other[name_len] == b'=';
    match entries.iter().position(same) {
        Some(at) => entries[at] = entry,
        None => entries.push(entry),
    }
}

/// The signal that ends a container gently: the request's, the image's, or SIGTERM. Linux numbers.
pub fn stop_signal(config: &ContainerConfig, image_signal: &str) -> Result<i32, SpecError> {
    if let Some(signal) = config.stop_signal {
        return Ok(signal);
    }
    if image_signal.is_empty() {
        return Ok(libc::SIGTERM);
    }
    signal_number(image_signal).ok_or_else(|| SpecError::StopSignal(image_signal.to_owned()))
}

/// "SIGTERM", "TERM", "15", "SIGRTMIN+3".
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse::<i32>().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse::<i32>().ok()? };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}
