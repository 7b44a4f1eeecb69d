//! A mirror's web chat: one JSON object a line, behind a login cookie.
//!
//! A new conversation is a POST to `rest/app-chat/conversations/new`; later turns go to
//! `rest/app-chat/conversations/{id}/responses` with the id of the response they follow. After
//! `new` the answer's fields stand under `result.response`, after `responses` directly under
//! `result`: both are understood in either place.

mod code;
pub(super) mod decoder;
mod frames;
mod line;
mod markup;
mod request;
mod text;

use std::rc::Rc;

use serde_json::{Map, Value};

use super::decoding::{Deltas, decode, first_byte};
use super::session::KeyHeader;
use super::transport::{Call, Transport};
use super::{Capabilities, Exchange, Protocol, Provider, Tools};
use crate::domain::chat::Prompt;
use crate::domain::error::{Error, Kind};
use decoder::Answer;
use request::Request;

pub(super) const PROTOCOL: Protocol = Protocol {
    capabilities: Capabilities {
        noun: "a web chat",
        browser_login: true,
        images: false,
        tools: Tools::Emulated,
        hints: &[],
        stops: false,
        forms: false,
        keeps_conversations: true,
        needs_max_tokens: false,
    },
    base_path: |path| path.split("/rest/app-chat").next().unwrap_or_default().to_string(),
    key_header: KeyHeader::Bearer,
    headers: &[],
    provider: |transport| Box::new(WebChat::new(transport)),
};

const CONVERSATIONS: [&str; 3] = ["rest", "app-chat", "conversations"];

/// A mirror's web chat.
struct WebChat {
    transport: Rc<Transport>,
    /// `UPSTREAM_BODY`
    switches: Map<String, Value>,
}

impl WebChat {
    fn new(transport: Rc<Transport>) -> Self {
        let switches = transport.settings().body.clone();
        WebChat { transport, switches }
    }
}

impl Provider for WebChat {
    fn ask<'a>(&'a self, prompt: &'a Prompt) -> Exchange<'a, Deltas> {
        Box::pin(async {
            let mut path = CONVERSATIONS.to_vec();
            match &prompt.thread {
                None => path.push("new"),
                Some(thread) => path.extend([thread.conversation.as_str(), "responses"]),
            }
            let body = serde_json::to_vec(&Request::new(prompt, &self.switches))
                .map_err(|_| Error::new(Kind::Internal, "the request for the upstream cannot be written"))?;
            let call = Call {
                in_conversation: prompt.thread.is_some(),
                total: prompt.total,
                ..Call::post(&path, "application/x-ndjson, application/json, */*", body)
            };
            let body = self.transport.open(call).await?;
            Ok(decode(Rc::clone(&self.transport), body, Answer::new(self.transport.line_bytes())))
        })
    }

    /// Asks for the list of conversations, which costs nothing and needs the login. A mirror
    /// without that list is reachable all the same.
    fn probe(&self) -> Exchange<'_, ()> {
        Box::pin(async {
            match self.transport.open(Call::get(&CONVERSATIONS)).await {
                Ok(mut body) => {
                    let begun = body.peek().await.unwrap_or_default();
                    if first_byte(&begun) == Some(b'<') {
                        let error = self.transport.page(&body, &begun);
                        self.transport.learn(body.place, Err(&error));
                        return Err(error);
                    }
                    self.transport.learn(body.place, Ok(()));
                    body.drain();
                    Ok(())
                }
                Err(error) => match error.kind {
                    Kind::UpstreamNotFound | Kind::UpstreamRejected | Kind::UpstreamEmpty => Ok(()),
                    _ => Err(error),
                },
            }
        })
    }
}
