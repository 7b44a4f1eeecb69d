//! Tool calls on their way through: joined from their pieces, and sent in one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::whole;
use crate::domain::answer::{Delta, ToolCallDelta};
use crate::domain::chat::estimate_tokens;
use crate::provider::decoding::new_call_id;

/// How many calls are held of one answer. Nobody offers so many tools, and each piece is looked up among
/// the calls before it.
const MAX_CALLS: usize = 1024;

/// A tool call, joined from its pieces.
struct HeldCall {
    choice: u64,
    index: u64,
    call: Map<String, Value>,
    name: String,
    arguments: String,
}

/// Tool calls that are still being written, in the order in which they began.
#[derive(Default)]
pub struct Held {
    calls: Vec<HeldCall>,
    /// What their chunk says beside them.
    head: Map<String, Value>,
    /// How many calls of each choice have gone on.
    released: BTreeMap<u64, usize>,
}

impl Held {
    /// Whether calls of this choice are held.
    pub fn holds(&self, choice: u64) -> bool {
        self.calls.iter().any(|call| call.choice == choice)
    }

    /// Whether there are more calls than an answer may hold. Those beyond were left out.
    pub fn is_over_full(&self) -> bool {
        self.calls.len() > MAX_CALLS
    }

    /// Takes in the pieces that a choice of this chunk holds.
    pub fn join(&mut self, choice: u64, pieces: Vec<Value>, chunk: &Map<String, Value>) {
        if self.calls.is_empty() {
            self.head = chunk.clone();
            self.head.insert("usage".into(), Value::Null);
        }
        for (place, piece) in pieces.into_iter().enumerate() {
            if let Value::Object(piece) = piece
                && !self.is_over_full()
            {
                self.add(choice, place, piece);
            }
        }
    }

    /// Adds a piece to its tool call: by the index and the id, as far as they are told, else to the latest.
    fn add(&mut self, choice: u64, place: usize, mut piece: Map<String, Value>) {
        let id = piece.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(String::from);
        let mut function = match piece.shift_remove("function") {
            Some(Value::Object(function)) => function,
            _ => Map::new(),
        };
        let mut text = |key: &str| function.shift_remove(key).map(whole::as_text).unwrap_or_default();
        let (name, arguments) = (text("name"), text("arguments"));
        let of_choice = |call: &&mut HeldCall| call.choice == choice;
        let of_id = |call: &HeldCall| id.as_ref().is_none_or(|id| call.call["id"].as_str() == Some(id));
        let found = match piece.get("index").and_then(Value::as_u64) {
            // Some give all calls the same index: then the id tells them apart.
            Some(index) => {
                self.calls.iter_mut().filter(of_choice).rfind(|call| call.index == index && of_id(call))
            }
            None => self.calls.iter_mut().filter(of_choice).rfind(|call| of_id(call)),
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
                self.calls.push(HeldCall { choice, index, call: piece, name, arguments });
            }
        }
    }

    /// The tool calls of the choices that have ended, for a chunk before the one that ends them.
    pub fn release(&mut self, has_ended: impl Fn(u64) -> bool) -> Option<Delta> {
        let (mut ended, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.calls).into_iter().partition(|call| has_ended(call.choice));
        self.calls = held;
        ended.sort_by_key(|call| (call.choice, call.index));
        let first = ended.first()?.choice;
        let mut delta = Delta::default();
        let mut choices: Vec<Value> = Vec::new();
        for HeldCall { choice, mut call, name, arguments, .. } in ended {
            if choices.last().is_none_or(|last| last["index"] != choice) {
                choices
                    .push(json!({ "index": choice, "delta": { "tool_calls": [] }, "finish_reason": null }));
            }
            let calls = choices.last_mut().and_then(|last| last["delta"]["tool_calls"].as_array_mut());
            let calls = calls.expect("a choice with calls was just put there");
            let released = self.released.entry(choice).or_default();
            call.insert("index".into(), (*released).into());
            call.insert("function".into(), json!({ "name": name, "arguments": arguments }));
            if choice == first {
                let id = call["id"].as_str().map(String::from);
                delta.tool_calls.push(ToolCallDelta { index: *released, id, name: Some(name), arguments });
            } else {
                delta.other_tokens += estimate_tokens(&name) + estimate_tokens(&arguments);
            }
            calls.push(call.into());
            *released += 1;
        }
        let mut chunk = self.head.clone();
        chunk.insert("choices".into(), choices.into());
        delta.wire = Some(Value::Object(chunk).to_string().into());
        Some(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_calls_than_an_answer_may_hold_are_not_kept() {
        let mut held = Held::default();
        held.join(0, (0..MAX_CALLS).map(|index| json!({ "index": index })).collect(), &Map::new());
        assert!(!held.is_over_full());
        held.join(0, vec![json!({ "index": 0 }); 5], &Map::new());
        assert!(!held.is_over_full());
        held.join(0, vec![json!({}), json!({ "id": "b" }), json!({ "id": "c" })], &Map::new());
        assert!(held.is_over_full());
        assert_eq!(held.calls.len(), MAX_CALLS + 1);
    }
}
