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

use crate::config::Limits;
use crate::domain::answer::Delta;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::metrics::Metrics;
use crate::provider::Deltas;

/// When to come back to a process that is full now.
const RETRY_FULL: Duration = Duration::from_secs(1);

/// When to come back to a service that stops: the next process has begun by then.
const RETRY_STOPPED: Duration = Duration::from_secs(5);

/// Who is admitted to a process.
pub struct Admission {
    permits: Arc<Semaphore>,
    most: usize,
    most_of_a_key: Option<usize>,
    of_keys: Mutex<HashMap<Owner, usize>>,
    over: CancellationToken,
    metrics: Arc<Metrics>,
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
        if let Some(most) = self.most_of_a_key {
            let mut of_keys = self.of_keys();
            let of_key = of_keys.entry(owner.clone()).or_default();
            if *of_key >= most {
                let what = format!("{of_key} questions of this key are being answered already");
                return Err(full(what, "MAX_STREAMS_PER_KEY"));
            }
            *of_key += 1;
        }
        self.metrics.streams_open.inc();
        Ok(Permit {
            admission: Arc::clone(self),
            owner: owner.clone(),
            operation,
            entered: Instant::now(),
            silent: true,
            over: None,
            _permit: permit,
        })
    }

    /// What the work comes to, unless the service's time is over before. Work that is large is given
    /// pinned, since it would be copied on its way here.
    ///
    /// # Errors
    /// That it is.
    pub async fn until_over<F: Future>(&self, work: F) -> Result<F::Output, Error> {
        tokio::select! {
            biased;
            output = work => Ok(output),
            () = self.over.cancelled() => Err(over()),
        }
    }

    /// Ends everything that goes on.
    pub fn close(&self) {
        self.over.cancel();
    }

    fn of_keys(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        self.of_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over() -> Error {
    Error::new(Kind::ShuttingDown, "the service stops, and the time for running answers is over")
        .retry_after(Some(RETRY_STOPPED))
}

fn full(what: String, setting: &str) -> Error {
    Error::new(Kind::Overloaded, what)
        .retry_after(Some(RETRY_FULL))
        .hinted(format!("try again after the time in `Retry-After`, ask less at once, or raise `{setting}`"))
}

/// One question's permit; another gets it when this is dropped.
pub struct Permit {
    admission: Arc<Admission>,
    owner: Owner,
    operation: &'static str,
    entered: Instant,
    /// Whether no piece of the answer has come.
    silent: bool,
    /// Wakes the answer's task when the time is over; made once, since there are many waits.
    over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _permit: OwnedSemaphorePermit,
}

impl Permit {
    /// The next piece of the answer, or the error that the service's time is over.
    pub fn poll_next(
        &mut self,
        deltas: &mut Deltas,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delta, Error>>> {
        let Poll::Ready(piece) = deltas.poll_next(context) else {
            let over = || Box::pin(self.admission.over.clone().cancelled_owned());
            ready!(self.over.get_or_insert_with(over).as_mut().poll(context));
            return Poll::Ready(Some(Err(self::over())));
        };
        if self.silent && matches!(piece, Some(Ok(_))) {
            self.silent = false;
            self.admission.metrics.first_token(self.operation, self.entered.elapsed());
        }
        Poll::Ready(piece)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.metrics.streams_open.dec();
        let mut of_keys = self.admission.of_keys();
        if let Some(count) = of_keys.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                of_keys.remove(&self.owner);
            }
        }
    }
}
