//! The one way of a question to an upstream and of its answer back, for every face and protocol,
//! whole or streamed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::admission::Permit;
use super::callers::model_for;
use super::in_flight::{Failed, InFlight, Progress, Reply, Terms};
use super::memory::{Memory, OpenTurn, Talk, Turn};
use super::usage::{Estimate, Meter};
use super::{Gateway, Member};
use crate::domain::answer::Answer;
use crate::domain::chat::{Chat, Owner, Prompt};
use crate::domain::conversations::ConversationRef;
use crate::domain::error::{Error, Kind};
use crate::provider::{Deltas, Verbatim};
use crate::request;

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
    /// The longest that the question may take, with what goes before it; by default the answer alone may
    /// take `REQUEST_TIMEOUT_SECONDS`.
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
    /// Whether it names its model.
    pub names_model: bool,
    /// How many choices are asked for.
    pub choices: usize,
    /// The headers of the caller's that a provider of the same protocol passes on.
    pub headers: Vec<(&'static str, String)>,
    /// What the request means, for a provider of another protocol.
    pub read: fn(&[u8]) -> Result<Chat, Error>,
    /// An estimate of the tokens in it.
    pub tokens: fn(&[u8]) -> u64,
}

impl Gateway {
    /// Asks. The answer is read from [`InFlight`].
    ///
    /// # Errors
    /// Why there will be no answer.
    pub async fn infer(&self, request: InferenceRequest) -> Result<InFlight, Failed> {
        self.infer_into(request, Progress::default()).await
    }

    /// As [`Gateway::infer`], with a place where the answer so far can be seen.
    pub(super) async fn infer_into(
        &self,
        mut request: InferenceRequest,
        answer: Progress,
    ) -> Result<InFlight, Failed> {
        let asked_in = match &request.asked {
            Asked::Turn(turn) => turn.conversation.clone(),
            Asked::Transcript(_) => None,
        };
        let begun = async {
            let permit = self.enter(&mut request).await?;
            permit.end().or(pin!(self.begin(permit, request, answer))).await
        };
        begun.await.unwrap_or_else(|error| Err(failed_in(asked_in, error)))
    }

    /// Lets a question in, within what its key may.
    async fn enter(&self, request: &mut InferenceRequest) -> Result<Permit, Error> {
        let InferenceRequest { owner, operation, model, asked, .. } = request;
        if let Some(call) = request::call() {
            call.asks(operation, model.as_deref().or(self.settings.default_model.as_deref()));
        }
        let limits = self.shared.callers.limits(owner);
        let limits = limits.as_deref();
        *model = model_for(limits, model.take(), self.settings.default_model.as_deref())?;
        if matches!(asked, Asked::Turn(_)) {
            self.shared.quota.expect_room(&self.shared.store, owner, limits).await?;
        }
        self.shared.permit(owner, operation, limits).await
    }

    async fn begin(
        &self,
        permit: Permit,
        request: InferenceRequest,
        answer: Progress,
    ) -> Result<InFlight, Failed> {
        let InferenceRequest { owner, operation: _, model, asked, stream, total } = request;
        let deadline = total.map(|total| Instant::now() + total);
        let named = model.as_deref();
        let (member, begun) = match asked {
            Asked::Turn(turn) => {
                let asked_in = turn.conversation.clone();
                let open = turn.open(&self.shared.store, &owner, &self.settings).await?;
                let begun = self.ask_turn(open, named, deadline).await;
                begun.map_err(|error| failed_in(asked_in, error))?
            }
            Asked::Transcript(transcript) => self.ask_transcript(transcript, &owner, named, stream).await?,
        };
        let Begun { deltas, model, memory, verbatim, prompt_tokens } = begun;
        *answer.borrow_mut() = Answer {
            upstream_status: Some(deltas.status),
            upstream: self.upstream_label(member),
            ..Answer::default()
        };
        let meter = Meter::new(Arc::clone(&self.shared.usage), owner, model.as_deref(), prompt_tokens);
        answer.borrow_mut().names.model = model;
        let upstream = Arc::clone(&member.settings.name);
        let terms = Terms { answer, verbatim, stream, upstream, memory };
        Ok(InFlight::new(deltas, permit, meter, Arc::clone(&self.shared.store), terms))
    }

    /// Asks the next question of a conversation that the gateway keeps.
    async fn ask_turn(
        &self,
        open: OpenTurn,
        named: Option<&str>,
        deadline: Option<Instant>,
    ) -> Result<(&Member, Begun), Error> {
        let candidates = self.candidates(named, open.upstream()).await;
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, named).await?;
            let (mut chat, thread) = open.chat(member, &self.shared.store).await?;
            chat.max_tokens = self.max_tokens(member, &chat, model.as_deref()).await;
            let total = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
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
        // What is read is as large again.
        request::take(transcript.body.len())?;
        let Transcript { body, read, .. } = transcript;
        let chat = request::apart(body.len(), move || read(&body)).await??;
        let talk = Talk::of(chat, &self.shared.store, owner).await;
        talk.prefer(&mut candidates);
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, named).await?;
            let (mut chat, thread) = talk.chat(member);
            chat.max_tokens = self.max_tokens(member, &chat, model.as_deref()).await;
            let prompt = Prompt { model, chat, thread, total: None };
            match member.upstream.ask(&prompt).await {
                // The caller sent everything, so a conversation that the upstream lost begins anew.
                Err(error)
                    if error.kind == Kind::UpstreamConversationLost
                        && error.is_refusal()
                        && prompt.thread.is_some() =>
                {
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
        let Transcript { body, names_model, choices, headers, tokens, .. } = transcript;
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, named).await?;
            let body = match &model {
                Some(model) if !names_model => with_model(&body, model)?,
                _ => body.clone(),
            };
            let headers = headers.clone();
            let request = Verbatim { body, model: model.clone(), stream, choices, headers };
            Ok((model, member.passthrough()?.complete(request).await?))
        });
        let (member, (model, deltas)) = asked.await?;
        let prompt_tokens = Estimate::Request(body, tokens);
        Ok((member, Begun { deltas, model, memory: Memory::None, verbatim: true, prompt_tokens }))
    }
}

/// The failure of a question in a conversation that its caller has.
fn failed_in(conversation: Option<ConversationRef>, error: Error) -> Failed {
    Failed { error, partial: Box::new(Reply { conversation, ..Reply::default() }) }
}

/// An answer that an upstream has begun.
struct Begun {
    deltas: Deltas,
    model: Option<String>,
    memory: Memory,
    verbatim: bool,
    prompt_tokens: Estimate,
}

/// The request with a model in it, in place of none, null or an empty one.
fn with_model(body: &[u8], model: &str) -> Result<Bytes, Error> {
    let fail = |_| Error::new(Kind::InvalidRequest, "the request body is no JSON object");
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_slice(body).map_err(fail)?;
    let name = serde_json::value::to_raw_value(model).map_err(fail)?;
    fields.insert("model".into(), &name);
    serde_json::to_vec(&fields).map(Bytes::from).map_err(fail)
}
