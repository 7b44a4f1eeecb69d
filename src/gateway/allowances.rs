//! Counts what keys with limits use, together with the replicas: each change is made over the state that
//! was read, and made again where another process was first. A key without limits touches no store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot};

use super::allowance::{Allowance, LEASE, LimitState, Spent, refusal};
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys;
use crate::domain::limits::KeyLimits;
use crate::request;
use crate::store::Store;

/// How long what was read is good enough to refuse by.
const FRESH: Duration = Duration::from_millis(500);

/// The same where only what running questions may cost is in the way: one of them may have ended.
const FRESH_HELD_BACK: Duration = Duration::from_millis(50);

/// How often a question waits for that before it is refused, and how long each time.
const WAITS: usize = 10;
const WAIT: Duration = Duration::from_millis(100);

/// How often a change is made again because another process was first.
const TRIES: usize = 20;

/// How often the running questions of this process are vouched for anew.
const RENEWAL: Duration = Duration::from_millis(LEASE as u64 / 3);

/// When to write again what could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// The counts of all keys with limits.
pub struct Allowances {
    store: Arc<Store>,
    /// The name of this process among the replicas.
    process: String,
    books: Mutex<HashMap<Owner, Arc<Book>>>,
    changed: Notify,
}

/// The count of one key.
struct Book {
    owner: Owner,
    /// Questions of this process that are being answered.
    running: AtomicU32,
    /// What answers have cost that is not in the store yet.
    spent: Mutex<Spent>,
    /// Whether the store has not been told of a change.
    is_behind: AtomicBool,
    /// Those who wait to be let in.
    queue: Mutex<Vec<Ticket>>,
    kept: AsyncMutex<Option<Kept>>,
}

/// Whether one who waited was let in, and how the key stands.
type Outcome = (Option<Entered>, Vec<LimitState>);

/// One who waits.
type Ticket = oneshot::Sender<Result<Outcome, Error>>;

/// The state as it was last read or written.
struct Kept {
    version: i64,
    state: Allowance,
    /// The store's time, and when it was that.
    clock: (i64, Instant),
    seen: Instant,
}

impl Allowances {
    /// Counts in a store.
    pub fn new(store: Arc<Store>) -> Self {
        let process = crate::random::bytes::<8>().map(|bytes| keys::hex(&bytes)).unwrap_or_default();
        Allowances { store, process, books: Mutex::default(), changed: Notify::new() }
    }

    /// Takes one question in; it runs until what is given is dropped. Questions that come while the store is
    /// written to wait, and go in together by the next write.
    ///
    /// # Errors
    /// That the key has nothing left of one of its limits, or that the store cannot be used.
    pub async fn enter(self: &Arc<Self>, owner: &Owner, limits: &KeyLimits) -> Result<Entered, Error> {
        let book = self.book(owner);
        let mut outcome = self.try_enter(&book, limits).await?;
        for _ in 0..WAITS {
            if outcome.0.is_some() || !is_held_back(&outcome.1) {
                break;
            }
            tokio::time::sleep(WAIT).await;
            outcome = self.try_enter(&book, limits).await?;
        }
        let (entered, mut states) = outcome;
        let outcome = entered.ok_or_else(|| refusal(&states));
        if outcome.is_err() {
            states.iter_mut().filter(|state| !state.is_open()).for_each(|state| state.left = 0);
        }
        tell(&states);
        outcome
    }

    async fn try_enter(self: &Arc<Self>, book: &Arc<Book>, limits: &KeyLimits) -> Result<Outcome, Error> {
        loop {
            let (ticket, mut outcome) = oneshot::channel();
            book.queue().push(ticket);
            let mut kept = book.kept.lock().await;
            match outcome.try_recv() {
                // Whoever had the lock has let this question in, or refused it.
                Ok(outcome) => return outcome,
                Err(TryRecvError::Empty) => {
                    self.let_in(book, limits, &mut kept).await;
                    drop(kept);
                    if let Ok(outcome) = outcome.await {
                        return outcome;
                    }
                }
                // Whoever had the lock left in the middle of it.
                Err(TryRecvError::Closed) => {}
            }
        }
    }

