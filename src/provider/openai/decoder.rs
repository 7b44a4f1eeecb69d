//! The one decoder of completions: what each chunk means, and its bytes for a caller of the same
//! protocol, mended only where clients stumble.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat-streaming>. A chunk is looked at
//! without being taken apart, and goes on as it is unless it lacks something: Dify crashes on a
//! chunk without `choices`, forgets a `finish_reason` when null follows, and wants `prompt_tokens`
//! in a `usage`. Tool calls, whose pieces clients join differently, have rules of their own: `tool_calls`.

mod mend;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use memchr::{memchr, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use super::tool_calls::ToolCalls;
use super::whole::CHUNK;
use super::{usage, whole};
use crate::domain::answer::{Delta, Metadata, Names};
use crate::domain::chat::estimate_tokens;
use crate::provider::decoding::{Decoder, Fault, Progress};
use crate::provider::framing::holds_json;
use crate::provider::intake::{Intake, Rest};
use crate::provider::reason::breaks_off;
use crate::provider::template::{Template, text};
use crate::provider::tolerant::{self, Halves};
use crate::telemetry::mending::{Mending, Mendings};

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
    /// Any field in which failures are told; where there are several, nothing is read in this way.
    #[serde(alias = "errors", alias = "base_resp", alias = "success", alias = "code", alias = "error_code")]
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
            && self.error.is_none()
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
    tool_calls: ToolCalls,
    mendings: Mendings,
    /// Half of a character, whose other half is to come.
    halves: Halves,
    /// The form of the latest chunk, where the next can be known by it, and which words it says.
    template: Option<(Template, Words)>,
    /// Whether the upstream's id of the answer and the model were told.
    named: bool,
    understood: bool,
    done: bool,
    /// Whether more came of a choice after it had said why it ends.
    goes_on: bool,
    /// How many events came.
    events: usize,
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
            tool_calls: ToolCalls::default(),
            mendings: Mendings::default(),
            halves: Halves::default(),
            template: None,
            named: false,
            understood: false,
            done: false,
            goes_on: false,
            events: 0,
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

    fn mended(&mut self) -> Mendings {
        let Chunks { intake, completion } = self;
        completion.mendings.add(Mending::Skipped, completion.skipped + intake.skipped());
        std::mem::take(&mut completion.mendings)
    }

    fn finish(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let Chunks { intake, completion } = self;
        match intake.finish()? {
            Rest::Nothing => Err(Fault::empty()),
            Rest::Json(bytes) => {
                completion.mendings.note(Mending::FormChanged);
                completion.mend(whole::as_chunk(&bytes)?, deltas)
            }
            Rest::Event(data) => {
                match completion.event(data.clone(), true, deltas) {
                    // The answer had ended, and what breaks off here is none of its words.
                    Err(Fault::Error(_)) if completion.has_ended() && !completion.may_say_more(&data) => {}
                    taken => taken?,
                }
                deltas.extend(completion.tool_calls.release_all(completion.first));
                if completion.halves.are_waiting() {
                    Err(Fault::broken(None))
                } else if completion.done || completion.has_ended() {
                    Ok(())
                } else {
                    let skipped = completion.skipped + intake.skipped();
                    Err(Fault::unfinished(completion.understood, skipped, &data))
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
        self.events += 1;
        if text[0] != b'{' {
            return self.odd_event(text, last);
        }
        // In valid JSON a line end stands between tokens alone, so a blank means the same.
        let mut rest = data.as_mut_slice();
        while let Some(end) = memchr(b'\n', rest) {
            rest[end] = b' ';
            rest = &mut rest[end + 1..];
        }
        if let Some((template, kind)) = self.template.as_ref().filter(|_| !self.halves.are_waiting())
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
        let events = self.events;
        let broken =
            || if last { Fault::unfinished(understood, 0, b"") } else { Fault::broken(Some(events)) };
        if let Cow::Owned(joined) = self.halves.join(&data).map_err(|_| broken())? {
            if joined != data {
                self.mendings.note(Mending::PieceMended);
            }
            data = joined;
        }
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
            None => self.mend(tolerant::value(text.as_bytes()).map_err(|_| broken())?, deltas)?,
        }
        Ok(())
    }

    /// Whether an event that breaks off after the answer's end may have held words of it.
    fn may_say_more(&self, data: &[u8]) -> bool {
        self.goes_on || memmem::find(data, b"\"delta\"").is_some()
    }

    /// Takes in an event that is no object: a list with an error, or something that is not of the protocol.
    fn odd_event(&mut self, text: &[u8], last: bool) -> Result<(), Fault> {
        if text[0] == b'[' {
            Fault::check(&serde_json::from_slice(text).unwrap_or_default())?;
        }
        if !last && holds_json(text) {
            return Err(Fault::broken(Some(self.events)));
        }
        self.skipped += 1;
        Ok(())
    }

    /// Says what the upstream left out at the end: the tool calls still held, and why choices ended.
    fn end(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        if !self.understood {
            return Err(Fault::empty());
        }
        if self.halves.are_waiting() {
            return Err(Fault::broken(None));
        }
        // What was skipped may have said why it does not.
        if self.skipped > 0 && !self.has_ended() {
            return Err(Fault::unfinished(true, self.skipped, b""));
        }
        self.done = true;
        deltas.extend(self.tool_calls.release_all(self.first));
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
        let is_chunk = seen.object.is_some_and(|object| object != "error");
        if !is_chunk || seen.error.is_some() || choices.is_empty() && spent.is_none() {
            return None;
        }
        let is_good = |choice: &SeenChoice<'_>| {
            let (Some(index), Some(delta)) = (choice.index, &choice.delta) else { return false };
            let begins_unnamed = delta.role.is_none() && !self.seen.contains(&index);
            let forgets_the_end = choice.finish_reason.is_none() && self.finished.contains_key(&index);
            let ends_calls = choice.finish_reason.is_some() && self.tool_calls.holds(index);
            let is_text = choice.finish_reason.is_none_or(|reason| {
                reason.get().starts_with('"') && !breaks_off(reason.get().trim_matches('"'))
            });
            let is_good = !begins_unnamed && !forgets_the_end && !ends_calls && choice.error.is_none();
            is_good && is_text && delta.is_plain()
        };
        if !choices.iter().all(is_good) {
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
            if self.first == Some(index) && !self.wire_only {
                // A choice may come twice in a chunk.
                delta.text.push_str(&words(content));
                delta.reasoning.push_str(&words(reasoning));
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
        self.goes_on |= self.finished.contains_key(&choice);
        self.seen.insert(choice);
        self.first.get_or_insert(choice);
        if let Some(reason) = reason {
            self.template = None;
            self.finished.entry(choice).or_insert_with(|| reason.to_string());
        }
    }
}

fn words(raw: Option<&RawValue>) -> Cow<'_, str> {
    raw.and_then(text).unwrap_or_default()
}
