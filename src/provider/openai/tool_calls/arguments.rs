//! How far the arguments of a tool call are written, by the brackets of their JSON: a call that is whole
//! can go on. Whether it is good JSON is its reader's affair.

use serde::de::IgnoredAny;
use serde_json::Value;

/// What these arguments add to those that came before. Some say all of them with each piece, and some once
/// more at the end.
pub fn news<'a>(before: &str, written: &Written, said: &'a str) -> &'a str {
    if *written == Written::Whole && is_repeated(before, said) {
        return "";
    }
    if *written == Written::UNKNOWN {
        return said;
    }
    match said.strip_prefix(before) {
        Some(more) if !before.is_empty() && !begins_json(&[before, said].concat()) => more,
        _ => said,
    }
}

/// Whether these arguments, of which the first are whole, say the same.
pub fn is_repeated(whole: &str, said: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    whole.trim() == said.trim() || read(said).is_some_and(|said| Some(said) == read(whole))
}

/// Whether a text is JSON, or the beginning of some.
fn begins_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).map_or_else(|error| error.is_eof(), |_| true)
}

/// How far they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Written {
    #[default]
    Nothing,
    Open {
        depth: usize,
        in_text: bool,
        escaped: bool,
    },
    Whole,
}

impl Written {
    /// That nothing is known of where they end.
    pub const UNKNOWN: Self = Written::Open { depth: usize::MAX, in_text: false, escaped: false };

    /// Goes on with them.
    pub fn add(&mut self, arguments: &str) {
        for byte in arguments.bytes() {
            *self = self.after(byte);
        }
    }

    fn after(self, byte: u8) -> Self {
        let (depth, in_text, escaped) = match self {
            Written::Nothing | Written::Whole if byte.is_ascii_whitespace() => return self,
            Written::Nothing => (0, false, false),
            // What follows the end was none: nothing is known any more.
            Written::Whole => return Written::UNKNOWN,
            Written::Open { depth: usize::MAX, .. } => return self,
            Written::Open { depth, in_text, escaped } => (depth, in_text, escaped),
        };
        match byte {
            _ if escaped => Written::Open { depth, in_text, escaped: false },
            b'\\' if in_text => Written::Open { depth, in_text, escaped: true },
            b'"' => Written::Open { depth, in_text: !in_text, escaped },
            _ if in_text => Written::Open { depth, in_text, escaped },
            b'{' | b'[' => Written::Open { depth: depth + 1, in_text, escaped },
            b'}' | b']' if depth == 1 => Written::Whole,
            b'}' | b']' => Written::Open { depth: depth.saturating_sub(1), in_text, escaped },
            _ => Written::Open { depth, in_text, escaped },
        }
    }
}