    /// Lets all in who wait, as far as the limits go, by one write.
    async fn let_in(self: &Arc<Self>, book: &Arc<Book>, limits: &KeyLimits, kept: &mut Option<Kept>) {
        let mut waiting = std::mem::take(&mut *book.queue());
        waiting.retain(|ticket| !ticket.is_closed());
        let outcome = self.count(book, limits, kept, waiting.len()).await;
        let (admitted, states) = match outcome {
            Ok(counted) => counted,
            Err(error) => {
                return waiting.into_iter().for_each(|ticket| drop(ticket.send(Err(error.clone()))));
            }
        };
        for (place, ticket) in waiting.into_iter().enumerate() {
            let entered = (place < admitted).then(|| self.entered(book));
            // One who has left drops it at once.
            let _ = ticket.send(Ok((entered, states.clone())));
        }
    }

    /// Counts so many questions as running, or as many of them as may: gives how many, and how the key stands.
    async fn count(
        &self,
        book: &Book,
        limits: &KeyLimits,
        kept: &mut Option<Kept>,
        wanted: usize,
    ) -> Result<(usize, Vec<LimitState>), Error> {
        for _ in 0..TRIES {
            let known = self.known(&book.owner, kept).await?;
            let (now, mut state, age) = (known.now(), known.state.clone(), known.seen.elapsed());
            let spent = book.settle(&mut state, now, &self.process);
            let mut admitted = 0;
            while admitted < wanted && state.states(limits, now).iter().all(LimitState::is_open) {
                state.enter(now, &self.process);
                admitted += 1;
            }
            let states = state.states(limits, now);
            let good_for = if is_held_back(&states) { FRESH_HELD_BACK } else { FRESH };
            if age > good_for && admitted < wanted {
                // Others may have given back meanwhile.
                *kept = None;
            } else if admitted == 0 {
                return Ok((admitted, states));
            } else if self.write(&book.owner, kept, state).await? {
                book.wrote(spent);
                return Ok((admitted, states));
            }
        }
        Err(Error::new(Kind::Overloaded, "the limits of this key are being counted by too many at once")
            .retry_after(Some(RETRY)))
    }

    fn entered(self: &Arc<Self>, book: &Arc<Book>) -> Entered {
        book.running.fetch_add(1, Ordering::Relaxed);
        Entered { allowances: Arc::clone(self), book: Arc::clone(book) }
    }

    /// Counts tokens of a key, if it has limits.
    pub fn spend(&self, owner: &Owner, tokens: u64) {
        let Some(book) = self.books().get(owner).cloned() else { return };
        book.spent().add(tokens);
        self.fall_behind(&book);
    }

