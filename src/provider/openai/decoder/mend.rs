//! The slow way of a chunk: taken apart, and written anew where clients stumble over it.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::super::whole::CHUNK;
use super::super::{tool_calls, usage, whole};
use super::Completion;
use crate::domain::answer::{Delta, Metadata};
use crate::domain::chat::estimate_tokens;
use crate::domain::error::{Error, Kind};
use crate::provider::decoding::Fault;
use crate::telemetry::mending::Mending;

/// Where other protocols, and failures of no known form, have their words.
const ELSEWHERE: [&str; 8] =
    ["message", "candidates", "response", "delta", "content", "text", "output", "data"];

/// A chunk on its way to be mended.
struct Mend<'a> {
    /// All of it but its choices.
    chunk: &'a Map<String, Value>,
    /// What it means.
    delta: Delta,
    /// Tool calls that go on in chunks of their own.
    calls: Vec<Delta>,
    /// Whether it was changed.
    mended: bool,
}

impl Completion {
    /// Makes a chunk one that clients understand.
    pub(super) fn mend(&mut self, chunk: Value, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        Fault::check(&chunk)?;
        let Value::Object(mut chunk) = chunk else { return Err(Fault::broken(Some(self.events))) };
        let spent = chunk.get("usage").and_then(usage);
        let mut mended = false;
        if spent.is_none()
            && let Some(usage) = chunk.get_mut("usage").filter(|usage| !usage.is_null())
        {
            *usage = Value::Null;
            mended = true;
        }
        if !chunk.get("object").is_some_and(Value::is_string) {
            chunk.insert("object".into(), CHUNK.into());
            mended = true;
        }
        // One that says nothing beside words would be read as a failure.
        mended |= chunk.shift_remove("error").is_some();
        let mut choices = match chunk.insert("choices".into(), Value::Null) {
            Some(Value::Array(choices)) => choices,
            Some(choice @ Value::Object(_)) => vec![choice],
            None | Some(Value::Null) if !speaks_elsewhere(&chunk) => Vec::new(),
            _ => return Err(Fault::broken(Some(self.events))),
        };
        let text = |name: &str| chunk.get(name).and_then(Value::as_str).map(String::from);
        let names = self.names(|| (text("id"), text("model")));
        let delta = Delta::from(Metadata { names, usage: spent, ..Metadata::default() });
        let before = choices.len();
        let mut mending = Mend { chunk: &chunk, delta, calls: Vec::new(), mended };
        for (place, choice) in choices.iter_mut().enumerate() {
            if let Some(choice) =
                choice.as_object_mut().filter(|choice| !choice.get("index").is_some_and(Value::is_u64))
            {
                choice.insert("index".into(), place.into());
                mending.mended = true;
            }
        }
        let mut kept = Vec::with_capacity(choices.len());
        for mut choice in choices {
            if self.mend_choice(&mut choice, &mut mending)? {
                kept.push(choice);
            }
        }
        let mut choices = kept;
        if self.tool_calls.is_over_full() {
            let message = "the upstream's answer holds too many tool calls";
            return Err(Fault::Error(Error::new(Kind::UpstreamInvalid, message)));
        }
        let Mend { mut delta, mut calls, mended, .. } = mending;
        self.mendings.add(Mending::PieceMended, usize::from(mended));
        // Calls come after the words of their chunk, and before the end of their choice.
        if !calls.is_empty() && choices.iter().any(|choice| choice["finish_reason"].is_string()) {
            deltas.extend(words_before_the_end(&chunk, &mut choices, &mut delta));
            deltas.extend(calls.drain(..));
        }
        let says_nothing_else = choices.len() < before && choices.is_empty() && spent.is_none();
        if !says_nothing_else {
            chunk.insert("choices".into(), choices.into());
            delta.wire = Some(Value::Object(chunk).to_string().into());
            deltas.push_back(delta);
        }
        deltas.extend(calls);
        Ok(())
    }

