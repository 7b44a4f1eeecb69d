//! Answers that take longer than their caller waits: they go on, and the caller comes back, where that is
//! offered (`LONG_ANSWERS`). Else they end then, with the part that came.
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
use crate::domain::chat::{AnswerId, Owner, Usage};
use crate::domain::conversations::ConversationRef;
use crate::domain::error::{Error, Kind};
use crate::request;
use crate::store::Known;

/// How often what has come is kept, and for how long it then counts as being worked on.
const RENEWAL: Duration = Duration::from_secs(2);
const VOUCHED: Duration = Duration::from_secs(10);

/// How often a finished answer is tried to be kept while the store is down.
const KEEPING_TRIES: u32 = 30;

/// How much longer is waited where nobody comes back: the answer itself ends in time, and what came of it
/// is kept.
const KEEPING_TIME: Duration = Duration::from_secs(2);

type Work = Pin<Box<dyn Future<Output = Result<Reply, Failed>>>>;

/// A question whose caller waits for the whole answer.
pub struct Question {
    /// The operation, for the metrics.
    pub operation: &'static str,
    /// The model, if the caller names one.
    pub model: Option<String>,
    /// What is asked.
    pub turn: Turn,
    /// How long the caller waits, at most `REQUEST_TIMEOUT_SECONDS`.
    pub wait: Option<Duration>,
    /// Whether it can come back for an answer that takes longer.
    pub comes_back: bool,
}

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
    /// Asks and waits for the whole answer. One that takes longer than its caller waits goes on without
    /// it where it can come back, and else ends.
    ///
    /// # Errors
    /// Why there is none, with the part of it that came; [`Kind::StillRunning`] with the id to come
    /// back with in `response_id`.
    pub async fn ask(self: Arc<Self>, owner: Owner, question: Question) -> Result<Reply, Failed> {
        let Question { operation, model, turn, wait, comes_back } = question;
        let comes_back = comes_back && self.shared.most_long > 0;
        let timeouts = self.settings.timeouts;
        let wait = wait.map_or(timeouts.total, |wait| wait.min(timeouts.total));
        let asked_in = turn.conversation.clone();
        let progress = Progress::default();
        let request = InferenceRequest {
            owner: owner.clone(),
            operation,
            model,
            asked: Asked::Turn(turn),
            stream: false,
            total: Some(if comes_back { timeouts.long } else { wait }),
        };
        let (gateway, seen) = (Arc::clone(&self), Rc::clone(&progress));
        let mut work: Work = Box::pin(async move { gateway.infer_into(request, seen).await?.whole().await });
        match timeout(if comes_back { wait } else { wait + KEEPING_TIME }, &mut work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let mut partial = Reply { answer: progress.borrow().clone(), conversation: asked_in.clone() };
                let error = if !comes_back {
                    Error::new(Kind::UpstreamDeadline, "the answer took longer than allowed")
                } else {
                    match self.detach(owner, work, &progress, asked_in).await {
                        Ok(id) => {
                            partial.answer.names.response = Some(id.to_string());
                            still_running()
                        }
                        Err(error) => error,
                    }
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
        // What is read is taken apart, and written once more.
        request::take(3 * kept.record.len())?;
        let record: Record = serde_json::from_str(&kept.record)
            .map_err(|_| Error::new(Kind::Internal, "the kept answer cannot be read"))?;
        let error = match &record.error {
            _ if !kept.finished && kept.alive => Some(still_running()),
            _ if !kept.finished => Some(Error::new(
                Kind::AnswerInterrupted,
                "the service was restarted before the answer was complete",
            )),
            Some((code, message, hint)) => {
                let kind = Kind::of_code(code).unwrap_or(Kind::Internal);
                Some(Error::new(kind, message.clone()).hinted(hint.clone()))
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
        asked_in: Option<ConversationRef>,
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
        let known = Record::partial(&job.progress, job.asked_in.clone());
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
    asked_in: Option<ConversationRef>,
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
                    let record = Record::partial(&self.progress, self.asked_in.clone());
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
    fn partial(progress: &Progress, conversation: Option<ConversationRef>) -> Known {
        Record::of(progress.borrow().clone(), conversation, None)
    }

    fn finished(outcome: Result<Reply, Failed>) -> Known {
        let (reply, error) = match outcome {
            Ok(reply) => (reply, None),
            Err(Failed { error, partial }) => (*partial, Some(error)),
        };
        Record::of(reply.answer, reply.conversation, error)
    }

    fn of(answer: Answer, conversation: Option<ConversationRef>, error: Option<Error>) -> Known {
        let usage = answer.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens, usage.estimated));
        let record = Record {
            answer: answer.text,
            conversation_id: conversation.as_ref().map(ToString::to_string),
            model: answer.names.model,
            upstream: answer.upstream,
            finish_reason: answer.finish_reason,
            usage,
            error: error
                .map(|error| (error.kind.code().into(), error.caller_message(), error.hint().to_string())),
        };
        let record = serde_json::to_string(&record).expect("a record is made of texts and numbers");
        Known { record, conversation: conversation.map(|conversation| conversation.id()) }
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
        Reply { answer, conversation: self.conversation_id.and_then(|text| text.parse().ok()) }
    }
}
