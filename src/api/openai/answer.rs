//! Answers written in OpenAI's words, where the upstream speaks others.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/object>.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::web::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value, json};

use crate::domain::answer::{Answer, Delta, ToolCallDelta};
use crate::domain::chat::{ToolCall, Usage};

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
    let says_nothing = answer.text.is_empty() && !answer.tool_calls.is_empty();
    let content = if says_nothing { Value::Null } else { answer.text.clone().into() };
    message.insert("content".into(), content);
    if !answer.reasoning.is_empty() {
        message.insert("reasoning_content".into(), answer.reasoning.clone().into());
    }
    if !answer.tool_calls.is_empty() {
        let call = |call: &ToolCall| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        };
        message.insert("tool_calls".into(), answer.tool_calls.iter().map(call).collect());
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
        "model": answer.names.model.as_deref().unwrap_or_default(),
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
}

impl Writer {
    /// A writer of an answer by this model.
    pub fn new(model: Option<&str>) -> Self {
        let model = model.unwrap_or_default().to_string();
        Writer { id: new_id(), created: now(), model, begun: false }
    }

    /// The event for one piece of the answer, if it shows.
    pub fn step(&mut self, piece: &Delta) -> Option<Bytes> {
        let Delta { text, reasoning, tool_calls, .. } = piece;
        if text.is_empty() && reasoning.is_empty() && tool_calls.is_empty() {
            return None;
        }
        let mut delta = Map::new();
        self.role(&mut delta);
        if !reasoning.is_empty() {
            delta.insert("reasoning_content".into(), reasoning.as_str().into());
        }
        if !text.is_empty() {
            delta.insert("content".into(), text.as_str().into());
        }
        if !tool_calls.is_empty() {
            delta.insert("tool_calls".into(), tool_calls.iter().map(tool_call).collect());
        }
        Some(self.chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]), None))
    }

    /// The last events: why it ended, what it cost if that is asked for, and the mark of the end.
    pub fn end(&mut self, answer: &Answer, include_usage: bool) -> Bytes {
        let reason = answer.finish_reason.as_deref().unwrap_or("stop");
        let mut delta = Map::new();
        self.role(&mut delta);
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        let mut events = BytesMut::from(self.chunk(json!([choice]), None));
        if include_usage {
            events.put(self.chunk(json!([]), answer.usage));
        }
        events.put(DONE);
        events.freeze()
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

/// A tool call, or a piece of one. What names it stands in its first piece alone: OpenAI's own library
/// joins an id that comes twice to one of double length.
fn tool_call(piece: &ToolCallDelta) -> Value {
    let mut call = Map::new();
    call.insert("index".into(), piece.index.into());
    let mut function = Map::new();
    if let Some(id) = &piece.id {
        call.insert("id".into(), id.clone().into());
        call.insert("type".into(), "function".into());
    }
    function.extend(piece.name.clone().map(|name| ("name".into(), name.into())));
    function.insert("arguments".into(), piece.arguments.clone().into());
    call.insert("function".into(), function.into());
    call.into()
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
