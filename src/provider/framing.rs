//! Bytes into lines, and lines into server-sent events.
//!
//! The bytes of an answer arrive cut anywhere: within a character, between CR and LF, many lines
//! at once. What comes out does not depend on the cuts. Nothing here knows what a line means.

use std::mem;

use memchr::memchr2;
use serde::de::IgnoredAny;

/// The largest JSON without a field that may end with its last brace.
const MAX_BARE_BYTES: usize = 16 << 10;

/// How often it is tried whether it has ended.
const MAX_TRIES: usize = 16;

/// The names of events that report a failure.
pub const ERRORS: [&[u8]; 2] = [b"error", b"exception"];

/// How much is kept of the first line that is none of an event stream.
const MAX_FOREIGN_BYTES: usize = 1 << 10;

/// A line was longer than so many bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong(pub usize);

/// Cuts bytes into lines ended by LF, CRLF or CR.
#[derive(Debug)]
pub struct Lines {
    max_bytes: usize,
    partial: Vec<u8>,
    after_cr: bool,
}

impl Lines {
    /// Lines of at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Lines { max_bytes, partial: Vec::new(), after_cr: false }
    }

    /// Takes bytes in and hands every line that they complete to `each`, without its end.
    ///
    /// # Errors
    /// [`LineTooLong`], or what `each` fails with.
    pub fn feed<E: From<LineTooLong>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                return self.keep(bytes).map_err(E::from);
            };
            self.after_cr = bytes[end] == b'\r';
            if self.partial.is_empty() {
                within_limit(end, self.max_bytes)?;
                each(&bytes[..end])?;
            } else {
                self.keep(&bytes[..end])?;
                let result = each(&self.partial);
                self.partial.clear();
                result?;
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The last line, when the bytes ended without a line end.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        Some(mem::take(&mut self.partial)).filter(|line| !line.is_empty())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        within_limit(self.partial.len() + bytes.len(), self.max_bytes)?;
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

fn within_limit(length: usize, most: usize) -> Result<(), LineTooLong> {
    if length > most { Err(LineTooLong(most)) } else { Ok(()) }
}

/// Collects the data of server-sent events, one line at a time.
///
/// Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>.
/// Comments, ids, event names and retry times are skipped: chat protocols say all in the data. Only that an
/// event is called `error` is kept. Two things that the specification drops are meant all the same, and
/// often tell of a failure: a field `error` (llama.cpp), and JSON without any field, on one line or over
/// several.
#[derive(Debug)]
pub struct SseEvents {
    max_bytes: usize,
    data: Vec<u8>,
    has_data: bool,
    /// Whether the event is called an error so far.
    fails: bool,
    /// Whether the latest one was.
    pub is_failure: bool,
    /// Whether the data are JSON without a field.
    bare: bool,
    /// How often it was tried whether these have ended.
    tries: usize,
    started: bool,
    /// How many lines were none of an event stream.
    pub skipped: usize,
    /// How the first of them begins.
    pub foreign: Vec<u8>,
    /// Whether one of them may be a part of JSON that is of the stream.
    pub is_broken: bool,
}

impl SseEvents {
    /// Events of at most so many bytes of data.
    pub fn new(max_bytes: usize) -> Self {
        SseEvents {
            max_bytes,
            data: Vec::new(),
            has_data: false,
            fails: false,
            is_failure: false,
            bare: false,
            tries: 0,
            started: false,
            skipped: 0,
            foreign: Vec::new(),
            is_broken: false,
        }
    }

    /// Takes one line in; a line that ends an event with data gives that data.
    ///
    /// # Errors
    /// [`LineTooLong`] when the data lines of one event add up to more than a line may hold.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Vec<u8>>, LineTooLong> {
        let line = if mem::replace(&mut self.started, true) {
            line
        } else {
            line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line)
        };
        if line.is_empty() {
            return Ok(self.end());
        }
        let first = line[0];
        let begins = first == b'{' || first == b'[' && (line.starts_with(b"[{") || line.trim_ascii() == b"[");
        let is_bare = self.bare || begins && !self.has_data;
        let data = match line.strip_prefix(b"data").or_else(|| line.strip_prefix(b"error")) {
            _ if is_bare => line,
            Some([]) => &[],
            Some([b':', b' ', data @ ..]) | Some([b':', data @ ..]) => {
                self.fails |= first == b'e';
                data
            }
            _ => {
                if let Some(name) = line.strip_prefix(b"event:") {
                    self.fails = ERRORS.contains(&name.trim_ascii());
                } else if !is_sse_line(line) {
                    if self.skipped == 0 {
                        self.foreign = line[..line.len().min(MAX_FOREIGN_BYTES)].to_vec();
                    }
                    self.skipped += 1;
                    self.is_broken |= holds_json(line);
                }
                return Ok(None);
            }
        };
        self.bare = is_bare;
        within_limit(self.data.len() + data.len() + 1, self.max_bytes)?;
        if mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(data);
        // Nothing but its own last brace need end it. It is read again with some lines, so only while it is
        // small and they are few.
        let may_end = self.bare
            && self.data.len() <= MAX_BARE_BYTES
            && matches!(self.data[..], [b'{', .., b'}'] | [b'[', .., b']']);
        self.tries += usize::from(may_end);
        let is_whole =
            may_end && self.tries <= MAX_TRIES && serde_json::from_slice::<IgnoredAny>(&self.data).is_ok();
        Ok(if is_whole { self.end() } else { None })
    }

    /// The data of an event that the end of the stream leaves open. The specification drops it,
    /// yet a server that forgets the last blank line means it.
    pub fn end(&mut self) -> Option<Vec<u8>> {
        self.bare = false;
        self.tries = 0;
        self.is_failure = mem::take(&mut self.fails);
        mem::take(&mut self.has_data).then(|| mem::take(&mut self.data))
    }
}