    /// Mends one choice of a chunk; false when nothing is left of it.
    fn mend_choice(&mut self, choice: &mut Value, mending: &mut Mend<'_>) -> Result<bool, Fault> {
        let event = self.events;
        let unreadable = || Fault::broken(Some(event));
        let Some(choice) = choice.as_object_mut() else { return Err(unreadable()) };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
        let reason = choice.get("finish_reason").and_then(Value::as_str);
        let reason = reason.filter(|reason| !reason.is_empty()).map(String::from);
        let begins = !self.seen.contains(&index);
        self.note(index, reason.as_deref());
        if let (None, Some(before)) = (&reason, self.finished.get(&index)) {
            choice.insert("finish_reason".into(), before.clone().into());
            mending.mended = true;
        }
        mending.mended |= mend_delta(choice);
        let Some(said) = choice.get_mut("delta").and_then(Value::as_object_mut) else {
            return Err(unreadable());
        };
        mending.mended |= whole::mend_content(said).map_err(|whole::Unreadable| unreadable())?;
        if begins && !said.get("role").is_some_and(Value::is_string) {
            said.insert("role".into(), "assistant".into());
            mending.mended = true;
        }
        if self.first == Some(index) {
            whole::take(said, &mut mending.delta);
            if reason.is_some() {
                mending.delta.metadata.get_or_insert_default().finish = reason;
            }
        } else {
            let content = said.get("content").and_then(Value::as_str);
            mending.delta.other_tokens += content.map_or(0, estimate_tokens);
        }
        let has_calls = self.pass_calls(index, said, mending);
        let has_words = |(_, value): (&String, &Value)| {
            !value.is_null() && value.as_str().is_none_or(|text| !text.is_empty())
        };
        Ok(!has_calls
            || choice.get("finish_reason").is_some_and(Value::is_string)
            || choice["delta"].as_object().is_some_and(|delta| delta.iter().any(has_words)))
    }

    /// Takes the tool calls of a choice in, and leaves in its delta what goes on there; says whether there
    /// were any.
    fn pass_calls(&mut self, index: u64, said: &mut Map<String, Value>, mending: &mut Mend<'_>) -> bool {
        let (is_first, ended) = (self.first == Some(index), self.finished.contains_key(&index));
        let pieces = match said.shift_remove("tool_calls") {
            Some(Value::Array(pieces)) => {
                Some(self.tool_calls.take(index, pieces, mending.chunk, &mut self.mendings))
            }
            _ => None,
        };
        let has_calls = pieces.is_some();
        let mut pieces = pieces.unwrap_or_default();
        if let [piece] = pieces.as_mut_slice() {
            if is_first {
                mending.delta.tool_calls.extend(tool_calls::meaning(piece));
            } else {
                mending.delta.other_tokens += tool_calls::tokens(piece);
            }
            said.insert("tool_calls".into(), json!([piece.take()]));
        } else {
            let several = pieces.into_iter().map(|piece| self.tool_calls.chunk(index, piece, is_first));
            mending.calls.extend(several);
        }
        mending.calls.extend(self.tool_calls.release(index, ended, is_first));
        has_calls
    }
}

/// Brings what a choice says to where clients look for it: a whole message in a stream, and the text of
/// older completions. Says whether something was changed.
fn mend_delta(choice: &mut Map<String, Value>) -> bool {
    if choice.get("delta").is_some_and(Value::is_object) {
        return false;
    }
    let is_there = |value: &Value| !value.is_null();
    let said =
        ["delta", "message", "text"].iter().find_map(|place| choice.shift_remove(*place).filter(is_there));
    let delta = match said {
        Some(said @ Value::Object(_)) => said,
        Some(content) => json!({ "content": content }),
        None => json!({}),
    };
    choice.insert("delta".into(), delta);
    true
}

/// Whether an event without choices says something in a place where other protocols have their words.
fn speaks_elsewhere(event: &Map<String, Value>) -> bool {
    let says = |place: &&str| match event.get(*place) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        _ => false,
    };
    ELSEWHERE.iter().any(says)
}

/// Takes the words out of the last chunk of a choice, for a chunk of their own.
fn words_before_the_end(
    chunk: &Map<String, Value>,
    choices: &mut [Value],
    delta: &mut Delta,
) -> Option<Delta> {
    let mut words = choices.to_vec();
    words.retain(|choice| choice["delta"].as_object().is_some_and(|said| !said.is_empty()));
    if words.is_empty() {
        return None;
    }
    words.iter_mut().for_each(|choice| choice["finish_reason"] = Value::Null);
    choices.iter_mut().for_each(|choice| choice["delta"] = json!({}));
    let mut chunk = chunk.clone();
    chunk.insert("choices".into(), words.into());
    chunk.insert("usage".into(), Value::Null);
    let metadata = delta.metadata.take();
    let wire = Some(Value::Object(chunk).to_string().into());
    let said = std::mem::replace(delta, Delta { metadata, ..Delta::default() });
    Some(Delta { wire, ..said })
}
