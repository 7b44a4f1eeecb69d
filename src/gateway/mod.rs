//! The use cases: ask, list the models, tell the health. Every face calls these and nothing below.

mod jobs;
mod catalog;
mod completions;
mod health;
mod metering;
mod router;
mod models;
mod prompt;
mod admission;
mod talks;
mod usage;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config;
use crate::domain::chat::{Answer, ConversationId, Event, Owner, Prompt, Tally, Thread, Usage};
use crate::domain::error::Error;
use crate::metrics::Metrics;
use crate::provider::Events;
pub use crate::provider::relay::Request as RelayRequest;
pub use crate::provider::session::Credentials;
use crate::store::{Exchange, Store, Transcript, Turn};
use admission::{Room, Seat};
use catalog::Catalog;
pub use completions::{Completing, CompletionContent, CompletionRequest, Passing, RelayContent, Relaying};
pub use health::{Health, Status};
pub use models::Models;
pub use router::Member;
pub use talks::{Talk, Talking};
use usage::{Asked, Meter, UsageBook};

/// How long a health or a list of models is good enough for what is not asked of the upstream
/// itself: the public page, and the choice of a model.
const CACHE_TIME: Duration = Duration::from_secs(30);

/// A question as a caller asks it.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who asks.
    pub owner: Owner,
    /// The conversation to go on with; `None` starts one.
    pub conversation: Option<ConversationId>,
    /// The model, if the caller names one.
    pub model: Option<String>,
    /// Instructions for the model.
    pub system: Option<String>,
    /// What is asked.
    pub message: String,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// The most tokens to generate.
    pub max_tokens: Option<u32>,
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

/// What all threads share: the store, and what was last learned of the upstream.
pub struct Shared {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    room: Arc<Room>,
    /// One permit for each question that may go on after its caller was told to come back.
    long: Arc<Semaphore>,
    most_long: usize,
    usage: Arc<UsageBook>,
    catalog: Arc<Catalog>,
}

impl Shared {
    /// Shares a store, within the limits of a process.
    pub fn new(store: Arc<Store>, limits: &config::Limits) -> Self {
        let metrics = Arc::new(Metrics::new(store.failures()));
        Shared {
            store,
            room: Arc::new(Room::new(limits, Arc::clone(&metrics))),
            long: Arc::new(Semaphore::new(limits.long_answers)),
            most_long: limits.long_answers,
            usage: Arc::new(UsageBook::new(Arc::clone(&metrics))),
            metrics,
            catalog: Arc::default(),
        }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Ends all answers that are still coming: the service's time is over.
    pub fn end_answers(&self) {
        self.room.close();
    }

    /// Whether answers go on without their callers.
    pub fn has_long_answers(&self) -> bool {
        self.long.available_permits() < self.most_long
    }

    /// Adds to the store what keys have used since this was last done.
    ///
    /// # Errors
    /// When the store cannot be used; then nothing is lost.
    pub async fn settle_usage(&self) -> Result<(), Error> {
        self.usage.settle(&self.store).await
    }
}

/// The use cases over the upstreams; one a thread.
pub struct Service {
    /// At least one.
    members: Vec<Member>,
    shared: Arc<Shared>,
    /// What holds for all upstreams.
    settings: config::Upstream,
}

/// A question that is being answered.
pub struct Running {
    events: Events,
    /// The name of the upstream, and whether it keeps conversations itself.
    upstream: (String, bool),
    answer: Progress,
    prompt: Prompt,
    turn: Turn,
    question: Question,
    meter: Meter,
    seat: Seat,
}

/// An answer so far, for whoever else wants to see it.
type Progress = Rc<RefCell<Answer>>;

impl Service {
    /// The use cases over these upstreams, at least one.
    pub fn new(members: Vec<Member>, shared: Arc<Shared>) -> Self {
        let settings = members.first().expect("there is an upstream, at least the demo").settings.clone();
        Service { members, shared, settings }
    }

    /// The name of what the upstream speaks.
    pub fn protocol_name(&self) -> &'static str {
        self.settings.protocol.name()
    }

    /// What the upstreams are called: that it is the demo, or their names.
    pub fn upstream_name(&self) -> String {
        if self.is_demo() {
            return "demo: no model is connected, set UPSTREAM_URL".into();
        }
        let names: Vec<&str> = self.members.iter().map(|member| member.settings.name.as_str()).collect();
        names.join(", ")
    }

    /// Whether the built-in demo answers.
    pub fn is_demo(&self) -> bool {
        self.settings.url.is_none()
    }

    /// Asks; the answer is then read from [`Running`] and kept by [`Service::finish`], or by
    /// [`Service::abandon`] when it broke off.
    ///
    /// # Errors
    /// Why there will be no answer.
    pub async fn start(&self, question: Question) -> Result<Running, Failed> {
        self.begin(question, None, Progress::default()).await
    }

    async fn begin(
        &self,
        question: Question,
        total: Option<Duration>,
        answer: Progress,
    ) -> Result<Running, Failed> {
        let partial = Reply { conversation_id: question.conversation, ..Reply::default() };
        match self.shared.room.until_over(self.begin_in_time(question, total, answer)).await {
            Ok(begun) => begun,
            Err(error) => Err(Failed { error, partial: Box::new(partial) }),
        }
    }

