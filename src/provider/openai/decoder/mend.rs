//! The slow way of a chunk: taken apart, and written anew where clients stumble over it.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::super::whole::CHUNK;
use super::super::{tool_calls, whole};
use super::Completion;
use crate::domain::answer::{Delta, Metadata};
use crate::domain::chat::estimate_tokens;
use crate::domain::error::{Error, Kind};
use crate::provider::content::{Unreadable, speaks};
use crate::provider::decoding::Fault;
use crate::provider::reason::finishes;
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
        let mut mended = whole::bring_usage(&mut chunk);
        let (spent, changed) = chunk.get_mut("usage").map(whole::mend_usage).unwrap_or_default();
        mended |= changed;
        if !chunk.get("object").is_some_and(Value::is_string) {
            chunk.insert("object".into(), CHUNK.into());
            mended = true;
        }
        // One that says nothing beside words would be read as a failure.
        mended |= chunk.shift_remove("error").is_some();
        let mut choices = match chunk.insert("choices".into(), Value::Null) {
            Some(Value::Array(choices)) => choices,
            Some(choice @ Value::Object(_)) => vec![choice],
            None | Some(Value::Null) if self.may_be_skipped(&chunk) => {
                self.skipped += usize::from(spent.is_none());
                Vec::new()
            }
            _ => return Err(Fault::broken(Some(self.events))),
        };
        // Many a client reads one choice of a chunk alone.
        if let Some(again) = (1..choices.len()).find(|at| is_of_one_before(&choices[..*at], &choices[*at])) {
            let mut rest = chunk.clone();
            rest.insert("choices".into(), choices.split_off(again).into());
            chunk.insert("choices".into(), choices.into());
            chunk.insert("usage".into(), Value::Null);
            self.mendings.note(Mending::PieceMended);
            self.mend(chunk.into(), deltas)?;
            return self.mend(rest.into(), deltas);
        }
        let text = |name: &str| chunk.get(name).and_then(Value::as_str).map(String::from);
        let names = self.names(|| (text("id"), text("model")));
        let delta = Delta::from(Metadata { names, usage: spent, ..Metadata::default() });
        let before = choices.len();
        let mut mending = Mend { chunk: &chunk, delta, calls: Vec::new(), mended };
        mending.mended |= number(&mut choices);
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

    /// Whether an event without choices has no words of the answer: it has none at all, or it only shows that
    /// the upstream is there, or the answer has ended.
    fn may_be_skipped(&self, event: &Map<String, Value>) -> bool {
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        !speaks(event) || self.all_have_ended() || ["ping", "heartbeat", "keepalive"].contains(&kind)
    }

    /// Mends one choice of a chunk; false when nothing is left of it.
    fn mend_choice(&mut self, choice: &mut Value, mending: &mut Mend<'_>) -> Result<bool, Fault> {
        let event = self.events;
        let unreadable = || Fault::broken(Some(event));
        let Some(choice) = choice.as_object_mut() else { return Err(unreadable()) };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
        let begins = !self.seen.contains(&index);
        let reason = self.mend_reason(index, choice, mending);
        let brought = whole::bring(choice, "delta");
        let Some(said) = choice.get_mut("delta").and_then(Value::as_object_mut) else {
            return Err(unreadable());
        };
        mending.mended |= brought.is_some();
        mending.mended |= whole::mend_content(said).map_err(|Unreadable| unreadable())?;
        let is_first = self.first == Some(index);
        if brought == Some("message") && is_first {
            let is_completion = mending.chunk["object"] == "chat.completion";
            self.leave_out_what_was_said(said, reason.is_some(), is_completion);
        }
        mending.mended |= self.show_images(said, is_first, reason.is_some());
        self.overtaken &= reason.is_none();
        if begins && !said.get("role").is_some_and(Value::is_string) {
            said.insert("role".into(), "assistant".into());
            mending.mended = true;
        }
        if is_first {
            whole::take(said, &mut mending.delta, self.spoke);
            if reason.is_some() {
                mending.delta.metadata.get_or_insert_default().finish = reason;
            }
        } else {
            let content = said.get("content").and_then(Value::as_str);
            mending.delta.other_tokens += content.map_or(0, estimate_tokens);
        }
        let has_calls = self.pass_calls(index, said, mending).map_err(|Unreadable| unreadable())?;
        let says_more = choice["delta"].as_object().is_some_and(|delta| delta.values().any(whole::is_given));
        Ok(!has_calls || choice.get("finish_reason").is_some_and(Value::is_string) || says_more)
    }

    /// Takes in why a choice ends, if it does, and says it again where it was said before.
    fn mend_reason(
        &mut self,
        index: u64,
        choice: &mut Map<String, Value>,
        mending: &mut Mend<'_>,
    ) -> Option<String> {
        let told = choice.get("finish_reason").map(|told| told.get("type").unwrap_or(told));
        let told = told.and_then(Value::as_str);
        let reason = told.filter(|reason| finishes(reason)).map(String::from);
        let was_none = reason.is_none() && told.is_some_and(|told| !told.is_empty());
        self.note(index, reason.as_deref());
        let before = self.finished.get(&index).filter(|_| reason.is_none());
        if before.is_some() || was_none || choice.get("finish_reason").is_some_and(Value::is_object) {
            choice.insert("finish_reason".into(), before.cloned().or_else(|| reason.clone()).into());
            mending.mended = true;
        }
        reason
    }

    /// Leaves out of a message, be it a whole one, what pieces of it said before. What they said stands where it
    /// says surely the same in other words.
    fn leave_out_what_was_said(&mut self, message: &mut Map<String, Value>, ends: bool, is_completion: bool) {
        let Some(content) = message.get("content").and_then(Value::as_str) else { return };
        let is_otherwise = || {
            let is_all = ends && is_completion && self.said.len() > 0 && 2 * content.len() >= self.said.len();
            is_all.then_some("")
        };
        if let Some(news) = self.said.news(content, ends || is_completion).or_else(is_otherwise) {
            let news = Value::from(news);
            message.insert("content".into(), news);
            // The thoughts come before the words.
            message.shift_remove("reasoning_content");
            message.shift_remove("reasoning");
        }
    }

    /// Notes what a choice says, and shows its images by their addresses where it ends without words.
    fn show_images(&mut self, said: &mut Map<String, Value>, is_first: bool, ends: bool) -> bool {
        for words in ["content", "refusal"].iter().filter_map(|key| said.get(*key)?.as_str()) {
            self.hear(words, is_first);
        }
        self.acts |= said.iter().any(|(key, value)| key != "role" && whole::says(value));
        if !self.spoke {
            self.images.extend(whole::images(said));
        }
        let shows = ends && !self.spoke && !self.images.is_empty();
        if shows {
            said.insert("content".into(), std::mem::take(&mut self.images).join("\n").into());
            self.spoke = true;
        }
        shows
    }

    /// Takes the tool calls of a choice in, and leaves in its delta what goes on there; says whether there
    /// were any.
    fn pass_calls(
        &mut self,
        index: u64,
        said: &mut Map<String, Value>,
        mending: &mut Mend<'_>,
    ) -> Result<bool, Unreadable> {
        let (is_first, ended) = (self.first == Some(index), self.finished.contains_key(&index));
        let pieces = said.shift_remove("tool_calls").filter(|pieces| !pieces.is_null());
        let has_calls = pieces.is_some();
        let mut pieces = match pieces {
            Some(pieces) => self.tool_calls.take(index, pieces, mending.chunk, &mut self.mendings)?,
            None => Vec::new(),
        };
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
        Ok(has_calls)
    }
}

/// Numbers the choices that have no index, by their places; says whether there were any.
fn number(choices: &mut [Value]) -> bool {
    let mut numbered = false;
    for (place, choice) in choices.iter_mut().enumerate() {
        if let Some(choice) =
            choice.as_object_mut().filter(|choice| !choice.get("index").is_some_and(Value::is_u64))
        {
            choice.insert("index".into(), place.into());
            numbered = true;
        }
    }
    numbered
}

/// Whether a choice has the index of one of those before it.
fn is_of_one_before(before: &[Value], choice: &Value) -> bool {
    choice["index"].is_u64() && before.iter().any(|other| other["index"] == choice["index"])
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
