//! Tools before upstreams that know none: an emulation. The tools are offered to the model in its prompt,
//! and its calls are read out of the words of its answer.
//!
//! A call is a fenced block with JSON, since that goes through web pages and their markup unharmed. Words
//! go on as they come until one begins; calls go on whole at the answer's end. For what looks like a call and
//! cannot be read, or names a tool that was not offered, the model is asked once more (`repair`). If that
//! is in vain, it stays a part of the words: it is what the model said.

mod blocks;
mod repair;

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::decoding::{Deltas, new_call_id};
use super::rewriting::{Queue, Rewriter, Rewriting};
use super::stop::Cutter;
use crate::domain::answer::{Delta, Metadata, Names, ToolCallDelta};
use crate::domain::chat::{Chat, Message, Part, Role, Tool, ToolCall, ToolChoice};
use crate::domain::error::{Error, Kind};
use crate::request;
use crate::telemetry::mending::{self, Mending};
use blocks::Split;
pub use repair::Again;
use repair::Broken;

/// The header that tells the caller of the emulation.
const HEADER: (&str, &str) = ("x-tools", "emulated");

/// What the model may do, and how.
pub struct Offer {
    /// The names of the tools.
    names: Vec<String>,
    must_call: bool,
    /// Whether one call at most may come.
    single_call: bool,
}

impl Offer {
    /// What a chat offers, if it offers tools.
    pub fn of(chat: &Chat) -> Option<Self> {
        let names: Vec<String> = offered(chat).map(|tool| tool.name.clone()).collect();
        let must_call = matches!(chat.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        (!names.is_empty()).then_some(Offer { names, must_call, single_call: chat.single_call })
    }

    /// What is told at the end of a complete answer, of which this was held back.
    fn ending(&self, blanks: String, held: Split) -> Queue {
        let Split { words, mut calls, .. } = held;
        if self.single_call {
            calls.truncate(1);
        }
        let words = if calls.is_empty() { blanks + &words } else { words.trim_end().into() };
        let mut queue: Queue = told(words).map(Ok).into_iter().collect();
        if calls.is_empty() && self.must_call {
            let error = Error::new(Kind::UpstreamInvalid, "the model called no tool, though it had to")
                .hinted("ask again, or leave `tool_choice` out: before a web chat tools are an emulation");
            queue.push_back(Err(error));
        }
        queue.extend(calls.into_iter().enumerate().map(|(index, call)| Ok(delta_of(index, call))));
        queue
    }
}

/// The tools that the model may call.
fn offered(chat: &Chat) -> impl Iterator<Item = &Tool> {
    chat.tools.iter().filter(|tool| match &chat.tool_choice {
        ToolChoice::None => false,
        ToolChoice::Named(name) => *name == tool.name,
        ToolChoice::Auto | ToolChoice::Required => true,
    })
}

/// The chat with its tools, and the calls so far, in words.
pub fn in_words(chat: &Chat) -> Chat {
    let mut messages = vec![Message::new(Role::System, instructions(chat))];
    messages.extend(chat.messages.iter().map(|message| {
        let calls = message.tool_calls.iter().map(|call| Part::Text(blocks::written(call).into()));
        let said = message.parts.iter().cloned().chain(calls).collect();
        Message { parts: said, tool_calls: Vec::new(), ..message.clone() }
    }));
    Chat { messages, tools: Vec::new(), tool_choice: ToolChoice::Auto, ..chat.clone() }
}

/// How a call is to be written.
fn example() -> String {
    let arguments = r#"{"ARGUMENT": "VALUE"}"#.into();
    blocks::written(&ToolCall { name: "NAME".into(), arguments, ..ToolCall::default() })
}

fn instructions(chat: &Chat) -> String {
    let example = example();
    let several = if chat.single_call {
        "Call one tool at most."
    } else {
        "Several such blocks, one after the other, call several tools."
    };
    let must = match &chat.tool_choice {
        ToolChoice::Required => "You must call at least one tool now.",
        ToolChoice::Named(_) => "You must call this tool now.",
        ToolChoice::Auto | ToolChoice::None => {
            "Call a tool only when you need it; when you have what you need, answer in plain words without such a block."
        }
    };
    let tools = offered(chat).map(|tool| {
        let parameters = tool.parameters.as_ref().map(|schema| schema.get());
        let parameters = parameters.and_then(|schema| serde_json::from_str::<Value>(schema).ok());
        let parameters = parameters.unwrap_or_else(|| json!({}));
        json!({ "name": tool.name, "description": tool.description, "parameters": parameters }).to_string()
    });
    let tools = tools.collect::<Vec<_>>().join("\n");
    format!(
        "You can call tools. To call one, write a block exactly like this:\n\n{example}\n\n{several} Write nothing after the \
         last block: the results will be told to you, so never make one up. {must}\n\nThe tools, each with the JSON Schema of \
         its arguments:\n\n{tools}"
    )
}

/// The answer with the calls read out of its words.
pub fn read(deltas: Deltas, offer: Offer, again: Again) -> Deltas {
    mending::tell(Mending::ToolsEmulated, again.upstream(), 1);
    request::tell(vec![(HEADER.0.into(), HEADER.1.into())]);
    let (offer, broken) = (Rc::new(offer), Rc::new(Cell::new(None)));
    let reading = Reading::new(Rc::clone(&offer), Rc::clone(&broken));
    deltas.wrapped(|pieces| {
        let repaired = async move {
            match broken.take() {
                Some(broken) => repair::repaired(broken, &offer, again).await,
                None => Queue::new(),
            }
        };
        let repaired = stream::once(repaired).flat_map(stream::iter);
        Box::pin(Rewriting::new(pieces, reading).chain(repaired))
    })
}

struct Reading {
    offer: Rc<Offer>,
    cutter: Cutter,
    /// Blanks that go on only if words follow them.
    blanks: String,
    /// All words from the beginning of the first call on.
    collected: Option<String>,
    /// What the upstream calls the answer.
    names: Names,
    /// Where all that was held back is left, if a block in it cannot be read.
    broken: Rc<Cell<Option<Broken>>>,
}

impl Rewriter for Reading {
    fn take(&mut self, mut delta: Delta, queue: &mut Queue) -> ControlFlow<()> {
        let said = std::mem::take(&mut delta.text);
        if delta.settled {
            // It stands for all words before it.
            self.cutter.rest();
            self.blanks.clear();
            self.release();
        }
        let call = if self.collected.is_some() {
            Some(said)
        } else {
            let cut = self.cutter.cut(&said);
            delta.text = self.without_last_blanks(cut.words);
            cut.rest
        };
        if let Some(Err(error)) = call.map(|words| self.collect(&words)) {
            self.end(Some(error), queue);
            return ControlFlow::Break(());
        }
        if let Some(metadata) = &delta.metadata {
            self.names.learn(&metadata.names);
        }
        if delta != Delta::default() {
            queue.push_back(Ok(delta));
        }
        ControlFlow::Continue(())
    }

