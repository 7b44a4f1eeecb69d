//! Answers written in OpenAI's words, where the upstream speaks others.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/object>.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::web::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value, json};

use crate::domain::chat::{Answer, Event, Usage};
use crate::domain::error::{Error, Kind};

/// The event that ends a complete stream.
pub const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// One event of a stream.
pub fn event(data: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(data.len() + 8);
    event.put_slice(b"data: ");
    event.put_slice(data);
    event.put_slice(b"\n\n");
    event.freeze()
}

/// A whole completion.
pub fn whole(answer: &Answer) -> Vec<u8> {
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    message.insert("content".into(), answer.text.clone().into());
    if !answer.thinking.is_empty() {
        message.insert("reasoning_content".into(), answer.thinking.clone().into());
    }
    let choice = json!({
        "index": 0,
        "message": message,
        "logprobs": null,
        "finish_reason": answer.finish_reason.as_deref().unwrap_or("stop"),
    });
    let body = json!({
        "id": new_id(),
        "object": "chat.completion",
        "created": now(),
        "model": answer.model.as_deref().unwrap_or_default(),
        "choices": [choice],
        "usage": answer.usage.map(usage),
    });
    body.to_string().into_bytes()
}

/// Writes the chunks of one stream.
pub struct Writer {
    id: String,
    created: u64,
    model: String,
    begun: bool,
    said: String,
    /// Whether a piece could not be read.
    has_gap: bool,
    /// Whether what was said lacks what that piece held: the upstream may also settle its answer in
    /// other words, as when it takes its marks for sources out.
    lacks_words: bool,
}

impl Writer {
    /// A writer of an answer by this model.
    pub fn new(model: Option<&str>) -> Self {
        let model = model.unwrap_or_default().to_string();
        Writer {
            id: new_id(),
            created: now(),
            model,
            begun: false,
            said: String::new(),
            has_gap: false,
            lacks_words: false,
        }
    }

    /// The answer as the reader of the stream has it.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// The event for one step of the answer, if it shows.
    pub fn step(&mut self, step: &Event) -> Option<Bytes> {
        let text = match step {
            Event::Thinking(text) => return Some(self.delta("reasoning_content", text)),
            Event::Text(text) => text.as_str(),
            Event::Gap => {
                self.has_gap = true;
                return None;
            }
            // What was sent stands; only what the pieces left out can be added.
            Event::WholeText(whole) => match whole.strip_prefix(&self.said) {
                Some(rest) => rest,
                None => {
                    self.lacks_words = self.has_gap;
                    return None;
                }
            },
            Event::ResponseId(_)
            | Event::Model(_)
            | Event::ConversationId(_)
            | Event::Finish(_)
            | Event::Usage(_) => return None,
        };
        if text.is_empty() {
            return None;
        }
        self.said.push_str(text);
        Some(self.delta("content", text))
    }

    /// The last events: why it ended, what it cost if that is asked for, and the mark of the end.
    ///
    /// # Errors
    /// When words are missing in what the reader was told.
    pub fn end(&mut self, answer: &Answer, include_usage: bool) -> Result<Bytes, Error> {
        if self.lacks_words {
            return Err(Error::new(Kind::UpstreamInvalid, "a part of the upstream's stream is broken")
                .hinted("try again; if it stays, look into the mirror's own log"));
        }
        let reason = answer.finish_reason.as_deref().unwrap_or("stop");
        let mut delta = Map::new();
        self.role(&mut delta);
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        let mut events = BytesMut::from(self.chunk(json!([choice]), None));
        if include_usage {
            events.put(self.chunk(json!([]), answer.usage));
        }
        events.put(DONE);
        Ok(events.freeze())
    }

    fn delta(&mut self, key: &str, text: &str) -> Bytes {
        let mut delta = Map::new();
        self.role(&mut delta);
        delta.insert(key.into(), text.into());
        self.chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]), None)
    }

    /// Who speaks is said once, in the first chunk.
    fn role(&mut self, delta: &mut Map<String, Value>) {
        if !std::mem::replace(&mut self.begun, true) {
            delta.insert("role".into(), "assistant".into());
        }
    }

    fn chunk(&self, choices: Value, spent: Option<Usage>) -> Bytes {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(spent) = spent {
            chunk["usage"] = usage(spent);
        }
        event(chunk.to_string().as_bytes())
    }
}

fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "estimated": usage.estimated,
    })
}

fn new_id() -> String {
    format!("chatcmpl-{}", uuid::Uuid::new_v4().simple())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
