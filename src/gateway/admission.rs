//! Admission: so many questions at once in a process, and so many of one key. Whoever has a permit is
//! also told when the service's own time is over.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::allowances::Entered;
use crate::config::Limits;
use crate::domain::answer::Delta;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::metrics::Metrics;
use crate::provider::Deltas;
use crate::request;
use crate::traffic::OpenCall;

/// When to come back to a process that is full now.
const RETRY_FULL: Duration = Duration::from_secs(1);

/// When to come back to a service that stops: the next process has begun by then.
const RETRY_STOPPED: Duration = Duration::from_secs(5);

/// Who is admitted to a process.
pub struct Admission {
    permits: Arc<Semaphore>,
    most: usize,
    most_of_a_key: Option<usize>,
    of_keys: Mutex<HashMap<Owner, OfKey>>,
    over: CancellationToken,
    metrics: Arc<Metrics>,
}

/// The questions of one key that are being answered.
struct OfKey {
    count: usize,
    /// Ends them: with the key, or with the service's time.
    over: CancellationToken,
}

impl Admission {
    /// As many as the limits say.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Admission {
            permits: Arc::new(Semaphore::new(limits.streams)),
            most: limits.streams,
            most_of_a_key: limits.streams_per_key,
            of_keys: Mutex::default(),
            over: CancellationToken::new(),
            metrics,
        }
    }

    /// A permit for one question of a key.
    ///
    /// # Errors
    /// When there is none left.
    pub fn enter(self: &Arc<Self>, owner: &Owner, operation: &'static str) -> Result<Permit, Error> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            full(format!("{} questions are being answered already", self.most), "MAX_STREAMS")
        })?;
        let over = {
            let mut of_keys = self.of_keys();
            let begin = || OfKey { count: 0, over: self.over.child_token() };
            let of_key = of_keys.entry(owner.clone()).or_insert_with(begin);
            if self.most_of_a_key.is_some_and(|most| of_key.count >= most) {
                let what = format!("{} questions of this key are being answered already", of_key.count);
                return Err(full(what, "MAX_STREAMS_PER_KEY"));
            }
            of_key.count += 1;
            of_key.over.clone()
        };
        self.metrics.streams_open.inc();
        Ok(Permit {
            admission: Arc::clone(self),
            owner: owner.clone(),
            operation,
            entered: Instant::now(),
            silent: true,
            over,
            ended: None,
            counted: None,
            call: request::call(),
            _permit: permit,
        })
    }

    /// Ends what is being answered for this owner: the key is gone.
    pub fn revoke(&self, owner: &Owner) {
        if let Some(of_key) = self.of_keys().remove(owner) {
            of_key.over.cancel();
        }
    }

    /// The end of the service's time.
    pub fn end(self: &Arc<Self>) -> End {
        End { admission: Arc::clone(self), over: self.over.clone() }
    }

    /// Why something is over: the service's time is, else the key is gone.
    fn why_over(&self) -> Error {
        if self.over.is_cancelled() {
            return Error::new(
                Kind::ShuttingDown,
                "the service stops, and the time for running answers is over",
            )
            .retry_after(Some(RETRY_STOPPED));
        }
        Error::new(Kind::KeyWrong, "the gateway key was revoked")
    }

    /// Ends everything that goes on.
    pub fn close(&self) {
        self.over.cancel();
    }

    fn of_keys(&self) -> MutexGuard<'_, HashMap<Owner, OfKey>> {
        self.of_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(what: String, setting: &str) -> Error {
    Error::new(Kind::Overloaded, what)
        .retry_after(Some(RETRY_FULL))
        .hinted(format!("try again after the time in `Retry-After`, ask less at once, or raise `{setting}`"))
}

/// The end of the service's time, or before that of a key.
pub struct End {
    admission: Arc<Admission>,
    over: CancellationToken,
}

impl End {
    /// What the work comes to, unless the end is before. Work that is large is given pinned, since it would
    /// be copied on its way here.
    ///
    /// # Errors
    /// That it is.
    pub async fn or<F: Future>(&self, work: F) -> Result<F::Output, Error> {
        tokio::select! {
            biased;
            output = work => Ok(output),
            () = self.over.cancelled() => Err(self.admission.why_over()),
        }
    }
}

/// One question's permit; another gets it when this is dropped.
pub struct Permit {
    admission: Arc<Admission>,
    owner: Owner,
    operation: &'static str,
    entered: Instant,
    /// Whether no piece of the answer has come.
    silent: bool,
    over: CancellationToken,
    /// Wakes the answer's task when that is cancelled; made once, since there are many waits.
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// The question in the count of a key with limits.
    counted: Option<Entered>,
    /// The call that asks it.
    call: Option<Arc<OpenCall>>,
    _permit: OwnedSemaphorePermit,
}

impl Permit {
    /// The same, which also stands in the count of a key with limits.
    pub fn counted(mut self, counted: Option<Entered>) -> Self {
        self.counted = counted;
        self
    }

    /// The end of the key or of the service's time.
    pub fn end(&self) -> End {
        End { admission: Arc::clone(&self.admission), over: self.over.clone() }
    }

    /// The next piece of the answer, or the error that the key or the service's time is over.
    pub fn poll_next(
        &mut self,
        deltas: &mut Deltas,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delta, Error>>> {
        let Poll::Ready(piece) = deltas.poll_next(context) else {
            let over = || Box::pin(self.over.clone().cancelled_owned());
            ready!(self.ended.get_or_insert_with(over).as_mut().poll(context));
            return Poll::Ready(Some(Err(self.admission.why_over())));
        };
        if self.silent && matches!(piece, Some(Ok(_))) {
            self.silent = false;
            let time = self.entered.elapsed();
            self.admission.metrics.first_token(self.operation, time);
            if let Some(call) = &self.call {
                call.begins(time);
            }
        }
        Poll::Ready(piece)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.metrics.streams_open.dec();
        let mut of_keys = self.admission.of_keys();
        // Those of a revoked key are counted no more, nor with those of a key that came in its place.
        if let Some(of_key) = of_keys.get_mut(&self.owner).filter(|_| !self.over.is_cancelled()) {
            of_key.count -= 1;
            if of_key.count == 0 {
                of_keys.remove(&self.owner);
            }
        }
    }
}
