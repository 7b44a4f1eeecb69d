//! The one way of a question to an upstream and of its answer back, for every face and protocol,
//! whole or streamed.

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde_json::value::RawValue;

use super::admission::Permit;
use super::memory::{Memory, Talk, Turn};
use super::usage::{Estimate, Meter};
use super::{Member, Service};
use crate::domain::answer::{Answer, Delta};
use crate::domain::chat::{Chat, ConversationId, Owner, Prompt};
use crate::domain::error::{Error, Kind};
use crate::provider::{Deltas, Verbatim};
use crate::store::Store;

/// What a caller asks.
pub struct InferenceRequest {
    /// Who asks.
    pub owner: Owner,
    /// The operation, for the metrics.
    pub operation: &'static str,
    /// The model, if the caller names one.
    pub model: Option<String>,
    /// What is asked.
    pub asked: Asked,
    /// Whether the caller gets the answer as it comes.
    pub stream: bool,
    /// The longest that the answer may take; by default `REQUEST_TIMEOUT_SECONDS`.
    pub total: Option<Duration>,
}

/// What is asked, in one of two forms.
pub enum Asked {
    /// The next question of a conversation that the gateway keeps.
    Turn(Turn),
    /// A whole conversation in the words of the OpenAI protocol.
    Transcript(Transcript),
}

/// A whole conversation in its caller's words, which a provider of the same protocol gets as they are.
pub struct Transcript {
    /// The request.
    pub body: Bytes,
    /// How many choices are asked for.
    pub choices: usize,
    /// What the request means, for a provider of another protocol.
    pub read: fn(&[u8]) -> Result<Chat, Error>,
    /// An estimate of the tokens in it.
    pub tokens: fn(&[u8]) -> u64,
}

/// An answer as a caller gets it; after a failure, what is known of it.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// The conversation that the turn belongs to.
    pub conversation_id: Option<ConversationId>,
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
    permit: Permit,
    meter: Meter,
    answer: Progress,
    /// Whether the pieces have their bytes for the caller.
    verbatim: bool,
    /// Whether the caller has each piece as it came: then what the upstream settles can only add to it.
    stream: bool,
    words: Words,
    /// The name of the upstream.
    upstream: String,
    memory: Memory,
    /// The conversation that was gone on with; at the end, the one that the answer was kept in.
    conversation_id: Option<ConversationId>,
    store: Arc<Store>,
    state: State,
}

/// Whether words of an answer are missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    Complete,
    /// A piece could not be read; the settled answer would have its words.
    Gap,
    /// They are not in what the caller has.
    Missing,
}

/// How far an answer is.
enum State {
    Running,
    /// What came is being kept; then it ends, with this error where it broke off.
    Keeping(LocalBoxFuture<'static, Result<Option<ConversationId>, Error>>, Option<Error>),
    Over,
}

impl Service {
    /// Asks. The answer is read from [`InFlight`].
    ///
    /// # Errors
    /// Why there will be no answer.
    pub async fn infer(&self, request: InferenceRequest) -> Result<InFlight, Failed> {
        self.infer_into(request, Progress::default()).await
    }

    /// As [`Service::infer`], with a place where the answer so far can be seen.
    pub(super) async fn infer_into(
        &self,
        request: InferenceRequest,
        answer: Progress,
    ) -> Result<InFlight, Failed> {
        let asked_in = match &request.asked {
            Asked::Turn(turn) => turn.conversation,
            Asked::Transcript(_) => None,
        };
        let begun = self.shared.admission.until_over(self.begin(request, answer)).await;
        begun.and_then(|begun| begun).map_err(|error| {
            let partial = Box::new(Reply { conversation_id: asked_in, ..Reply::default() });
            Failed { error, partial }
        })
    }

    async fn begin(&self, request: InferenceRequest, answer: Progress) -> Result<InFlight, Error> {
        let InferenceRequest { owner, operation, model, asked, stream, total } = request;
        let permit = self.shared.admission.enter(&owner, operation)?;
        let named = model.as_deref();
        let (member, begun) = match asked {
            Asked::Turn(turn) => self.ask_turn(turn, &owner, named, total).await?,
            Asked::Transcript(transcript) => self.ask_transcript(transcript, &owner, named, stream).await?,
        };
        let Begun { deltas, model, memory, verbatim, prompt_tokens } = begun;
        *answer.borrow_mut() = Answer {
            upstream_status: Some(deltas.status),
            upstream: self.upstream_label(member),
            ..Answer::default()
        };
        answer.borrow_mut().names.model = model;
        let meter = Meter::new(Arc::clone(&self.shared.usage), owner, prompt_tokens);
        Ok(InFlight {
            deltas,
            permit,
            meter,
            answer,
            verbatim,
            stream,
            words: Words::Complete,
            upstream: member.settings.name.clone(),
            conversation_id: memory.conversation_id(),
            memory,
            store: Arc::clone(&self.shared.store),
            state: State::Running,
        })
    }

