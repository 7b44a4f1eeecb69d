//! Whether an answer is the right one, looked at while it comes.

use crate::answer::{MARK, NUMBER_DIGITS, TIME_DIGITS};

/// What an answer must be.
pub enum Expected {
    /// These bytes, apart from the times in its tokens, which begin at the places given.
    Bytes(Vec<u8>, Vec<usize>),
    /// This many tokens, in order.
    Tokens(usize),
    /// This text somewhere in it.
    Part(Vec<u8>),
    /// A tool's envelope of a success, with this text as its answer, apart from times.
    Envelope(Vec<u8>, Vec<usize>),
}

impl Expected {
    pub fn bytes(text: String) -> Self {
        let marks = marks(text.as_bytes());
        Expected::Bytes(text.into_bytes(), marks)
    }

    pub fn tokens(count: usize) -> Self {
        Expected::Tokens(count)
    }

    pub fn part(text: String) -> Self {
        Expected::Part(text.into_bytes())
    }

    pub fn envelope(text: String) -> Self {
        let marks = marks(text.as_bytes());
        Expected::Envelope(text.into_bytes(), marks)
    }
}

fn marks(bytes: &[u8]) -> Vec<usize> {
    memchr::memchr_iter(MARK, bytes).map(|at| at + 1).collect()
}

/// How far an answer has been looked at.
#[derive(Default)]
pub struct Check {
    at: usize,
    tokens: usize,
    /// Characters of the token under way, 0 outside of one.
    inside: usize,
    time: u64,
    number: usize,
    kept: Vec<u8>,
    wrong: Option<String>,
}

impl Check {
    /// Takes bytes of the answer in, and hands the time at which each token was sent to `token`.
    pub fn feed(&mut self, expected: &Expected, bytes: &[u8], token: impl FnMut(u64)) {
        match expected {
            Expected::Bytes(all, marks) => self.compare(all, marks, bytes, token),
            Expected::Tokens(_) => self.scan(bytes, token),
            Expected::Part(_) | Expected::Envelope(..) => self.kept.extend_from_slice(bytes),
        }
    }

    /// Whether the answer was right.
    pub fn finish(&mut self, expected: &Expected) -> Result<(), String> {
        match expected {
            Expected::Bytes(all, _) if self.wrong.is_none() && self.at < all.len() => {
                self.wrong = Some(format!("wrong answer: ends at byte {}", self.at));
            }
            Expected::Tokens(count) if *count != self.tokens => {
                self.wrong.get_or_insert(format!("wrong answer: {} tokens", self.tokens));
            }
            Expected::Part(text) if memchr::memmem::find(&self.kept, text).is_none() => {
                self.wrong = Some("wrong answer: without its text".into());
            }
            Expected::Envelope(text, marks) => {
                let success = self.value("success").is_some_and(|rest| rest.starts_with(b"true"));
                let kept = std::mem::take(&mut self.kept);
                let answer = value(&kept, "answer").and_then(|rest| rest.strip_prefix(b"\""));
                match answer.and_then(|rest| rest.get(..text.len() + 1)) {
                    Some(answer) if success && answer.ends_with(b"\"") => {
                        self.compare(text, marks, &answer[..text.len()], |_| {});
                    }
                    _ => {
                        let start = String::from_utf8_lossy(&kept[..kept.len().min(300)]).into_owned();
                        self.wrong = Some(format!("wrong envelope: {start}"));
                    }
                }
                self.kept = kept;
            }
            _ => {}
        }
        self.wrong.take().map_or(Ok(()), Err)
    }

    /// The conversation that an envelope names.
    pub fn conversation(&self) -> Option<String> {
        let rest = self.value("conversation_id")?.strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', rest)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        value(&self.kept, name)
    }

    fn compare(&mut self, all: &[u8], marks: &[usize], mut bytes: &[u8], mut token: impl FnMut(u64)) {
        while !bytes.is_empty() && self.wrong.is_none() {
            let mark = marks.get(self.tokens).copied().unwrap_or(all.len());
            if self.at < mark {
                let count = bytes.len().min(mark - self.at);
                if bytes[..count] != all[self.at..self.at + count] {
                    let near = String::from_utf8_lossy(&bytes[..count.min(120)]).into_owned();
                    self.wrong = Some(format!("wrong answer: byte {} and on: {near}", self.at));
                }
                self.at += count;
                bytes = &bytes[count..];
            } else if self.at == all.len() {
                self.wrong = Some("wrong answer: longer than it should be".into());
            } else {
                let digit = char::from(bytes[0]).to_digit(16);
                self.time = self.time << 4 | u64::from(digit.unwrap_or_default());
                self.at += 1;
                bytes = &bytes[1..];
                if self.at == mark + TIME_DIGITS {
                    self.tokens += 1;
                    token(std::mem::take(&mut self.time));
                }
            }
        }
    }

    fn scan(&mut self, mut bytes: &[u8], mut token: impl FnMut(u64)) {
        while let Some(&byte) = bytes.first() {
            if self.inside == 0 {
                let Some(mark) = memchr::memchr(MARK, bytes) else { return };
                bytes = &bytes[mark + 1..];
                self.inside = 1;
                continue;
            }
            if self.inside <= TIME_DIGITS {
                self.time = self.time << 4 | u64::from(char::from(byte).to_digit(16).unwrap_or_default());
            } else if self.inside > TIME_DIGITS + 1 {
                self.number = self.number * 10 + char::from(byte).to_digit(10).unwrap_or_default() as usize;
            }
            self.inside += 1;
            bytes = &bytes[1..];
            if self.inside == TIME_DIGITS + 2 + NUMBER_DIGITS {
                if self.number != self.tokens {
                    self.wrong = Some(format!("wrong answer: token {} after {}", self.number, self.tokens));
                }
                self.inside = 0;
                self.number = 0;
                self.tokens += 1;
                token(std::mem::take(&mut self.time));
            }
        }
    }
}

/// What follows a name in JSON.
fn value<'a>(json: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let quoted = format!("\"{name}\"");
    let at = memchr::memmem::find(json, quoted.as_bytes())?;
    Some(json[at + quoted.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}
