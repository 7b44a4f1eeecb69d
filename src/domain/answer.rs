//! What comes back: pieces as they come, and what they add up to.

use bytes::Bytes;
use bytestring::ByteString;

use crate::domain::chat::{ToolCall, Usage, estimate_tokens};

/// One piece of an answer: what it means, and, where caller and upstream speak the same protocol,
/// its bytes as the caller gets them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Words of the answer.
    pub text: ByteString,
    /// Words of the model's reasoning, which are not part of the answer.
    pub reasoning: ByteString,
    /// The whole answer as the upstream settled it; it wins over the pieces.
    pub settled: Option<ByteString>,
    /// Tool calls, or pieces of them.
    pub tool_calls: Vec<ToolCallDelta>,
    /// Why the model stopped.
    pub finish: Option<ByteString>,
    /// What the upstream says that the answer cost.
    pub usage: Option<Usage>,
    /// An estimate of the tokens in it that stand in none of the fields above.
    pub other_tokens: u64,
    /// Whether a piece could not be read: words may be missing from here on, unless the settled answer
    /// follows.
    pub gap: bool,
    /// What the upstream calls things.
    pub names: Option<Box<Names>>,
    /// The piece in the caller's protocol: JSON in one line, or bytes that are not looked at.
    pub wire: Option<Bytes>,
}

impl Delta {
    /// How much it adds to an answer, in bytes.
    pub fn bytes(&self) -> usize {
        let arguments = self.tool_calls.iter().map(|call| call.arguments.len());
        let settled = self.settled.as_ref().map_or(0, |text| text.len());
        self.text.len() + self.reasoning.len() + arguments.sum::<usize>() + settled
    }

    /// A rough count of the tokens in this piece alone.
    pub fn tokens(&self) -> u64 {
        let calls = self.tool_calls.iter().map(|call| {
            estimate_tokens(call.name.as_deref().unwrap_or_default()) + estimate_tokens(&call.arguments)
        });
        estimate_tokens(&self.text) + calls.sum::<u64>() + self.other_tokens
    }
}

/// A tool call, or a piece of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCallDelta {
    /// Which of the answer's calls it belongs to, from 0.
    pub index: usize,
    /// The call's id, in its first piece.
    pub id: Option<String>,
    /// The tool's name, in its first piece.
    pub name: Option<String>,
    /// What the arguments go on with, in JSON.
    pub arguments: String,
}

/// What the upstream calls things.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Its id of the answer.
    pub response: Option<String>,
    /// The model that answers.
    pub model: Option<String>,
    /// Its id of the conversation that the answer belongs to.
    pub conversation: Option<String>,
}

/// What the pieces of an answer add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The answer's text so far.
    pub text: String,
    /// The model's reasoning so far.
    pub reasoning: String,
    /// The tools that the model called.
    pub tool_calls: Vec<ToolCall>,
    /// What the upstream calls it.
    pub names: Names,
    /// Why the model stopped; `None` while it has not.
    pub finish_reason: Option<String>,
    /// What it cost.
    pub usage: Option<Usage>,
    /// The name of the upstream that gave it, where there are several.
    pub upstream: Option<String>,
    /// The HTTP status with which the upstream began it.
    pub upstream_status: Option<u16>,
}

impl Answer {
    /// Takes one more piece in.
    pub fn apply(&mut self, delta: &Delta) {
        if let Some(names) = &delta.names {
            self.rename(names);
        }
        self.reasoning.push_str(&delta.reasoning);
        self.text.push_str(&delta.text);
        if let Some(settled) = &delta.settled {
            self.text = settled.to_string();
        }
        for piece in &delta.tool_calls {
            if self.tool_calls.len() <= piece.index {
                self.tool_calls.resize_with(piece.index + 1, ToolCall::default);
            }
            let call = &mut self.tool_calls[piece.index];
            call.id.push_str(piece.id.as_deref().unwrap_or_default());
            call.name.push_str(piece.name.as_deref().unwrap_or_default());
            call.arguments.push_str(&piece.arguments);
        }
        if let Some(finish) = &delta.finish {
            self.finish_reason = Some(finish.to_string());
        }
        self.usage = delta.usage.or(self.usage);
    }

    fn rename(&mut self, names: &Names) {
        let Names { response, model, conversation } = names;
        let later = |known: &mut Option<String>, told: &Option<String>| {
            if told.is_some() {
                known.clone_from(told);
            }
        };
        later(&mut self.names.response, response);
        later(&mut self.names.model, model);
        later(&mut self.names.conversation, conversation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settled_text_wins_over_the_pieces() {
        let said = |text: &'static str| Delta { text: text.into(), ..Delta::default() };
        let mut answer = Answer::default();
        answer.apply(&said("a"));
        answer.apply(&Delta { reasoning: "?".into(), ..Delta::default() });
        answer.apply(&said("b"));
        assert_eq!(answer.text, "ab");
        answer.apply(&Delta { settled: Some("abc".into()), ..Delta::default() });
        assert_eq!(answer.text, "abc");
    }

    #[test]
    fn pieces_of_tool_calls_are_joined_by_their_place() {
        let piece = |index, id: Option<&str>, arguments: &str| ToolCallDelta {
            index,
            id: id.map(String::from),
            name: id.map(|_| "f".into()),
            arguments: arguments.into(),
        };
        let mut answer = Answer::default();
        for piece in [piece(0, Some("a"), "{"), piece(1, Some("b"), "{}"), piece(0, None, "}")] {
            answer.apply(&Delta { tool_calls: vec![piece], ..Delta::default() });
        }
        let calls: Vec<_> = answer.tool_calls.iter().map(|call| (&*call.id, &*call.arguments)).collect();
        assert_eq!(calls, [("a", "{}"), ("b", "{}")]);
    }
}
