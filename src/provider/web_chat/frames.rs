//! The server-sent events that some mirrors put the lines of a web chat into: each line is the data of one.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>. No mirror
//! divides a line over several fields, and some leave out the blank line between events, so each field of
//! data is a line of its own.

use std::borrow::Cow;

use crate::provider::framing::{ERRORS, holds_json};
use crate::provider::reason::named;

/// The fields of events, and how a comment begins.
const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];

/// What is known of the events so far.
#[derive(Default)]
pub struct Frames {
    /// Whether there are any: the first line shows it, and elsewhere a line that looks like one is the rest of
    /// another, broken one.
    are_there: Option<bool>,
    /// Whether the latest is called an error.
    fails: bool,
}

/// What a line of the wire holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A line of the web chat.
    Line(Cow<'a, [u8]>),
    /// That the answer is over: OpenAI's `[DONE]`, which mirrors write after other protocols too.
    End,
    /// Nothing of the answer.
    Nothing,
}

impl Frames {
    /// Takes the frame from around a line, if there is one.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Framed<'a> {
        let line = line.trim_ascii();
        if line.is_empty() {
            self.fails = false;
            return Framed::Nothing;
        }
        let is_field = || FIELDS.iter().any(|field| line.starts_with(field));
        let begins = || is_field() && (line[0] != b':' || !holds_json(line));
        if !*self.are_there.get_or_insert_with(begins) {
            return Framed::Line(line.into());
        }
        let field = |name: &[u8]| line.strip_prefix(name).map(<[u8]>::trim_ascii);
        if let Some(data) = field(b"data:") {
            match data {
                b"" => Framed::Nothing,
                b"[DONE]" => Framed::End,
                _ if self.fails => Framed::Line(named(data.into()).into()),
                _ => Framed::Line(data.into()),
            }
        } else if let Some(failure) = field(b"error:") {
            Framed::Line(named(failure.into()).into())
        } else if is_field() {
            if let Some(name) = field(b"event:") {
                self.fails = ERRORS.contains(&name);
            }
            Framed::Nothing
        } else {
            Framed::Line(line.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_an_event_are_a_line() {
        let wire = "data: {\"a\":1}\n\n: ping\nid: 7\nevent: message\ndata:{\"b\":2}\ndata: \n{\"c\":3}\nplain\n\
            event: error\ndata: too many\n\nretry: 5\nerror: no\ndata: [DONE]";
        let mut frames = Frames::default();
        let mut lines = Vec::new();
        for line in wire.split('\n') {
            match frames.line(line.as_bytes()) {
                Framed::Line(line) => lines.push(String::from_utf8_lossy(&line).into_owned()),
                Framed::End => lines.push("end".into()),
                Framed::Nothing => {}
            }
        }
        let failures = [r#"{"error":"too many"}"#, r#"{"error":"no"}"#];
        let expected = [r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#, "plain", failures[0], failures[1], "end"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_rest_of_a_broken_line_is_no_event() {
        let mut frames = Frames::default();
        for line in [&b":{\"a\""[..], b":1}", b"data: x"] {
            assert_eq!(frames.line(line), Framed::Line(line.into()));
        }
    }
}
