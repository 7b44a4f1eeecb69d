//! How deep JSON is nested, seen without parsing it: parsers recurse, and a short text can nest deep.

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// Whether lists and objects stand in each other deeper than [`MAX_DEPTH`]. Of a text that is no
/// JSON it may say either.
pub fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
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
