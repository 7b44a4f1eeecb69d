//! An answer of the Messages API: events that write one message block by block, or that message in
//! JSON.
//!
//! Source: <https://platform.claude.com/docs/en/build-with-claude/streaming>. The answer is the text of
//! all blocks in their order; thinking is the reasoning, unless it is redacted. A tool that the caller
//! is to run becomes a tool call, one that the upstream runs itself is its own affair. The message is
//! complete with `message_stop` and with nothing else.

use std::collections::VecDeque;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::message::{Message, Words};
use crate::domain::answer::Delta;
use crate::provider::decoding::{Decoder, Fault, Progress};
use crate::provider::framing::holds_json;
use crate::provider::intake::{Intake, Rest};
use crate::provider::template::{Template, text};
use crate::telemetry::mending::{Mending, Mendings};

/// An event that says words, which most do.
#[derive(Deserialize)]
struct Said<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    delta: SaidDelta<'a>,
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
    understood: bool,
    done: bool,
    /// Whether the answer came in one piece.
    form_changed: bool,
    /// How many events came.
    events: usize,
    /// How many parts were not of the protocol as it is known here.
    skipped: usize,
}

impl Decoder for Events {
    fn feed(&mut self, bytes: &[u8], deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        // The closure cannot borrow the intake and the rest of the decoder at once.
        let mut intake = std::mem::take(&mut self.intake);
        let result = intake.feed(bytes, |data| self.event(&data, false, deltas));
        self.intake = intake;
        result
    }

    fn progress(&self) -> Progress {
        if self.done { Progress::Done } else { Progress::Open }
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
                let value = serde_json::from_slice(&bytes).map_err(|error| Fault::not_json(&error))?;
                self.form_changed = true;
                self.whole(&value, deltas)
            }
            Rest::Event(data) => {
                self.event(&data, true, deltas)?;
                let skipped = self.skipped + self.intake.skipped();
                if self.done { Ok(()) } else { Err(Fault::unfinished(self.understood, skipped, &data)) }
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
            understood: false,
            done: false,
            form_changed: false,
            events: 0,
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
            if !last && holds_json(data) {
                return Err(Fault::broken(Some(self.events)));
            }
            self.skipped += 1;
            return Ok(());
        }
        if let Some((template, kind)) = &self.template
            && let Some(words) = template.words(data)
        {
            deltas.extend(self.message.say(words, *kind));
            return Ok(());
        }
        let (understood, events) = (self.understood, self.events);
        let broken =
            || if last { Fault::unfinished(understood, 0, b"") } else { Fault::broken(Some(events)) };
        let json = std::str::from_utf8(data).map_err(|_| broken())?;
        if let Ok(said) = serde_json::from_str::<Said<'_>>(json)
            && let Some((words, kind)) = said.words()
            && let Some(words_text) = text(words)
        {
            self.understood = true;
            self.template = Template::of(data, words).map(|template| (template, kind));
            deltas.extend(self.message.say(&words_text, kind));
            return Ok(());
        }
        let value: Value = serde_json::from_str(json).map_err(|_| broken())?;
        self.other(&value, deltas)
    }

    /// Takes in an event that says more than words.
    fn other(&mut self, event: &Value, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        Fault::check(event)?;
        let message = &mut self.message;
        let index = event["index"].as_u64().unwrap_or_default();
        let known = match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                message.begin(&event["message"], deltas);
                true
            }
            "content_block_start" => message.block(index, &event["content_block"], deltas),
            "content_block_delta" => message.piece(index, &event["delta"], deltas),
            "content_block_stop" => {
                message.end_block(index, deltas);
                true
            }
            "message_delta" => {
                message.end(&event["delta"], &event["usage"], deltas);
                true
            }
            "message_stop" => {
                message.stop(deltas);
                self.done = true;
                true
            }
            "ping" => true,
            _ => {
                self.skipped += 1;
                return Ok(());
            }
        };
        self.understood = true;
        self.skipped += usize::from(!known);
        Ok(())
    }

    /// Takes in a message that is there as a whole.
    fn whole(&mut self, value: &Value, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        Fault::check(value)?;
        let Some(blocks) = value["content"].as_array() else {
            return Err(Fault::unfinished(false, 1, b""));
        };
        let message = &mut self.message;
        message.begin(value, deltas);
        for (index, block) in blocks.iter().enumerate() {
            self.skipped += usize::from(!message.block(index as u64, block, deltas));
        }
        message.end(value, &value["usage"], deltas);
        message.stop(deltas);
        self.done = true;
        Ok(())
    }
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
