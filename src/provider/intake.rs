//! Whether an answer is one JSON object or a stream of events, of a protocol that has both: its first
//! byte tells, and the rest is taken in by that form.

use super::decoding::{Fault, first_byte};
use super::framing::{Lines, SseEvents};

/// The most that is kept before the first byte that tells: a byte order mark is shorter, and blanks
/// without end are not kept.
const MAX_BEGUN: usize = 4096;

/// Takes an answer's bytes in.
#[derive(Default)]
pub struct Intake {
    line_bytes: usize,
    form: Form,
    /// What came before the first byte that tells the form.
    begun: Vec<u8>,
    /// How many lines were none of an event stream, once these have ended.
    skipped: usize,
}

#[derive(Default)]
enum Form {
    #[default]
    Unknown,
    Json(Vec<u8>),
    Page(Vec<u8>),
    Events(Lines, SseEvents),
}

/// What an answer's end leaves.
pub enum Rest {
    /// Nothing came.
    Nothing,
    /// One JSON object.
    Json(Vec<u8>),
    /// The data of an event that nothing ends; empty where there is none.
    Event(Vec<u8>),
}

impl Intake {
    /// An intake of lines up to this long, in bytes.
    pub fn new(line_bytes: usize) -> Self {
        Intake { line_bytes, ..Intake::default() }
    }

    /// Takes bytes in and hands the data of every event that they complete to `each`.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Vec<u8>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if matches!(self.form, Form::Unknown) {
            self.begun.extend_from_slice(bytes);
        }
        let begun = std::mem::take(&mut self.begun);
        let bytes = if begun.is_empty() { bytes } else { &begun };
        if matches!(self.form, Form::Unknown) {
            self.form = match first_byte(bytes) {
                None => {
                    if begun.len() <= MAX_BEGUN {
                        self.begun = begun;
                    }
                    return Ok(());
                }
                Some(b'<') => Form::Page(Vec::new()),
                Some(b'{' | b'[') => Form::Json(Vec::new()),
                Some(_) => Form::Events(Lines::new(self.line_bytes), SseEvents::new(self.line_bytes)),
            };
        }
        match &mut self.form {
            Form::Unknown => Ok(()),
            Form::Json(all) => {
                all.extend_from_slice(bytes);
                Ok(())
            }
            Form::Page(begun) => Fault::page(begun, bytes),
            Form::Events(lines, sse) => lines.feed(bytes, |line| {
                let data = sse.line(line)?;
                if sse.is_broken {
                    return Err(Fault::broken(None));
                }
                data.map_or(Ok(()), &mut each)
            }),
        }
    }

    /// How many lines were none of an event stream.
    pub fn skipped(&self) -> usize {
        match &self.form {
            Form::Events(_, sse) => sse.skipped,
            Form::Unknown | Form::Json(_) | Form::Page(_) => self.skipped,
        }
    }

    /// Takes in that no more bytes come.
    pub fn finish(&mut self) -> Result<Rest, Fault> {
        Ok(match std::mem::take(&mut self.form) {
            Form::Unknown => Rest::Nothing,
            Form::Json(bytes) => Rest::Json(bytes),
            Form::Page(begun) => return Err(Fault::Html(begun)),
            Form::Events(mut lines, mut sse) => {
                let last = lines.rest().unwrap_or_default();
                let complete = sse.line(&last)?;
                self.skipped = sse.skipped;
                Rest::Event(complete.or_else(|| sse.end()).unwrap_or_default())
            }
        })
    }
}
