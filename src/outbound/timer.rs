//! A timer for many waits one after the other, such as those for each piece of a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is set once and then moved: to be woken at a later time costs nothing until it
/// fires too early, so that a wait that ends in time arms none.
#[derive(Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether `due` has come; else the task is woken by then.
    pub fn poll(&mut self, context: &mut Context<'_>, due: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < sleep.deadline() {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if due <= sleep.deadline() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_fires_when_due_however_it_was_set_before() {
        let (mut timer, begin) = (Timer::default(), Instant::now());
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        for due in [20, 20, 30, 60] {
            poll_fn(|context| timer.poll(context, at(due))).await;
            assert!(Instant::now() >= at(due));
        }
        // A wait that was not waited for to its end leaves the timer at a later time.
        let is_pending = poll_fn(|context| Poll::Ready(timer.poll(context, at(60_000)).is_pending())).await;
        assert!(is_pending);
        poll_fn(|context| timer.poll(context, at(90))).await;
        assert!((at(90)..at(30_000)).contains(&Instant::now()));
    }
}
