//! Requests of the OpenAI protocol that go through to an upstream of the same protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::Service;
use super::room::Seat;
use super::usage::{Asked, Meter};
use crate::chat::{Answer, Owner, estimate_tokens};
use crate::error::{Error, Kind};
use crate::upstream::passthrough::Chunk;
use crate::upstream::relay::{self, Content, Relayed};
use crate::upstream::{self, Pieces};

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
    /// What it says, where the upstream's words do not fit the form that was asked for.
    Answer(Box<Answer>),
}

/// An answer on its way through.
pub struct Passing {
    pieces: Pieces<Chunk>,
    meter: Meter,
    seat: Seat,
}

impl Passing {
    /// The next piece, or `None` at the answer's end.
    ///
    /// # Errors
    /// Why the answer breaks off.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let piece = self.seat.next(&mut self.pieces).await?;
        Some(piece.map(|chunk| {
            self.meter.take(chunk.usage, chunk.tokens);
            chunk.data
        }))
    }
}

/// The answer to any other request.
pub struct Relaying {
    /// The HTTP status.
    pub status: u16,
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
    /// Whether requests of the OpenAI protocol go through in their callers' own words.
    pub fn passes_through(&self) -> bool {
        self.upstream.passes_through()
    }

    /// Asks for a completion in its caller's own words.
    ///
    /// # Errors
    /// Why there will be none.
    pub async fn complete(&self, request: CompletionRequest) -> Result<Completing, Error> {
        self.counted(self.shared.room.until_over(self.complete_in_time(request)).await?)
    }

    async fn complete_in_time(&self, request: CompletionRequest) -> Result<Completing, Error> {
        let seat = self.shared.room.enter(&request.owner, "chat_completions")?;
        let (model, body) = match &request.model {
            Some(model) => (Some(self.known(model)?), request.body),
            None => match self.default_model().await? {
                Some(model) => (Some(model.clone()), with_model(&request.body, &model)?),
                None => (None, request.body),
            },
        };
        let completion = self.upstream.complete(body.clone(), request.stream, request.choices).await?;
        let mut meter = Meter::new(Arc::clone(&self.shared.usage), request.owner, Asked::Request(body));
        let (upstream_status, content) = match completion {
            upstream::Completion::Whole(status, chunk) => {
                meter.take(chunk.usage, chunk.tokens);
                (status, CompletionContent::Whole(chunk.data))
            }
            upstream::Completion::Chunks(pieces) => {
                (pieces.status, CompletionContent::Chunks(Passing { pieces, meter, seat }))
            }
            upstream::Completion::Answer(mut answer) => {
                meter.take(answer.usage, estimate_tokens(&answer.text));
                answer.usage = Some(meter.usage());
                (answer.upstream_status.unwrap_or_default(), CompletionContent::Answer(answer))
            }
        };
        Ok(Completing { model, upstream_status, content })
    }

    /// Passes any other request of the OpenAI protocol through.
    ///
    /// # Errors
    /// Why there will be no answer.
    pub async fn relay(&self, owner: Owner, request: relay::Request) -> Result<Relaying, Error> {
        self.counted(self.shared.room.until_over(self.relay_in_time(owner, request)).await?)
    }

    async fn relay_in_time(&self, owner: Owner, request: relay::Request) -> Result<Relaying, Error> {
        let seat = self.shared.room.enter(&owner, "relay")?;
        let Relayed { status, headers, content } = self.upstream.relay(&request).await?;
        let mut meter = Meter::new(Arc::clone(&self.shared.usage), owner, Asked::Request(request.body));
        let content = match content {
            Content::Whole(chunk) => {
                meter.take(chunk.usage, chunk.tokens);
                RelayContent::Whole(chunk.data)
            }
            Content::Events(pieces) => RelayContent::Events(Passing { pieces, meter, seat }),
            Content::Bytes(pieces) => RelayContent::Bytes(Passing { pieces, meter, seat }),
        };
        Ok(Relaying { status, headers, content })
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
