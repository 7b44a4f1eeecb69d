//! Whether an answer is one JSON object or a stream of events, of a protocol that has both: its first
//! byte tells, and the rest is taken in by that form.

use super::decoding::{Fault, first_byte};
use super::framing::{Lines, SseEvents};
use super::reason;

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
    /// How many lines were none of an event stream, and how the first begins, once these have ended.
    skipped: usize,
    foreign: Vec<u8>,
    /// Whether the answer has ended: what follows is none of it.
    ended: bool,
    /// Whether a byte order mark stood before it.
    pub is_marked: bool,
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

    /// Takes bytes in and hands the data of every event that they complete to `each`, which says whether the
    /// answer has ended with it.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Vec<u8>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        if matches!(self.form, Form::Unknown) {
            self.begun.extend_from_slice(bytes);
        }
        let begun = std::mem::take(&mut self.begun);
        let bytes = if begun.is_empty() { bytes } else { &begun };
        if matches!(self.form, Form::Unknown) {
            self.is_marked = bytes.starts_with("\u{feff}".as_bytes());
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
            Form::Events(lines, sse) => {
                let fed = lines.feed(bytes, |line| {
                    if self.ended {
                        return Ok(());
                    }
                    let data = sse.line(line)?;
                    if sse.is_broken {
                        return Err(Fault::broken(None));
                    }
                    self.ended = data.map_or(Ok(false), |data| each(event(data, sse)))?;
                    Ok(())
                });
                if self.ended { Ok(()) } else { fed }
            }
        }
    }

    /// How many lines were none of an event stream.
    pub fn skipped(&self) -> usize {
        match &self.form {
            Form::Events(_, sse) => sse.skipped,
            Form::Unknown | Form::Json(_) | Form::Page(_) => self.skipped,
        }
    }

    /// What an answer is that has ended without anything understood: text of no protocol, if that is all.
    pub fn not_understood(&mut self, skipped: usize, last: &[u8]) -> Fault {
        if skipped == 0 && !self.foreign.is_empty() {
            Fault::Foreign(std::mem::take(&mut self.foreign))
        } else {
            Fault::unfinished(false, skipped + self.skipped, last)
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
                self.foreign = std::mem::take(&mut sse.foreign);
                let data = complete.or_else(|| sse.end());
                Rest::Event(data.map(|data| event(data, &sse)).unwrap_or_default())
            }
        })
    }
}

/// The data of the latest event, in a form in which an error is known for one.
fn event(data: Vec<u8>, sse: &SseEvents) -> Vec<u8> {
    if sse.is_failure { reason::named(data) } else { data }
}