    /// Asks the next question of a conversation that the gateway keeps.
    async fn ask_turn(
        &self,
        turn: Turn,
        owner: &Owner,
        named: Option<&str>,
        total: Option<Duration>,
    ) -> Result<(&Member, Begun), Error> {
        let open = turn.open(&self.shared.store, owner, self.settings.history_max_messages).await?;
        let candidates = self.candidates(named, open.upstream()).await;
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, named).await?;
            let (mut chat, thread) = open.chat(member, &self.settings);
            chat.max_tokens = self.max_tokens(member, &chat, model.as_deref()).await;
            let prompt = Prompt { model, chat, thread, total };
            let deltas = member.upstream.ask(&prompt).await?;
            Ok((prompt, deltas))
        });
        let (member, (prompt, deltas)) = asked.await?;
        let prompt_tokens = Estimate::of(&prompt.chat);
        let memory = open.asked(prompt.thread, member.upstream.keeps_conversations());
        Ok((member, Begun { deltas, model: prompt.model, memory, verbatim: false, prompt_tokens }))
    }

    /// Asks what a whole conversation asks: in its caller's words where the upstream speaks them, else
    /// in what they mean.
    async fn ask_transcript(
        &self,
        transcript: Transcript,
        owner: &Owner,
        named: Option<&str>,
        stream: bool,
    ) -> Result<(&Member, Begun), Error> {
        let mut candidates = self.candidates(named, None).await;
        if candidates.iter().any(|member| member.passthrough().is_ok()) {
            candidates.retain(|member| member.passthrough().is_ok());
            return self.ask_verbatim(transcript, candidates, named, stream).await;
        }
        let chat = (transcript.read)(&transcript.body)?;
        let talk = Talk::of(chat, &self.shared.store, owner).await;
        talk.prefer(&mut candidates);
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, named).await?;
            let (mut chat, thread) = talk.chat(member);
            chat.max_tokens = self.max_tokens(member, &chat, model.as_deref()).await;
            let prompt = Prompt { model, chat, thread, total: None };
            match member.upstream.ask(&prompt).await {
                // The caller sent everything, so a conversation that the upstream lost begins anew.
                Err(error) if error.kind == Kind::UpstreamConversationLost && prompt.thread.is_some() => {
                    let prompt = Prompt { chat: talk.whole(), thread: None, ..prompt };
                    let deltas = member.upstream.ask(&prompt).await?;
                    Ok((prompt, deltas))
                }
                deltas => deltas.map(|deltas| (prompt, deltas)),
            }
        });
        let (member, (prompt, deltas)) = asked.await?;
        let prompt_tokens = Estimate::of(&prompt.chat);
        let memory = talk.asked(prompt.thread, owner, member.upstream.keeps_conversations());
        Ok((member, Begun { deltas, model: prompt.model, memory, verbatim: false, prompt_tokens }))
    }

    async fn ask_verbatim<'a>(
        &'a self,
        transcript: Transcript,
        candidates: Vec<&'a Member>,
        named: Option<&str>,
        stream: bool,
    ) -> Result<(&'a Member, Begun), Error> {
        let Transcript { body, choices, tokens, .. } = transcript;
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, named).await?;
            let body = match &model {
                Some(model) if named.is_none() => with_model(&body, model)?,
                _ => body.clone(),
            };
            Ok((model, member.passthrough()?.complete(Verbatim { body, stream, choices }).await?))
        });
        let (member, (model, deltas)) = asked.await?;
        let prompt_tokens = Estimate::Request(body, tokens);
        Ok((member, Begun { deltas, model, memory: Memory::None, verbatim: true, prompt_tokens }))
    }
}

/// An answer that an upstream has begun.
struct Begun {
    deltas: Deltas,
    model: Option<String>,
    memory: Memory,
    verbatim: bool,
    prompt_tokens: Estimate,
}

impl InFlight {
    /// An answer that is only passed on.
    pub(super) fn passed_on(deltas: Deltas, permit: Permit, meter: Meter, store: Arc<Store>) -> Self {
        InFlight {
            deltas,
            permit,
            meter,
            answer: Progress::default(),
            verbatim: true,
            stream: true,
            words: Words::Complete,
            upstream: String::new(),
            memory: Memory::None,
            conversation_id: None,
            store,
            state: State::Running,
        }
    }

    /// Whether each piece has its bytes in the caller's own protocol.
    pub fn is_verbatim(&self) -> bool {
        self.verbatim
    }

