//! A message of the Messages API, block by block: what its parts mean to a caller.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use crate::domain::answer::{Delta, Metadata, Names, ToolCallDelta};
use crate::domain::chat::Usage;
use crate::provider::body::{is_bound, is_filter};
use crate::provider::content::{Content, Unreadable, as_text, tokens};
use crate::provider::decoding::new_call_id;
use crate::provider::reason::finishes;

/// Blocks and pieces of blocks that belong to the protocol and say nothing to a caller, beside the
/// upstream's own tools and their results.
const SILENT: [&str; 6] = [
    "redacted_thinking",
    "container_upload",
    "compaction",
    "compaction_delta",
    "signature_delta",
    "citations_delta",
];

/// Which words an event says.
#[derive(Clone, Copy)]
pub enum Words {
    Answer,
    Reasoning,
}

/// What is known of the message so far.
#[derive(Default)]
pub struct Message {
    named: bool,
    /// Whether it has words of an answer.
    spoke: bool,
    /// The indices of blocks that are calls of the upstream's own tools.
    of_upstream: BTreeSet<u64>,
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

impl Message {
    /// What the upstream calls the message and its model, and what the question cost.
    pub fn begin(&mut self, message: &Value, deltas: &mut VecDeque<Delta>) {
        self.spent.add(&message["usage"]);
        let text = |name: &str| message[name].as_str().filter(|text| !text.is_empty()).map(String::from);
        if !std::mem::replace(&mut self.named, true) {
            deltas.push_back(Names { response: text("id"), model: text("model"), conversation: None }.into());
        }
    }

    /// Takes in all blocks of a message, in whatever form; says how many are not known.
    ///
    /// # Errors
    /// For what cannot be read, and so may hold words.
    pub fn blocks(&mut self, content: &Value, deltas: &mut VecDeque<Delta>) -> Result<usize, Unreadable> {
        let blocks = match content {
            Value::Null => &[],
            Value::Array(blocks) => blocks.as_slice(),
            block => std::slice::from_ref(block),
        };
        let mut unknown = 0;
        for (index, block) in blocks.iter().enumerate() {
            unknown += usize::from(!self.block(index as u64, block, deltas)?);
        }
        Ok(unknown)
    }

    /// Takes in a block, or the beginning of one; says whether it is known.
    ///
    /// # Errors
    /// As [`Message::blocks`].
    pub fn block(
        &mut self,
        index: u64,
        block: &Value,
        deltas: &mut VecDeque<Delta>,
    ) -> Result<bool, Unreadable> {
        let kind = block["type"].as_str().unwrap_or_default();
        if kind.ends_with("_tool_use") {
            self.of_upstream.insert(index);
        }
        if kind == "tool_use" || kind.is_empty() && block["name"].is_string() {
            self.call(index, block, deltas);
            return Ok(true);
        }
        self.part(block, kind, deltas)
    }

    /// Takes in a piece of a block; says whether it is known.
    ///
    /// # Errors
    /// As [`Message::blocks`].
    pub fn piece(
        &mut self,
        index: u64,
        piece: &Value,
        deltas: &mut VecDeque<Delta>,
    ) -> Result<bool, Unreadable> {
        let arguments = &piece["partial_json"];
        if arguments.is_null() {
            return self.part(piece, piece["type"].as_str().unwrap_or_default(), deltas);
        }
        let arguments = as_text(arguments.clone());
        let is_open = |index: &u64| self.calls.get(index).is_some_and(|call| !call.ended);
        if !is_open(&index) && (arguments.is_empty() || self.of_upstream.contains(&index)) {
            return Ok(true);
        }
        // Proxies mix the indices up: where one call is open, it is meant.
        let mut open = self.calls.keys().copied().filter(is_open);
        let meant = if is_open(&index) { Some(index) } else { open.next().filter(|_| open.next().is_none()) };
        let call = meant.and_then(|index| self.calls.get_mut(&index)).ok_or(Unreadable)?;
        deltas.extend(call.write(arguments));
        Ok(true)
    }

