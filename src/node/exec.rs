//! Commands in running containers.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;

use super::container::Container;
use super::error::{ErrorKind, NodeError, Result};
use super::ids;
use super::index::Node;
use super::pod::Pod;
use super::views::ExecOutput;
use crate::shim::client::{ExecIo, ShimClient};
use crate::shim::protocol::ExitStatus;

/// Bytes of output that are kept, of both streams together: a reply has to fit into the 16 MiB that clients take. What
/// a command prints beyond them is read and dropped.
const OUTPUT_LIMIT: usize = (16 << 20) - 4096;
/// How long a process that the command left behind may keep its output open once the command itself has ended.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the end of a killed command is waited for before its caller is told.
const KILLED: Duration = Duration::from_secs(2);

/// Those who wait for the end of an exec, by the exec's id.
#[derive(Debug, Default)]
pub struct Execs {
    waiting: Mutex<HashMap<String, Waiting>>,
}

/// Somebody who waits for an exec in a pod.
#[derive(Debug)]
struct Waiting {
    pod: String,
    tell: oneshot::Sender<ExitStatus>,
}

impl Execs {
    fn wait_for(&self, pod: &str, id: &str) -> oneshot::Receiver<ExitStatus> {
        let (tell, told) = oneshot::channel();
        self.lock().insert(id.to_owned(), Waiting { pod: pod.to_owned(), tell });
        told
    }

    fn take(&self, id: &str) -> Option<oneshot::Sender<ExitStatus>> {
        self.lock().remove(id).map(|waiting| waiting.tell)
    }

    /// Nobody will tell of the execs of this pod any more: those who wait learn that.
    pub fn give_up(&self, pod: &str) {
        self.lock().retain(|_, waiting| waiting.pod != pod);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// `ExecSync`: runs a command in a running container and returns what it printed. After `timeout` the command is
    /// killed and the error is `DeadlineExceeded`; without one it may run for ever.
    pub async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecOutput> {
        let container = self.find_container(id)?;
        if !container.is_running() {
            let message = format!("container {id} is {:?}; commands run only in a running one", container.state());
            return Err(NodeError::new(ErrorKind::FailedPrecondition, message));
        }
        let pod = self.pod_of(&container)?;
        let shim = pod.shim().ok_or_else(|| {
            NodeError::new(ErrorKind::FailedPrecondition, format!("pod {} has no shim any more", pod.label()))
        })?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let exec_id = ids::new_id()?;
        let ended = self.inner.execs.wait_for(&pod.id, &exec_id);
        let result = self.run_exec(&pod, &shim, &container, &exec_id, command, ended, deadline).await;
        self.inner.execs.take(&exec_id);
        result
    }

    #[allow(clippy::too_many_arguments)]
    async fn run_exec(
        &self,
        pod: &Pod,
        shim: &Arc<ShimClient>,
        container: &Arc<Container>,
        exec_id: &str,
        command: Vec<String>,
        ended: oneshot::Receiver<ExitStatus>,
        deadline: Option<Instant>,
    ) -> Result<ExecOutput> {
        let what = command.first().cloned().unwrap_or_default();
        let failed = |cause: &dyn std::fmt::Display| {
            NodeError::internal(format!("command \"{what}\" in container {}", container.id()), cause)
        };
        let late = || {
            let message =
                format!("command \"{what}\" in container {} did not end in time and was killed", container.id());
            NodeError::new(ErrorKind::DeadlineExceeded, message)
        };
        let (out_reader, out_writer) = pipe().map_err(|cause| failed(&cause))?;
        let (err_reader, err_writer) = pipe().map_err(|cause| failed(&cause))?;
        let io = ExecIo::Fds { stdin: None, stdout: Some(out_writer.as_fd()), stderr: Some(err_writer.as_fd()) };
        match &pod.external {
            Some(runtime) => {
                let made = self.exec_external(runtime, pod, container, shim, exec_id, command, io, deadline).await;
                made.map_err(|failure| if deadline.is_some_and(|at| at <= Instant::now()) { late() } else { failure })?;
            }
            None => {
                let plan = self.build_exec(pod, container, command, false)?;
                shim.exec(plan.request(exec_id, container.id(), io)).await.map_err(|cause| failed(&cause))?;
            }
        }
        drop((out_writer, err_writer));
        let mut output = ExecOutput::default();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = {
            let reading = async {
                tokio::join!(read_all(out_reader, &mut stdout), read_all(err_reader, &mut stderr));
            };
            self.wait_for_exec(shim, exec_id, ended, reading, deadline).await
        };
        let status = status.map_err(|reason| match reason {
            Interrupted::Deadline => late(),
            Interrupted::ShimGone => failed(&"the pod's shim died"),
        })?;
        output.exit_code = status.code();
        stdout.truncate(OUTPUT_LIMIT.saturating_sub(stderr.len().min(OUTPUT_LIMIT / 2)));
        stderr.truncate(OUTPUT_LIMIT - stdout.len());
        (output.stdout, output.stderr) = (stdout, stderr);
        Ok(output)
    }

    /// Waits for the end of the command and of its output.
    async fn wait_for_exec(
        &self,
        shim: &ShimClient,
        exec_id: &str,
        ended: oneshot::Receiver<ExitStatus>,
        reading: impl Future<Output = ()>,
        deadline: Option<Instant>,
    ) -> std::result::Result<ExitStatus, Interrupted> {
        tokio::pin!(reading, ended);
        let mut read = false;
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(late);
        let status = loop {
            tokio::select! {
                status = &mut ended => break status.map_err(|_| Interrupted::ShimGone)?,
                () = &mut reading, if !read => read = true,
                () = &mut late => {
                    if let Err(cause) = shim.signal(exec_id, libc::SIGKILL).await {
                        warn!(exec_id, %cause, "a command that ran too long could not be killed");
                    }
                    // Whoever is told that it was killed may look for it.
                    let _ = tokio::time::timeout(KILLED, &mut ended).await;
                    return Err(Interrupted::Deadline);
                }
            }
        };
        if !read {
            // What a background process still holds open is not waited for long.
            let _ = tokio::time::timeout(DRAIN, reading).await;
        }
        Ok(status)
    }

    /// An exec ended: whoever waits is told, and the shim may forget it.
    pub(super) async fn exec_exited(&self, pod: &Pod, id: &str, status: ExitStatus) {
        if let Some(tell) = self.inner.execs.take(id) {
            // The caller may have given up at its deadline.
            let _ = tell.send(status);
        }
        if let Some(shim) = pod.shim()
            && let Err(cause) = shim.forget(id).await
        {
            warn!(id, %cause, "the shim keeps an exec that nobody waits for");
        }
    }
}

/// Why an exec was not waited for to its end.
enum Interrupted {
    Deadline,
    ShimGone,
}

/// A pipe: the reading end for tokio, the other for a process.
fn pipe() -> std::io::Result<(Receiver, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Receiver::from_owned_fd(reader)?, writer))
}

/// Reads to the end; what goes beyond the limit is dropped, so that the command is not blocked.
async fn read_all(mut from: Receiver, into: &mut Vec<u8>) {
    let mut chunk = [0_u8; 8192];
    loop {
        match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let room = OUTPUT_LIMIT.saturating_sub(into.len());
                into.extend_from_slice(&chunk[..count.min(room)]);
            }
        }
    }
}
