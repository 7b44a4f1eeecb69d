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
    let mut decoder = Chunks::new(choices, usize::MAX).for_wire();
    let (deltas, end) = read(&mut decoder, &[bytes]);
    *mendings = decoder.mended();
    mendings.note(Mending::FormChanged);
    end?;
    let usage = deltas.iter().filter_map(Delta::usage).next_back();
    let other_tokens = deltas.iter().map(Delta::tokens).sum();
    let mut whole = Map::new();
    let mut messages: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for wire in deltas.iter().filter_map(|delta| delta.wire.as_ref()) {
        let Ok(Value::Object(mut chunk)) = serde_json::from_slice(wire) else { continue };
        let Some(Value::Array(choices)) = chunk.shift_remove("choices") else { continue };
        for choice in choices {
            let Value::Object(choice) = choice else { continue };
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
            let joined = messages.entry(index).or_default();
            choice.into_iter().for_each(|(key, value)| add(joined, key, value));
        }
        chunk.into_iter().filter(|(_, value)| !value.is_null()).for_each(|(key, value)| {
            whole.insert(key, value);
        });
    }
    whole.insert("object".into(), "chat.completion".into());
    let choices = messages.into_values().map(|mut choice| {
        let mut message = choice.shift_remove("delta").unwrap_or_else(|| json!({}));
        message.as_object_mut().map(|message| message.entry("content").or_insert(Value::Null));
        choice.insert("message".into(), message);
        Value::from(choice)
    });
    whole.insert("choices".into(), choices.collect());
    let wire = Some(Value::Object(whole).to_string().into());
    Ok(Delta { other_tokens, wire, ..Delta::costing(usage) })
}

/// Texts that name something, and are said once more where they come again.
const NAMES: [&str; 5] = ["role", "id", "type", "format", "finish_reason"];

/// Adds a field of a piece to the whole: texts, lists and objects go on, all else is replaced.
fn add(message: &mut Map<String, Value>, key: String, value: Value) {
    match (message.get_mut(&key), value) {
        (Some(Value::String(text)), Value::String(more)) if !NAMES.contains(&key.as_str()) => {
            text.push_str(&more);
        }
        (Some(Value::Array(calls)), Value::Array(more)) if key == "tool_calls" => {
            more.into_iter().for_each(|piece| add_call(calls, piece));
        }
        (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
        (Some(Value::Object(fields)), Value::Object(more)) => {
            more.into_iter().for_each(|(key, value)| add(fields, key, value));
        }
        (Some(_), Value::Null) => {}
        (_, value) => {
            message.insert(key, value);
        }
    }
}

/// Adds a piece to its tool call. The decoder has put the pieces in order: each has its call's index.
fn add_call(calls: &mut Vec<Value>, piece: Value) {
    let call = calls.iter_mut().find(|call| call["index"] == piece["index"]);
    match (call.and_then(Value::as_object_mut), piece) {
        (Some(call), Value::Object(piece)) => {
            piece.into_iter().for_each(|(key, value)| add(call, key, value))
        }
        (_, piece) => calls.push(piece),
    }
}
