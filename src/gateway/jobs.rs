//! Answers that take longer than their caller waits: they go on, and the caller comes back.
//!
//! What is known of such an answer is kept in the store every few seconds, so any replica can tell
//! of it. As long as a process is at work on it, that process vouches for it; when nobody does, it
//! was interrupted, and what had come of it is there.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::in_flight::Progress;
use super::{Asked, Failed, Gateway, InferenceRequest, Reply, Turn};
use crate::domain::answer::{Answer, Names};
use crate::domain::chat::{AnswerId, ConversationId, Owner, Usage};
use crate::domain::error::{Error, Kind};
use crate::request;
use crate::store::Known;

/// How often what has come is kept, and for how long it then counts as being worked on.
const RENEWAL: Duration = Duration::from_secs(2);
const VOUCHED: Duration = Duration::from_secs(10);

/// How often a finished answer is tried to be kept while the store is down.
const KEEPING_TRIES: u32 = 30;

type Work = Pin<Box<dyn Future<Output = Result<Reply, Failed>>>>;

/// An answer as it is kept.
#[derive(Serialize, Deserialize, Default)]
struct Record {
    answer: String,
    conversation_id: Option<String>,
    model: Option<String>,
    upstream: Option<String>,
    finish_reason: Option<String>,
    /// Tokens of question and answer, and whether they are estimates.
    usage: Option<(u64, u64, bool)>,
    /// Code, message and hint.
    error: Option<(String, String, String)>,
}

impl Gateway {
    /// Asks and waits for the whole answer, for as long as `wait`, at most
    /// `REQUEST_TIMEOUT_SECONDS`. Then it goes on without its caller.
    ///
    /// # Errors
    /// Why there is none, with the part of it that came; [`Kind::StillRunning`] with the id to come
    /// back with in `response_id`.
    pub async fn ask(
        self: Arc<Self>,
        owner: Owner,
        model: Option<String>,
        turn: Turn,
        wait: Option<Duration>,
    ) -> Result<Reply, Failed> {
        let timeouts = self.settings.timeouts;
        let wait = wait.map_or(timeouts.total, |wait| wait.min(timeouts.total));
        let asked_in = turn.conversation;
        let progress = Progress::default();
        let request = InferenceRequest {
            owner: owner.clone(),
            operation: "chat",
            model,
            asked: Asked::Turn(turn),
            stream: false,
            total: Some(timeouts.long),
        };
        let (gateway, seen) = (Arc::clone(&self), Rc::clone(&progress));
        let mut work: Work = Box::pin(async move { gateway.infer_into(request, seen).await?.whole().await });
        match timeout(wait, &mut work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let mut partial = Reply { answer: progress.borrow().clone(), conversation_id: asked_in };
                let error = match self.detach(owner, work, &progress, asked_in).await {
                    Ok(id) => {
                        partial.answer.names.response = Some(id.to_string());
                        still_running()
                    }
                    Err(error) => error,
                };
                Err(Failed { error, partial: Box::new(partial) })
            }
        }
    }

    /// An answer that its caller comes back for.
    ///
    /// # Errors
    /// [`Kind::AnswerNotFound`] when the owner has none of this id; why it failed; or that it is
    /// still running, with the part of it that came.
    pub async fn answer_of(&self, owner: &Owner, id: AnswerId) -> Result<Reply, Failed> {
        let missing = || Error::new(Kind::AnswerNotFound, "there is no such answer, or it was forgotten");
        let kept = self.shared.store.answer(owner, id).await?.ok_or_else(missing)?;
        let record: Record = serde_json::from_str(&kept.record)
            .map_err(|_| Error::new(Kind::Internal, "the kept answer cannot be read"))?;
        let error = match &record.error {
            _ if !kept.finished && kept.alive => Some(still_running()),
            _ if !kept.finished => Some(Error::new(
                Kind::AnswerInterrupted,
                "the service was restarted before the answer was complete",
            )),
            Some((code, message, hint)) => {
                let kind = Kind::ALL.iter().find(|kind| kind.code() == code).copied();
                Some(Error::new(kind.unwrap_or(Kind::Internal), message.clone()).hinted(hint.clone()))
            }
            None => None,
        };
        let reply = record.reply(id);
        match error {
            None => Ok(reply),
            Some(error) => Err(Failed { error, partial: Box::new(reply) }),
        }
    }

    /// Lets the work go on without its caller, under an id that is kept before it is given out.
    async fn detach(
        &self,
        owner: Owner,
        work: Work,
        progress: &Progress,
        asked_in: Option<ConversationId>,
    ) -> Result<AnswerId, Error> {
        let permit = Arc::clone(&self.shared.long).try_acquire_owned().map_err(|_| {
            Error::new(
                Kind::UpstreamDeadline,
                format!(
                    "the answer took longer than allowed, and {} others go on already",
                    self.shared.most_long
                ),
            )
        })?;
        let id = AnswerId::random()?;
        let (store, progress) = (Arc::clone(&self.shared.store), Rc::clone(progress));
        let job = Job { store, owner, id, progress, asked_in, _permit: permit };
        let known = Record::partial(&job.progress, asked_in);
        job.store.begin_answer(&job.owner, job.id, known, VOUCHED).await?;
        log::info!("an answer goes on without its caller");
        tokio::task::spawn_local(request::carried(job.run(work)));
        Ok(id)
    }
}

