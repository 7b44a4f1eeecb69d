//! Answers whose pieces are rewritten as they come, after a protocol's decoder has read them.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

use super::decoding::Deltas;
use crate::domain::answer::Delta;
use crate::domain::error::Error;

/// Pieces that go on, in order.
pub type Queue = VecDeque<Result<Delta, Error>>;

/// What rewrites an answer.
pub trait Rewriter {
    /// Takes a piece in. With `Break` the answer ends here: the question is given up, which closes its
    /// connection.
    fn take(&mut self, delta: Delta, queue: &mut Queue) -> ControlFlow<()>;

    /// Takes in that the answer is complete, or why it broke off, which is to go on.
    fn end(&mut self, failure: Option<Error>, queue: &mut Queue);
}

/// The answer as this rewrites it.
pub fn rewritten(deltas: Deltas, rewriter: impl Rewriter + Unpin + 'static) -> Deltas {
    deltas.wrapped(|pieces| Box::pin(Rewriting::new(pieces, rewriter)))
}

/// The pieces as a rewriter lets them go on.
pub struct Rewriting<S, R> {
    /// `None` after their end.
    pieces: Option<S>,
    rewriter: R,
    queue: Queue,
}

impl<S, R> Rewriting<S, R> {
    /// These pieces through this rewriter.
    pub fn new(pieces: S, rewriter: R) -> Self {
        Rewriting { pieces: Some(pieces), rewriter, queue: Queue::new() }
    }
}

impl<S, R> Stream for Rewriting<S, R>
where
    S: Stream<Item = Result<Delta, Error>> + Unpin,
    R: Rewriter + Unpin,
{
    type Item = Result<Delta, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(next) = this.queue.pop_front() {
                return Poll::Ready(Some(next));
            }
            let Some(pieces) = &mut this.pieces else { return Poll::Ready(None) };
            let goes_on = match ready!(Pin::new(pieces).poll_next(context)) {
                Some(Ok(delta)) => this.rewriter.take(delta, &mut this.queue).is_continue(),
                ended => {
                    this.rewriter.end(ended.and_then(Result::err), &mut this.queue);
                    false
                }
            };
            if !goes_on {
                this.pieces = None;
            }
        }
    }
}
