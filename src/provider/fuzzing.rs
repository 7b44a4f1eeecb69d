//! Ways in for the fuzz targets of `fuzz/`, built with the feature `fuzzing` alone: each protocol's
//! decoder over an answer that arrives in these pieces, read as a body is.

use super::anthropic::decoder::Events;
use super::decoding::{self, Decoder, Fault};
use super::openai::decoder::Chunks;
use super::relay::EventBlocks;
use super::web_chat::decoder::Answer;
use crate::domain::answer::Delta;

/// Short, so that made-up input meets the limit too.
pub const LINE_BYTES: usize = 4096;

/// What came out, and how it ended: `ok`, or the name of the failure.
pub type Outcome = (Vec<Piece>, String);

/// One piece: all that it says, and its bytes for the caller as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it means.
    pub meaning: String,
    /// Its bytes.
    pub wire: String,
}

/// A completion of the OpenAI protocol with this many choices.
pub fn openai(pieces: &[&[u8]], choices: usize) -> Outcome {
    read(Chunks::new(choices, LINE_BYTES), pieces)
}

/// A message of Anthropic's Messages API.
pub fn anthropic(pieces: &[&[u8]]) -> Outcome {
    read(Events::new(LINE_BYTES), pieces)
}

/// A web chat's answer.
pub fn web_chat(pieces: &[&[u8]]) -> Outcome {
    read(Answer::new(LINE_BYTES), pieces)
}

/// An event stream that is relayed.
pub fn relay(pieces: &[&[u8]]) -> Outcome {
    read(EventBlocks::new(LINE_BYTES), pieces)
}

fn read(mut decoder: impl Decoder, pieces: &[&[u8]]) -> Outcome {
    let (deltas, end) = decoding::read(&mut decoder, pieces);
    let name = match end {
        Ok(()) => "ok".into(),
        Err(Fault::Reported(_)) => "reported".into(),
        Err(Fault::Html(_)) => "html".into(),
        Err(Fault::Foreign(_)) => "foreign".into(),
        Err(Fault::Error(error)) => error.kind.code().into(),
    };
    (deltas.iter().map(shown).collect(), name)
}

fn shown(delta: &Delta) -> Piece {
    let wire = delta.wire.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    Piece { meaning: without_ids(&format!("{delta:?}")), wire: without_ids(&wire) }
}

fn without_ids(text: &str) -> String {
    // Ids that the decoder makes up differ each time.
    let mut parts = text.split("call_");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |all, part| all + "call_" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}
