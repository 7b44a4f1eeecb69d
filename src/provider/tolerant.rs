//! What some upstreams write and JSON cannot say: `NaN` and `Infinity` for numbers, and a character beyond the
//! first 65,536 whose two halves (surrogates, RFC 8259, section 7) come in two pieces of an answer.

use std::borrow::Cow;

use memchr::memmem;
use serde_json::Value;

/// Reads a piece of JSON in which numbers may be none: those become null.
///
/// # Errors
/// Why it is no JSON all the same.
pub(super) fn value(json: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(json).or_else(|error| match finite(json) {
        Some(finite) => serde_json::from_slice(&finite),
        None => Err(error),
    })
}

/// The same of an answer that is there as a whole, in which half of a character within a text is replaced.
///
/// # Errors
/// As [`value`].
pub(super) fn whole(json: &[u8]) -> serde_json::Result<Value> {
    let mut halves = Halves::default();
    match halves.join(json) {
        Ok(joined) if !halves.are_waiting() => value(&joined),
        // Serde says what is wrong with a half at the end of a text.
        _ => value(json),
    }
}

/// Whether JSON may hold half of a character in the form of an escape.
pub(super) fn may_hold_half(json: &[u8]) -> bool {
    [b"\\ud", b"\\uD"].iter().any(|begin| memmem::find(json, *begin).is_some())
}

/// The text with null in the place of what is no number; `None` where there is nothing of the kind.
fn finite(json: &[u8]) -> Option<Vec<u8>> {
    const NO_NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut out = Vec::with_capacity(json.len());
    let (mut rest, mut is_text) = (json, false);
    let mut changed = false;
    while let Some((first, after)) = rest.split_first() {
        let no_number = NO_NUMBERS.iter().find(|word| !is_text && rest.starts_with(word));
        if let Some(word) = no_number {
            out.extend_from_slice(b"null");
            rest = &rest[word.len()..];
            changed = true;
            continue;
        }
        let length = if is_text && *first == b'\\' && !after.is_empty() { 2 } else { 1 };
        is_text ^= *first == b'"';
        out.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    changed.then_some(out)
}

/// The first half of a character with which the piece before ended, as it was written: `\ud83d`.
#[derive(Default)]
pub(super) struct Halves(Option<[u8; ESCAPE]>);

/// How long a half is as it is written.
const ESCAPE: usize = 6;

/// What stands for half of a character that has no other half.
const REPLACEMENT: &[u8] = b"\\ufffd";

/// A half waits for the other, and what came has none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

impl Halves {
    /// Whether a half waits for the other.
    pub fn are_waiting(&self) -> bool {
        self.0.is_some()
    }

    /// Joins halves of a character over pieces: the first one is held back, and put before the second. A
    /// half that stands alone within a piece is replaced, since no text can hold it.
    ///
    /// # Errors
    /// When the half that is held back has no other in this piece. It is held no longer.
    pub fn join<'a>(&mut self, piece: &'a [u8]) -> Result<Cow<'a, [u8]>, Lost> {
        if !may_hold_half(piece) {
            return if self.0.take().is_some() { Err(Lost) } else { Ok(piece.into()) };
        }
        let mut out = Vec::with_capacity(piece.len() + ESCAPE);
        let (mut waiting, mut held) = (self.0.take(), None);
        let (mut rest, mut is_text, mut at_begin) = (piece, false, false);
        while let Some((first, after)) = rest.split_first() {
            let mut length = if is_text && *first == b'\\' && !after.is_empty() { 2 } else { 1 };
            match half(rest).filter(|_| is_text) {
                Some(Half::First) if matches!(rest.get(ESCAPE..).and_then(half), Some(Half::Second)) => {
                    length = 2 * ESCAPE;
                    out.extend_from_slice(&rest[..length]);
                }
                Some(Half::First) if rest.get(ESCAPE) == Some(&b'"') && held.is_none() => {
                    length = ESCAPE;
                    held = rest.first_chunk().copied();
                }
                Some(Half::Second) if at_begin && waiting.is_some() => {
                    length = ESCAPE;
                    out.extend(waiting.take().into_iter().flatten());
                    out.extend_from_slice(&rest[..length]);
                }
                Some(Half::First | Half::Second) => {
                    length = ESCAPE;
                    out.extend_from_slice(REPLACEMENT);
                }
                None => out.extend_from_slice(&rest[..length]),
            }
            at_begin = *first == b'"' && !is_text;
            is_text ^= *first == b'"';
            rest = &rest[length..];
        }
        self.0 = held;
        if waiting.is_some() { Err(Lost) } else { Ok(out.into()) }
    }
}

enum Half {
    First,
    Second,
}

/// The half of a character that a text begins with.
fn half(text: &[u8]) -> Option<Half> {
    let digits = text.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    match u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()? {
        0xd800..=0xdbff => Some(Half::First),
        0xdc00..=0xdfff => Some(Half::Second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_null_outside_of_texts_alone() {
        let read = |json: &str| value(json.as_bytes());
        let json = r#"{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN \" Infinity","d":1}"#;
        let expected = serde_json::json!({"a": null, "b": [null, null], "c": "NaN \" Infinity", "d": 1});
        assert_eq!(read(json).expect("read"), expected);
        assert!(read(r#"{"a":nonsense}"#).is_err() && read("").is_err() && read(r#"{"a":"\"#).is_err());
    }

    fn joined(pieces: &[&str]) -> Result<String, Lost> {
        let mut halves = Halves::default();
        let mut text = String::new();
        for piece in pieces {
            let piece = halves.join(piece.as_bytes())?;
            let value: Value = serde_json::from_slice(&piece).expect("JSON");
            text.push_str(value["t"].as_str().expect("a text"));
        }
        if halves.are_waiting() { Err(Lost) } else { Ok(text) }
    }

    #[test]
    fn halves_of_a_character_are_joined_over_pieces() {
        for (pieces, expected) in [
            (&[r#"{"t":"a\ud83d"}"#, r#"{"t":"\ude00b"}"#][..], Ok("a😀b")),
            (&[r#"{"t":"\uD83D"}"#, r#"{"t":"\uDE00\ud83d"}"#, r#"{"t":"\ude02"}"#], Ok("😀😂")),
            (&[r#"{"t":"\ud83d\ude00 \ud55c \\ud83d\""}"#], Ok("😀 한 \\ud83d\"")),
            (&[r#"{"t":"a\ud83d b \ude00"}"#], Ok("a\u{fffd} b \u{fffd}")),
            (&[r#"{"t":"\ude00"}"#], Ok("\u{fffd}")),
            (&[r#"{"t":"a\ud83d"}"#, r#"{"t":"b"}"#], Err(Lost)),
            (&[r#"{"t":"a\ud83d"}"#, r#"{"t":"b\ude00"}"#], Err(Lost)),
            (&[r#"{"t":"a\ud83d"}"#], Err(Lost)),
        ] {
            assert_eq!(joined(pieces), expected.map(String::from), "{pieces:?}");
        }
    }

    #[test]
    fn what_holds_no_half_is_not_copied() {
        assert!(matches!(Halves::default().join(br#"{"t":"\u4f60"}"#), Ok(Cow::Borrowed(_))));
    }
}
