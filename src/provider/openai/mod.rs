//! The OpenAI protocol: chat completions as JSON or server-sent events, and the list of models.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. Answers are asked for as a
//! stream, since a stream shows that the upstream is alive, brings a partial answer when it breaks,
//! and lets the idle limit tell a slow answer from a dead one. An upstream that answers with JSON
//! all the same is understood, and one that refuses to stream is asked again without. A request of
//! this protocol goes through in its caller's own words.

pub(super) mod decoder;
mod dialect;
mod joined;
mod models;
mod request;
mod said;
#[cfg(test)]
mod tests;
mod tool_calls;
mod whole;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use super::body::Body;
use super::content::tokens;
use super::decoding::{self, Deltas, decode, first_byte};
use super::relay::{self, Relayed};
use super::session::KeyHeader;
use super::transport::{Call, Transport};
use super::{Capabilities, Exchange, Passthrough, Protocol, Provider, Tools, Verbatim, base};
use crate::domain::chat::{Model, Prompt, Usage};
use crate::domain::error::Error;
use crate::telemetry::mending::{self, Mending, Mendings};
use decoder::Chunks;
use dialect::{Dialect, Dialects};

pub(super) const PROTOCOL: Protocol = Protocol {
    capabilities: Capabilities {
        noun: "an upstream of the OpenAI protocol",
        browser_login: false,
        images: true,
        tools: Tools::Native,
        hints: &["temperature", "top_p", "max_tokens"],
        stops: true,
        forms: true,
        keeps_conversations: false,
        needs_max_tokens: false,
    },
    base_path: |path| base::versioned(path, "/chat/completions"),
    key_header: KeyHeader::Bearer,
    headers: &[],
    provider: |transport| Box::new(OpenAi { transport, dialects: Dialects::default() }),
};

const COMPLETIONS: [&str; 2] = ["chat", "completions"];

/// An upstream that speaks the OpenAI protocol.
struct OpenAi {
    transport: Rc<Transport>,
    dialects: Dialects,
}

/// A question, and how it is asked.
struct Asked<'a> {
    question: Question<'a>,
    model: Option<&'a str>,
    stream: bool,
    headers: &'a [(&'static str, String)],
    total: Option<Duration>,
}

/// A question in our own words or in its caller's.
enum Question<'a> {
    Meant(&'a Prompt),
    Verbatim(&'a Bytes),
}

impl Question<'_> {
    fn written(&self, dialect: Dialect) -> Result<Bytes, Error> {
        match self {
            Question::Meant(prompt) => request::body(prompt, dialect),
            Question::Verbatim(request) => Ok(dialect.written(request)),
        }
    }

    /// Whether it is another request in this dialect than in that one.
    fn changes(&self, dialect: Dialect, before: Dialect) -> bool {
        match self {
            Question::Meant(prompt) => {
                request::body(prompt, dialect).ok() != request::body(prompt, before).ok()
            }
            Question::Verbatim(request) => dialect.changes(request, before),
        }
    }
}

