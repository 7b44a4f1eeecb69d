//! A question that is being answered: the one thing that every face reads, whole or piece by piece, and
//! the one end at which an answer becomes a turn.

use std::cell::{Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::LocalBoxFuture;

use super::admission::Permit;
use super::memory::Memory;
use super::usage::Meter;
use crate::domain::answer::{Answer, Delta};
use crate::domain::conversations::ConversationRef;
use crate::domain::error::{Error, Kind};
use crate::provider::{self, Deltas};
use crate::request;
use crate::store::Store;

/// An answer as a caller gets it; after a failure, what is known of it.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// The conversation that the turn belongs to, as its caller calls it.
    pub conversation: Option<ConversationRef>,
}

/// A failed question, with what is known of the answer.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Why it failed.
    pub error: Error,
    /// What had come by then.
    pub partial: Box<Reply>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, partial: Box::default() }
    }
}

/// An answer so far, for whoever else wants to see it.
pub type Progress = Rc<RefCell<Answer>>;

/// A question that is being answered.
pub struct InFlight {
    deltas: Deltas,
    /// Dropped before the permit: what it cost is counted by then.
    meter: Meter,
    permit: Permit,
    answer: Progress,
    /// Whether the pieces have their bytes for the caller.
    verbatim: bool,
    /// Whether the caller has each piece as it came: then what the upstream settles can only add to it.
    stream: bool,
    words: Words,
    /// The name of the upstream.
    upstream: Arc<str>,
    memory: Memory,
    /// The conversation that was gone on with; at the end, the one that the answer was kept in.
    conversation: Option<ConversationRef>,
    store: Arc<Store>,
    state: State,
}

/// How an answer is to be read, and what it is remembered for. By default its pieces are passed on.
pub(super) struct Terms {
    /// Where the answer so far can be seen.
    pub answer: Progress,
    /// Whether the pieces have their bytes for the caller.
    pub verbatim: bool,
    /// Whether the caller has each piece as it came.
    pub stream: bool,
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// What it is remembered for.
    pub memory: Memory,
}

impl Default for Terms {
    fn default() -> Self {
        let (answer, upstream) = (Progress::default(), Arc::default());
        Terms { answer, verbatim: true, stream: true, upstream, memory: Memory::None }
    }
}

/// Whether words of an answer are missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    Complete,
    /// The line of this number could not be read; the settled answer would have its words.
    Gap(usize),
    /// Those of the line are not in what the caller has.
    Missing(usize),
}

/// The keeping of what came, where there is something to keep.
type Keeping = Option<LocalBoxFuture<'static, Result<Option<ConversationRef>, Error>>>;

/// How far an answer is.
enum State {
    Running,
    /// What came is being kept; then it ends, with this error where it broke off.
    Keeping(Keeping, Option<Error>),
    Over,
}

impl InFlight {
    pub(super) fn new(deltas: Deltas, permit: Permit, meter: Meter, store: Arc<Store>, terms: Terms) -> Self {
        let Terms { answer, verbatim, stream, upstream, memory } = terms;
        InFlight {
            deltas,
            permit,
            meter,
            answer,
            verbatim,
            stream,
            words: Words::Complete,
            upstream,
            conversation: memory.conversation(),
            memory,
            store,
            state: State::Running,
        }
    }

    /// Whether each piece has its bytes in the caller's own protocol.
    pub fn is_verbatim(&self) -> bool {
        self.verbatim
    }

    /// The HTTP status with which the upstream began it.
    pub fn upstream_status(&self) -> u16 {
        self.deltas.status
    }

    /// The upstream's headers that tell the caller of the account behind the gateway.
    pub fn upstream_headers(&self) -> &[(String, String)] {
        &self.deltas.headers
    }

