//! How deep JSON is nested, seen without parsing it: parsers recurse, and a short text can nest deep.

use memchr::memchr2;

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// Whether lists and objects stand in each other deeper than [`MAX_DEPTH`]. Of a text that is no
/// JSON it may say either.
pub fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut rest) = (0usize, json);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => rest = string(after).1,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The string that goes on with these bytes, as it is written, and what follows it.
pub fn string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut end = 0;
    while let Some(place) = bytes.get(end..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        end += place;
        if bytes[end] == b'"' {
            return (&bytes[..end], &bytes[end + 1..]);
        }
        end += 2;
    }
    (bytes, b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_counts_outside_of_strings_alone() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(is_too_deep(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(!is_too_deep(format!("[{}[]]", "[],".repeat(1000)).as_bytes()));
        assert!(!is_too_deep(format!(r#"["\"{}", "\\"]"#, "[{".repeat(1000)).as_bytes()));
        assert!(is_too_deep(format!(r#"["\\", {}"#, "[".repeat(MAX_DEPTH)).as_bytes()));
    }
}
