//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it: a blank after each comma
//! and colon, raw UTF-8. Dify shows an agent a tool's answer twice unless the bytes are these.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The bytes of a value.
pub fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, Spaced))
        .expect("the envelope has only text keys, and a vector takes all that is written");
    bytes
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_spacing_is_pythons() {
        let value = json!({"a": [1, {"b": null}], "c": "你好\u{7f}\u{1}\n\"/", "d": {}, "e": []});
        let text = String::from_utf8(to_vec(&value)).expect("UTF-8");
        assert_eq!(
            text,
            "{\"a\": [1, {\"b\": null}], \"c\": \"你好\u{7f}\\u0001\\n\\\"/\", \"d\": {}, \"e\": []}"
        );
    }
}
