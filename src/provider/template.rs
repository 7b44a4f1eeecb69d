//! The template of a piece of an answer: most pieces of a stream differ in their words alone, so the next
//! can be known by the one before without being parsed.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// What stands around the words of a piece.
pub(super) struct Template {
    before: Box<[u8]>,
    after: Box<[u8]>,
}

impl Template {
    /// The template of a valid piece around `words`, which were read out of it; `None` if they are no string.
    pub(super) fn of(piece: &[u8], words: &RawValue) -> Option<Self> {
        let words = words.get();
        if !words.starts_with('"') {
            return None;
        }
        let begin = words.as_ptr().addr() - piece.as_ptr().addr() + 1;
        let end = begin + words.len() - 2;
        Some(Template { before: piece[..begin].into(), after: piece[end..].into() })
    }

    /// The words of a piece of the same template, if none of their characters is a sign of JSON.
    pub(super) fn words<'a>(&self, piece: &'a [u8]) -> Option<&'a str> {
        let words = piece.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        let is_plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | ..b' ');
        std::str::from_utf8(words).ok().filter(|words| words.as_bytes().iter().all(is_plain))
    }
}

/// The text that a JSON value is. Most hold no escape, so they need not be copied.
pub(super) fn text(json: &RawValue) -> Option<Cow<'_, str>> {
    match json.get().strip_prefix('"')?.strip_suffix('"')? {
        plain if !plain.contains('\\') => Some(plain.into()),
        _ => serde_json::from_str(json.get()).ok().map(Cow::Owned),
    }
}
