//! An agent for the calls of a container: it takes the listener, and answers.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;

use crate::sys;

/// What a connection brought.
#[derive(Debug)]
pub struct Visit {
    pub message: Value,
    /// Numbers of the calls that were asked about.
    pub calls: Vec<i64>,
}

/// Takes `visits` connections, one after the other, and answers for each until no process is left under the filter.
/// `answer` says with which errno a call fails, if it does.
pub fn agent(
    path: &Path,
    visits: usize,
    answer: impl Fn(i64) -> Option<i32> + Send + Clone + 'static,
) -> JoinHandle<Vec<Visit>> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let serving: Vec<_> = (0..visits)
            .map_while(|_| {
                ready(listener.as_fd(), 30)?;
                let (stream, _) = listener.accept().unwrap();
                let answer = answer.clone();
                Some(std::thread::spawn(move || serve(stream, answer)))
            })
            .collect();
        serving.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn ready(fd: impl AsFd, seconds: i64) -> Option<PollFlags> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap();
    Some(fds[0].revents()).filter(|events| !events.is_empty())
}

fn serve(mut stream: UnixStream, answer: impl Fn(i64) -> Option<i32>) -> Visit {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // Room for more than the one that there may be.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 64];
    let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    bytes.truncate(got.bytes);
    let mut fds: Vec<OwnedFd> = ancillary
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(fds.len(), 1, "exactly one descriptor comes with the first bytes");
    // The runtime says all that it has to say, and hangs up.
    stream.read_to_end(&mut bytes).unwrap();
    let message = serde_json::from_slice(&bytes).unwrap();
    let listener = fds.remove(0);
    let mut calls = Vec::new();
    while ready(&listener, 30).is_some_and(|events| events.contains(PollFlags::IN)) {
        // It may have died meanwhile.
        let Ok(notification) = sys::receive(listener.as_fd()) else { continue };
        calls.push(notification.number.into());
        let _ = sys::respond(listener.as_fd(), notification.id, answer(notification.number.into()));
    }
    Visit { message, calls }
}
