//! The `.env` file of a development checkout: `NAME=value` lines, comments, quoted values that
//! may run over several lines. Nothing is expanded, so that a cookie with a `$` stays as it is.

use std::collections::HashMap;

/// Reads the text of a `.env` file.
///
/// # Errors
/// The number of the first line (from 1) that is not understood, and why.
pub fn parse(text: &str) -> Result<HashMap<String, String>, (usize, &'static str)> {
    let mut values = HashMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_of =
        |rest: &str| text.len().checked_sub(rest.len()).map_or(1, |at| text[..at].matches('\n').count() + 1);
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            rest = after;
            continue;
        }
        let (name, _) = line.split_once('=').ok_or((line_of(rest), "expected NAME=value"))?;
        let name = name.trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err((line_of(rest), "the name before `=` may hold letters, digits and underscores"));
        }
        let (_, value) = rest.split_once('=').unwrap_or((rest, ""));
        let value = value.trim_start_matches([' ', '\t']);
        let value = match value.chars().next().filter(|first| matches!(first, '"' | '\'')) {
            Some(quote) => {
                let inner = &value[1..];
                let end = inner.find(quote).ok_or((line_of(rest), "a quoted value is not closed"))?;
                rest = inner[end + 1..].split_once('\n').map_or("", |(_, after)| after);
                let inner = &inner[..end];
                if quote == '"' { inner.replace("\\n", "\n") } else { inner.to_string() }
            }
            None => {
                rest = after;
                let value = value.split_once('\n').map_or(value, |(value, _)| value);
                value.split_once(" #").map_or(value, |(value, _)| value).trim().to_string()
            }
        };
        values.insert(name.to_string(), value);
    }
    Ok(values)
}

/// The line that [`parse`] reads this value from; `None` where no quotes can hold it. Where it can be,
/// the line means the same to a shell.
pub fn line(name: &str, value: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&byte);
    let bare = value.trim() == value
        && !value.contains(['\n', '\r'])
        && !value.contains(" #")
        && !value.starts_with(['"', '\'']);
    if value.bytes().all(plain) {
        Some(format!("{name}={value}\n"))
    } else if !value.contains('\'') {
        Some(format!("{name}='{value}'\n"))
    } else if !value.contains('"') && !value.contains("\\n") {
        Some(format!("{name}=\"{value}\"\n"))
    } else {
        bare.then(|| format!("{name}={value}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_plain_quoted_and_multi_line_values() {
        let text = "\u{feff}# mirror\nexport UPSTREAM_URL = https://m.example.com/v1  # ours\n\
                    UPSTREAM_COOKIE=sso=a$b; c=\"d\"\nUPSTREAM_HEADERS=\"Origin: x\nReferer: y\"\n\
                    A='one\\ntwo'\r\nB=\"one\\ntwo\"\nEMPTY=\n";
        let values = parse(text).expect("a good file");
        assert_eq!(values["UPSTREAM_URL"], "https://m.example.com/v1");
        assert_eq!(values["UPSTREAM_COOKIE"], "sso=a$b; c=\"d\"");
        assert_eq!(values["UPSTREAM_HEADERS"], "Origin: x\nReferer: y");
        assert_eq!(values["A"], "one\\ntwo");
        assert_eq!(values["B"], "one\ntwo");
        assert_eq!(values["EMPTY"], "");
    }

    #[test]
    fn says_which_line_is_wrong() {
        assert_eq!(parse("A=1\n\nnonsense\n").expect_err("bad").0, 3);
        assert_eq!(parse("A=1\nB=\"open\n").expect_err("bad").0, 2);
        assert_eq!(parse("A B=1").expect_err("bad").0, 1);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [
            "https://m.example.com/v1",
            "",
            " a ",
            "a #b; $c",
            "it's",
            "\"a\"",
            "it's \"quoted\"",
            "Origin: x\nReferer: 'y'",
            "one\\ntwo",
            "{\"a\": \"b\"}",
        ] {
            let line = line("NAME", value).expect(value);
            assert_eq!(parse(&format!("{line}B=1\n")).expect(value)["NAME"], value, "{line}");
        }
        assert_eq!(line("NAME", "'a' \"b\"\nc"), None);
    }
}