    /// Says the words of a block or of a piece of one: whatever it is, they are the answer's. Says whether it
    /// is known.
    fn part(&mut self, part: &Value, kind: &str, deltas: &mut VecDeque<Delta>) -> Result<bool, Unreadable> {
        let is_thinking = matches!(kind, "thinking" | "thinking_delta");
        let is_known = is_thinking || matches!(kind, "text" | "text_delta" | "input_json_delta");
        let is_silent =
            SILENT.contains(&kind) || kind.ends_with("_tool_use") || kind.ends_with("_tool_result");
        let content = |name: &str| Content::of(&part[name]);
        let mut said = content("text")?;
        // Whether it thinks is no thought.
        if !part["thinking"].is_boolean() {
            let thoughts = content("thinking")?;
            said.thoughts += &(thoughts.thoughts + &thoughts.answer);
        }
        let says_nothing = part["text"].is_null() && part["thinking"].is_null();
        if says_nothing && !is_silent && !is_thinking {
            said = Content::of(part)?;
        }
        if is_thinking {
            said.thoughts += &std::mem::take(&mut said.answer);
        }
        deltas.extend(self.say(&said.thoughts, Words::Reasoning));
        deltas.extend(self.say(&said.answer, Words::Answer));
        Ok(is_known || is_silent)
    }

    /// Takes in that a block has ended.
    pub fn end_block(&mut self, index: u64, deltas: &mut VecDeque<Delta>) {
        deltas.extend(self.calls.get_mut(&index).and_then(Call::end));
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

    /// Takes in why the message ends, and what it has cost.
    pub fn end(&mut self, delta: &Value, usage: &Value, deltas: &mut VecDeque<Delta>) {
        self.spent.add(usage);
        if let Some(reason) = stop_reason(delta) {
            deltas.extend(self.calls.values_mut().filter_map(Call::end));
            // The words of a refusal are the answer, where there is no other.
            let explanation = delta["stop_details"]["explanation"].as_str().filter(|_| !self.spoke);
            deltas.extend(explanation.and_then(|words| self.say(words, Words::Answer)));
            deltas.push_back(Metadata { finish: Some(finish(reason).into()), ..Metadata::default() }.into());
        }
        self.tell_cost(deltas);
    }

    /// Takes in that nothing follows: what is still to be said comes now.
    pub fn stop(&mut self, deltas: &mut VecDeque<Delta>) {
        deltas.extend(self.calls.values_mut().filter_map(Call::end));
        self.tell_cost(deltas);
    }

    fn tell_cost(&mut self, deltas: &mut VecDeque<Delta>) {
        let usage = self.spent.usage();
        if usage != self.told {
            self.told = usage;
            deltas.push_back(Delta::costing(usage));
        }
    }

    /// Words, unless there are none.
    pub fn say(&mut self, words: &str, kind: Words) -> Option<Delta> {
        if words.is_empty() {
            return None;
        }
        Some(match kind {
            Words::Answer => {
                self.spoke = true;
                Delta { text: words.into(), ..Delta::default() }
            }
            Words::Reasoning => Delta { reasoning: words.into(), ..Delta::default() },
        })
    }
}

/// Why a message stops, where it says so.
pub fn stop_reason(delta: &Value) -> Option<&str> {
    delta["stop_reason"].as_str().filter(|reason| finishes(reason))
}

/// The name of a reason to stop in the words of our callers' protocols. A turn that pauses for a tool
/// of the upstream's own is over for a caller, who cannot go on with it.
fn finish(reason: &str) -> &'static str {
    match reason {
        "tool_use" | "tool_calls" => "tool_calls",
        "refusal" => "content_filter",
        // Proxies give the reasons of what is behind them.
        reason if is_bound(reason) => "length",
        reason if is_filter(reason) => "content_filter",
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
        let begun = as_text(self.begun.take());
        self.write(if begun.trim().is_empty() { "{}".into() } else { begun })
    }
}

impl Spent {
    fn add(&mut self, usage: &Value) {
        let number = |name: &str| usage.get(name).and_then(tokens);
        let cached = [number("cache_creation_input_tokens"), number("cache_read_input_tokens")];
        match number("input_tokens") {
            // What was told first may have been an estimate of all three together.
            Some(input) if cached.iter().any(|told| told.is_some_and(|told| told > 0)) => {
                self.input = Some(input);
                self.cached = cached.map(Option::unwrap_or_default);
            }
            input => self.input = self.input.max(input),
        }
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
