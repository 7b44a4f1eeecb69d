//! An answer of the Messages API: events that write one message block by block, or that message in
//! JSON.
//!
//! Source: <https://platform.claude.com/docs/en/build-with-claude/streaming>. The answer is the text of
//! all blocks in their order; thinking is the reasoning, unless it is redacted. A tool that the caller
//! is to run becomes a tool call, one that the upstream runs itself is its own affair. The message is
//! complete with `message_stop`. Since no block may follow a reason to stop, so it is where its body ends, or
//! falls silent, after one.

use std::collections::VecDeque;

use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::message::{Message, Words, stop_reason};
use crate::domain::answer::Delta;
use crate::provider::content::{Unreadable, speaks};
use crate::provider::decoding::{Decoder, Fault, Progress};
use crate::provider::intake::{Intake, Rest};
use crate::provider::reason::{Reason, breaks_off};
use crate::provider::template::{Template, text};
use crate::provider::tolerant::{self, Halves};
use crate::telemetry::mending::{Mending, Mendings};

/// The types of events that are known.
const KNOWN: [&str; 8] = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "ping",
    "message",
];

/// An event that says words, which most do.
#[derive(Deserialize)]
struct Said<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    delta: SaidDelta<'a>,
    /// Any field in which failures are told; where there are several, nothing is read in this way.
    #[serde(alias = "errors", alias = "base_resp", alias = "success", alias = "code", alias = "error_code")]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct SaidDelta<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
}

/// Decodes the events of a message, or the whole of it.
pub struct Events {
    intake: Intake,
    /// The form of the latest event that says words, by which the next can be known.
    template: Option<(Template, Words)>,
    message: Message,
    /// Half of a character, whose other half is to come.
    halves: Halves,
    understood: bool,
    /// Whether the message has said why it stops.
    stopped: bool,
    /// Whether more words came after that, and whether they were the latest.
    goes_on: bool,
    overtaken: bool,
    done: bool,
    /// Whether the answer came in one piece.
    form_changed: bool,
    /// How many events came, and how many of them were only signs of life.
    events: usize,
    pings: usize,
    /// How many parts were not of the protocol as it is known here.
    skipped: usize,
}

impl Decoder for Events {
    fn feed(&mut self, bytes: &[u8], deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        // The closure cannot borrow the intake and the rest of the decoder at once.
        let mut intake = std::mem::take(&mut self.intake);
        let result = intake.feed(bytes, |data| self.event(&data, false, deltas).map(|()| self.done));
        self.intake = intake;
        result
    }

