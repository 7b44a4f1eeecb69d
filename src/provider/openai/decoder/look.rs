//! The fast way of a chunk: looked at without being taken apart, and passed on as it is.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::super::whole;
use super::Completion;
use crate::domain::answer::{Delta, Metadata};
use crate::domain::chat::estimate_tokens;
use crate::provider::reason::{breaks_off, finishes};
use crate::provider::template::text;

/// What matters in a chunk.
pub(super) type Seen<'a> = whole::Envelope<'a, SeenChoice<'a>>;

#[derive(Deserialize)]
pub(super) struct SeenChoice<'a> {
    index: Option<u64>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<SeenDelta<'a>>,
    /// Where else words may stand, a failure, or what it cost.
    #[serde(alias = "message", alias = "text", alias = "usage")]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct SeenDelta<'a> {
    role: Option<IgnoredAny>,
    #[serde(alias = "images", alias = "audio", alias = "function_call")]
    error: Option<IgnoredAny>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    refusal: Option<IgnoredAny>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// Which words a chunk says.
#[derive(Clone, Copy)]
pub(super) enum Words {
    Answer,
    Reasoning,
}

impl<'a> Seen<'a> {
    /// The words of a chunk that says one thing and ends nothing.
    pub(super) fn words(&self, first: Option<u64>) -> Option<(&'a RawValue, Words)> {
        let [SeenChoice { index, finish_reason: None, delta: Some(delta), .. }] = self.choices.as_deref()?
        else {
            return None;
        };
        // Words of another choice would be taken for the answer's.
        if first.is_some() && *index != first {
            return None;
        }
        match (delta.content, delta.reasoning_content.or(delta.reasoning)) {
            _ if self.usage.is_some() => None,
            (Some(words), None) => Some((words, Words::Answer)),
            (None, Some(words)) => Some((words, Words::Reasoning)),
            _ => None,
        }
    }
}

impl SeenDelta<'_> {
    /// Whether all that it says is plain text.
    fn is_plain(&self) -> bool {
        let is_text = |words: Option<&RawValue>| words.is_none_or(|words| words.get().starts_with('"'));
        is_text(self.content)
            && is_text(self.reasoning_content)
            && (is_text(self.reasoning) || self.reasoning_content.is_some())
            && self.refusal.is_none()
            && self.error.is_none()
            && self.tool_calls.is_none()
    }
}

impl Completion {
    /// Takes in a chunk that can go on as it is; `None` for one that must be looked at more closely.
    pub(super) fn look(&mut self, seen: Seen<'_>) -> Option<Delta> {
        // Some send zeros with each chunk: no answer costs nothing.
        let counts = |text: &RawValue| whole::counts(text.get()).filter(|usage| usage.total_tokens > 0);
        let spent = seen.usage.map(counts);
        let choices = seen.choices.filter(|_| spent != Some(None))?;
        // A failure, if it is one, is told apart with all its fields.
        let is_chunk = seen.object.is_some_and(|object| object != "error");
        if !is_chunk || seen.error.is_some() || choices.is_empty() && spent.is_none() {
            return None;
        }
        let is_good = |choice: &SeenChoice<'_>| {
            let (Some(index), Some(delta)) = (choice.index, &choice.delta) else { return false };
            let begins_unnamed = delta.role.is_none() && !self.seen.contains(&index);
            let forgets_the_end = choice.finish_reason.is_none() && self.finished.contains_key(&index);
            let ends_calls = choice.finish_reason.is_some()
                && (self.tool_calls.holds(index) || !self.images.is_empty() && !self.spoke);
            let is_text = choice.finish_reason.is_none_or(|reason| {
                let reason = reason.get().strip_prefix('"').and_then(|reason| reason.strip_suffix('"'));
                reason.is_some_and(|reason| reason.is_empty() || finishes(reason) && !breaks_off(reason))
            });
            let is_good = !begins_unnamed && !forgets_the_end && !ends_calls && choice.error.is_none();
            is_good && is_text && delta.is_plain()
        };
        let is_twice = |at: usize| choices[..at].iter().any(|before| before.index == choices[at].index);
        if !choices.iter().all(is_good) || (1..choices.len()).any(is_twice) {
            return None;
        }
        let name = |name: Option<&RawValue>| name.and_then(text).map(Cow::into_owned);
        let names = self.names(|| (name(seen.id), name(seen.model)));
        let mut metadata = Metadata { names, usage: spent.flatten(), ..Metadata::default() };
        let mut delta = Delta::default();
        for SeenChoice { index, finish_reason, delta: said, .. } in choices {
            let index = index.unwrap_or_default();
            let finish = finish_reason.and_then(text).filter(|reason| !reason.is_empty());
            self.note(index, finish.as_deref());
            let (content, reasoning) =
                said.map_or((None, None), |said| (said.content, said.reasoning_content.or(said.reasoning)));
            let content = words(content);
            self.acts |= reasoning.is_some_and(|words| words.get() != "\"\"");
            self.hear(&content, self.first == Some(index));
            self.overtaken &= finish.is_none();
            if self.first == Some(index) && !self.wire_only {
                delta.text = content.into_owned();
                delta.reasoning = words(reasoning).into_owned();
                metadata.finish = finish.map(Cow::into_owned);
            } else {
                delta.other_tokens += estimate_tokens(&content);
            }
        }
        delta.metadata = metadata.boxed();
        Some(delta)
    }
}

fn words(raw: Option<&RawValue>) -> Cow<'_, str> {
    raw.and_then(text).unwrap_or_default()
}
