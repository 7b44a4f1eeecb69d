//! Tools before upstreams that know none: an emulation. The tools are offered to the model in its prompt,
//! and its calls are read out of the words of its answer.
//!
//! A call is a fenced block with JSON, since that goes through web pages and their markup unharmed. Words
//! go on as they come until one begins; calls go on whole at the answer's end. What looks like a call and
//! cannot be read, or names a tool that was not offered, stays a part of the words: it is what the model
//! said. No question is asked a second time for it.

mod blocks;

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::decoding::{Deltas, new_call_id};
use super::rewriting::{Queue, Rewriter, rewritten};
use super::stop::Cutter;
use crate::domain::answer::{Delta, Metadata, ToolCallDelta};
use crate::domain::chat::{Chat, Message, Part, Role, Tool, ToolCall, ToolChoice};
use crate::domain::error::{Error, Kind};
use crate::request;
use crate::telemetry::mending::{self, Mending};

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

fn instructions(chat: &Chat) -> String {
    let example = blocks::written(&ToolCall {
        name: "NAME".into(),
        arguments: r#"{"ARGUMENT": "VALUE"}"#.into(),
        ..ToolCall::default()
    });
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
pub fn read(deltas: Deltas, offer: Offer, upstream: &str) -> Deltas {
    mending::tell(Mending::ToolsEmulated, upstream, 1);
    request::tell(vec![(HEADER.0.into(), HEADER.1.into())]);
    rewritten(deltas, Reading::new(offer, upstream.to_string()))
}

struct Reading {
    offer: Offer,
    upstream: String,
    cutter: Cutter,
    /// Blanks that go on only if words follow them.
    blanks: String,
    /// All words from the beginning of the first call on.
    collected: Option<String>,
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
        if delta != Delta::default() {
            queue.push_back(Ok(delta));
        }
        ControlFlow::Continue(())
    }

    /// Gives out what was held back, and the calls where the answer is complete.
    fn end(&mut self, failure: Option<Error>, queue: &mut Queue) {
        let collected = self.release();
        let split = match (&failure, collected) {
            (None, Some(collected)) => blocks::split(&collected, &self.offer.names),
            (_, held) => blocks::Split { words: held.unwrap_or_default(), ..blocks::Split::default() },
        };
        let mut calls = split.calls;
        if self.offer.single_call {
            calls.truncate(1);
        }
        if split.unreadable > 0 {
            mending::tell(Mending::ToolCallUnreadable, &self.upstream, split.unreadable);
        }
        let words = self.cutter.rest() + &split.words;
        let words = if calls.is_empty() {
            std::mem::take(&mut self.blanks) + &words
        } else {
            words.trim_end().into()
        };
        if !words.is_empty() {
            queue.push_back(Ok(Delta { text: words, ..Delta::default() }));
        }
        let none_came = calls.is_empty();
        queue.extend(calls.into_iter().enumerate().map(|(index, call)| Ok(delta_of(index, call))));
        if let Some(error) = failure {
            queue.push_back(Err(error));
        } else if none_came && self.offer.must_call {
            let error = Error::new(Kind::UpstreamInvalid, "the model called no tool, though it had to")
                .hinted("ask again, or leave `tool_choice` out: before a web chat tools are an emulation");
            queue.push_back(Err(error));
        }
    }
}

impl Reading {
    fn new(offer: Offer, upstream: String) -> Self {
        let cutter = Cutter::new(blocks::MARKS.map(String::from).into());
        Reading { offer, upstream, cutter, blanks: String::new(), collected: None }
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
    use crate::provider::rewriting::Rewriting;
    use futures_util::{StreamExt, stream};
    use proptest::prelude::*;

    const SAID: &str = "I look.\n\n```tool_call\n{\"name\": \"f\", \"arguments\": {\"x\": \"```\"}}\n```\n\n```tool_call\n{\"name\":\"g\"}\n```\n";

    /// What the pieces add up to, whole or as a stream, and the words that went on before the end.
    fn answer(pieces: &[&str], names: &[&str]) -> Answer {
        let offer = Offer {
            names: names.iter().map(ToString::to_string).collect(),
            must_call: false,
            single_call: false,
        };
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok(Delta { text: piece.to_string(), ..Delta::default() })).collect();
        let reading = Rewriting::new(stream::iter(pieces), Reading::new(offer, "u".into()));
        let mut answer = Answer::default();
        let deltas =
            futures_util::FutureExt::now_or_never(reading.collect::<Vec<_>>()).expect("all is there");
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