    fn progress(&self) -> Progress {
        if self.done {
            Progress::Done
        } else if self.stopped && !self.overtaken {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn heard(&self) -> usize {
        self.events - self.pings
    }

    fn mended(&mut self) -> Mendings {
        let mut mendings = Mendings::default();
        mendings.add(Mending::Skipped, self.skipped + self.intake.skipped());
        mendings.add(Mending::FormChanged, usize::from(self.form_changed));
        mendings
    }

    fn finish(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        match self.intake.finish()? {
            Rest::Nothing => Err(Fault::empty()),
            Rest::Json(bytes) => {
                let json = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
                let value = tolerant::value(json).map_err(|error| Fault::not_json(&error))?;
                self.form_changed = true;
                Fault::check(&value)?;
                self.whole(&value, deltas)
            }
            Rest::Event(data) => {
                match self.event(&data, true, deltas) {
                    // The message had stopped, and what breaks off here is none of its words.
                    Err(Fault::Error(_)) if self.stopped && !self.may_say_more(&data) => {}
                    taken => taken?,
                }
                if self.halves.are_waiting() {
                    Err(Fault::broken(None))
                } else if self.done {
                    Ok(())
                } else if self.stopped {
                    self.message.stop(deltas);
                    Ok(())
                } else if self.understood {
                    Err(Fault::unfinished(true, 0, &data))
                } else {
                    Err(self.intake.not_understood(self.skipped, &data))
                }
            }
        }
    }
}

impl Events {
    /// A decoder of events in lines of at most so many bytes.
    pub fn new(line_bytes: usize) -> Self {
        Events {
            intake: Intake::new(line_bytes),
            template: None,
            message: Message::default(),
            halves: Halves::default(),
            understood: false,
            stopped: false,
            goes_on: false,
            overtaken: false,
            done: false,
            form_changed: false,
            events: 0,
            pings: 0,
            skipped: 0,
        }
    }

    /// Takes in the data of one event. The `last` one, which nothing ends, may break off.
    fn event(&mut self, data: &[u8], last: bool, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let data = data.trim_ascii();
        if data.is_empty() || self.done {
            return Ok(());
        }
        self.events += 1;
        if data[0] != b'{' {
            return self.odd_event(data, last);
        }
        if let Some((template, kind)) = self.template.as_ref().filter(|_| !self.halves.are_waiting())
            && let Some(words) = template.words(data)
        {
            deltas.extend(self.message.say(words, *kind));
            return Ok(());
        }
        let (understood, events) = (self.understood, self.events);
        let broken =
            || if last { Fault::unfinished(understood, 0, b"") } else { Fault::broken(Some(events)) };
        if self.halves.are_waiting() && is_ping(data) {
            return Ok(());
        }
        let joined = self.halves.join(data).map_err(|_| broken())?;
        let json = std::str::from_utf8(&joined).map_err(|_| broken())?;
        if let Ok(said) = serde_json::from_str::<Said<'_>>(json)
            && let Some((words, kind)) = said.words()
            && let Some(words_text) = text(words)
        {
            self.understood = true;
            self.goes_on |= self.stopped;
            self.overtaken = self.stopped;
            self.template = Template::of(&joined, words).map(|template| (template, kind));
            deltas.extend(self.message.say(&words_text, kind));
            return Ok(());
        }
        let value = tolerant::value(json.as_bytes()).map_err(|_| broken())?;
        Fault::check(&value)?;
        self.other(&value, deltas)
    }

    /// Takes in an event that is no object: a list with an error, or something that is not of the protocol.
    fn odd_event(&mut self, data: &[u8], last: bool) -> Result<(), Fault> {
        Fault::check_odd(data, last, self.events)?;
        self.skipped += 1;
        Ok(())
    }

    /// Takes in an event that says more than words, or says them in another form.
    fn other(&mut self, event: &Value, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let message = &mut self.message;
        let (index, events) = (index(event), self.events);
        let unreadable = |Unreadable| Fault::broken(Some(events));
        // What should stand in a field of its own may stand in the event itself.
        let within = |name: &str| if event[name].is_null() { event } else { &event[name] };
        let known = match kind(event) {
            "message_start" => {
                message.begin(&event["message"], deltas);
                message.blocks(&event["message"]["content"], deltas).map_err(unreadable)? == 0
            }
            "content_block_start" => {
                message.block(index, within("content_block"), deltas).map_err(unreadable)?
            }
            "content_block_delta" => {
                self.goes_on |= self.stopped;
                self.overtaken = self.stopped;
                message.piece(index, within("delta"), deltas).map_err(unreadable)?
            }
            "content_block_stop" => {
                message.end_block(index, deltas);
                true
            }
            "message_delta" => {
                let words =
                    ["text", "thinking", "content"].iter().any(|name| !event["delta"][name].is_null());
                if words {
                    message.piece(index, &event["delta"], deltas).map_err(unreadable)?;
                }
                return self.stop(&event["delta"], &event["usage"], deltas);
            }
            "message_stop" => {
                message.stop(deltas);
                self.done = true;
                true
            }
            "ping" => {
                self.pings += 1;
                true
            }
            "message" if !self.understood => return self.whole(event, deltas),
            _ if event.as_object().is_some_and(speaks) => return Err(unreadable(Unreadable)),
            _ => {
                self.skipped += 1;
                return Ok(());
            }
        };
        self.understood = true;
        self.skipped += usize::from(!known);
        Ok(())
    }

    /// Takes in why the message stops, if that is said, and what it has cost.
    fn stop(&mut self, delta: &Value, usage: &Value, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        self.understood = true;
        let reason = stop_reason(delta);
        if let Some(reason) = reason.filter(|reason| breaks_off(reason)) {
            let words = format!("the answer broke off with the stop_reason `{reason}`");
            return Err(Fault::Reported(Box::new(Reason::of_words(words))));
        }
        self.message.end(delta, usage, deltas);
        if reason.is_some() {
            self.stopped = true;
            self.overtaken = false;
            self.template = None;
        }
        Ok(())
    }

    /// Whether an event that breaks off after the reason to stop may have held words.
    fn may_say_more(&self, data: &[u8]) -> bool {
        let places = [&b"delta"[..], b"content", b"text"];
        self.goes_on || places.iter().any(|place| memmem::find(data, place).is_some())
    }

    /// Takes in a message that is there as a whole.
    fn whole(&mut self, value: &Value, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        // One that was refused may have no content.
        if value["content"].is_null() && stop_reason(value).is_none() {
            return Err(Fault::unfinished(false, 1, b""));
        }
        let message = &mut self.message;
        message.begin(value, deltas);
        let unknown = message.blocks(&value["content"], deltas);
        self.skipped += unknown.map_err(|Unreadable| Fault::unreadable())?;
        self.stop(value, &value["usage"], deltas)?;
        self.message.stop(deltas);
        self.done = true;
        Ok(())
    }
}

/// What an event is: by its type, or where that is missing or not known, by its shape.
fn kind(event: &Value) -> &str {
    let named = event["type"].as_str().unwrap_or_default();
    let has = |name: &str| !event[name].is_null();
    match named {
        _ if KNOWN.contains(&named) => named,
        _ if has("delta") && stop_reason(&event["delta"]).is_some() => "message_delta",
        _ if has("delta") => "content_block_delta",
        _ if has("content_block") => "content_block_start",
        "" if event["message"].is_object() => "message_start",
        _ => named,
    }
}

/// The index of the block that an event is about.
fn index(event: &Value) -> u64 {
    let index = &event["index"];
    index.as_u64().or_else(|| index.as_str()?.parse().ok()).unwrap_or_default()
}

fn is_ping(data: &[u8]) -> bool {
    serde_json::from_slice::<Value>(data).is_ok_and(|event| event["type"] == "ping")
}

impl<'a> Said<'a> {
    fn words(&self) -> Option<(&'a RawValue, Words)> {
        let SaidDelta { r#type, text, thinking } = &self.delta;
        match (self.r#type, *r#type) {
            _ if self.error.is_some() => None,
            ("content_block_delta", "text_delta") => Some(((*text)?, Words::Answer)),
            ("content_block_delta", "thinking_delta") => Some(((*thinking)?, Words::Reasoning)),
            _ => None,
        }
    }
}
