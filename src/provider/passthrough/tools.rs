//! Tool calls on their way through: joined from their pieces, and sent in one.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::{Chunk, Chunks};
use crate::domain::chat::estimate_tokens;

/// A tool call, joined from its pieces.
pub struct ToolCall {
    pub choice: u64,
    index: u64,
    call: Map<String, Value>,
    name: String,
    arguments: String,
}

impl Chunks {
    /// Adds a piece to its tool call: by the index, else by the id, else to the latest.
    pub(super) fn join(&mut self, choice: u64, place: usize, mut piece: Map<String, Value>) {
        let id = piece.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(String::from);
        let mut function = match piece.shift_remove("function") {
            Some(Value::Object(function)) => function,
            _ => Map::new(),
        };
        let mut text = |key: &str| match function.shift_remove(key) {
            Some(Value::String(text)) => text,
            Some(Value::Null) | None => String::new(),
            // Some mirrors give the arguments as the object that they describe.
            Some(value) => value.to_string(),
        };
        let (name, arguments) = (text("name"), text("arguments"));
        let of_choice = |call: &&mut ToolCall| call.choice == choice;
        let found = match (piece.get("index").and_then(Value::as_u64), &id) {
            (Some(index), _) => self.calls.iter_mut().filter(of_choice).find(|call| call.index == index),
            (None, Some(id)) => {
                self.calls.iter_mut().filter(of_choice).find(|call| call.call["id"].as_str() == Some(id))
            }
            (None, None) => self.calls.iter_mut().rfind(|call| call.choice == choice),
        };
        match found {
            Some(call) => {
                call.arguments.push_str(&arguments);
                if call.name.is_empty() {
                    call.name = name;
                }
            }
            None => {
                let index = piece.get("index").and_then(Value::as_u64).unwrap_or(place as u64);
                piece.insert("id".into(), id.unwrap_or_else(new_call_id).into());
                piece.insert("type".into(), "function".into());
                self.calls.push(ToolCall { choice, index, call: piece, name, arguments });
            }
        }
    }

    /// Sends the tool calls that are complete, in a chunk before the one that ends their choice.
    pub(super) fn release(&mut self, is_complete: impl Fn(&ToolCall) -> bool, pieces: &mut VecDeque<Chunk>) {
        let mut complete = Vec::new();
        let mut index = 0;
        while index < self.calls.len() {
            if is_complete(&self.calls[index]) { complete.push(self.calls.remove(index)) } else { index += 1 }
        }
        complete.sort_by_key(|call| (call.choice, call.index));
        let mut choices: Vec<Value> = Vec::new();
        let mut tokens = 0;
        for ToolCall { choice, mut call, name, arguments, .. } in complete {
            tokens += estimate_tokens(&name) + estimate_tokens(&arguments);
            if choices.last().is_none_or(|last| last["index"] != choice) {
                choices
                    .push(json!({ "index": choice, "delta": { "tool_calls": [] }, "finish_reason": null }));
            }
            let calls = choices.last_mut().and_then(|last| last["delta"]["tool_calls"].as_array_mut());
            let calls = calls.expect("a choice with calls was just put there");
            call.insert("index".into(), calls.len().into());
            call.insert("function".into(), json!({ "name": name, "arguments": arguments }));
            calls.push(call.into());
        }
        if !choices.is_empty() {
            let mut chunk = self.calls_head.clone();
            chunk.insert("choices".into(), choices.into());
            pieces.push_back(Chunk { data: Value::Object(chunk).to_string().into(), usage: None, tokens });
        }
    }
}

fn new_call_id() -> String {
    format!("call_{}", uuid::Uuid::new_v4().simple())
}