fn still_running() -> Error {
    Error::new(Kind::StillRunning, "the answer is not complete yet and goes on").retry_after(Some(RENEWAL))
}

/// An answer that goes on without its caller.
struct Job {
    store: Arc<crate::store::Store>,
    owner: Owner,
    id: AnswerId,
    progress: Progress,
    asked_in: Option<ConversationId>,
    /// Another may go on when this one has ended.
    _permit: OwnedSemaphorePermit,
}

impl Job {
    /// Keeps what comes of the answer until it is finished.
    async fn run(self, mut work: Work) {
        let outcome = loop {
            match timeout(RENEWAL, &mut work).await {
                Ok(outcome) => break outcome,
                Err(_) => {
                    let record = Record::partial(&self.progress, self.asked_in);
                    if let Err(error) = self.keep(record, Some(VOUCHED)).await {
                        log::warn!(error = error.kind.code(); "an answer that goes on is not kept now: {}", error.message);
                    }
                }
            }
        };
        let record = Record::finished(outcome);
        for _ in 0..KEEPING_TRIES {
            match self.keep(record.clone(), None).await {
                Ok(()) => return,
                Err(error) => {
                    log::warn!(error = error.kind.code(); "a finished answer is not kept yet: {}", error.message);
                    sleep(RENEWAL).await;
                }
            }
        }
    }

    async fn keep(&self, known: Known, vouched: Option<Duration>) -> Result<(), Error> {
        self.store.keep_answer(&self.owner, self.id, known, vouched).await
    }
}

impl Record {
    fn partial(progress: &Progress, conversation: Option<ConversationId>) -> Known {
        Record::of(progress.borrow().clone(), conversation, None)
    }

    fn finished(outcome: Result<Reply, Failed>) -> Known {
        let (reply, error) = match outcome {
            Ok(reply) => (reply, None),
            Err(Failed { error, partial }) => (*partial, Some(error)),
        };
        Record::of(reply.answer, reply.conversation_id, error)
    }

    fn of(answer: Answer, conversation: Option<ConversationId>, error: Option<Error>) -> Known {
        let usage = answer.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens, usage.estimated));
        let record = Record {
            answer: answer.text,
            conversation_id: conversation.map(|id| id.to_string()),
            model: answer.names.model,
            upstream: answer.upstream,
            finish_reason: answer.finish_reason,
            usage,
            error: error
                .map(|error| (error.kind.code().into(), error.caller_message(), error.hint().to_string())),
        };
        let record = serde_json::to_string(&record).expect("a record is made of texts and numbers");
        Known { record, conversation }
    }

    fn reply(self, id: AnswerId) -> Reply {
        let usage = self.usage.map(|(prompt_tokens, completion_tokens, estimated)| Usage {
            estimated,
            ..Usage::told(prompt_tokens, completion_tokens, None)
        });
        let names = Names { response: Some(id.to_string()), model: self.model, conversation: None };
        let answer = Answer {
            text: self.answer,
            names,
            upstream: self.upstream,
            finish_reason: self.finish_reason,
            usage,
            ..Answer::default()
        };
        Reply { answer, conversation_id: self.conversation_id.and_then(|id| id.parse().ok()) }
    }
}