impl OpenAi {
    async fn open(
        &self,
        body: Bytes,
        stream: bool,
        headers: &[(&'static str, String)],
        total: Option<Duration>,
    ) -> Result<Body, Error> {
        let accept = if stream { "text/event-stream, application/json" } else { "application/json" };
        self.transport.open(Call { total, headers, ..Call::post(&COMPLETIONS, accept, body) }).await
    }

    /// Asks in the dialect of the model, and once more in another where that is refused for it.
    async fn open_in_dialect(&self, asked: Asked<'_>) -> Result<Body, Error> {
        let Asked { question, model, stream, headers, total } = asked;
        let (mut dialect, mut lasts) = (self.dialects.of(model), true);
        let (mut tried, mut first) = (Vec::new(), None);
        loop {
            let written = question.written(dialect)?;
            match self.open(written, stream && dialect.streams, headers, total).await {
                Ok(body) => {
                    // Only what helped is remembered.
                    if lasts {
                        self.dialects.learn(model, dialect);
                    }
                    return Ok(body);
                }
                Err(error) => {
                    tried.push(dialect);
                    let next = dialect.after(&error, stream);
                    let is_new = |next: Dialect| !tried.contains(&next) && question.changes(next, dialect);
                    let Some((next, next_lasts)) = next.filter(|(next, _)| is_new(*next)) else {
                        // What was refused of our own making says nothing to the caller.
                        return Err(first.filter(|first: &Error| first.kind == error.kind).unwrap_or(error));
                    };
                    first.get_or_insert(error);
                    (dialect, lasts) = (next, lasts && next_lasts);
                    mending::tell(Mending::ParameterChanged, &self.transport.settings().name, 1);
                }
            }
        }
    }

    async fn list(&self) -> Result<Vec<Model>, Error> {
        let mut body = self.transport.open(Call::get(&["models"])).await?;
        decoding::whole(&self.transport, &mut body, |bytes| models::list(&bytes)).await
    }
}

impl Provider for OpenAi {
    fn ask<'a>(&'a self, prompt: &'a Prompt) -> Exchange<'a, Deltas> {
        Box::pin(async {
            let (question, model) = (Question::Meant(prompt), prompt.model.as_deref());
            let asked = Asked { question, model, stream: true, headers: &[], total: prompt.total };
            let body = self.open_in_dialect(asked).await?;
            let decoder = Chunks::new(1, self.transport.line_bytes());
            Ok(decode(Rc::clone(&self.transport), body, decoder))
        })
    }

    fn passthrough(&self) -> Option<&dyn Passthrough> {
        Some(self)
    }

    fn models(&self) -> Option<Exchange<'_, Vec<Model>>> {
        Some(Box::pin(self.list()))
    }

    fn probe(&self) -> Exchange<'_, ()> {
        Box::pin(async {
            match self.list().await {
                // Where the models are set, nobody asks for the list.
                Err(error)
                    if error.kind.lists_no_models() && !self.transport.settings().models.is_empty() =>
                {
                    Ok(())
                }
                outcome => outcome.map(drop),
            }
        })
    }
}

impl Passthrough for OpenAi {
    fn complete(&self, request: Verbatim) -> LocalBoxFuture<'_, Result<Deltas, Error>> {
        Box::pin(async move {
            let Verbatim { body, model, stream, choices, headers } = request;
            let (question, model) = (Question::Verbatim(&body), model.as_deref());
            let asked = Asked { question, model, stream, headers: &headers, total: None };
            let mut body = self.open_in_dialect(asked).await?;
            if stream {
                let decoder = Chunks::new(choices, self.transport.line_bytes()).for_wire();
                return Ok(decode(Rc::clone(&self.transport), body, decoder));
            }
            let mut mendings = Mendings::default();
            let whole = decoding::whole(&self.transport, &mut body, |bytes| match first_byte(&bytes) {
                Some(b'{' | b'[') => whole::look(bytes, &mut mendings),
                _ => joined::joined(&bytes, choices, &mut mendings),
            });
            let whole = whole.await;
            mendings.tell(&self.transport.settings().name);
            Ok(Deltas::whole(&body, whole?))
        })
    }

    fn relay<'a>(&'a self, request: &'a relay::Request) -> LocalBoxFuture<'a, Result<Relayed, Error>> {
        Box::pin(relay::relay(&self.transport, request))
    }
}

/// What an upstream says that an answer cost; `None` without the tokens of the question.
fn usage(value: &Value) -> Option<Usage> {
    let number = |key: &str| value.get(key).and_then(tokens);
    let completion_tokens = number("completion_tokens").unwrap_or_default();
    let prompt_tokens = number("prompt_tokens")?;
    // Some send zeros with each chunk: no answer costs nothing.
    let is_told = prompt_tokens > 0 || completion_tokens > 0;
    is_told.then(|| Usage::told(prompt_tokens, completion_tokens, number("total_tokens")))
}
