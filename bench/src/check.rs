//! Whether an answer is the right one.

use serde::Deserialize;

use crate::answer::{MARK, NUMBER_DIGITS, TIME_DIGITS};

/// What an answer must be.
pub enum Expected {
    /// These bytes, apart from the times in its tokens.
    Bytes(String),
    /// This many tokens, in order.
    Tokens(usize),
    /// This text somewhere in it.
    Part(String),
    /// A tool's envelope of a success, with this text as its answer, apart from times.
    Envelope(String),
}

#[derive(Deserialize)]
struct Envelope {
    success: bool,
    answer: String,
    conversation_id: Option<String>,
}

/// An answer as far as it has come.
#[derive(Default)]
pub struct Check {
    kept: Vec<u8>,
    /// Up to where its tokens are known.
    scanned: usize,
    tokens: usize,
    wrong: Option<String>,
    /// The conversation that an envelope named.
    pub conversation: Option<String>,
}

impl Check {
    /// Takes bytes of the answer in, and hands the time at which each token was sent to `token`.
    pub fn feed(&mut self, expected: &Expected, bytes: &[u8], mut token: impl FnMut(u64)) {
        self.kept.extend_from_slice(bytes);
        if matches!(expected, Expected::Part(_) | Expected::Envelope(_)) {
            return;
        }
        while let Some(mark) = memchr::memchr(MARK, &self.kept[self.scanned..]) {
            self.scanned += mark;
            let begin = self.scanned + 1;
            let Some(text) = self.kept.get(begin..begin + TIME_DIGITS + 1 + NUMBER_DIGITS) else { return };
            let (time, number) = text.split_at(TIME_DIGITS);
            if digits(&number[1..], 10) != Some(self.tokens as u64) {
                self.wrong.get_or_insert_with(|| {
                    format!("wrong answer: token {} after {}", start(text), self.tokens)
                });
            }
            self.scanned = begin;
            self.tokens += 1;
            token(digits(time, 16).unwrap_or_default());
        }
        self.scanned = self.kept.len();
    }

    /// Whether the answer was right.
    pub fn finish(&mut self, expected: &Expected) -> Result<(), String> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        match expected {
            Expected::Bytes(all) => same(&mut self.kept, all.as_bytes()),
            Expected::Tokens(count) if *count != self.tokens => {
                Err(format!("wrong answer: {} tokens", self.tokens))
            }
            Expected::Tokens(_) => Ok(()),
            Expected::Part(text) => {
                let found = memchr::memmem::find(&self.kept, text.as_bytes());
                found.map(|_| ()).ok_or("wrong answer: without its text".into())
            }
            Expected::Envelope(text) => match serde_json::from_slice::<Envelope>(&self.kept) {
                Ok(envelope) if envelope.success => {
                    self.conversation = envelope.conversation_id;
                    same(&mut envelope.answer.into_bytes(), text.as_bytes())
                }
                _ => Err(format!("wrong envelope: {}", start(&self.kept))),
            },
        }
    }
}

fn digits(text: &[u8], radix: u32) -> Option<u64> {
    text.iter().try_fold(0, |sum, digit| {
        Some(sum * u64::from(radix) + u64::from(char::from(*digit).to_digit(radix)?))
    })
}

/// Compares an answer with one in which all times are zero.
fn same(got: &mut [u8], wanted: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while let Some(mark) = memchr::memchr(MARK, &got[at..]) {
        at = (at + mark + 1 + TIME_DIGITS).min(got.len());
        let begin = at.saturating_sub(TIME_DIGITS);
        got[begin..at].fill(b'0');
    }
    if got == wanted {
        return Ok(());
    }
    let differs = got.iter().zip(wanted).position(|(one, other)| one != other);
    let place = differs.unwrap_or(got.len().min(wanted.len()));
    Err(format!("wrong answer: byte {place} of {} and on: {}", wanted.len(), start(&got[place..])))
}

fn start(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}
