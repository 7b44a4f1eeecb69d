//! What comes back: pieces as they come, and what they add up to.

use bytes::Bytes;

use crate::domain::chat::{ToolCall, Usage, estimate_tokens};

/// One piece of an answer: what it means, and, where caller and upstream speak the same protocol,
/// its bytes as the caller gets them. It goes through many hands, so it is small.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Words of the answer.
    pub text: String,
    /// Words of the model's reasoning, which are not part of the answer.
    pub reasoning: String,
    /// Tool calls, or pieces of them.
    pub tool_calls: Vec<ToolCallDelta>,
    /// What is told of the answer beside its words, which few pieces do.
    pub metadata: Option<Box<Metadata>>,
    /// An estimate of the tokens in it that stand in none of the fields above.
    pub other_tokens: u64,
    /// Whether the text is the whole answer as the upstream settled it; it wins over the pieces.
    pub settled: bool,
    /// The number of a line that could not be read: words may be missing from here on, unless the settled
    /// answer follows.
    pub gap: Option<usize>,
    /// The piece in the caller's protocol: JSON in one line, or bytes that are not looked at.
    pub wire: Option<Bytes>,
}

/// What an upstream tells of an answer beside its words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// What it calls things.
    pub names: Names,
    /// Why the model stopped.
    pub finish: Option<String>,
    /// What it says that the answer cost.
    pub usage: Option<Usage>,
    /// That the answer was ended here at a text of the caller's, though the upstream had more to say.
    pub cut: bool,
}

impl Delta {
    /// A piece that may tell what the answer cost.
    pub fn costing(usage: Option<Usage>) -> Self {
        Metadata { usage, ..Metadata::default() }.into()
    }

    /// What the upstream says that the answer cost.
    pub fn usage(&self) -> Option<Usage> {
        self.metadata.as_ref()?.usage
    }

    /// How much it adds to an answer, in bytes.
    pub fn bytes(&self) -> usize {
        let arguments = self.tool_calls.iter().map(|call| call.arguments.len());
        self.text.len() + self.reasoning.len() + arguments.sum::<usize>()
    }

    /// A rough count of the tokens in this piece alone.
    pub fn tokens(&self) -> u64 {
        let calls = self.tool_calls.iter().map(|call| {
            estimate_tokens(call.name.as_deref().unwrap_or_default()) + estimate_tokens(&call.arguments)
        });
        estimate_tokens(&self.text) + calls.sum::<u64>() + self.other_tokens
    }
}

impl From<Metadata> for Delta {
    fn from(metadata: Metadata) -> Self {
        Delta { metadata: metadata.boxed(), ..Delta::default() }
    }
}

impl From<Names> for Delta {
    fn from(names: Names) -> Self {
        Metadata { names, ..Metadata::default() }.into()
    }
}

impl Metadata {
    /// What an upstream told, if it told anything.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Metadata::default()).then(|| Box::new(self))
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

impl Names {
    /// Takes in what it calls things later on.
    pub fn learn(&mut self, told: &Names) {
        later(&mut self.response, &told.response);
        later(&mut self.model, &told.model);
        later(&mut self.conversation, &told.conversation);
    }
}

/// What was told last holds.
fn later(known: &mut Option<String>, told: &Option<String>) {
    if told.is_some() {
        known.clone_from(told);
    }
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
    /// Whether it was ended here at a text of the caller's.
    pub cut: bool,
}

impl Answer {
    /// Takes one more piece in.
    pub fn apply(&mut self, delta: &Delta) {
        self.reasoning.push_str(&delta.reasoning);
        if delta.settled {
            self.text.clear();
        }
        self.text.push_str(&delta.text);
        for piece in &delta.tool_calls {
            if self.tool_calls.len() <= piece.index {
                self.tool_calls.resize_with(piece.index + 1, ToolCall::default);
            }
            let call = &mut self.tool_calls[piece.index];
            call.id.push_str(piece.id.as_deref().unwrap_or_default());
            call.name.push_str(piece.name.as_deref().unwrap_or_default());
            call.arguments.push_str(&piece.arguments);
        }
        if let Some(metadata) = &delta.metadata {
            self.learn(metadata);
        }
    }

    fn learn(&mut self, Metadata { names, finish, usage, cut }: &Metadata) {
        self.names.learn(names);
        later(&mut self.finish_reason, finish);
        self.usage = usage.or(self.usage);
        self.cut |= cut;
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
        answer.apply(&Delta { settled: true, ..said("abc") });
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
