//! One syncfs for all who wait for one.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use super::StoreError;

/// Syncs the store's file system. Layers that end at the same time share a sync.
#[derive(Debug)]
pub(super) struct SyncGate {
    root: PathBuf,
    file: File,
    runs: Mutex<Runs>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Runs {
    started: u64,
    running: bool,
    /// The last run that went well.
    synced: u64,
    /// The last run that ended, and how if it failed.
    last: u64,
    failed: Option<i32>,
}

impl SyncGate {
    pub(super) fn new(root: &Path) -> Result<Self, StoreError> {
        let file = File::open(root).map_err(|error| StoreError::io("open", root, error))?;
        Ok(Self { root: root.to_owned(), file, runs: Mutex::default(), ended: Condvar::new() })
    }

    /// Returns when all that was written before the call is on disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has begun already may have missed the caller's writes.
        let wanted = runs.started + 1;
        loop {
            if runs.synced >= wanted {
                return Ok(());
            }
            if let Some(code) = runs.failed.filter(|_| runs.last >= wanted) {
                return Err(StoreError::io("sync", &self.root, std::io::Error::from_raw_os_error(code)));
            }
            if runs.running {
                runs = self.ended.wait(runs).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            runs.running = true;
            runs.started += 1;
            let this = runs.started;
            drop(runs);
            let result = rustix::fs::syncfs(self.file.as_fd());
            runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.running = false;
            runs.last = this;
            match result {
                Ok(()) => (runs.synced, runs.failed) = (this, None),
                Err(error) => runs.failed = Some(error.raw_os_error()),
            }
            self.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn callers_share_runs() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Arc::new(SyncGate::new(dir.path()).unwrap());
        let done = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let (gate, done) = (gate.clone(), done.clone());
                std::thread::spawn(move || {
                    gate.sync().unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(done.load(Ordering::Relaxed), 16);
        let runs = gate.runs.lock().unwrap();
        assert!(runs.started <= 16 && runs.synced == runs.started);
    }
}
