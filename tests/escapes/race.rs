//! Somebody who changes a file system while containers start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::bundle::{Bundle, Called};

/// For how long a race goes on at most.
const LONGEST: Duration = Duration::from_secs(4);
/// Fewer rounds than this are no race.
const FEWEST: u32 = 15;
const MOST: u32 = 400;

/// A thread that does one thing again and again.
pub struct Racer {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    /// `step` says whether it did what it does.
    pub fn new(mut step: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (stop.clone(), turns.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if step() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, turns, thread: Some(thread) }
    }

    /// Two names change places, with a pause in between that differs from turn to turn.
    pub fn exchange(a: &Path, b: &Path) -> Self {
        let (a, b): (PathBuf, PathBuf) = (a.into(), b.into());
        let mut turn = 0u64;
        Self::new(move || {
            turn += 1;
            // Longer stays let a start pass the first look of a check, shorter ones fall between two looks.
            for _ in 0..(turn * 7919) % 4000 {
                std::hint::spin_loop();
            }
            renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).is_ok()
        })
    }

    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What came of a race.
#[derive(Debug, Default)]
pub struct Rounds {
    pub started: u32,
    pub refused: u32,
}

/// Runs the container again and again while `racer` is at work, and gives each outcome to `check`. Every round must
/// have seen changes.
#[track_caller]
pub fn rounds(bundle: &Bundle, racer: &Racer, mut check: impl FnMut(&Called)) -> Rounds {
    let begin = Instant::now();
    let mut rounds = Rounds::default();
    let mut idle = 0;
    for round in 0..MOST {
        // A slow machine gets more time to see both outcomes.
        let both = rounds.started > 0 && rounds.refused > 0;
        if round >= FEWEST && begin.elapsed() > if both { LONGEST } else { 6 * LONGEST } {
            break;
        }
        let before = racer.turns();
        let called = bundle.run();
        idle += u32::from(racer.turns() == before);
        if called.status.success() {
            rounds.started += 1;
        } else {
            rounds.refused += 1;
        }
        check(&called);
    }
    let all = rounds.started + rounds.refused;
    eprintln!("{all} rounds, {rounds:?}, {} changes", racer.turns());
    assert!(idle * 4 < all, "there was no race: in {idle} of {all} rounds nothing changed");
    rounds
}

/// A directory of the host that must stay as it is.
pub struct Canary(PathBuf);

impl Canary {
    /// With one file in it, `mine`.
    pub fn new(bundle: &Bundle) -> Self {
        let path = bundle.path().join("canary");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("mine"), "mine").unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A link's text that leads there from within a root file system, if the link is followed outside of it.
    pub fn climbing(&self) -> String {
        format!("{}{}", "/..".repeat(8), self.0.display())
    }

    /// Nothing was added, taken away, changed or mounted.
    #[track_caller]
    pub fn untouched(&self) {
        use std::os::unix::fs::MetadataExt;
        let names: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["mine"]);
        let file = self.0.join("mine");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        let stat = file.metadata().unwrap();
        assert!(stat.is_file() && stat.uid() == 0 && stat.gid() == 0 && stat.mode() & 0o7777 == 0o644, "{stat:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.0.parent().unwrap().to_str().unwrap()), "{mounts}");
    }
}
