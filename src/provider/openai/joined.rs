//! A stream that came where a whole completion was asked for.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::decoder::Chunks;
use crate::domain::answer::Delta;
use crate::provider::decoding::{Decoder, Fault, read};
use crate::telemetry::mending::{Mending, Mendings};

/// A stream, all of which is here, as the whole completion that was asked for.
pub fn joined(bytes: &[u8], choices: usize, mendings: &mut Mendings) -> Result<Delta, Fault> {
    // Its length is bounded already, and so are its lines.
    let mut decoder = Chunks::new(choices, usize::MAX);
    let (deltas, end) = read(&mut decoder, &[bytes]);
    *mendings = decoder.mended();
    mendings.note(Mending::FormChanged);
    end?;
    let usage = deltas.iter().filter_map(Delta::usage).next_back();
    let other_tokens = deltas.iter().map(Delta::tokens).sum();
    let mut whole = Map::new();
    let mut messages: BTreeMap<u64, (Map<String, Value>, Value)> = BTreeMap::new();
    for wire in deltas.iter().filter_map(|delta| delta.wire.as_ref()) {
        let Ok(Value::Object(mut chunk)) = serde_json::from_slice(wire) else { continue };
        let Some(Value::Array(choices)) = chunk.shift_remove("choices") else { continue };
        for mut choice in choices {
            let (message, reason) = messages.entry(choice["index"].as_u64().unwrap_or_default()).or_default();
            if choice["finish_reason"].is_string() {
                *reason = choice["finish_reason"].take();
            }
            if let Value::Object(delta) = choice["delta"].take() {
                delta.into_iter().for_each(|(key, value)| add(message, key, value));
            }
        }
        chunk.into_iter().filter(|(_, value)| !value.is_null()).for_each(|(key, value)| {
            whole.insert(key, value);
        });
    }
    whole.insert("object".into(), "chat.completion".into());
    let choices = messages.into_iter().map(|(index, (mut message, reason))| {
        message.entry("content").or_insert(Value::Null);
        json!({ "index": index, "message": message, "finish_reason": reason })
    });
    whole.insert("choices".into(), choices.collect());
    let wire = Some(Value::Object(whole).to_string().into());
    Ok(Delta { other_tokens, wire, ..Delta::costing(usage) })
}

/// Adds a field of a delta to a message: texts and lists go on, all else is replaced.
fn add(message: &mut Map<String, Value>, key: String, value: Value) {
    match (message.get_mut(&key), value) {
        (Some(Value::String(text)), Value::String(more)) if key != "role" => text.push_str(&more),
        (Some(Value::Array(calls)), Value::Array(more)) if key == "tool_calls" => {
            more.into_iter().for_each(|piece| add_call(calls, piece));
        }
        (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
        (Some(_), Value::Null) => {}
        (_, value) => {
            message.insert(key, value);
        }
    }
}

/// Adds a piece to its tool call. The decoder has put the pieces in order: each has its call's index.
fn add_call(calls: &mut Vec<Value>, mut piece: Value) {
    let Some(call) = calls.iter_mut().find(|call| call["index"] == piece["index"]) else {
        return calls.push(piece);
    };
    let more = piece["function"]["arguments"].take();
    if let (Value::String(arguments), Value::String(more)) = (&mut call["function"]["arguments"], more) {
        arguments.push_str(&more);
    }
}