    /// Gives out what was held back, and the calls where the answer is complete.
    fn end(&mut self, failure: Option<Error>, queue: &mut Queue) {
        let blanks = std::mem::take(&mut self.blanks);
        if let Some(error) = failure {
            let held = self.cutter.rest() + &self.release().unwrap_or_default();
            queue.extend(told(blanks + &held).map(Ok));
            queue.push_back(Err(error));
            return;
        }
        let held = self.cutter.rest() + self.collected.as_deref().unwrap_or_default();
        let split = blocks::split(&held, &self.offer.names);
        if split.unreadable > 0 {
            // The memory of what is held stays taken until the request ends.
            let names = std::mem::take(&mut self.names);
            self.broken.set(Some(Broken { blanks, held, split, names }));
        } else {
            self.release();
            queue.extend(self.offer.ending(blanks, split));
        }
    }
}

impl Reading {
    fn new(offer: Rc<Offer>, broken: Rc<Cell<Option<Broken>>>) -> Self {
        let cutter = Cutter::new(blocks::MARKS.map(String::from).into());
        Reading { offer, cutter, blanks: String::new(), collected: None, names: Names::default(), broken }
    }

    /// Holds words of a call back, within the memory budget.
    fn collect(&mut self, words: &str) -> Result<(), Error> {
        request::take(words.len())?;
        self.collected.get_or_insert_default().push_str(words);
        Ok(())
    }

    /// Words with the blanks before them that were held back; those after them are held back in turn.
    fn without_last_blanks(&mut self, words: String) -> String {
        let mut words = std::mem::take(&mut self.blanks) + &words;
        self.blanks = words.split_off(words.trim_end().len());
        words
    }

