//! Our secrets in an upstream's words, masked in whichever form they are quoted: as they are, percent-encoded, with
//! the escapes of JSON or HTML, in base64, in hexadecimal; also one form within another.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// What stands in the place of a secret.
const MASK: &str = "[redacted]";

/// The most bytes of a text that are read, and so passed on.
const MAX_BYTES: usize = 64 << 10;

/// How often a text may be encoded over and over.
const LAYERS: usize = 3;

/// Characters that HTML writes in words.
const ENTITIES: [(&[u8], u8); 5] =
    [(b"amp;", b'&'), (b"lt;", b'<'), (b"gt;", b'>'), (b"quot;", b'"'), (b"apos;", b'\'')];

/// A byte of a text, and where it stands in the text as it was told.
#[derive(Clone, Copy)]
struct Place {
    byte: u8,
    from: u32,
    to: u32,
}

/// The forms of secrets.
pub struct Mask(Vec<Vec<u8>>);

impl Mask {
    /// A mask for these secrets.
    pub fn of(secrets: &[String]) -> Self {
        Mask(secrets.iter().filter(|secret| !secret.is_empty()).flat_map(|secret| forms(secret)).collect())
    }

    /// The text without the secrets.
    pub fn put_on(&self, text: &str) -> String {
        let text = &text[..text.floor_char_boundary(MAX_BYTES)];
        if self.0.iter().all(|form| form.len() > text.len()) {
            return text.into();
        }
        self.put_over(text)
    }

    fn put_over(&self, text: &str) -> String {
        let mut layer: Vec<Place> = (0..)
            .zip(text.bytes())
            .map(|(at, byte)| Place { byte: byte.to_ascii_lowercase(), from: at, to: at + 1 })
            .collect();
        let mut found = Vec::new();
        for _ in 0..LAYERS {
            find(&layer, &self.0, &mut found);
            let decoded = decoded(&layer);
            if decoded.len() == layer.len() {
                break;
            }
            layer = decoded;
        }
        without(text, found)
    }
}

/// The forms in which a secret is looked for, in lower case: what is left of them is a secret in any case.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let hex = |secret: &str| secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![secret.to_string(), hex(secret)];
    // Where it begins in what is encoded decides the form; the characters at the edges belong to the neighbours too.
    for shift in 0..3 {
        let shifted = [&[0; 2][..shift], secret.as_bytes()].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&shifted);
            let begin = [0, 2, 3][shift];
            let end = encoded.len() - usize::from(shifted.len() % 3 != 0);
            forms.push(encoded[begin..end].to_string());
            // At the end of what is encoded.
            forms.push(encoded[begin..].to_string());
            // Cut off where it is quoted: what is left of it is still most of the secret.
            let begin = if shift == 0 { 0 } else { 4 };
            forms.extend(encoded.get(begin..encoded.len() - 2).map(String::from));
        }
    }
    forms.sort_unstable();
    forms.dedup();
    forms.into_iter().map(|form| form.to_ascii_lowercase().into_bytes()).collect()
}

fn find(layer: &[Place], forms: &[Vec<u8>], found: &mut Vec<Range<usize>>) {
    let bytes: Vec<u8> = layer.iter().map(|place| place.byte).collect();
    for form in forms {
        let places = memchr::memmem::find_iter(&bytes, form);
        found.extend(places.map(|at| layer[at].from as usize..layer[at + form.len() - 1].to as usize));
    }
}

/// The text with one layer of escapes taken away.
fn decoded(layer: &[Place]) -> Vec<Place> {
    let mut out = Vec::with_capacity(layer.len());
    let mut rest = layer;
    while let Some(first) = rest.first() {
        let (byte, length) = escape(rest).unwrap_or((first.byte, 1));
        let last = rest[length - 1];
        out.push(Place { byte: byte.to_ascii_lowercase(), from: first.from, to: last.to });
        rest = &rest[length..];
    }
    out
}

