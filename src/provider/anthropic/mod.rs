//! Anthropic's Messages API: messages as server-sent events or JSON, and the list of models.
//!
//! Source: <https://platform.claude.com/docs/en/api/messages>. Answers are asked for as a stream, since
//! a stream shows that the upstream is alive, and the API refuses long answers that do not stream. A
//! mirror that answers with JSON all the same is understood. The key goes into `x-api-key`; a mirror
//! that wants `Authorization` gets it by `UPSTREAM_HEADERS`. Callers of other protocols are the only
//! ones: nothing goes through in its own words.

pub(super) mod decoder;
mod message;
mod models;
mod request;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use super::decoding::{self, Deltas, decode};
use super::session::KeyHeader;
use super::transport::{Call, Transport};
use super::{Capabilities, Exchange, Protocol, Provider, Tools, base};
use crate::domain::chat::{Model, Prompt};
use crate::domain::error::Error;
use decoder::Events;

pub(super) const PROTOCOL: Protocol = Protocol {
    capabilities: Capabilities {
        noun: "an upstream of Anthropic's Messages API",
        browser_login: false,
        images: true,
        tools: Tools::Native,
        hints: &["temperature", "top_p", "max_tokens"],
        stops: true,
        forms: false,
        keeps_conversations: false,
        needs_max_tokens: true,
    },
    base_path: |path| base::versioned(path, "/messages"),
    key_header: KeyHeader::Named("x-api-key"),
    headers: &[("anthropic-version", "2023-06-01")],
    provider: |transport| Box::new(Anthropic { transport }),
};

/// The most models that one page of the list may hold.
const WHOLE_LIST: &str = "limit=1000";

/// An upstream that speaks the Messages API.
struct Anthropic {
    transport: Rc<Transport>,
}

impl Anthropic {
    async fn list(&self) -> Result<Vec<Model>, Error> {
        let call = Call { query: Some(WHOLE_LIST), ..Call::get(&["models"]) };
        let mut body = self.transport.open(call).await?;
        decoding::whole(&self.transport, &mut body, |bytes| models::list(&bytes)).await
    }
}

impl Provider for Anthropic {
    fn ask<'a>(&'a self, prompt: &'a Prompt) -> Exchange<'a, Deltas> {
        Box::pin(async {
            let accept = "text/event-stream, application/json";
            let call =
                Call { total: prompt.total, ..Call::post(&["messages"], accept, request::body(prompt)?) };
            let body = self.transport.open(call).await?;
            let decoder = Events::new(self.transport.line_bytes());
            Ok(decode(Rc::clone(&self.transport), body, decoder))
        })
    }

    fn models(&self) -> Option<Exchange<'_, Vec<Model>>> {
        Some(Box::pin(self.list()))
    }

    fn probe(&self) -> Exchange<'_, ()> {
        Box::pin(async { self.list().await.map(drop) })
    }
}
