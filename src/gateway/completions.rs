//! Requests of the OpenAI protocol that go through to an upstream of the same protocol.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use serde_json::value::RawValue;

use super::admission::Seat;
use super::usage::{Asked, Meter};
use super::{Member, Service};
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::provider::passthrough::Chunk;
use crate::provider::relay::{self, Content, Relayed};
use crate::provider::{self, Pieces};

/// A completion that a caller asks for.
#[derive(Debug, Clone)]
pub struct CompletionRequest {
    /// Who asks.
    pub owner: Owner,
    /// The model, if the caller names one.
    pub model: Option<String>,
    /// Whether the answer is to come as a stream.
    pub stream: bool,
    /// How many choices are asked for.
    pub choices: usize,
    /// The request in the caller's words: a JSON object.
    pub body: Bytes,
}

/// A completion as it comes back.
pub struct Completing {
    /// The model that was asked; `None` leaves the choice to the upstream.
    pub model: Option<String>,
    /// The name of the upstream that answers, where there are several; else nothing.
    pub upstream: String,
    /// The HTTP status of the upstream's answer.
    pub upstream_status: u16,
    /// The answer.
    pub content: CompletionContent,
}

/// The form of a completion.
pub enum CompletionContent {
    /// All of it, in the upstream's words.
    Whole(Bytes),
    /// Chunk by chunk, in the upstream's words.
    Chunks(Passing),
}

/// An answer on its way through.
pub struct Passing {
    pieces: Pieces<Chunk>,
    meter: Meter,
    seat: Seat,
}

impl Stream for Passing {
    type Item = Result<Bytes, Error>;

    /// The next piece, why the answer breaks off, or `None` at its end.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Passing { pieces, meter, seat } = self.get_mut();
        seat.poll_next(pieces, context).map_ok(|chunk| {
            meter.take(chunk.usage, chunk.tokens);
            chunk.data
        })
    }
}

/// The answer to any other request.
pub struct Relaying {
    /// The HTTP status.
    pub status: u16,
    /// The name of the upstream that answers, where there are several; else nothing.
    pub upstream: String,
    /// The headers that go on.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub content: RelayContent,
}

/// The body of such an answer.
pub enum RelayContent {
    /// All of it.
    Whole(Bytes),
    /// Server-sent events, each with the blank line that ends it.
    Events(Passing),
    /// Anything else, as it comes.
    Bytes(Passing),
}

impl Service {
    /// Whether a request for this model goes through in its caller's own words: that is so unless
    /// only upstreams of another protocol are there, or only they are known to offer the model.
    pub fn passes_through(&self, model: Option<&str>) -> bool {
        let known = model.and_then(|model| self.members.iter().find(|member| member.names(model)));
        match known {
            Some(member) => member.upstream.passes_through(),
            None => self.members.iter().any(|member| member.upstream.passes_through()),
        }
    }

    /// The upstreams to ask for a model in the caller's own words, the best first.
    async fn passing(&self, model: Option<&str>) -> Vec<&Member> {
        let mut candidates = self.candidates(model, None).await;
        candidates.retain(|member| member.upstream.passes_through());
        if candidates.is_empty() {
            candidates.extend(self.members.iter().find(|member| member.upstream.passes_through()));
        }
        if candidates.is_empty() {
            candidates.push(self.first());
        }
        candidates
    }

    /// Asks for a completion in its caller's own words.
    ///
    /// # Errors
    /// Why there will be none.
    pub async fn complete(&self, request: CompletionRequest) -> Result<Completing, Error> {
        self.shared.room.until_over(self.complete_in_time(request)).await?
    }

    async fn complete_in_time(&self, request: CompletionRequest) -> Result<Completing, Error> {
        let seat = self.shared.room.enter(&request.owner, "chat_completions")?;
        let named = request.model.as_deref();
        let asked = self.ask_in_turn(self.passing(named).await, async |member| {
            let model = self.model_of(member, named).await?;
            let body = match &model {
                Some(model) if named.is_none() => with_model(&request.body, model)?,
                _ => request.body.clone(),
            };
            Ok((model, member.upstream.complete(body, request.stream, request.choices).await?))
        });
        let (member, (model, completion)) = asked.await?;
        let upstream = self.upstream_label(member).unwrap_or_default();
        let asked = Asked::Request(request.body);
        let mut meter = Meter::new(Arc::clone(&self.shared.usage), request.owner, asked);
        let (upstream_status, content) = match completion {
            provider::Completion::Whole(status, chunk) => {
                meter.take(chunk.usage, chunk.tokens);
                (status, CompletionContent::Whole(chunk.data))
            }
            provider::Completion::Chunks(pieces) => {
                (pieces.status, CompletionContent::Chunks(Passing { pieces, meter, seat }))
            }
        };
        Ok(Completing { model, upstream, upstream_status, content })
    }

    /// Passes any other request of the OpenAI protocol through.
    ///
    /// # Errors
    /// Why there will be no answer.
    pub async fn relay(&self, owner: Owner, request: relay::Request) -> Result<Relaying, Error> {
        self.shared.room.until_over(self.relay_in_time(owner, request)).await?
    }

    async fn relay_in_time(&self, owner: Owner, request: relay::Request) -> Result<Relaying, Error> {
        let seat = self.shared.room.enter(&owner, "relay")?;
        #[derive(serde::Deserialize)]
        struct Head {
            model: Option<String>,
        }
        let head = serde_json::from_slice::<Head>(&request.body).ok();
        let candidates = self.passing(head.and_then(|head| head.model).as_deref()).await;
        let relayed = self.ask_in_turn(candidates, async |member| member.upstream.relay(&request).await);
        let (member, Relayed { status, headers, content }) = relayed.await?;
        let upstream = self.upstream_label(member).unwrap_or_default();
        let mut meter = Meter::new(Arc::clone(&self.shared.usage), owner, Asked::Request(request.body));
        let content = match content {
            Content::Whole(chunk) => {
                meter.take(chunk.usage, chunk.tokens);
                RelayContent::Whole(chunk.data)
            }
            Content::Events(pieces) => RelayContent::Events(Passing { pieces, meter, seat }),
            Content::Bytes(pieces) => RelayContent::Bytes(Passing { pieces, meter, seat }),
        };
        Ok(Relaying { status, upstream, headers, content })
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
