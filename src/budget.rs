//! The memory that all requests of a process hold together: their bodies, the answers that are collected
//! for them, and the conversations that are read for them.
//!
//! It counts what callers and upstreams can make large, and not what each request needs anyway. A request
//! that would take more than is left fails, and the others go on. Where there are several callers, none of
//! them holds all of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::domain::error::{Error, Kind};

/// When to come back to a process that holds as much as it may.
const RETRY: Duration = Duration::from_secs(1);

/// So many bytes are taken at once, since most pieces are far smaller.
const STEP: usize = 4 << 10;

/// What all requests together may hold.
#[derive(Clone)]
pub struct Budget(Arc<Pool>);

struct Pool {
    free: AtomicUsize,
    /// The least that was free since that was last forgotten.
    least: AtomicUsize,
    most: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(most: usize) -> Self {
        Budget(Arc::new(Pool { free: AtomicUsize::new(most), least: AtomicUsize::new(most), most }))
    }

    /// How many bytes are taken now.
    pub fn taken(&self) -> usize {
        self.0.most - self.0.free.load(Ordering::Relaxed)
    }

    /// How many bytes were taken at most, since [`Budget::forget_peak`].
    pub fn peak(&self) -> usize {
        self.0.most - self.0.least.load(Ordering::Relaxed)
    }

    /// Begins to look for the peak anew.
    pub fn forget_peak(&self) {
        self.0.least.store(self.0.free.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// A share of it that holds nothing yet.
    pub fn share(&self) -> Share {
        let (used, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Share { pool: Arc::clone(&self.0), used, taken, of_caller: OnceLock::new() }
    }
}

impl Default for Budget {
    /// One without bounds.
    fn default() -> Self {
        Budget::new(usize::MAX)
    }
}

/// What one request holds of the budget, until this is dropped.
pub struct Share {
    pool: Arc<Pool>,
    used: AtomicUsize,
    /// At least what is used.
    taken: AtomicUsize,
    /// What all requests of its caller have taken, where it is one of several.
    of_caller: OnceLock<Arc<AtomicUsize>>,
}

impl Share {
    /// From now on it counts as one of this caller, whose requests together may take three quarters.
    pub fn is_of(&self, caller: Arc<AtomicUsize>) {
        // What was taken before would be given back to the caller as well.
        if self.taken.load(Ordering::Relaxed) == 0 {
            let _ = self.of_caller.set(caller);
        }
    }

    /// Takes more bytes.
    ///
    /// # Errors
    /// When so many are not left, or not for this caller.
    pub fn take(&self, bytes: usize) -> Result<(), Error> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let taken = self.taken.load(Ordering::Relaxed);
        if used <= taken {
            return Ok(());
        }
        let step = (used - taken).max(STEP);
        let result = self.take_of_pool(step);
        if result.is_err() {
            self.give(bytes);
        }
        result
    }

    fn take_of_pool(&self, step: usize) -> Result<(), Error> {
        let Pool { free, least, most } = &*self.pool;
        let most_of_caller = most / 4 * 3;
        let caller = self.of_caller.get();
        if let Some(held) = caller
            && held.fetch_add(step, Ordering::Relaxed).saturating_add(step) > most_of_caller
        {
            held.fetch_sub(step, Ordering::Relaxed);
            return Err(exhausted(format!("the {most_of_caller} bytes that one key may hold are taken")));
        }
        let left = |free: usize| free.checked_sub(step);
        match free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) {
            Ok(free) => {
                least.fetch_min(free - step, Ordering::Relaxed);
                self.taken.fetch_add(step, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => {
                if let Some(held) = caller {
                    held.fetch_sub(step, Ordering::Relaxed);
                }
                Err(exhausted(format!("the {most} bytes that all requests together may hold are taken")))
            }
        }
    }

    /// Says that so many of the bytes are not needed any more; they stay the request's, for its next ones.
    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = *self.taken.get_mut();
        self.pool.free.fetch_add(taken, Ordering::Relaxed);
        if let Some(held) = self.of_caller.get() {
            held.fetch_sub(taken, Ordering::Relaxed);
        }
    }
}

fn exhausted(what: String) -> Error {
    Error::new(Kind::Overloaded, what).retry_after(Some(RETRY)).hinted(
        "try again after the time in `Retry-After`, ask for less at once, or raise `MEMORY_BUDGET_BYTES`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_takes_is_free_again_with_its_end() {
        let budget = Budget::new(4 * STEP);
        let (one, other) = (budget.share(), budget.share());
        one.take(1).expect("room");
        one.take(2 * STEP - 1).expect("room");
        other.take(2 * STEP).expect("room");
        assert_eq!(other.take(1).expect_err("full").kind, Kind::Overloaded);
        other.give(1);
        other.take(1).expect("what it gave is still its own");
        drop(one);
        other.take(2 * STEP).expect("room again");
        drop(other);
        budget.share().take(4 * STEP).expect("all of it");
        assert_eq!((budget.peak(), budget.taken()), (4 * STEP, 0));
        budget.forget_peak();
        assert_eq!(budget.peak(), 0);
    }

    #[test]
    fn one_caller_of_several_leaves_a_quarter_to_the_others() {
        let budget = Budget::new(8 * STEP);
        let caller = Arc::new(AtomicUsize::new(0));
        let share = || {
            let share = budget.share();
            share.is_of(Arc::clone(&caller));
            share
        };
        let (one, two) = (share(), share());
        one.take(4 * STEP).expect("room");
        two.take(2 * STEP).expect("room");
        let refused = two.take(1).expect_err("three quarters are taken");
        assert!(refused.message.contains("one key"), "{}", refused.message);
        let other = budget.share();
        other.take(2 * STEP).expect("what is left is the others'");
        assert_eq!((caller.load(Ordering::Relaxed), budget.taken()), (6 * STEP, 8 * STEP));
        drop(one);
        two.take(4 * STEP).expect("room again");
        assert!(other.take(STEP).is_err(), "all is taken");
        drop((two, other));
        assert_eq!((caller.load(Ordering::Relaxed), budget.taken()), (0, 0));
    }
}
