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
        let mut choices = match chunk.insert("choices".into(), Value::Null) {
            Some(Value::Array(choices)) => choices,
            _ => Vec::new(),
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
        choices.retain_mut(|choice| self.mend_choice(choice, &mut mending));
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
    fn mend_choice(&mut self, choice: &mut Value, mending: &mut Mend<'_>) -> bool {
        let Some(choice) = choice.as_object_mut() else { return true };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
        let reason = choice.get("finish_reason").and_then(Value::as_str);
        let reason = reason.filter(|reason| !reason.is_empty()).map(String::from);
        let begins = !self.seen.contains(&index);
        self.note(index, reason.as_deref());
        if let (None, Some(before)) = (&reason, self.finished.get(&index)) {
            choice.insert("finish_reason".into(), before.clone().into());
            mending.mended = true;
        }
        if !choice.get("delta").is_some_and(Value::is_object) {
            choice.insert("delta".into(), json!({}));
            mending.mended = true;
        }
        let Some(said) = choice.get_mut("delta").and_then(Value::as_object_mut) else { return true };
        if begins && !said.get("role").is_some_and(Value::is_string) {
            said.insert("role".into(), "assistant".into());
            mending.mended = true;
        }
        if self.first == Some(index) {
            mending.mended |= whole::take(said, &mut mending.delta);
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
        !has_calls
            || choice.get("finish_reason").is_some_and(Value::is_string)
            || choice["delta"].as_object().is_some_and(|delta| delta.iter().any(has_words))
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
