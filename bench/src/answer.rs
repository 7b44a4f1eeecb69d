//! The answers of the upstream, byte by byte. A model's name says which one:
//!
//! - `json`: a text of about 700 bytes, so that the JSON answer has about 1 KB
//! - `burst-100`: 100 tokens in one write, each a chunk of the chunked coding
//! - `pace-200x5`: 200 tokens, one every 5 ms, each a write of its own
//!
//! Every token holds the time at which it was sent (zero in a burst) and its number, so that the
//! load generator can tell how long it was under way, and that none is missing.

use std::iter::once;

/// What an answer consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Script {
    Json,
    Burst { tokens: usize },
    Pace { tokens: usize, milliseconds: u64 },
}

impl Script {
    /// The script that a model's name asks for.
    pub fn of(model: &str) -> Self {
        let parse = || match model.split_once('-')? {
            ("burst", tokens) => Some(Script::Burst { tokens: tokens.parse().ok()? }),
            ("pace", shape) => {
                let (tokens, milliseconds) = shape.split_once('x')?;
                Some(Script::Pace { tokens: tokens.parse().ok()?, milliseconds: milliseconds.parse().ok()? })
            }
            _ => None,
        };
        parse().unwrap_or(Script::Json)
    }

    /// How many tokens a streamed answer has.
    pub fn tokens(self) -> usize {
        match self {
            Script::Json => 20,
            Script::Burst { tokens } | Script::Pace { tokens, .. } => tokens,
        }
    }

    /// The pause between two tokens in nanoseconds.
    pub fn pause(self) -> u64 {
        match self {
            Script::Json | Script::Burst { .. } => 0,
            Script::Pace { milliseconds, .. } => milliseconds * 1_000_000,
        }
    }
}

/// What precedes the time in a token; it stands nowhere else in an answer.
pub const MARK: u8 = b'@';
/// Hexadecimal digits of the time.
pub const TIME_DIGITS: usize = 16;
/// Decimal digits of the number.
pub const NUMBER_DIGITS: usize = 5;

/// The text of a token.
pub fn token(number: usize, time: u64) -> String {
    format!("{}{time:016x}.{number:05} ", char::from(MARK))
}

/// The form in which an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// OpenAI's JSON
    Json,
    /// OpenAI's server-sent events
    Events,
    /// A web chat's lines in a new conversation
    NewLines,
    /// A web chat's lines in one that goes on
    NextLines,
}

impl Form {
    pub fn media_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Events => "text/event-stream",
            Form::NewLines | Form::NextLines => "application/x-ndjson",
        }
    }

    /// What comes before the first token.
    pub fn opening(self, model: &str) -> String {
        match self {
            Form::Json | Form::NextLines => String::new(),
            Form::Events => event(model, r#"{"role":"assistant","content":""}"#, "null"),
            Form::NewLines => {
                "{\"result\":{\"conversation\":{\"conversationId\":\"c-bench\",\"title\":\"\"}}}\n".into()
            }
        }
    }

    /// A token.
    pub fn token(self, model: &str, number: usize, time: u64) -> String {
        let text = token(number, time);
        match self {
            Form::Json => text,
            Form::Events => event(model, &format!(r#"{{"content":"{text}"}}"#), "null"),
            Form::NewLines | Form::NextLines => {
                self.line(&text, r#""isThinking":false,"isSoftStop":false,"messageTag":"final""#)
            }
        }
    }

    /// What comes after the last token.
    pub fn closing(self, model: &str) -> String {
        match self {
            Form::Json => String::new(),
            Form::Events => event(model, "{}", "\"stop\"") + "data: [DONE]\n\n",
            Form::NewLines | Form::NextLines => self.line("", r#""isThinking":false,"isSoftStop":true"#),
        }
    }

    fn line(self, token: &str, flags: &str) -> String {
        let fields = format!(r#""token":"{token}",{flags},"responseId":"r-bench""#);
        match self {
            Form::NewLines => format!("{{\"result\":{{\"response\":{{{fields}}}}}}}\n"),
            _ => format!("{{\"result\":{{{fields}}}}}\n"),
        }
    }

    /// What an answer consists of, whose tokens go out one by one; in one that is paced, every time is zero.
    pub fn parts(self, script: Script, model: &str) -> Vec<String> {
        if self == Form::Json {
            return vec![json(&text(script), model)];
        }
        let tokens = (0..script.tokens()).map(|number| self.token(model, number, 0));
        once(self.opening(model)).chain(tokens).chain(once(self.closing(model))).collect()
    }
}

/// The text that an answer carries, whole.
pub fn text(script: Script) -> String {
    match script {
        Script::Json => "The quick brown fox jumps over the lazy dog, again and again. ".repeat(12),
        _ => (0..script.tokens()).map(|number| token(number, 0)).collect(),
    }
}

fn json(text: &str, model: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"{model}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":25,"completion_tokens":180,"total_tokens":205}},"system_fingerprint":"fp_bench"}}"#
    )
}

fn event(model: &str, delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"{model}\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}