    /// The answer so far; of one in the caller's own protocol, only what was known at its beginning.
    pub fn answer(&self) -> Ref<'_, Answer> {
        self.answer.borrow()
    }

    /// What it came to, once it has ended.
    pub fn into_reply(self) -> Reply {
        Reply { answer: self.answer.take(), conversation: self.conversation }
    }

    /// The next piece, or `None` when the answer is complete, and kept where it is to be.
    ///
    /// # Errors
    /// Why the answer breaks off, with what came of it, which is kept as a part.
    pub async fn next(&mut self) -> Option<Result<Delta, Failed>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`InFlight::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delta, Failed>>> {
        while let State::Running = self.state {
            match ready!(self.permit.poll_next(&mut self.deltas, context)) {
                Some(Ok(mut delta)) => match self.take(&mut delta) {
                    Ok(()) => return Poll::Ready(Some(Ok(delta))),
                    Err(error) => self.end(Some(error)),
                },
                ended => self.end(ended.and_then(Result::err)),
            }
        }
        self.poll_kept(context).map(|failed| failed.map(Err))
    }

    /// The whole answer.
    ///
    /// # Errors
    /// As [`InFlight::next`].
    pub async fn whole(mut self) -> Result<Reply, Failed> {
        match poll_fn(|context| self.poll_whole(context)).await {
            Some(failed) => Err(failed),
            None => Ok(self.into_reply()),
        }
    }

    /// Takes all pieces in; gives the failure, if it fails.
    fn poll_whole(&mut self, context: &mut Context<'_>) -> Poll<Option<Failed>> {
        while let State::Running = self.state {
            match ready!(self.permit.poll_next(&mut self.deltas, context)) {
                Some(Ok(mut delta)) => {
                    if let Err(error) = self.take(&mut delta) {
                        self.end(Some(error));
                    }
                }
                ended => self.end(ended.and_then(Result::err)),
            }
        }
        self.poll_kept(context)
    }

    /// Waits until what came is kept; gives the failure, if it fails.
    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<Option<Failed>> {
        let State::Keeping(work, failure) = &mut self.state else { return Poll::Ready(None) };
        let kept = work
            .as_mut()
            .map_or(Poll::Ready(Ok(self.conversation.clone())), |work| work.as_mut().poll(context));
        let (kept, failure) = (ready!(kept), failure.take());
        self.state = State::Over;
        Poll::Ready(self.settle(kept, failure))
    }

    /// What it came to, as far as it has come.
    fn reply(&self) -> Reply {
        Reply { answer: self.answer.borrow().clone(), conversation: self.conversation.clone() }
    }

    /// Takes a piece in, and makes it one as the caller gets it.
    ///
    /// # Errors
    /// When the answer so far needs more than is left of the memory budget.
    fn take(&mut self, delta: &mut Delta) -> Result<(), Error> {
        self.meter.take(delta);
        if self.verbatim {
            return Ok(());
        }
        // What is collected is written once more when it is whole.
        request::take(2 * delta.bytes())?;
        // Bytes that were not asked for would be of another protocol.
        delta.wire = None;
        if let Some(line) = delta.gap {
            self.words = Words::Gap(line);
        }
        if delta.settled && self.stream {
            // What was sent stands; only what the pieces left out at the end can be added.
            let settled = std::mem::take(&mut delta.text);
            delta.settled = false;
            match settled.strip_prefix(self.answer.borrow().text.as_str()) {
                Some(rest) => {
                    delta.text = rest.into();
                    self.words = Words::Complete;
                }
                None => {
                    if let Words::Gap(line) = self.words {
                        self.words = Words::Missing(line);
                    }
                }
            }
        } else if delta.settled {
            self.words = Words::Complete;
        }
        self.answer.borrow_mut().apply(delta);
        Ok(())
    }

    /// Ends: keeps what came, where there is something to keep and a place for it.
    fn end(&mut self, failure: Option<Error>) {
        let failure = failure.or_else(|| self.defect());
        let memory = std::mem::take(&mut self.memory);
        let mut answer = self.answer.borrow_mut();
        let comes_to_something = failure.is_none() || !answer.text.is_empty();
        if comes_to_something && !self.verbatim {
            answer.usage = Some(self.meter.usage());
        }
        let keeps = comes_to_something && !matches!(memory, Memory::None);
        let kept = keeps.then(|| -> LocalBoxFuture<'static, _> {
            let (store, answer) = (Arc::clone(&self.store), answer.clone());
            let (upstream, partial) = (Arc::clone(&self.upstream), failure.is_some());
            Box::pin(async move { memory.keep(&store, &answer, &upstream, partial).await })
        });
        self.state = State::Keeping(kept, failure);
    }

    /// What keeps an answer that its protocol calls complete from being a good one.
    fn defect(&self) -> Option<Error> {
        if let Words::Gap(line) | Words::Missing(line) = self.words {
            return Some(
                Error::new(Kind::UpstreamInvalid, format!("line {line} of the upstream's stream is broken"))
                    .hinted("try again; if it stays, look into the mirror's own log"),
            );
        }
        let answer = self.answer.borrow();
        if self.verbatim || answer.cut || !answer.text.trim().is_empty() {
            return None;
        }
        match answer.tool_calls.first() {
            Some(call) if matches!(self.memory, Memory::Conversation(_)) => {
                let what = "the model calls a tool instead of answering, and none was offered";
                return Some(
                    Error::new(Kind::UpstreamEmpty, what)
                        .detail(Some(call.name.clone()))
                        .hinted("ask another model, or offer tools over `/v1` or MCP's own client"),
                );
            }
            Some(_) => return None,
            None => {}
        }
        Some(provider::silent(answer.finish_reason.as_deref(), !answer.reasoning.is_empty()))
    }

    /// What the caller is told when all is kept, or could not be.
    fn settle(
        &mut self,
        kept: Result<Option<ConversationRef>, Error>,
        failure: Option<Error>,
    ) -> Option<Failed> {
        let error = match (kept, failure) {
            (Ok(kept_in), None) => {
                self.conversation = kept_in;
                return None;
            }
            (Ok(kept_in), Some(error)) => {
                self.conversation = kept_in;
                error
            }
            (Err(error), None) => {
                self.conversation = None;
                error
            }
            (Err(trouble), Some(error)) => {
                log::warn!(error = trouble.kind.code(); "a partial answer was not kept: {}", trouble.message);
                error
            }
        };
        Some(Failed { error, partial: Box::new(self.reply()) })
    }
}
