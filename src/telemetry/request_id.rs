//! The id of the request that work is done for, so that each line which the work logs carries it.
//!
//! The id belongs to a task, and a task that is spawned begins without one: work that goes on for a
//! request elsewhere is spawned as [`carried`].

use std::sync::Arc;

use futures_util::future::Either;
use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static REQUEST_ID: Arc<str>;
}

/// Some work for the request with this id.
pub fn scope<F: Future>(id: Arc<str>, work: F) -> TaskLocalFuture<Arc<str>, F> {
    REQUEST_ID.scope(id, work)
}

/// As [`scope`], for work that does not wait.
pub fn sync_scope<T>(id: Arc<str>, work: impl FnOnce() -> T) -> T {
    REQUEST_ID.sync_scope(id, work)
}

/// Some work for the request that this is called for, if it is for one, on whatever task it runs.
pub fn carried<F: Future>(work: F) -> Either<TaskLocalFuture<Arc<str>, F>, F> {
    match current() {
        Some(id) => Either::Left(scope(id, work)),
        None => Either::Right(work),
    }
}

/// The id of the request that is worked for.
pub fn current() -> Option<Arc<str>> {
    REQUEST_ID.try_with(Arc::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spawned_task_has_the_id_only_if_it_is_carried_there() {
        let id = scope("one".into(), async {
            let plain = tokio::spawn(async { current() }).await.expect("it ends");
            assert_eq!(plain, None);
            tokio::spawn(carried(async { current() })).await.expect("it ends")
        });
        assert_eq!(id.await.as_deref(), Some("one"));
        assert_eq!(carried(async { current() }).await, None);
    }
}