    /// Gives back the memory of what was collected.
    fn release(&mut self) -> Option<String> {
        let collected = self.collected.take()?;
        request::give(collected.len());
        Some(collected)
    }
}

/// Words, if there are any, in a piece of their own.
fn told(words: String) -> Option<Delta> {
    (!words.is_empty()).then(|| Delta { text: words, ..Delta::default() })
}

/// A whole call, in a piece of its own.
fn delta_of(index: usize, call: ToolCall) -> Delta {
    let ToolCall { name, arguments, .. } = call;
    let call = ToolCallDelta { index, id: Some(new_call_id()), name: Some(name), arguments };
    let metadata = Metadata { finish: Some("tool_calls".into()), ..Metadata::default() };
    Delta { tool_calls: vec![call], ..Delta::from(metadata) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer::Answer;
    use proptest::prelude::*;

    const SAID: &str = "I look.\n\n```tool_call\n{\"name\": \"f\", \"arguments\": {\"x\": \"```\"}}\n```\n\n```tool_call\n{\"name\":\"g\"}\n```\n";

    /// What the pieces add up to, where the model is not asked once more.
    fn answer(pieces: &[&str], names: &[&str]) -> Answer {
        let names = names.iter().map(ToString::to_string).collect();
        let offer = Rc::new(Offer { names, must_call: false, single_call: false });
        let broken = Rc::new(Cell::new(None));
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok(Delta { text: piece.to_string(), ..Delta::default() })).collect();
        let reading = Reading::new(Rc::clone(&offer), Rc::clone(&broken));
        let reading = Rewriting::new(stream::iter(pieces), reading);
        let mut answer = Answer::default();
        let mut deltas =
            futures_util::FutureExt::now_or_never(reading.collect::<Queue>()).expect("all is there");
        if let Some(Broken { blanks, split, .. }) = broken.take() {
            deltas.extend(offer.ending(blanks, split));
        }
        deltas.iter().for_each(|delta| answer.apply(delta.as_ref().expect("good")));
        // Ids are random.
        answer.tool_calls.iter_mut().for_each(|call| call.id.clear());
        answer
    }

    #[test]
    fn words_go_on_and_calls_are_read() {
        let answer = answer(&[SAID], &["f", "g"]);
        assert_eq!((answer.text.as_str(), answer.finish_reason.as_deref()), ("I look.", Some("tool_calls")));
        let calls: Vec<_> = answer.tool_calls.iter().map(|call| (&*call.name, &*call.arguments)).collect();
        assert_eq!(calls, [("f", r#"{"x":"```"}"#), ("g", "{}")]);
    }

    #[test]
    fn what_is_no_call_stays_a_part_of_the_words() {
        for (said, names) in [
            (SAID, &["h"][..]),
            ("a\n```tool_call\n{\"name\": \"f\", \"arg", &["f"]),
            ("```tool_call\nnothing\n```\n", &["f"]),
            ("a ```tool_cal", &["f"]),
            ("plain words \n", &["f"]),
        ] {
            let answer = answer(&[said], names);
            assert_eq!((answer.text.as_str(), answer.tool_calls.len()), (said, 0));
        }
    }

    /// What a model may put together in any order.
    const WORDS: [&str; 11] = [
        "```tool_call\n",
        "<tool_call>",
        "{\"name\": \"f\"}",
        "{\"name\": \"other\"}",
        "[",
        "\n```",
        "</tool_call>",
        " \n",
        "`",
        "a",
        "é",
    ];

    proptest! {
        #[test]
        fn whatever_is_said_means_the_same_in_any_pieces(words in prop::collection::vec(0..WORDS.len(), 0..12)) {
            let words: Vec<&str> = words.into_iter().map(|word| WORDS[word]).collect();
            let said = words.concat();
            let letters: Vec<String> = said.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            prop_assert_eq!(answer(&words, &["f"]), answer(&[&said], &["f"]));
            prop_assert_eq!(answer(&letters, &["f"]), answer(&[&said], &["f"]));
            // Where nothing can be called, all of it is words.
            prop_assert_eq!(answer(&words, &["g"]).text, said);
        }

        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..SAID.len(), 0..12)) {
            let pieces = crate::provider::decoding::pieces(SAID.as_bytes(), cuts);
            let pieces: Vec<&str> = pieces.iter().map(|piece| std::str::from_utf8(piece).expect("ASCII")).collect();
            prop_assert_eq!(answer(&pieces, &["f", "g"]), answer(&[SAID], &["f", "g"]));
        }
    }
}
