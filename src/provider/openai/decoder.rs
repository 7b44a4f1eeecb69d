//! The one decoder of completions: what each chunk means, and its bytes for a caller of the same
//! protocol, mended only where clients stumble.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat-streaming>. A chunk is looked at
//! without being taken apart, and goes on as it is unless it lacks something: Dify crashes on a
//! chunk without `choices`, forgets a `finish_reason` when null follows, and wants `prompt_tokens`
//! in a `usage`. Clients differ most in how they join the pieces of tool calls: Dify goes by the
//! id, others by the index, and OpenAI's own library joins an id that comes twice to one of double
//! length. So a tool call goes on in one piece, with its id, which all of them understand.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use memchr::memchr;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::tool_calls::Held;
use super::whole::CHUNK;
use super::{usage, whole};
use crate::domain::answer::{Delta, Metadata, Names};
use crate::domain::chat::estimate_tokens;
use crate::domain::error::{Error, Kind};
use crate::provider::decoding::{Decoder, Fault, Progress};
use crate::provider::intake::{Intake, Rest};
use crate::provider::reason::BROKEN_OFF;
use crate::provider::template::{Template, text};

/// What matters in a chunk.
#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    object: Option<&'a str>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<SeenChoice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct SeenChoice<'a> {
    index: Option<u64>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<SeenDelta<'a>>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct SeenDelta<'a> {
    role: Option<IgnoredAny>,
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
enum Words {
    Answer,
    Reasoning,
}

impl<'a> Seen<'a> {
    /// The words of a chunk that says one thing and ends nothing.
    fn words(&self, first: Option<u64>) -> Option<(&'a RawValue, Words)> {
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
            && self.tool_calls.is_none()
    }
}

/// Decodes a streamed completion into chunks; a whole one becomes one chunk.
pub struct Chunks {
    intake: Intake,
    completion: Completion,
}

/// What is known of a completion.
struct Completion {
    /// How many choices the caller asked for.
    choices: usize,
    /// Whether the bytes alone are wanted: then words are counted where they stand.
    wire_only: bool,
    seen: BTreeSet<u64>,
    /// The choice whose words are the answer: the first that came.
    first: Option<u64>,
    /// Why each choice ended.
    finished: BTreeMap<u64, String>,
    /// Tool calls that are still being written.
    held: Held,
    /// The form of the latest chunk, where the next can be known by it, and which words it says.
    template: Option<(Template, Words)>,
    /// Whether the upstream's id of the answer and the model were told.
    named: bool,
    understood: bool,
    done: bool,
    skipped: usize,
}

impl Chunks {
    /// A decoder of a completion with this many choices, in lines of at most so many bytes.
    pub fn new(choices: usize, line_bytes: usize) -> Self {
        let completion = Completion {
            choices,
            wire_only: false,
            seen: BTreeSet::new(),
            first: None,
            finished: BTreeMap::new(),
            held: Held::default(),
            template: None,
            named: false,
            understood: false,
            done: false,
            skipped: 0,
        };
        Chunks { intake: Intake::new(line_bytes), completion }
    }

    /// The same for a caller of the same protocol, who gets the bytes.
    pub fn for_wire(mut self) -> Self {
        self.completion.wire_only = true;
        self
    }
}

impl Decoder for Chunks {
    fn feed(&mut self, bytes: &[u8], deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let Chunks { intake, completion } = self;
        intake.feed(bytes, |data| completion.event(data, false, deltas))
    }

    fn progress(&self) -> Progress {
        if self.completion.done {
            Progress::Done
        } else if self.completion.has_ended() {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn finish(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let Chunks { intake, completion } = self;
        match intake.finish()? {
            Rest::Nothing => Err(Fault::empty()),
            Rest::Json(bytes) => {
                deltas.push_back(whole::chunk_of(&bytes)?);
                Ok(())
            }
            Rest::Event(data) => {
                completion.event(data.clone(), true, deltas)?;
                completion.skipped += intake.skipped;
                deltas.extend(completion.held.release(|_| true));
                if completion.skipped > 0 {
                    log::warn!(lines = completion.skipped; "skipped parts of the upstream's stream that are not of the protocol");
                }
                if completion.done || completion.has_ended() {
                    Ok(())
                } else {
                    Err(Fault::unfinished(completion.understood, completion.skipped, &data))
                }
            }
        }
    }
}

impl Completion {
    fn has_ended(&self) -> bool {
        self.finished.len() >= self.choices.max(self.seen.len())
    }

    /// Takes in the data of one server-sent event. The `last` one, which nothing ends, may break off.
    fn event(&mut self, mut data: Vec<u8>, last: bool, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let text = data.trim_ascii();
        if text.is_empty() || self.done {
            return Ok(());
        }
        if text == b"[DONE]" {
            return self.end(deltas);
        }
        if text[0] != b'{' {
            if text[0] == b'[' {
                Fault::check(&serde_json::from_slice(text).unwrap_or_default())?;
            }
            self.skipped += 1;
            return Ok(());
        }
        // In valid JSON a line end stands between tokens alone, so a blank means the same.
        let mut rest = data.as_mut_slice();
        while let Some(end) = memchr(b'\n', rest) {
            rest[end] = b' ';
            rest = &mut rest[end + 1..];
        }
        if let Some((template, kind)) = &self.template
            && let Some(words) = template.words(&data)
        {
            let mut delta = match (self.wire_only, kind) {
                (true, Words::Answer) => Delta { other_tokens: estimate_tokens(words), ..Delta::default() },
                (true, Words::Reasoning) => Delta::default(),
                (false, Words::Answer) => Delta { text: words.into(), ..Delta::default() },
                (false, Words::Reasoning) => Delta { reasoning: words.into(), ..Delta::default() },
            };
            delta.wire = Some(data.into());
            deltas.push_back(delta);
            return Ok(());
        }
        let understood = self.understood;
        let broken = || if last { Fault::unfinished(understood, 0, b"") } else { Fault::broken() };
        let text = std::str::from_utf8(&data).map_err(|_| broken())?;
        let looked = match serde_json::from_str::<Seen<'_>>(text) {
            Ok(seen) => {
                let words = seen.words(self.first);
                let looked = self.look(seen);
                let template = words.filter(|_| looked.is_some() && self.finished.is_empty());
                self.template = template.and_then(|(words, kind)| Some((Template::of(&data, words)?, kind)));
                looked
            }
            Err(_) => None,
        };
        match looked {
            Some(delta) => deltas.push_back(Delta { wire: Some(data.into()), ..delta }),
            None => self.mend(serde_json::from_str(text).map_err(|_| broken())?, deltas)?,
        }
        Ok(())
    }

    /// Says what the upstream left out at the end: the tool calls still held, and why choices ended.
    fn end(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        if !self.understood {
            return Err(Fault::empty());
        }
        // What was skipped may have said why it does not.
        if self.skipped > 0 && !self.has_ended() {
            return Err(Fault::unfinished(true, self.skipped, b""));
        }
        self.done = true;
        deltas.extend(self.held.release(|_| true));
        for index in self.seen.iter().filter(|index| !self.finished.contains_key(index)) {
            let choice = json!({ "index": index, "delta": {}, "finish_reason": "stop" });
            let wire = json!({ "object": CHUNK, "choices": [choice] }).to_string().into();
            let finish = (self.first == Some(*index)).then(|| "stop".into());
            let metadata = Metadata { finish, ..Metadata::default() };
            deltas.push_back(Delta { wire: Some(wire), ..metadata.into() });
        }
        Ok(())
    }

    /// Takes in a chunk that can go on as it is; `None` for one that must be looked at more closely.
    fn look(&mut self, seen: Seen<'_>) -> Option<Delta> {
        let spent = seen.usage.map(|text| serde_json::from_str(text.get()).ok().as_ref().and_then(usage));
        let choices = seen.choices.filter(|_| spent != Some(None))?;
        // A failure, if it is one, is told apart with all its fields.
        if seen.object.is_none() || seen.error.is_some() || choices.is_empty() && spent.is_none() {
            return None;
        }
        let is_good = |choice: &SeenChoice<'_>| {
            let (Some(index), Some(delta)) = (choice.index, &choice.delta) else { return false };
            let begins_unnamed = delta.role.is_none() && !self.seen.contains(&index);
            let forgets_the_end = choice.finish_reason.is_none() && self.finished.contains_key(&index);
            let ends_calls = choice.finish_reason.is_some() && self.held.holds(index);
            let is_text = choice.finish_reason.is_none_or(|reason| {
                reason.get().starts_with('"') && !BROKEN_OFF.contains(&reason.get().trim_matches('"'))
            });
            let is_good = !begins_unnamed && !forgets_the_end && !ends_calls && choice.error.is_none();
            is_good && is_text && delta.is_plain()
        };
        if !choices.iter().all(is_good) {
            return None;
        }
        let name = |name: Option<&RawValue>| name.and_then(text).map(Cow::into_owned);
        let names = self.names(|| (name(seen.id), name(seen.model)));
        let mut metadata = Metadata { names, usage: spent.flatten(), finish: None };
        let mut delta = Delta::default();
        for SeenChoice { index, finish_reason, delta: said, .. } in choices {
            let index = index.unwrap_or_default();
            let finish = finish_reason.and_then(text).filter(|reason| !reason.is_empty());
            self.note(index, finish.as_deref());
            let (content, reasoning) =
                said.map_or((None, None), |said| (said.content, said.reasoning_content.or(said.reasoning)));
            if self.first == Some(index) && !self.wire_only {
                delta.text = words(content).into_owned();
                delta.reasoning = words(reasoning).into_owned();
                metadata.finish = finish.map(Cow::into_owned);
            } else {
                delta.other_tokens += estimate_tokens(&words(content));
            }
        }
        delta.metadata = metadata.boxed();
        Some(delta)
    }

    /// What the upstream calls the answer and its model, once.
    fn names(&mut self, told: impl FnOnce() -> (Option<String>, Option<String>)) -> Names {
        if std::mem::replace(&mut self.named, true) {
            return Names::default();
        }
        let (id, model) = told();
        let some = |name: Option<String>| name.filter(|name| !name.is_empty());
        Names { response: some(id), model: some(model), conversation: None }
    }

    fn note(&mut self, choice: u64, reason: Option<&str>) {
        self.understood = true;
        self.seen.insert(choice);
        self.first.get_or_insert(choice);
        if let Some(reason) = reason {
            self.template = None;
            self.finished.entry(choice).or_insert_with(|| reason.to_string());
        }
    }

    /// Makes a chunk one that clients understand.
    fn mend(&mut self, chunk: Value, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        Fault::check(&chunk)?;
        let Value::Object(mut chunk) = chunk else { return Err(Fault::broken()) };
        let spent = chunk.get("usage").and_then(usage);
        if spent.is_none()
            && let Some(usage) = chunk.get_mut("usage")
        {
            *usage = Value::Null;
        }
        if !chunk.get("object").is_some_and(Value::is_string) {
            chunk.insert("object".into(), CHUNK.into());
        }
        let mut choices = match chunk.insert("choices".into(), Value::Null) {
            Some(Value::Array(choices)) => choices,
            _ => Vec::new(),
        };
        let text = |name: &str| chunk.get(name).and_then(Value::as_str).map(String::from);
        let names = self.names(|| (text("id"), text("model")));
        let mut delta = Delta::from(Metadata { names, usage: spent, finish: None });
        let before = choices.len();
        for (place, choice) in choices.iter_mut().enumerate() {
            if let Some(choice) =
                choice.as_object_mut().filter(|choice| !choice.get("index").is_some_and(Value::is_u64))
            {
                choice.insert("index".into(), place.into());
            }
        }
        choices.retain_mut(|choice| self.mend_choice(choice, &chunk, &mut delta));
        if self.held.is_over_full() {
            let message = "the upstream's answer holds too many tool calls";
            return Err(Fault::Error(Error::new(Kind::UpstreamInvalid, message)));
        }
        let said_nothing_else = choices.len() < before && choices.is_empty() && spent.is_none();
        let ended = choices.iter().filter(|choice| choice["finish_reason"].is_string());
        let ended: Vec<u64> = ended.map(|choice| choice["index"].as_u64().unwrap_or_default()).collect();
        deltas.extend(self.held.release(|choice| ended.contains(&choice)));
        if !said_nothing_else {
            chunk.insert("choices".into(), choices.into());
            delta.wire = Some(Value::Object(chunk).to_string().into());
            deltas.push_back(delta);
        }
        Ok(())
    }

    /// Mends one choice of a chunk; false when nothing is left of it but pieces of tool calls.
    fn mend_choice(&mut self, choice: &mut Value, chunk: &Map<String, Value>, delta: &mut Delta) -> bool {
        let Some(choice) = choice.as_object_mut() else { return true };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
        let reason = choice.get("finish_reason").and_then(Value::as_str);
        let reason = reason.filter(|reason| !reason.is_empty()).map(String::from);
        let begins = !self.seen.contains(&index);
        self.note(index, reason.as_deref());
        if let (None, Some(before)) = (&reason, self.finished.get(&index)) {
            choice.insert("finish_reason".into(), before.clone().into());
        }
        if !choice.get("delta").is_some_and(Value::is_object) {
            choice.insert("delta".into(), json!({}));
        }
        let Some(said) = choice.get_mut("delta").and_then(Value::as_object_mut) else { return true };
        if begins && !said.get("role").is_some_and(Value::is_string) {
            said.insert("role".into(), "assistant".into());
        }
        if self.first == Some(index) {
            whole::take(said, delta);
            if reason.is_some() {
                delta.metadata.get_or_insert_default().finish = reason;
            }
        } else {
            delta.other_tokens += said.get("content").and_then(Value::as_str).map_or(0, estimate_tokens);
        }
        let Some(Value::Array(calls)) = said.shift_remove("tool_calls") else { return true };
        self.held.join(index, calls, chunk);
        let has_words = |(_, value): (&String, &Value)| {
            !value.is_null() && value.as_str().is_none_or(|text| !text.is_empty())
        };
        choice.get("finish_reason").is_some_and(Value::is_string)
            || choice["delta"].as_object().is_some_and(|delta| delta.iter().any(has_words))
    }
}

fn words(raw: Option<&RawValue>) -> Cow<'_, str> {
    raw.and_then(text).unwrap_or_default()
}
