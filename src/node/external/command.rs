//! The command line that runc, crun, youki and runsc have in common, and how they say what went wrong.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::ExternalRuntime;

/// The environment of a runtime that the agent runs; the shim gives the same.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of a runtime's words that go into an error.
const LONGEST: usize = 1024;

impl ExternalRuntime {
    /// A command line: the program, its global options, then `verb` with all that is behind it.
    pub fn words(&self, log: Option<&Path>, verb: &[&OsStr]) -> Vec<Vec<u8>> {
        let mut words: Vec<&OsStr> = vec![self.path.as_os_str()];
        words.extend(self.args.iter().map(OsStr::new));
        words.extend([OsStr::new("--root"), self.root.as_os_str()]);
        if let Some(log) = log {
            words.extend([OsStr::new("--log"), log.as_os_str(), OsStr::new("--log-format"), OsStr::new("json")]);
        }
        if self.systemd_cgroup {
            words.push(OsStr::new("--systemd-cgroup"));
        }
        words.extend(verb);
        words.into_iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    /// Runs a verb as a child of the agent, and gives what it printed. The error is the runtime's own, with its name.
    pub async fn run(&self, log: Option<&Path>, verb: &[&str], limit: Duration) -> Result<Vec<u8>, String> {
        let verb: Vec<&OsStr> = verb.iter().map(OsStr::new).collect();
        let named = |text: &str| self.failure(&verb[0].to_string_lossy(), text);
        let words = self.words(log, &verb);
        let mut command = tokio::process::Command::new(&self.path);
        command.args(words[1..].iter().map(|word| OsStr::from_bytes(word)));
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let ended = match tokio::time::timeout(limit, command.output()).await {
            Ok(ended) => ended.map_err(|cause| named(&cause.to_string()))?,
            Err(_) => return Err(named(&format!("it did not end within {} s and was killed", limit.as_secs()))),
        };
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        let logged = log.and_then(|log| std::fs::read_to_string(log).ok()).and_then(|text| said(&text));
        let printed = || cut(String::from_utf8_lossy(&ended.stderr).trim());
        let text = logged.or_else(|| printed().filter(|text| !text.is_empty()));
        Err(named(&text.unwrap_or_else(|| format!("it ended with {}", ended.status))))
    }

    /// An error in the words of the runtime.
    pub fn failure(&self, verb: &str, text: &str) -> String {
        format!("runtime handler \"{}\" ({} {verb}): {text}", self.handler, self.path.display())
    }
}

/// The last error in a log, one JSON object a line as runc and crun write them, or in the form of youki; else the last
/// line of it.
pub(super) fn said(log: &str) -> Option<String> {
    let lines = || log.lines().rev().filter(|line| !line.trim().is_empty());
    lines().find_map(error_of).or_else(|| lines().next().map(str::to_owned)).and_then(|text| cut(&text))
}

fn error_of(line: &str) -> Option<String> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    let level = entry.get("level")?.as_str()?;
    if !["error", "fatal", "panic"].iter().any(|known| level.eq_ignore_ascii_case(known)) {
        return None;
    }
    let text = entry.get("msg").or_else(|| entry.get("message")).or_else(|| entry.get("fields")?.get("message"))?;
    Some(text.as_str()?.to_owned())
}

fn cut(text: &str) -> Option<String> {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (end > 0).then(|| text[..end].to_owned())
}