/// The byte that an escape at the beginning stands for, and the escape's length.
fn escape(layer: &[Place]) -> Option<(u8, usize)> {
    // The longest escape that stands for a byte: `&#x0000ff;`.
    let text: Vec<u8> = layer.iter().take(12).map(|place| place.byte).collect();
    let number = |digits: &[u8], radix| u8::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok();
    let of_digits = |from: usize, count: usize| number(text.get(from..from + count)?, 16);
    match text.as_slice() {
        [b'%', ..] => Some((of_digits(1, 2)?, 3)),
        [b'\\', b'u', ..] => Some((of_digits(2, 4)?, 6)),
        [b'\\', b'x', ..] => Some((of_digits(2, 2)?, 4)),
        [b'\\', escaped @ (b'/' | b'\\' | b'"' | b'\''), ..] => Some((*escaped, 2)),
        [b'&', b'#', ..] => {
            let end = text.iter().position(|byte| *byte == b';')?;
            let byte = match &text[2..end] {
                [b'x', digits @ ..] => number(digits, 16),
                digits => number(digits, 10),
            };
            Some((byte?, end + 1))
        }
        [b'&', named @ ..] => {
            let (name, byte) = ENTITIES.iter().find(|(name, _)| named.starts_with(name))?;
            Some((*byte, name.len() + 1))
        }
        _ => None,
    }
}

fn without(text: &str, mut found: Vec<Range<usize>>) -> String {
    found.sort_unstable_by_key(|range| range.start);
    let (mut clean, mut end) = (String::with_capacity(text.len()), 0);
    for range in found {
        if range.start >= end {
            clean.push_str(&text[end..text.floor_char_boundary(range.start)]);
            clean.push_str(MASK);
        }
        end = end.max(text.ceil_char_boundary(range.end));
    }
    clean.push_str(&text[end..]);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    const SECRET: &str = "sk-Up+Secret/\"012\"3&<x>==";

    fn each(write: impl Fn(u8) -> String) -> String {
        SECRET.bytes().map(write).collect()
    }

    #[test]
    fn a_secret_is_masked_in_every_form() {
        let percent = each(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        });
        let mask = Mask::of(&[SECRET.to_string()]);
        for form in [
            SECRET.to_string(),
            SECRET.to_ascii_uppercase(),
            each(|byte| format!("%{byte:02X}")),
            percent.replace('%', "%25"),
            percent,
            each(|byte| format!("{byte:02X}")),
            each(|byte| format!("\\u{byte:04x}")),
            each(|byte| format!("\\x{byte:02X}")),
            each(|byte| format!("&#{byte};")),
            each(|byte| format!("&#x{byte:X};")),
            SECRET.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;"),
            serde_json::to_string(SECRET).expect("JSON").trim_matches('"').replace('/', "\\/"),
            URL_SAFE_NO_PAD.encode(SECRET),
            STANDARD.encode(SECRET).replace('=', "%3D").replace('+', "%2B"),
        ] {
            let masked = mask.put_on(&format!("before 你 {form} 好 {form}"));
            let bare = masked.replace("%3D", "").replace("==", "");
            assert_eq!(bare, "before 你 [redacted] 好 [redacted]", "{form}: {masked}");
        }
        for before in ["", "a", "ab", "u:", "Bearer ", "user:"] {
            let encoded = STANDARD.encode(format!("{before}{SECRET} and more"));
            assert!(mask.put_on(&encoded).contains(MASK), "{before}: {encoded}");
        }
        assert_eq!(mask.put_on("a 100% good text & \\n more %2"), "a 100% good text & \\n more %2");
    }

    proptest! {
        #[test]
        fn any_text_is_masked_without_a_panic(text in ".{0,80}", at in 0usize..80, secret in "[ -~é]{8,12}") {
            let at = text.floor_char_boundary(at);
            let quoted = format!("{}{secret}{}", &text[..at], &text[at..]);
            let masked = Mask::of(std::slice::from_ref(&secret)).put_on(&quoted);
            prop_assert!(!masked.contains(&secret));
        }
    }
}
