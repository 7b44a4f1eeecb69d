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
            b'"' => rest = after_string(after),
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

/// What follows the string that goes on with these bytes.
fn after_string(mut bytes: &[u8]) -> &[u8] {
    while let Some(place) = memchr2(b'"', b'\\', bytes) {
        if bytes[place] == b'"' {
            return &bytes[place + 1..];
        }
        bytes = bytes.get(place + 2..).unwrap_or_default();
    }
    b""
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
