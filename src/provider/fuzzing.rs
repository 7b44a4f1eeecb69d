//! Ways in for the fuzz targets of `fuzz/`, built with the feature `fuzzing` alone: each protocol's
//! decoder over an answer that arrives in these pieces, read as `step` reads a body.

use std::collections::VecDeque;
use std::fmt::Debug;

use super::passthrough::Chunk;
use super::{Decoder, Fault, Progress, openai, passthrough, relay, web_chat};

/// Short, so that made-up input meets the limit too.
pub const LINE_BYTES: usize = 4096;

/// What came out, and how it ended: `ok`, or the name of the failure.
pub type Outcome = (Vec<String>, String);

/// A completion of the OpenAI protocol as events.
pub fn openai(pieces: &[&[u8]]) -> Outcome {
    read(openai::Completion::new(LINE_BYTES), pieces, shown)
}

/// A web chat's answer as events.
pub fn web_chat(pieces: &[&[u8]]) -> Outcome {
    read(web_chat::Answer::new(LINE_BYTES), pieces, shown)
}

/// A completion that passes through, with this many choices.
pub fn passthrough(pieces: &[&[u8]], choices: usize) -> Outcome {
    read(passthrough::Chunks::new(choices, LINE_BYTES), pieces, chunk)
}

/// An event stream that is relayed.
pub fn relay(pieces: &[&[u8]]) -> Outcome {
    read(relay::EventBlocks::new(LINE_BYTES), pieces, chunk)
}

fn read<D: Decoder>(mut decoder: D, pieces: &[&[u8]], show: fn(&D::Piece) -> String) -> Outcome {
    let mut queue = VecDeque::new();
    let mut end = Ok(());
    for piece in pieces {
        end = decoder.feed(piece, &mut queue);
        // Asked afterwards, since what settles an answer and what follows may come in one piece.
        if decoder.progress() == Progress::Settled && end.is_err() {
            end = Ok(());
            break;
        }
        if end.is_err() || decoder.progress() == Progress::Done {
            break;
        }
    }
    if end.is_ok() && decoder.progress() != Progress::Done {
        let settled = decoder.progress() == Progress::Settled;
        end = decoder.finish(&mut queue);
        if settled {
            end = Ok(());
        }
    }
    let name = match end {
        Ok(()) => "ok".into(),
        Err(Fault::Reported(_)) => "reported".into(),
        Err(Fault::Html) => "html".into(),
        Err(Fault::Error(error)) => error.kind.code().into(),
    };
    (queue.iter().map(show).collect(), name)
}

fn shown<T: Debug>(value: &T) -> String {
    format!("{value:?}")
}

fn chunk(chunk: &Chunk) -> String {
    let text = String::from_utf8_lossy(&chunk.data).into_owned();
    // Ids that the decoder makes up differ each time.
    let mut parts = text.split("call_");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |all, part| all + "call_" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}