    async fn begin_in_time(
        &self,
        question: Question,
        total: Option<Duration>,
        answer: Progress,
    ) -> Result<Running, Failed> {
        let seat = self.shared.room.enter(&question.owner, "chat")?;
        let turn = self
            .shared
            .store
            .open(&question.owner, question.conversation, self.settings.history_max_messages + 2)
            .await?;
        let known = || Reply { conversation_id: question.conversation, ..Default::default() };
        let failed = |error| Failed { error, partial: Box::new(known()) };
        let thread = turn.conversation().thread.as_ref();
        let candidates =
            self.candidates(question.model.as_deref(), thread.map(|thread| thread.upstream.as_str())).await;
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, question.model.as_deref()).await?;
            let prompt = self.prompt(&question, turn.conversation(), model, member);
            let events = member.upstream.ask(&prompt, total).await?;
            Ok((prompt, events))
        });
        let (member, (prompt, events)) = asked.await.map_err(failed)?;
        {
            let mut answer = answer.borrow_mut();
            answer.upstream_status = Some(events.status);
            answer.upstream = self.upstream_label(member);
        }
        let upstream = (member.settings.name.clone(), member.upstream.keeps_conversations());
        let asked = Asked::Tokens(Usage::estimate(&prompt.messages, "").prompt_tokens);
        let meter = Meter::new(Arc::clone(&self.shared.usage), question.owner.clone(), asked);
        Ok(Running { events, upstream, answer, prompt, turn, question, meter, seat })
    }

    /// Keeps the turn of a complete answer and gives the reply.
    ///
    /// # Errors
    /// When the turn cannot be kept; the answer is then in the partial reply, since it was paid for.
    pub async fn finish(&self, running: Running) -> Result<Reply, Failed> {
        let (reply, kept) = self.keep(running, false).await;
        match kept {
            Ok(()) => Ok(reply),
            Err(error) => Err(Failed { error, partial: Box::new(Reply { conversation_id: None, ..reply }) }),
        }
    }

    /// Keeps what came of an answer that broke off, as a partial one, and gives the failure. A
    /// question without any answer leaves nothing behind.
    pub async fn abandon(&self, mut running: Running, error: Error) -> Failed {
        if running.answer.borrow().text.is_empty() {
            let mut answer = running.answer.take();
            answer.model = answer.model.or(running.prompt.model.take());
            let partial = Reply { answer, conversation_id: running.question.conversation };
            return Failed { error, partial: Box::new(partial) };
        }
        let asked_in = running.question.conversation;
        let (mut reply, kept) = self.keep(running, true).await;
        if let Err(trouble) = kept {
            log::warn!(error = trouble.kind.code(); "a partial answer was not kept: {}", trouble.message);
            reply.conversation_id = asked_in;
        }
        Failed { error, partial: Box::new(reply) }
    }

    async fn keep(&self, running: Running, partial: bool) -> (Reply, Result<(), Error>) {
        let Running {
            upstream: (upstream, keeps_conversations), answer, prompt, turn, question, meter, ..
        } = running;
        let mut answer = answer.take();
        answer.model = answer.model.or(prompt.model);
        answer.usage = Some(meter.usage());
        answer.upstream_conversation = answer
            .upstream_conversation
            .or_else(|| prompt.thread.as_ref().map(|thread| thread.conversation.clone()));
        let thread = answer.upstream_conversation.clone().zip(answer.response_id.clone());
        let thread = thread.filter(|_| keeps_conversations);
        let exchange = Exchange {
            system: question.system.or_else(|| turn.conversation().system.clone()),
            thread: thread
                .map(|(conversation, last_response)| Thread { upstream, conversation, last_response })
                .or(prompt.thread),
            question: question.message,
            answer: answer.text.clone(),
            partial,
        };
        let reply = Reply { answer, conversation_id: Some(turn.id) };
        let kept = self.shared.store.commit(turn, exchange).await;
        (reply, kept)
    }

    /// Reads a conversation back.
    ///
    /// # Errors
    /// When the owner has none of this id, or the store cannot be used.
    pub async fn transcript(&self, owner: &Owner, id: ConversationId) -> Result<Transcript, Error> {
        self.shared.store.transcript(owner, id).await
    }

    /// Deletes a conversation.
    ///
    /// # Errors
    /// As [`Service::transcript`].
    pub async fn forget(&self, owner: &Owner, id: ConversationId) -> Result<(), Error> {
        self.shared.store.delete(owner, id).await
    }

    /// What a key has used, and since when, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn usage(&self, owner: &Owner) -> Result<(Tally, Option<i64>), Error> {
        self.shared.settle_usage().await?;
        self.shared.store.usage(owner).await
    }

    /// Whether the store can be used.
    ///
    /// # Errors
    /// Why not.
    pub async fn store_ready(&self) -> Result<(), Error> {
        self.shared.store.prepare().await
    }
}

impl Running {
    /// The next event, or `None` when the answer is complete.
    ///
    /// # Errors
    /// Why the answer breaks off: see [`Service::abandon`].
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        let event = self.seat.next(&mut self.events).await?;
        if let Ok(event) = &event {
            self.meter.event(event);
            self.answer.borrow_mut().apply(event);
        }
        Some(event)
    }
}
