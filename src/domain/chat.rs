//! What is asked, in no protocol's words: a face or a conversation makes a [`Chat`], and a provider
//! gets it in a [`Prompt`]. What comes back is in `answer`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::domain::error::Error;

/// Who said a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the model.
    System,
    /// The person or workflow that asks.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The name that chat protocols use.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A piece of what a message says. Texts go to many places, and can be long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(Arc<str>),
    /// An image at this address, which is a `data:` URL where the image itself is in it.
    Image(Arc<str>),
    /// Anything else, by the name of its type.
    Other(String),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub parts: Vec<Part>,
    /// The tools that the model called with it.
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's message, the call that it answers and the tool's name, as far as they are told.
    pub answers: Option<(String, Option<String>)>,
}

impl Message {
    /// A message of words alone.
    pub fn new(role: Role, text: impl Into<Arc<str>>) -> Self {
        Message { role, parts: vec![Part::Text(text.into())], tool_calls: Vec::new(), answers: None }
    }

    /// Its words, a line for each part.
    pub fn text(&self) -> Cow<'_, str> {
        let mut texts = self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(&**text),
            Part::Image(_) | Part::Other(_) => None,
        });
        match (texts.next(), texts.next()) {
            (first, None) => first.unwrap_or_default().into(),
            (first, second) => {
                first.into_iter().chain(second).chain(texts).collect::<Vec<_>>().join("\n").into()
            }
        }
    }
}

/// A tool that the model may call.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Option<Box<RawValue>>,
}

/// Whether the model must call a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// The one of this name.
    Named(String),
}

/// A call of a tool by the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The call's id.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments, in JSON.
    pub arguments: String,
}

/// The place in an upstream's own conversation where the next turn goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// The name of the upstream.
    pub upstream: String,
    /// The upstream's id of the conversation.
    pub conversation: String,
    /// The upstream's id of the last answer in it.
    pub last_response: String,
}

/// What is asked, and how it is to be answered. What a provider cannot take is refused by its
/// capabilities, or left out where it is a hint alone.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// The conversation so far, the new question last.
    pub messages: Vec<Message>,
    /// The tools that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must.
    pub tool_choice: ToolChoice,
    /// Whether it may call one at a time only.
    pub single_call: bool,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// The probability mass that is sampled from.
    pub top_p: Option<f64>,
    /// The most tokens to generate.
    pub max_tokens: Option<u32>,
    /// Other hints for the sampling that were given, by their names.
    pub other_hints: Vec<&'static str>,
    /// Texts at which the answer ends.
    pub stop: Vec<String>,
    /// How many answers are wanted, where that is said.
    pub choices: Option<usize>,
    /// The form that the answer must have, by the name of its type, where that is not text.
    pub response_format: Option<String>,
    /// Whether it is to be told how likely the words were.
    pub logprobs: bool,
}

/// One question to an upstream, with all it needs to answer it.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The model, or `None` for the upstream's own choice.
    pub model: Option<String>,
    /// What is asked.
    pub chat: Chat,
    /// Where to go on, for upstreams that keep conversations themselves.
    pub thread: Option<Thread>,
    /// The longest that the whole answer may take; by default `REQUEST_TIMEOUT_SECONDS`.
    pub total: Option<Duration>,
}

/// Tokens spent on an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the question.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Whether the upstream kept silent and the numbers are our estimate.
    pub estimated: bool,
}

impl Usage {
    /// What an upstream says that an answer cost.
    pub fn told(prompt_tokens: u64, completion_tokens: u64, total_tokens: Option<u64>) -> Self {
        let total_tokens = total_tokens.unwrap_or(prompt_tokens.saturating_add(completion_tokens));
        Usage { prompt_tokens, completion_tokens, total_tokens, estimated: false }
    }

    /// An estimate, see [`estimate_tokens`].
    pub fn estimate(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Usage { estimated: true, ..Usage::told(prompt_tokens, completion_tokens, None) }
    }
}

/// A rough count of tokens: four bytes of ASCII to a token, one token to any other character.
///
/// That is close enough to show what a call costs in order of magnitude, and needs no vocabulary
/// of a model that the gateway does not know.
pub fn estimate_tokens(text: &str) -> u64 {
    // Most texts are a few bytes of a stream, for which one plain loop is the quickest.
    let (mut ascii, mut other) = (0_u64, 0_u64);
    for byte in text.bytes() {
        ascii += u64::from(byte.is_ascii());
        // The first byte of any other character.
        other += u64::from(byte >= 0xC0);
    }
    ascii.div_ceil(4) + other
}

/// A model that an upstream offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name in requests.
    pub id: String,
    /// Who runs it, as far as the upstream says.
    pub owned_by: String,
    /// The most tokens that it generates, where the upstream says so.
    pub max_tokens: Option<u32>,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub(super) [u8; 16]);

        impl $name {
            /// How its text form begins.
            pub const PREFIX: &str = $prefix;

            /// A new one.
            ///
            /// # Errors
            /// When the operating system gives no random bytes.
            pub fn random() -> Result<Self, Error> {
                crate::random::bytes().map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Self::PREFIX)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                let hex = text.strip_prefix(Self::PREFIX).unwrap_or(text);
                if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(());
                }
                let number = u128::from_str_radix(hex, 16).map_err(|_| ())?;
                Ok($name(number.to_be_bytes()))
            }
        }
    };
}

random_id!(
    /// The gateway's id of a conversation: 128 random bits.
    ConversationId,
    "conv_"
);

random_id!(
    /// The store's id of a turn: 128 random bits.
    TurnId,
    "turn_"
);

random_id!(
    /// The gateway's id of an answer that its caller comes back for: 128 random bits.
    AnswerId,
    "resp_"
);

/// What a key has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that the upstream began to answer.
    pub requests: u64,
    /// Tokens of the questions.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// How many of the requests' tokens are estimates.
    pub estimated: u64,
}

impl Tally {
    /// One request. No upstream can spoil the sums with a number that no answer costs.
    pub fn of(usage: Usage) -> Self {
        let credible = |tokens: u64| tokens.min(u32::MAX.into());
        Tally {
            requests: 1,
            prompt_tokens: credible(usage.prompt_tokens),
            completion_tokens: credible(usage.completion_tokens),
            estimated: usage.estimated.into(),
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.estimated += other.estimated;
    }
}

/// Who owns what the gateway keeps: the identity of a gateway key, never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(pub Arc<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_id_survives_its_text_form() {
        let id = ConversationId::random().expect("random bytes");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("conv_+0000000000000000000000000000000".parse::<ConversationId>().is_err());
        assert!("".parse::<ConversationId>().is_err());
    }

    #[test]
    fn estimates_count_every_character_of_chinese() {
        assert_eq!(estimate_tokens("你好嗎"), 3);
        assert_eq!(estimate_tokens("hello"), 2);
    }
}
