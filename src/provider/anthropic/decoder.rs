//! An answer of the Messages API: events that write one message block by block, or that message in
//! JSON.
//!
//! Source: <https://platform.claude.com/docs/en/build-with-claude/streaming>. The answer is the text of
//! all blocks in their order; thinking is the reasoning, unless it is redacted. A tool that the caller
//! is to run becomes a tool call, one that the upstream runs itself is its own affair. The message is
//! complete with `message_stop` and with nothing else.

use std::collections::{BTreeMap, VecDeque};

use bytestring::ByteString;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::answer::{Delta, Names, ToolCallDelta};
use crate::domain::chat::Usage;
use crate::provider::decoding::{Decoder, Fault, Progress, new_call_id};
use crate::provider::intake::{Intake, Rest};
use crate::provider::template::{Template, text};

/// Blocks and pieces of blocks that belong to the protocol and say nothing to a caller, beside the
/// results of the upstream's own tools.
const SILENT: [&str; 6] = [
    "redacted_thinking",
    "server_tool_use",
    "mcp_tool_use",
    "container_upload",
    "signature_delta",
    "citations_delta",
];

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

/// Which words an event says.
#[derive(Clone, Copy)]
enum Words {
    Answer,
    Reasoning,
}

/// Decodes the events of a message, or the whole of it.
pub struct Events {
    intake: Intake,
    /// The form of the latest event that says words, by which the next can be known.
    template: Option<(Template, Words)>,
    message: Message,
    understood: bool,
    done: bool,
    /// How many parts were not of the protocol as it is known here.
    skipped: usize,
}

/// What is known of the message so far.
#[derive(Default)]
struct Message {
    named: bool,
    /// Whether it has words of an answer.
    spoke: bool,
    /// The latest tool call of each index that blocks have.
    calls: BTreeMap<u64, Call>,
    /// How many tool calls there are.
    called: usize,
    spent: Spent,
    /// What was told of the cost.
    told: Option<Usage>,
}

/// A tool call that is being written.
struct Call {
    index: usize,
    /// The arguments that its block began with, which pieces would replace.
    begun: Value,
    ended: bool,
    /// Whether arguments were written.
    written: bool,
}

/// The tokens told so far. They are told as sums, some at the beginning and some at the end.
#[derive(Default)]
struct Spent {
    input: Option<u64>,
    cached: [u64; 2],
    output: u64,
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

