//! Lines of the log on their way to standard error: collected for some milliseconds and written
//! together, since a write of its own for each line takes longer than all else that is done for it.
//!
//! A standard error that takes nothing, such as a pipe that nobody reads, holds up no request: lines
//! beyond the bound are dropped and counted.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a line waits for others: as much of the log is lost when the process is killed.
const WAIT: Duration = Duration::from_millis(2);

/// How many bytes wait at most; lines beyond are dropped.
const MOST_WAITING: usize = 1 << 20;

/// How long the end of the process waits for a standard error that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines the process has dropped.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

static LINES: Lines =
    Lines { waiting: Mutex::new(Waiting { bytes: Vec::new(), writing: false }), changed: Condvar::new() };

struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    bytes: Vec<u8>,
    /// Whether what was taken out is being written.
    writing: bool,
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until(&self, is_good: impl Fn(&Waiting) -> bool) -> MutexGuard<'_, Waiting> {
        let waiting = self.changed.wait_while(self.waiting(), |waiting| !is_good(waiting));
        waiting.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) {
        let (mut spare, mut told) = (Vec::new(), 0);
        loop {
            drop(self.until(|waiting| !waiting.bytes.is_empty()));
            thread::sleep(WAIT);
            let mut waiting = self.waiting();
            mem::swap(&mut waiting.bytes, &mut spare);
            waiting.writing = true;
            drop(waiting);
            // Nobody is left to be told that the log cannot be written.
            let _ = io::stderr().write_all(&spare);
            spare.clear();
            self.waiting().writing = false;
            self.changed.notify_all();
            let dropped = dropped();
            if dropped > told {
                log::warn!(lines = dropped - told; "lines of the log were dropped: standard error took none");
                told = dropped;
            }
        }
    }
}

/// A way to standard error for the logger.
pub struct Collected(());

impl Collected {
    /// The way, with the one thread that writes; `None` where no thread can be had.
    pub fn start() -> Option<Self> {
        static IS_WRITING: OnceLock<bool> = OnceLock::new();
        let start = || thread::Builder::new().name("log".into()).spawn(|| LINES.write()).is_ok();
        IS_WRITING.get_or_init(start).then_some(Collected(()))
    }
}

impl Write for Collected {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = LINES.waiting();
        if waiting.bytes.len() + line.len() > MOST_WAITING {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        waiting.bytes.extend_from_slice(line);
        if waiting.bytes.len() == line.len() {
            LINES.changed.notify_all();
        }
        Ok(line.len())
    }

    /// Nothing: the logger asks for it after each line.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until all lines are written: before the process ends.
pub fn flush() {
    let is_left = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
    drop(LINES.changed.wait_timeout_while(LINES.waiting(), PATIENCE, is_left));
}
