//! What belongs to the request that work is done for: its id, which each line that the work logs carries,
//! its share of the memory budget, and what the owner sees of it.
//!
//! They belong to a task, and a task that is spawned begins without them: work that goes on for a request
//! elsewhere is spawned as [`carried`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::future::Either;
use tokio::sync::Semaphore;
use tokio::task::futures::TaskLocalFuture;

use crate::budget::Share;
use crate::domain::error::{Error, Kind};
use crate::traffic::OpenCall;

tokio::task_local! {
    static CONTEXT: Context;
}

/// What belongs to a request.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    id: Arc<str>,
    share: Share,
    paid: AtomicBool,
    told: Mutex<Vec<(String, String)>>,
    call: OnceLock<Arc<OpenCall>>,
}

impl Context {
    /// That of a request with this id, which holds this share.
    pub fn new(id: Arc<str>, share: Share) -> Self {
        let (paid, told, call) = (AtomicBool::new(false), Mutex::default(), OnceLock::new());
        Context(Arc::new(Inner { id, share, paid, told, call }))
    }

    /// The request as a call that the owner sees, where it is one.
    pub fn call(&self) -> Option<&Arc<OpenCall>> {
        self.0.call.get()
    }

    /// From now on it is such a call.
    pub fn is_call(&self, call: Arc<OpenCall>) {
        // It is known once who calls, and that does not change.
        let _ = self.0.call.set(call);
    }

    /// The request's id.
    pub fn id(&self) -> &Arc<str> {
        &self.0.id
    }

    /// The headers that the answer is to have, taken out.
    pub fn told(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.0.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Some work for the request.
    pub fn scope<F: Future>(&self, work: F) -> TaskLocalFuture<Context, F> {
        CONTEXT.scope(self.clone(), work)
    }

    /// As [`Context::scope`], for work that does not wait.
    pub fn sync_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        CONTEXT.sync_scope(self.clone(), work)
    }
}

/// Some work for the request that this is called for, if it is for one, on whatever task it runs.
pub fn carried<F: Future>(work: F) -> Either<TaskLocalFuture<Context, F>, F> {
    match current() {
        Some(context) => Either::Left(CONTEXT.scope(context, work)),
        None => Either::Right(work),
    }
}

/// As [`carried`], for work that does not wait and belongs to this request, if to any.
pub fn sync_scope<T>(context: Option<Context>, work: impl FnOnce() -> T) -> T {
    match context {
        Some(context) => context.sync_scope(work),
        None => work(),
    }
}

/// What belongs to the request that is worked for.
pub fn current() -> Option<Context> {
    CONTEXT.try_with(Context::clone).ok()
}

/// From how many bytes on a body is read apart from the thread that serves all others.
const LARGE: usize = 256 << 10;

/// Work on so many bytes of the request that this is called for. Where they are many it is done on a thread
/// of its own, one after the other, so that a large body holds nobody else up.
///
/// # Errors
/// When it could not be done: it panicked.
pub async fn apart<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);
    if bytes < LARGE {
        return Ok(work());
    }
    let _turn = ONE_AT_A_TIME.acquire().await;
    let context = current();
    let done = tokio::task::spawn_blocking(move || sync_scope(context, work)).await;
    done.map_err(|_| Error::new(Kind::Internal, "the program met a defect of its own"))
}

/// The id of the request that is worked for.
pub fn id() -> Option<Arc<str>> {
    CONTEXT.try_with(|context| Arc::clone(context.id())).ok()
}

/// The request that is worked for as a call that the owner sees, where it is one.
pub fn call() -> Option<Arc<OpenCall>> {
    CONTEXT.try_with(|context| context.call().cloned()).ok().flatten()
}

/// Takes so many bytes of memory for the request that is worked for, until its end. What is worked for no
/// request has no bounds.
///
/// # Errors
/// When the budget of all requests has not so many left.
pub fn take(bytes: usize) -> Result<(), Error> {
    CONTEXT.try_with(|context| context.0.share.take(bytes)).unwrap_or(Ok(()))
}

/// From now on the request counts as one of this caller, of several.
pub fn is_of(caller: &Arc<AtomicUsize>) {
    let _ = CONTEXT.try_with(|context| context.0.share.is_of(Arc::clone(caller)));
}

/// Sets headers that the answer to the request is to have.
pub fn tell(headers: Vec<(String, String)>) {
    let _ = CONTEXT.try_with(|context| {
        context.0.told.lock().unwrap_or_else(PoisonError::into_inner).extend(headers);
    });
}

/// Notes that an upstream may have begun to work for the request.
pub fn pay() {
    let _ = CONTEXT.try_with(|context| context.0.paid.store(true, Ordering::Relaxed));
}

/// Whether an upstream may have worked for the request.
pub fn is_paid() -> bool {
    CONTEXT.try_with(|context| context.0.paid.load(Ordering::Relaxed)).unwrap_or_default()
}

/// Says that so many of the bytes that were taken are not needed any more.
pub fn give(bytes: usize) {
    let _ = CONTEXT.try_with(|context| context.0.share.give(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    #[tokio::test]
    async fn a_spawned_task_belongs_to_the_request_only_if_it_is_carried_there() {
        let context = Context::new("one".into(), Budget::new(1 << 20).share());
        let ids = context.scope(async {
            let plain = tokio::spawn(async { id() }).await.expect("it ends");
            assert_eq!(plain, None);
            assert!(take(2 << 20).is_err() && take(1 << 10).is_ok());
            tokio::spawn(carried(async { id() })).await.expect("it ends")
        });
        assert_eq!(ids.await.as_deref(), Some("one"));
        assert_eq!(carried(async { id() }).await, None);
        assert!(take(2 << 20).is_ok());
    }
}
