//! The neutral vocabulary between the faces and the upstreams.
//!
//! Both sides speak in these types and in no wire format: a face builds a [`Prompt`], an upstream
//! answers with a stream of [`Event`]s, and an [`Answer`] is what they add up to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

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
}

impl Role {
    /// The name that chat protocols use.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said. It goes to many places, and can be long.
    pub text: Arc<str>,
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

/// One question to an upstream, with all it needs to answer it.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The model, or `None` for the upstream's own choice.
    pub model: Option<String>,
    /// The conversation so far, the new question last.
    pub messages: Vec<Message>,
    /// Where to go on, for upstreams that keep conversations themselves.
    pub thread: Option<Thread>,
    /// Sampling temperature, for upstreams that take one.
    pub temperature: Option<f64>,
    /// The most tokens to generate, for upstreams that take a bound.
    pub max_tokens: Option<u32>,
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
    /// An estimate from the texts themselves, see [`estimate_tokens`].
    pub fn estimate(messages: &[Message], answer: &str) -> Self {
        let prompt_tokens = messages.iter().map(|message| estimate_tokens(&message.text)).sum();
        let completion_tokens = estimate_tokens(answer);
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            estimated: true,
        }
    }
}

/// A rough count of tokens: four bytes of ASCII to a token, one token to any other character.
///
/// That is close enough to show what a call costs in order of magnitude, and needs no vocabulary
/// of a model that the gateway does not know.
pub fn estimate_tokens(text: &str) -> u64 {
    let (ascii, other) = text.chars().fold((0u64, 0u64), |(ascii, other), character| {
        if character.is_ascii() { (ascii + 1, other) } else { (ascii, other + 1) }
    });
    ascii.div_ceil(4) + other
}

/// One step of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The upstream's id of this answer.
    ResponseId(String),
    /// The model that answers.
    Model(String),
    /// The upstream's id of the conversation that the answer belongs to.
    ConversationId(String),
    /// A piece of the model's thinking, which is not part of the answer.
    Thinking(String),
    /// A piece of the answer.
    Text(String),
    /// A piece that could not be read: words may be missing from here on, unless the whole follows.
    Gap,
    /// The whole answer as the upstream settled it; it wins over the joined pieces.
    WholeText(String),
    /// Why the model stopped.
    Finish(String),
    /// What the upstream says it cost.
    Usage(Usage),
}

/// What the events of an answer add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The answer's text so far.
    pub text: String,
    /// The model's thinking so far.
    pub thinking: String,
    /// The upstream's id of the answer.
    pub response_id: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// The upstream's id of the conversation.
    pub upstream_conversation: Option<String>,
    /// Why the model stopped; `None` while it has not.
    pub finish_reason: Option<String>,
    /// What it cost.
    pub usage: Option<Usage>,
    /// The name of the upstream that gave it.
    pub upstream: Option<String>,
    /// The HTTP status with which the upstream began it.
    pub upstream_status: Option<u16>,
}

impl Answer {
    /// Takes one more event in.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::ResponseId(id) => self.response_id = Some(id.clone()),
            Event::Model(model) => self.model = Some(model.clone()),
            Event::ConversationId(id) => self.upstream_conversation = Some(id.clone()),
            Event::Thinking(text) => self.thinking.push_str(text),
            Event::Text(text) => self.text.push_str(text),
            Event::Gap => {}
            Event::WholeText(text) => self.text.clone_from(text),
            Event::Finish(reason) => self.finish_reason = Some(reason.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
        }
    }
}

/// A model that an upstream offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name in requests.
    pub id: String,
    /// Who runs it, as far as the upstream says.
    pub owned_by: String,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
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
                f.write_str($prefix)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                let hex = text.strip_prefix($prefix).unwrap_or(text);
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
pub struct Owner(pub String);

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
    fn the_whole_text_wins_over_the_pieces() {
        let mut answer = Answer::default();
        for event in [Event::Text("a".into()), Event::Thinking("?".into()), Event::Text("b".into())] {
            answer.apply(&event);
        }
        assert_eq!(answer.text, "ab");
        answer.apply(&Event::WholeText("abc".into()));
        assert_eq!(answer.text, "abc");
    }

    #[test]
    fn estimates_count_every_character_of_chinese() {
        assert_eq!(estimate_tokens("你好嗎"), 3);
        assert_eq!(estimate_tokens("hello"), 2);
    }
}
