//! What callers ask, as the owner sees it: the last calls of this process, and the sums and histograms of
//! questions that `gateway/statistics.rs` keeps in the store.
//!
//! It is told by whoever knows: the guard who calls, the gateway what is asked of whom and what it came to,
//! the access log how it ended. Names and numbers are kept here, never a text of a question or an answer.

mod call;
mod histogram;
mod open;
mod sums;
mod text;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

pub use call::{CALLER_LEFT, Call, Combination, Failure, Filter};
pub use histogram::Histogram;
pub use open::{Beginning, End, OpenCall};
use sums::Sums;
pub use sums::{Counts, HOUR, OTHER, SHORT, Slot};

/// How many ended calls are kept.
pub const CALLS_KEPT: usize = 500;

/// How many are kept of those that came without a key of the service's. They have a place of their own, so
/// that whoever has none cannot push out those of others.
const REFUSED_KEPT: usize = 50;

/// All that is seen of the calls to one process.
#[derive(Default)]
pub struct Traffic {
    begun: AtomicU64,
    /// The questions that are being answered.
    running: Mutex<BTreeMap<u64, Weak<OpenCall>>>,
    book: Mutex<Book>,
    changed: Notify,
}

/// What has ended.
#[derive(Default)]
struct Book {
    ended: u64,
    /// Each with its place in the order in which calls have ended.
    served: VecDeque<(u64, Call)>,
    refused: VecDeque<(u64, Call)>,
    sums: Sums,
}

impl Traffic {
    /// A call that has just begun.
    pub fn begin(self: &Arc<Self>, beginning: Beginning<'_>) -> Arc<OpenCall> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(OpenCall::new(Arc::clone(self), beginning.call(number, now())))
    }

    /// The questions that are being answered, and the calls that have ended since, by the count of those
    /// that had; with that count now.
    pub fn since(&self, ended: u64) -> (Vec<Call>, Vec<Call>, u64) {
        let running = self.running_calls();
        let book = self.book();
        let newer = |(place, call): &(u64, Call)| (*place > ended).then(|| call.clone());
        let calls = book.served.iter().chain(&book.refused).filter_map(newer).collect();
        (running, calls, book.ended)
    }

    /// The calls that are known, the latest first, and whether each is running; of those that have ended,
    /// such as have since so many had. With how many have by now.
    pub fn calls(&self, since: u64) -> (Vec<(Call, bool)>, u64) {
        let (running, ended, count) = self.since(since);
        // One may have ended meanwhile.
        let is_running = |call: &Call| ended.iter().all(|ended| ended.number != call.number);
        let running: Vec<_> = running.into_iter().filter(is_running).map(|call| (call, true)).collect();
        let mut calls: Vec<_> = ended.into_iter().map(|call| (call, false)).chain(running).collect();
        calls.sort_by_key(|(call, _)| std::cmp::Reverse(call.number));
        (calls, count)
    }

    /// Waits until a call begins or ends, or its first piece has come.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The sums that are not in the store yet: each stands for all of this process in its time. Those that
    /// cannot be kept are to be given back.
    pub fn unkept(&self) -> Vec<Slot> {
        self.book().sums.take(now())
    }

    /// Takes sums back that could not be kept.
    pub fn give_back(&self, slots: Vec<Slot>) {
        self.book().sums.give_back(slots);
    }

    fn running_calls(&self) -> Vec<Call> {
        // None of them is to end while the list is held.
        let open: Vec<_> = self.running().values().filter_map(Weak::upgrade).collect();
        open.iter().map(|open| open.call()).collect()
    }

    fn runs(&self, number: u64, call: &Arc<OpenCall>) {
        self.running().insert(number, Arc::downgrade(call));
        self.changed.notify_waiters();
    }

    /// Takes a call in that has ended.
    fn note(&self, call: Call) {
        if call.asked.is_some() {
            self.running().remove(&call.number);
        }
        let mut book = self.book();
        if call.is_counted() {
            let ended_at = call.at + call.total.map_or(0, |total| total.as_millis() as i64);
            book.sums.count(&call, ended_at);
        }
        book.ended += 1;
        let place = book.ended;
        let (calls, most) = match call.of.key.is_empty() {
            true => (&mut book.refused, REFUSED_KEPT),
            false => (&mut book.served, CALLS_KEPT),
        };
        let oldest = if calls.len() == most { calls.pop_front() } else { None };
        calls.push_back((place, call));
        drop(book);
        drop(oldest);
        self.changed.notify_waiters();
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<OpenCall>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This machine's time in milliseconds since 1970. What is sorted by it are hours and the rows of a list, so
/// replicas whose clocks differ a little do no harm.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64)
}

#[cfg(test)]
mod tests;