    /// How a key stands to its limits now.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn states(&self, owner: &Owner, limits: &KeyLimits) -> Result<Vec<LimitState>, Error> {
        let book = self.book(owner);
        let mut kept = book.kept.lock().await;
        *kept = None;
        let known = self.known(owner, &mut kept).await?;
        let (now, mut state) = (known.now(), known.state.clone());
        book.settle(&mut state, now, &self.process);
        Ok(state.states(limits, now))
    }

    /// Writes what has changed, whenever something has, for as long as the service runs.
    pub async fn keep_up(self: Arc<Self>) {
        loop {
            let renewed = tokio::time::timeout(RENEWAL, self.changed.notified()).await.is_err();
            if let Err(error) = self.settle(renewed).await {
                log::warn!(error = error.kind.code(); "what keys with limits use is not kept now: {}", error.message);
                tokio::time::sleep(RETRY).await;
                self.changed.notify_one();
            }
        }
    }

    /// Writes what has changed; with `renewed`, also that running questions still run.
    ///
    /// # Errors
    /// When the store cannot be used; then nothing is lost.
    pub async fn settle(&self, renewed: bool) -> Result<(), Error> {
        let books: Vec<_> = self.books().values().cloned().collect();
        for book in books {
            let runs = renewed && book.running.load(Ordering::Relaxed) > 0;
            if book.is_behind.swap(false, Ordering::Relaxed) || runs {
                let settled = self.settle_one(&book).await;
                if settled.is_err() {
                    book.is_behind.store(true, Ordering::Relaxed);
                    return settled;
                }
            }
        }
        Ok(())
    }

    async fn settle_one(&self, book: &Book) -> Result<(), Error> {
        let mut kept = book.kept.lock().await;
        for _ in 0..TRIES {
            let known = self.known(&book.owner, &mut kept).await?;
            let mut state = known.state.clone();
            let spent = book.settle(&mut state, known.now(), &self.process);
            if state == known.state {
                return Ok(());
            }
            if self.write(&book.owner, &mut kept, state).await? {
                book.wrote(spent);
                return Ok(());
            }
        }
        Err(Error::new(Kind::Overloaded, "other processes change the same count without a pause"))
    }

    /// The state as it is known, read if it is not.
    async fn known<'a>(&self, owner: &Owner, kept: &'a mut Option<Kept>) -> Result<&'a Kept, Error> {
        if kept.is_none() {
            let read = self.store.allowance(owner).await?;
            let seen = Instant::now();
            // What a newer program wrote in other words begins anew.
            let state = serde_json::from_str(&read.state).unwrap_or_default();
            *kept = Some(Kept { version: read.version, state, clock: (read.now, seen), seen });
        }
        kept.as_ref().ok_or_else(|| Error::new(Kind::Internal, "what was read is gone"))
    }

    /// Writes the state; says whether it did. Else it must be read again.
    async fn write(&self, owner: &Owner, kept: &mut Option<Kept>, state: Allowance) -> Result<bool, Error> {
        let Some(known) = kept.take() else { return Ok(false) };
        let text =
            serde_json::to_string(&state).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        let written = self.store.set_allowance(owner, known.version, text).await?;
        if written {
            *kept = Some(Kept { version: known.version + 1, state, seen: Instant::now(), ..known });
        }
        Ok(written)
    }

    fn book(&self, owner: &Owner) -> Arc<Book> {
        let mut books = self.books();
        if let Some(book) = books.get(owner) {
            return Arc::clone(book);
        }
        let book = Arc::new(Book {
            owner: owner.clone(),
            running: AtomicU32::new(0),
            spent: Mutex::default(),
            is_behind: AtomicBool::new(false),
            queue: Mutex::default(),
            kept: AsyncMutex::new(None),
        });
        books.insert(owner.clone(), Arc::clone(&book));
        book
    }

    fn books(&self) -> MutexGuard<'_, HashMap<Owner, Arc<Book>>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fall_behind(&self, book: &Book) {
        book.is_behind.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

impl Book {
    fn queue(&self) -> MutexGuard<'_, Vec<Ticket>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a state up to date with what this process knows; gives the costs that it now has.
    fn settle(&self, state: &mut Allowance, now: i64, process: &str) -> Spent {
        // In this order: an answer that ends meanwhile is held back for once more, and never left out.
        let running = self.running.load(Ordering::Acquire);
        let spent = *self.spent();
        state.renew(now, process, running);
        state.spend(spent);
        spent
    }

    /// Forgets costs that the store has.
    fn wrote(&self, spent: Spent) {
        let mut open = self.spent();
        *open = open.without(spent);
    }
}

impl Kept {
    fn now(&self) -> i64 {
        let (then, at) = self.clock;
        then.saturating_add(i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

/// A question that is counted as running until this is dropped.
pub struct Entered {
    allowances: Arc<Allowances>,
    book: Arc<Book>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.book.running.fetch_sub(1, Ordering::Release);
        self.allowances.fall_behind(&self.book);
    }
}

/// Whether nothing but what running questions may cost keeps the next one out.
fn is_held_back(states: &[LimitState]) -> bool {
    let mut closed = states.iter().filter(|state| !state.is_open()).peekable();
    closed.peek().is_some() && closed.all(LimitState::is_held_back)
}

/// Tells the caller of its limits, in the headers of the answer.
fn tell(states: &[LimitState]) {
    let headers = states.iter().flat_map(|state| {
        let name = |what: &str| format!("x-mirrorgate-limit-{what}{}", state.name);
        [
            (name(""), state.limit.to_string()),
            (name("remaining-"), state.left.to_string()),
            (name("reset-"), state.reset.as_secs_f64().ceil().to_string()),
        ]
    });
    request::tell(headers.collect());
}