    fn finish(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        match self.intake.finish()? {
            Rest::Nothing => Err(Fault::empty()),
            Rest::Json(bytes) => {
                let value = serde_json::from_slice(&bytes).map_err(|error| Fault::not_json(&error))?;
                self.whole(&value, deltas)
            }
            Rest::Event(data) => {
                self.event(&data, true, deltas)?;
                self.skipped += self.intake.skipped;
                if self.skipped > 0 {
                    log::warn!(lines = self.skipped; "skipped parts of the upstream's stream that are not of the protocol");
                }
                if self.done { Ok(()) } else { Err(Fault::unfinished(self.understood, self.skipped, &data)) }
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
            skipped: 0,
        }
    }

    /// Takes in the data of one event. The `last` one, which nothing ends, may break off.
    fn event(&mut self, data: &[u8], last: bool, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let data = data.trim_ascii();
        if data.is_empty() || self.done {
            return Ok(());
        }
        if data[0] != b'{' {
            self.skipped += 1;
            return Ok(());
        }
        if let Some((template, kind)) = &self.template
            && let Some(words) = template.words(data)
        {
            deltas.extend(self.message.say(words, *kind));
            return Ok(());
        }
        let broken = || if last { Fault::unfinished(self.understood, 0, b"") } else { Fault::broken() };
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
        failure(event)?;
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
                deltas.extend(message.calls.get_mut(&index).and_then(Call::end));
                true
            }
            "message_delta" => {
                message.spent.add(&event["usage"]);
                message.end(&event["delta"], deltas);
                message.tell_cost(deltas);
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
        failure(value)?;
        let Some(blocks) = value["content"].as_array() else {
            return Err(Fault::unfinished(false, 1, b""));
        };
        let message = &mut self.message;
        message.begin(value, deltas);
        for (index, block) in blocks.iter().enumerate() {
            self.skipped += usize::from(!message.block(index as u64, block, deltas));
        }
        if self.skipped > 0 {
            log::warn!(blocks = self.skipped; "skipped blocks of the upstream's answer that are not of the protocol");
        }
        message.end(value, deltas);
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

/// The failure that an event, or a whole answer, reports.
fn failure(value: &Value) -> Result<(), Fault> {
    match value["type"].as_str() {
        Some("error") => Err(Fault::Reported(value.clone())),
        _ => Fault::reported(value.get("error").cloned()),
    }
}

impl Message {
    /// What the upstream calls the message and its model, and what the question cost.
    fn begin(&mut self, message: &Value, deltas: &mut VecDeque<Delta>) {
        self.spent.add(&message["usage"]);
        let text = |name: &str| message[name].as_str().filter(|text| !text.is_empty()).map(String::from);
        if !std::mem::replace(&mut self.named, true) {
            let names = Names { response: text("id"), model: text("model"), conversation: None };
            deltas.push_back(Delta { names: Some(Box::new(names)), ..Delta::default() });
        }
    }

    /// Takes in a block, or the beginning of one; says whether it is known.
    fn block(&mut self, index: u64, block: &Value, deltas: &mut VecDeque<Delta>) -> bool {
        let kind = block["type"].as_str().unwrap_or_default();
        if kind == "tool_use" {
            self.call(index, block, deltas);
            return true;
        }
        // Whatever the block is, its words are the answer's.
        let words = |name: &str| block[name].as_str().unwrap_or_default();
        deltas.extend(self.say(words("thinking"), Words::Reasoning));
        deltas.extend(self.say(words("text"), Words::Answer));
        matches!(kind, "text" | "thinking") || SILENT.contains(&kind) || kind.ends_with("_tool_result")
    }

    /// Takes in a piece of a block; says whether it is known.
    fn piece(&mut self, index: u64, piece: &Value, deltas: &mut VecDeque<Delta>) -> bool {
        let words = |name: &str| piece[name].as_str().unwrap_or_default();
        deltas.extend(self.say(words("thinking"), Words::Reasoning));
        deltas.extend(self.say(words("text"), Words::Answer));
        let kind = piece["type"].as_str().unwrap_or_default();
        if kind == "input_json_delta" {
            // Of a block that is none of these calls, it is for a tool of the upstream's own.
            let call = self.calls.get_mut(&index);
            deltas.extend(call.and_then(|call| call.write(words("partial_json").to_string())));
        }
        matches!(kind, "text_delta" | "thinking_delta" | "input_json_delta") || SILENT.contains(&kind)
    }

    /// Begins a tool call.
    fn call(&mut self, index: u64, block: &Value, deltas: &mut VecDeque<Delta>) {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_string();
        let id = Some(text("id")).filter(|id| !id.is_empty()).unwrap_or_else(new_call_id);
        let call = Call { index: self.called, begun: block["input"].clone(), ended: false, written: false };
        self.called += 1;
        let piece = ToolCallDelta {
            index: call.index,
            id: Some(id),
            name: Some(text("name")),
            arguments: String::new(),
        };
        let before = self.calls.insert(index, call);
        deltas.extend(before.and_then(|mut before| before.end()));
        deltas.push_back(Delta { tool_calls: vec![piece], ..Delta::default() });
    }

    /// Takes in why the message ends.
    fn end(&mut self, delta: &Value, deltas: &mut VecDeque<Delta>) {
        let Some(reason) = delta["stop_reason"].as_str() else { return };
        deltas.extend(self.calls.values_mut().filter_map(Call::end));
        // The words of a refusal are the answer, where there is no other.
        let explanation = delta["stop_details"]["explanation"].as_str().filter(|_| !self.spoke);
        deltas.extend(explanation.and_then(|words| self.say(words, Words::Answer)));
        deltas.push_back(Delta { finish: Some(finish(reason).into()), ..Delta::default() });
    }

    /// Says at the end what is still to be said.
    fn stop(&mut self, deltas: &mut VecDeque<Delta>) {
        deltas.extend(self.calls.values_mut().filter_map(Call::end));
        self.tell_cost(deltas);
    }

    fn tell_cost(&mut self, deltas: &mut VecDeque<Delta>) {
        let usage = self.spent.usage();
        if usage != self.told {
            self.told = usage;
            deltas.push_back(Delta { usage, ..Delta::default() });
        }
    }

    fn say(&mut self, words: &str, kind: Words) -> Option<Delta> {
        if words.is_empty() {
            return None;
        }
        let words = ByteString::from(words);
        Some(match kind {
            Words::Answer => {
                self.spoke = true;
                Delta { text: words, ..Delta::default() }
            }
            Words::Reasoning => Delta { reasoning: words, ..Delta::default() },
        })
    }
}

/// The name of a reason to stop in the words of our callers' protocols. A turn that pauses for a tool
/// of the upstream's own is over for a caller, who cannot go on with it.
fn finish(reason: &str) -> &'static str {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

impl Call {
    /// Goes on with the arguments.
    fn write(&mut self, arguments: String) -> Option<Delta> {
        if arguments.is_empty() {
            return None;
        }
        self.written = true;
        let piece = ToolCallDelta { index: self.index, arguments, ..ToolCallDelta::default() };
        Some(Delta { tool_calls: vec![piece], ..Delta::default() })
    }

    /// Ends the call: without pieces, its arguments are those that it began with, or none.
    fn end(&mut self) -> Option<Delta> {
        if std::mem::replace(&mut self.ended, true) || self.written {
            return None;
        }
        let begun = std::mem::take(&mut self.begun);
        self.write(if begun.is_object() { begun.to_string() } else { "{}".into() })
    }
}

impl Spent {
    fn add(&mut self, usage: &Value) {
        let number = |name: &str| usage[name].as_u64();
        self.input = self.input.max(number("input_tokens"));
        let cached = [number("cache_creation_input_tokens"), number("cache_read_input_tokens")];
        for (known, told) in self.cached.iter_mut().zip(cached) {
            *known = (*known).max(told.unwrap_or_default());
        }
        self.output = self.output.max(number("output_tokens").unwrap_or_default());
    }

    /// What it came to; nothing where the upstream does not say what the question cost.
    fn usage(&self) -> Option<Usage> {
        let [created, read] = self.cached;
        let prompt = self.input?.saturating_add(created).saturating_add(read);
        Some(Usage::told(prompt, self.output, None))
    }
}
