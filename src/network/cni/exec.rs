//! Runs a plugin: parameters in its environment, configuration on its standard input, the answer on its standard
//! output (CNI spec 1.1, section 2).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::CniError;

/// An answer is some hundred bytes; a plugin that writes without end shall not fill our memory.
const OUTPUT_LIMIT: u64 = 1 << 20;
/// How long a pipe is read that a child of the plugin holds open after the plugin has ended.
const LINGER: Duration = Duration::from_millis(500);
/// A program that is being installed cannot be executed for a moment (ETXTBSY).
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How plugins are found and started.
#[derive(Clone, Debug)]
pub(super) struct Executor {
    pub dirs: Vec<PathBuf>,
    pub timeout: Duration,
    /// Environment besides CNI_ variables and PATH.
    pub env: BTreeMap<String, String>,
}

/// One execution.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The program's name.
    pub plugin: &'a str,
    pub network: &'a str,
    pub verb: &'static str,
    /// Environment variables besides CNI_COMMAND and CNI_PATH.
    pub env: Vec<(&'static str, String)>,
    pub input: Vec<u8>,
}

/// The error that plugins print (CNI spec 1.1, section 5).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: u32,
    msg: String,
    details: String,
}

impl Executor {
    /// Where a plugin's program is.
    pub fn find(&self, plugin: &str, network: &str) -> Result<PathBuf, CniError> {
        let paths = self.dirs.iter().map(|dir| dir.join(plugin));
        paths.into_iter().find(|path| is_program(path)).ok_or_else(|| {
            let dirs: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
            CniError::Missing { plugin: plugin.to_owned(), network: network.to_owned(), dirs: dirs.join(", ") }
        })
    }

    /// Runs a plugin to its end and returns what it printed. After the timeout it is killed with what it started.
    pub async fn run(&self, call: Call<'_>) -> Result<Vec<u8>, CniError> {
        let program = self.find(call.plugin, call.network)?;
        let mut child = self.start(&program, &call).await?;
        let group = child.id();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let waited = tokio::time::timeout(self.timeout, converse(&mut child, &call.input, &mut out, &mut err)).await;
        match waited {
            Ok(Ok(status)) if status.success() => Ok(out),
            Ok(Ok(status)) => Err(refusal(&call, &status.to_string(), &out, &err)),
            Ok(Err(source)) => Err(CniError::Start { plugin: call.plugin.to_owned(), verb: call.verb, source }),
            Err(_) => {
                // The child is not reaped yet, so its number, which is its group's too, is still its own.
                if let Some(group) = group {
                    let _ = killpg(Pid::from_raw(group as i32), Signal::SIGKILL);
                }
                let _ = child.wait().await;
                let (plugin, seconds) = (call.plugin.to_owned(), self.timeout.as_secs());
                Err(CniError::Timeout { plugin, verb: call.verb, seconds })
            }
        }
    }

    async fn start(&self, program: &Path, call: &Call<'_>) -> Result<Child, CniError> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/sbin:/usr/bin:/sbin:/bin"));
        let plugin_path: Vec<&str> = self.dirs.iter().filter_map(|dir| dir.to_str()).collect();
        let mut command = Command::new(program);
        command.env_clear().env("PATH", path).envs(&self.env);
        command.env("CNI_COMMAND", call.verb).env("CNI_PATH", plugin_path.join(":"));
        command.envs(call.env.iter().map(|(name, value)| (*name, value)));
        // A group of its own, to be killed with all that it starts.
        command.process_group(0).kill_on_drop(true).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tries = 0;
        loop {
            match command.spawn() {
                Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(child) => return Ok(child),
                Err(source) => return Err(CniError::Start { plugin: call.plugin.to_owned(), verb: call.verb, source }),
            }
        }
    }
}

/// Whether a path is a file that somebody may execute.
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Feeds and reads a plugin until it has ended.
async fn converse(
    child: &mut Child,
    input: &[u8],
    out: &mut Vec<u8>,
    err: &mut Vec<u8>,
) -> std::io::Result<std::process::ExitStatus> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A plugin that does not read its input ends the pipe; what it answers counts.
            let _ = stdin.write_all(input).await;
        }
    };
    let pipes = async {
        tokio::join!(write, read(stdout, out), read(stderr, err));
    };
    tokio::pin!(pipes);
    tokio::select! {
        status = child.wait() => {
            let _ = tokio::time::timeout(LINGER, pipes).await;
            status
        }
        () = &mut pipes => child.wait().await,
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // What was read before an error is what there is.
        let _ = pipe.take(OUTPUT_LIMIT).read_to_end(into).await;
    }
}

/// The error of a plugin that failed: what it printed in JSON, else its words, else its exit status.
fn refusal(call: &Call<'_>, status: &str, out: &[u8], err: &[u8]) -> CniError {
    let said = String::from_utf8_lossy(err);
    let said = said.trim();
    let (code, message) = match serde_json::from_slice::<Refusal>(out) {
        Ok(refusal) if refusal.code != 0 || !refusal.msg.is_empty() => {
            let details = if refusal.details.is_empty() { String::new() } else { format!(": {}", refusal.details) };
            (refusal.code, format!("{}{details} (code {})", refusal.msg, refusal.code))
        }
        _ if !said.is_empty() => (0, format!("{status}: {}", shorten(said))),
        _ => (0, format!("{status}: {}", shorten(String::from_utf8_lossy(out).trim()))),
    };
    CniError::Plugin { plugin: call.plugin.to_owned(), verb: call.verb, code, message }
}

/// The end of what a plugin said: the cause comes last.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 1000;
    let start = text.len().saturating_sub(LIMIT);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text[start..].to_owned()
}
