//! What is known of a request that got no answer: whether a server may have begun to work on it.
//!
//! awc's errors do not tell that, and its pool hides the connections. So each connection notes what it
//! does in the task whose request it carries.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A connection of an earlier request that breaks within this time of the first byte written, or within
/// two round trips where those take longer, had been closed before: no work can have begun.
const LEAST_CLOSING: Duration = Duration::from_millis(10);

tokio::task_local! {
    static EXCHANGE: Cell<Exchange>;
}

/// How far a request and its answer have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exchange {
    carried: Option<Carried>,
    is_sent: bool,
    is_heard: bool,
}

/// How a connection took a request up.
#[derive(Debug, Clone, Copy)]
struct Carried {
    since: Instant,
    is_first: bool,
    round_trip: Duration,
}

impl Exchange {
    /// Awaits a request, and tells how far it came.
    pub async fn watch<F: Future>(request: F) -> (F::Output, Exchange) {
        let watched = async {
            let outcome = request.await;
            (outcome, EXCHANGE.with(Cell::get))
        };
        EXCHANGE.scope(Cell::default(), watched).await
    }

    /// Whether nothing of the request was written.
    pub fn is_unsent(&self) -> bool {
        !self.is_sent
    }

    /// Whether the request, which has just failed, took up a connection that the server had closed
    /// before: one of an earlier request, which takes nothing, or breaks at once and without a word.
    pub fn was_closed(&self) -> bool {
        self.carried.filter(|carried| !carried.is_first).is_some_and(|carried| {
            let closing = LEAST_CLOSING.max(carried.round_trip.saturating_mul(2));
            !self.is_sent || !self.is_heard && carried.since.elapsed() <= closing
        })
    }

    fn note(change: impl FnOnce(&mut Exchange)) {
        // The pool also looks at connections outside of any request.
        let _ = EXCHANGE.try_with(|noted| {
            let mut exchange = noted.get();
            change(&mut exchange);
            noted.set(exchange);
        });
    }
}

/// Notes what one connection does.
#[derive(Debug)]
pub struct Watch {
    is_used: bool,
    /// The shortest time that a connection to the same server took to open: about a round trip.
    round_trip: Rc<Cell<Duration>>,
}

impl Watch {
    /// For a connection that has just been opened.
    pub fn new(round_trip: Rc<Cell<Duration>>) -> Self {
        Watch { is_used: false, round_trip }
    }

    /// The connection takes a request up.
    pub fn begin(&mut self) {
        let is_first = !std::mem::replace(&mut self.is_used, true);
        let carried = Carried { since: Instant::now(), is_first, round_trip: self.round_trip.get() };
        Exchange::note(|exchange| exchange.carried = Some(carried));
    }

    /// Bytes of the request were written.
    pub fn sent(&self) {
        Exchange::note(|exchange| exchange.is_sent = true);
    }

    /// Bytes came back.
    pub fn heard(&self) {
        Exchange::note(|exchange| exchange.is_heard = true);
    }
}
