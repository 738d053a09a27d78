//! Writing back while a layer is still being unpacked.
//!
//! A layer is synced before it is committed. The kernel would leave most of its data for that moment; so files are handed
//! to a thread that has them written at once. It is a thread of its own because a busy disk makes it wait, and the layer's
//! should not. Where it cannot keep up, files are not handed over, and the sync at the end finds more to do.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::sys;

/// Files that wait to be written back.
const QUEUE: usize = 32;

/// The layer's end of the queue. The thread ends when this is dropped and the queue is empty.
#[derive(Debug, Default)]
pub(super) struct Flusher {
    queue: Option<SyncSender<OwnedFd>>,
}

impl Flusher {
    /// Of a file that is not complete yet.
    pub(super) fn start(&mut self, fd: BorrowedFd<'_>) {
        if let Ok(fd) = fd.try_clone_to_owned() {
            self.finish(fd);
        }
    }

    /// Of a complete file, which is closed afterwards.
    pub(super) fn finish(&mut self, fd: OwnedFd) {
        if self.queue.is_none() {
            let (queue, files) = sync_channel::<OwnedFd>(QUEUE);
            let work = move || files.iter().for_each(|fd| sys::start_writeback(&fd));
            if thread::Builder::new().name("layer-flush".into()).spawn(work).is_ok() {
                self.queue = Some(queue);
            }
        }
        if let Some(queue) = &self.queue {
            // The disk is busy enough if it is full.
            queue.try_send(fd).ok();
        }
    }
}
