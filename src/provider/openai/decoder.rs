//! The one decoder of completions: what each chunk means, and its bytes for a caller of the same
//! protocol, mended only where clients stumble.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat-streaming>. A chunk is looked at
//! without being taken apart, and goes on as it is unless it lacks something: Dify crashes on a
//! chunk without `choices`, forgets a `finish_reason` when null follows, and wants `prompt_tokens`
//! in a `usage`. Tool calls, whose pieces clients join differently, have rules of their own: `tool_calls`.

mod look;
mod mend;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use memchr::{memchr, memmem};
use serde_json::json;

use super::said::Said;
use super::tool_calls::ToolCalls;
use super::whole::{self, CHUNK};
use crate::domain::answer::{Delta, Names};
use crate::domain::chat::estimate_tokens;
use crate::provider::body::{is_bound, silent};
use crate::provider::decoding::{Decoder, Fault, Progress};
use crate::provider::intake::{Intake, Rest};
use crate::provider::template::Template;
use crate::provider::tolerant::{self, Halves};
use crate::telemetry::mending::{Mending, Mendings};
use look::{Seen, Words};

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
    /// Whether it has words of an answer, or says anything else.
    spoke: bool,
    /// The words of the first choice.
    said: Said,
    acts: bool,
    /// The addresses of images, which are the answer where there are no words.
    images: Vec<String>,
    done: bool,
    /// Whether more came of a choice after it had said why it ends.
    goes_on: bool,
    /// Whether the latest words came without a reason to end, after there had been one.
    overtaken: bool,
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
            spoke: false,
            said: Said::default(),
            acts: false,
            images: Vec::new(),
            done: false,
            goes_on: false,
            overtaken: false,
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
        intake.feed(bytes, |data| completion.event(data, false, deltas).map(|()| completion.done))
    }

    fn progress(&self) -> Progress {
        if self.completion.done {
            Progress::Done
        } else if self.completion.has_ended() && !self.completion.overtaken {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn heard(&self) -> usize {
        self.completion.events.saturating_sub(self.completion.skipped)
    }

    fn mended(&mut self) -> Mendings {
        let Chunks { intake, completion } = self;
        completion.mendings.add(Mending::Skipped, completion.skipped + intake.skipped());
        completion.mendings.add(Mending::PieceMended, usize::from(std::mem::take(&mut intake.is_marked)));
        std::mem::take(&mut completion.mendings)
    }

    fn finish(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let Chunks { intake, completion } = self;
        match intake.finish()? {
            Rest::Nothing => Err(Fault::empty()),
            Rest::Json(bytes) => {
                completion.mendings.note(Mending::FormChanged);
                completion.mend(whole::as_chunk(&bytes)?, deltas)?;
                completion.end(deltas)
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
                } else if completion.done || completion.all_have_ended() {
                    completion.check_words()
                } else if completion.understood {
                    Err(Fault::unfinished(true, 0, &data))
                } else {
                    Err(intake.not_understood(completion.skipped, &data))
                }
            }
        }
    }
}

impl Completion {
    fn has_ended(&self) -> bool {
        self.finished.len() >= self.choices.max(self.seen.len())
    }

    /// Whether all choices that came have ended. Some upstreams give one, however many are asked for.
    fn all_have_ended(&self) -> bool {
        !self.seen.is_empty() && self.finished.len() >= self.seen.len()
    }

    /// Takes words of the first choice, or of another, in.
    fn hear(&mut self, words: &str, of_first: bool) {
        self.overtaken |= !self.finished.is_empty() && !words.is_empty();
        self.spoke = self.spoke || whole::says_words(words);
        if of_first {
            self.said.add(words);
        }
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
            if matches!(kind, Words::Answer) {
                // As `hear`, which would borrow the template too.
                self.spoke = self.spoke || whole::says_words(words);
                self.said.add(words);
            }
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
        // What has no choices may come between two halves.
        let is_between = self.halves.are_waiting() && memmem::find(&data, b"\"choices\":[]").is_some();
        if !is_between && let Cow::Owned(joined) = self.halves.join(&data).map_err(|_| broken())? {
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
            Err(_) => {
                self.mendings.note(Mending::PieceMended);
                None
            }
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
        Fault::check_odd(text, last, self.events)?;
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
        deltas.extend(self.tool_calls.release_all(self.first));
        let unfinished = self.seen.iter().filter(|index| !self.finished.contains_key(index));
        let choices: Vec<_> = unfinished
            .map(|index| {
                let reason = if self.tool_calls.has(*index) { "tool_calls" } else { "stop" };
                json!({ "index": index, "delta": {}, "finish_reason": reason })
            })
            .collect();
        for choice in choices {
            self.mend(json!({ "object": CHUNK, "choices": [choice] }), deltas)?;
        }
        self.done = true;
        self.check_words()
    }

    /// Fails where all has ended and nothing was said. A caller of the same protocol sees himself that
    /// the bound of tokens was reached, and asks for that when he only tries whether a model is there.
    fn check_words(&self) -> Result<(), Fault> {
        if !self.wire_only || self.spoke || self.acts || self.finished.values().any(|end| is_bound(end)) {
            return Ok(());
        }
        Err(silent(self.finished.values().next().map(String::as_str), false).into())
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