    /// The answer so far; of one in the caller's own protocol, only what was known at its beginning.
    pub fn answer(&self) -> Ref<'_, Answer> {
        self.answer.borrow()
    }

    /// What it came to, once it has ended.
    pub fn reply(&self) -> Reply {
        Reply { answer: self.answer.borrow().clone(), conversation_id: self.conversation_id }
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
                Some(Ok(mut delta)) => {
                    self.take(&mut delta);
                    return Poll::Ready(Some(Ok(delta)));
                }
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
            None => Ok(self.reply()),
        }
    }

    /// Takes all pieces in; gives the failure, if it fails.
    fn poll_whole(&mut self, context: &mut Context<'_>) -> Poll<Option<Failed>> {
        while let State::Running = self.state {
            match ready!(self.permit.poll_next(&mut self.deltas, context)) {
                Some(Ok(mut delta)) => self.take(&mut delta),
                ended => self.end(ended.and_then(Result::err)),
            }
        }
        self.poll_kept(context)
    }

    /// Waits until what came is kept; gives the failure, if it fails.
    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<Option<Failed>> {
        let State::Keeping(work, failure) = &mut self.state else { return Poll::Ready(None) };
        let (kept, failure) = (ready!(work.as_mut().poll(context)), failure.take());
        self.state = State::Over;
        Poll::Ready(self.settle(kept, failure))
    }

    /// Takes a piece in, and makes it one as the caller gets it.
    fn take(&mut self, delta: &mut Delta) {
        self.meter.take(delta);
        if self.verbatim {
            return;
        }
        // Bytes that were not asked for would be of another protocol.
        delta.wire = None;
        if delta.gap {
            self.words = Words::Gap;
        }
        if let Some(settled) = delta.settled.take_if(|_| self.stream) {
            // What was sent stands; only what the pieces left out can be added. The upstream may also
            // settle its answer in other words, as when it takes its marks for sources out.
            match settled.strip_prefix(self.answer.borrow().text.as_str()) {
                Some(rest) => {
                    delta.text = rest.into();
                    self.words = Words::Complete;
                }
                None if self.words == Words::Gap => self.words = Words::Missing,
                None => {}
            }
        } else if delta.settled.is_some() {
            self.words = Words::Complete;
        }
        self.answer.borrow_mut().apply(delta);
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
        let kept: LocalBoxFuture<'static, _> = if keeps {
            let (store, answer) = (Arc::clone(&self.store), answer.clone());
            let (upstream, partial) = (self.upstream.clone(), failure.is_some());
            Box::pin(async move { memory.keep(&store, &answer, upstream, partial).await })
        } else {
            drop(memory);
            Box::pin(std::future::ready(Ok(self.conversation_id)))
        };
        self.state = State::Keeping(kept, failure);
    }

    /// What keeps an answer that its protocol calls complete from being a good one.
    fn defect(&self) -> Option<Error> {
        if self.words != Words::Complete {
            return Some(
                Error::new(Kind::UpstreamInvalid, "a part of the upstream's stream is broken")
                    .hinted("try again; if it stays, look into the mirror's own log"),
            );
        }
        let answer = self.answer.borrow();
        if self.verbatim || !answer.text.is_empty() || !answer.tool_calls.is_empty() {
            return None;
        }
        let empty = |what: &str| Error::new(Kind::UpstreamEmpty, what);
        Some(match answer.finish_reason.as_deref() {
            Some("content_filter") => empty("the upstream's content filter withheld the answer")
                .hinted("put the question in other words"),
            Some("length") if !answer.reasoning.is_empty() => {
                empty("the model reached its bound of tokens while it was still reasoning")
                    .hinted("raise `max_tokens`, or leave it empty")
            }
            _ => empty("the upstream's answer holds no text"),
        })
    }

    /// What the caller is told when all is kept, or could not be.
    fn settle(
        &mut self,
        kept: Result<Option<ConversationId>, Error>,
        failure: Option<Error>,
    ) -> Option<Failed> {
        let error = match (kept, failure) {
            (Ok(id), None) => {
                self.conversation_id = id;
                return None;
            }
            (Ok(id), Some(error)) => {
                self.conversation_id = id;
                error
            }
            (Err(error), None) => {
                self.conversation_id = None;
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

/// The request with a model in it, in place of none, null or an empty one.
fn with_model(body: &[u8], model: &str) -> Result<Bytes, Error> {
    let fail = |_| Error::new(Kind::InvalidRequest, "the request body is no JSON object");
    let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_slice(body).map_err(fail)?;
    let name = serde_json::value::to_raw_value(model).map_err(fail)?;
    fields.insert("model", &name);
    serde_json::to_vec(&fields).map(Bytes::from).map_err(fail)
}