/// Whether what is not of the protocol may be a part of JSON that is: then words may be lost with it.
pub fn holds_json(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'"' | b'{' | b'}'))
}

/// Whether a line is one of an event stream, or the beginning of one.
fn is_sse_line(line: &[u8]) -> bool {
    let fields =
        [&b"data"[..], b":", b"event", b"id", b"retry", b"error", b"{", b"[{", "\u{feff}".as_bytes()];
    fields.iter().any(|field| line.starts_with(field) || field.starts_with(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::decoding::pieces;
    use proptest::prelude::*;

    const MAX_LINE_BYTES: usize = 1000;

    fn lines(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        let mut framing = Lines::new(MAX_LINE_BYTES);
        let mut all = Vec::new();
        for chunk in chunks {
            framing.feed(chunk, |line| {
                all.push(line.to_vec());
                Ok::<_, LineTooLong>(())
            })?;
        }
        all.extend(framing.rest());
        Ok(all)
    }

    fn events(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut framing = Lines::new(MAX_LINE_BYTES);
        let mut sse = SseEvents::new(MAX_LINE_BYTES);
        let mut all = Vec::new();
        for chunk in chunks {
            framing
                .feed(chunk, |line| {
                    all.extend(sse.line(line)?);
                    Ok::<_, LineTooLong>(())
                })
                .expect("short lines");
        }
        if let Some(line) = framing.rest() {
            all.extend(sse.line(&line).expect("short line"));
        }
        all.extend(sse.end());
        all
    }

    #[test]
    fn all_line_ends_are_the_same_and_the_last_may_miss() {
        let expected: Vec<Vec<u8>> = vec![b"a".to_vec(), b"".to_vec(), "b é".into(), b"c".to_vec()];
        for text in ["a\n\nb é\nc", "a\r\n\r\nb é\r\nc\r\n", "a\r\rb é\rc\r"] {
            assert_eq!(lines(&[text.as_bytes()]), Ok(expected.clone()), "{text:?}");
        }
    }

    #[test]
    fn a_line_is_bounded_however_it_arrives() {
        let long = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(lines(&[&long, b"\n"]).map(|lines| lines.len()), Ok(1));
        assert_eq!(lines(&[&long, b"y\n"]), Err(LineTooLong(MAX_LINE_BYTES)));
        let mut at_once = long.clone();
        at_once.extend_from_slice(b"y\n");
        assert_eq!(lines(&[&at_once]), Err(LineTooLong(MAX_LINE_BYTES)));
    }

    #[test]
    fn events_follow_the_specification() {
        let text = "\u{feff}: ping\n\ndata: one\n\nevent: x\nid: 1\ndata:two\ndata: three\n\ndata\n\ndatax: no\n\ndata: last";
        assert_eq!(events(&[text.as_bytes()]), [&b"one"[..], b"two\nthree", b"", b"last"]);
    }

    #[test]
    fn an_event_that_is_called_an_error_is_told_apart() {
        let mut sse = SseEvents::new(MAX_LINE_BYTES);
        let lines = "event: error\ndata: a\n\ndata: b\n\nerror: c\n\nevent: error\nevent: x\ndata: d\n\nevent:error\n\ndata: e\n\n";
        let mut called = Vec::new();
        for line in lines.split('\n') {
            if sse.line(line.as_bytes()).expect("a short line").is_some() {
                called.push(sse.is_failure);
            }
        }
        assert_eq!(called, [true, false, true, false, false]);
    }

    #[test]
    fn a_field_of_an_error_and_bare_json_are_events() {
        let text = "data: one\n\nerror: {\"code\":500}\n\n{\"error\":1}\n{\n  \"error\": {\n    \"x\": 1\n  }\n}\ndata: two\n\n";
        let expected: [&[u8]; 5] =
            [b"one", b"{\"code\":500}", b"{\"error\":1}", b"{\n  \"error\": {\n    \"x\": 1\n  }\n}", b"two"];
        assert_eq!(events(&[text.as_bytes()]), expected);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in "(data: |: |\\{\"é字🙂\"\\}|x|\r\n|\n|\r){0,40}", cuts in prop::collection::vec(0usize..200, 0..8)) {
            let bytes = text.as_bytes();
            let chunks = pieces(bytes, cuts);
            prop_assert_eq!(lines(&chunks), lines(&[bytes]));
            prop_assert_eq!(events(&chunks), events(&[bytes]));
        }
    }
}
