//! Shows what the containers of a pod print, until they have ended.

use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::time::Duration;

use super::logs::{Follower, Record, Stream, ended};
use super::{Client, StartedContainer};
use crate::cli::exec::exit_code;

/// Lines of a failed init container's log that are shown.
const TAIL: usize = 10;

/// Follows all containers until they end or ^C comes; the first exit code that is not 0, 0 for ^C.
pub(super) async fn attach(client: &mut Client, containers: &[StartedContainer]) -> anyhow::Result<u8> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let width = containers.iter().map(|container| container.name.len()).max().unwrap_or_default();
    let mut sources = Vec::new();
    for container in containers {
        let path = client.container_status(&container.id).await?.log_path;
        let prefix = if containers.len() == 1 { String::new() } else { format!("{:<width$} | ", container.name) };
        sources.push(Source {
            id: container.id.clone(),
            log: Follower::open(Path::new(&path)).ok(),
            prefix,
            over: false,
        });
    }
    loop {
        for source in sources.iter_mut().filter(|source| !source.over) {
            source.over = ended(client, &source.id).await;
            source.drain()?;
        }
        if sources.iter().all(|source| source.over) {
            break;
        }
        tokio::select! {
            _ = &mut interrupted => return Ok(0),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    for source in &sources {
        let code = client.container_status(&source.id).await?.exit_code;
        if code != 0 {
            return Ok(exit_code(code));
        }
    }
    Ok(0)
}

struct Source {
    id: String,
    /// `None` where the log cannot be read, as from another machine's agent.
    log: Option<Follower>,
    prefix: String,
    over: bool,
}

impl Source {
    fn drain(&mut self) -> std::io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        while let Some(record) = log.next_record()? {
            print(&self.prefix, &record)?;
        }
        Ok(())
    }
}

fn print(prefix: &str, record: &Record) -> std::io::Result<()> {
    let mut line = prefix.as_bytes().to_vec();
    line.extend_from_slice(&record.content);
    line.push(b'\n');
    match record.stream {
        Stream::Stdout => stdout().lock().write_all(&line),
        Stream::Stderr => stderr().lock().write_all(&line),
    }
}

/// Prints the end of a log to standard error; as far as it can be read, for it only explains another error.
pub(super) fn print_tail(path: &Path) {
    let Ok(mut log) = Follower::open(path) else { return };
    if log.skip_to_last(TAIL).is_err() {
        return;
    }
    while let Ok(Some(record)) = log.next_record() {
        eprintln!("  {}", String::from_utf8_lossy(&record.content));
    }
}
