//! The `.env` file of a development checkout: `NAME=value` lines, comments, quoted values that
//! may run over several lines. Nothing is expanded, so that a cookie with a `$` stays as it is.

use std::collections::HashMap;

/// A value as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What stands behind `=`, without quotes.
    pub value: String,
    /// The line on which it begins, from 1.
    pub line: usize,
}

/// What the bytes of a `.env` file say, and in which encoding, where that is not UTF-8. PowerShell and
/// Notepad write UTF-16.
///
/// # Errors
/// The line of the first byte that is no UTF-8, and that.
pub fn decode(bytes: &[u8]) -> Result<(String, Option<&'static str>), (usize, &'static str)> {
    let is_zero = |at: usize| bytes.iter().skip(at).step_by(2).take(8).all(|byte| *byte == 0);
    let (skipped, is_little, encoding) = match bytes {
        [0xff, 0xfe, ..] => (2, true, "UTF-16 LE"),
        [0xfe, 0xff, ..] => (2, false, "UTF-16 BE"),
        // Names are ASCII, so every second byte is zero.
        [first, _, ..] if *first != 0 && is_zero(1) => (0, true, "UTF-16 LE"),
        [0, second, ..] if *second != 0 && is_zero(0) => (0, false, "UTF-16 BE"),
        _ => {
            let text = std::str::from_utf8(bytes).map_err(|error| {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                (line, "this is no UTF-8: save the file in that encoding")
            })?;
            return Ok((text.into(), None));
        }
    };
    let units = bytes.get(skipped..).unwrap_or_default().chunks_exact(2);
    let units = units.filter_map(|pair| <[u8; 2]>::try_from(pair).ok());
    let units = units.map(if is_little { u16::from_le_bytes } else { u16::from_be_bytes });
    Ok((
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect(),
        Some(encoding),
    ))
}

/// Reads the text of a `.env` file: of a name that stands there twice, the last value.
///
/// # Errors
/// As [`entries`].
pub fn parse(text: &str) -> Result<HashMap<String, String>, (usize, &'static str)> {
    Ok(entries(text)?.into_iter().map(|entry| (entry.name, entry.value)).collect())
}

/// Reads all that stands in the text of a `.env` file.
///
/// # Errors
/// The number of the first line (from 1) that is not understood, and why.
pub fn entries(text: &str) -> Result<Vec<Entry>, (usize, &'static str)> {
    let mut entries = Vec::new();
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
        let begin = line_of(rest);
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
        entries.push(Entry { name: name.to_string(), value, line: begin });
    }
    Ok(entries)
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
    fn what_windows_writes_is_read_and_told_and_other_encodings_are_refused_with_their_line() {
        let text = "PORT=1\r\nUPSTREAM_URL=https://m.example.com\n# 中文\n";
        for mark in [true, false] {
            let units: Vec<u16> = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16()).collect();
            let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            assert_eq!(decode(&little), Ok((text.into(), Some("UTF-16 LE"))));
            assert_eq!(decode(&big), Ok((text.into(), Some("UTF-16 BE"))));
        }
        assert_eq!(decode(text.as_bytes()), Ok((text.into(), None)));
        assert_eq!(decode(b""), Ok((String::new(), None)));
        // "中" in Big5.
        assert_eq!(decode(b"A=1\n# \xa4\xa4\n").expect_err("no UTF-8").0, 2);
    }

    #[test]
    fn each_line_is_told_also_of_a_name_that_stands_there_twice() {
        let entries = entries("A=1\nB=\"x\ny\"\nA=2\n").expect("a good file");
        let lines: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.line)).collect();
        assert_eq!(lines, [("A", 1), ("B", 2), ("A", 4)]);
        assert_eq!(parse("A=1\nA=2").expect("a good file")["A"], "2");
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
