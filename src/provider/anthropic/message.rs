//! A message of the Messages API, block by block: what its parts mean to a caller.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use crate::domain::answer::{Delta, Metadata, Names, ToolCallDelta};
use crate::domain::chat::Usage;
use crate::provider::decoding::new_call_id;

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

    /// Takes in a block, or the beginning of one; says whether it is known.
    pub fn block(&mut self, index: u64, block: &Value, deltas: &mut VecDeque<Delta>) -> bool {
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
    pub fn piece(&mut self, index: u64, piece: &Value, deltas: &mut VecDeque<Delta>) -> bool {
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
        if let Some(reason) = delta["stop_reason"].as_str() {
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
