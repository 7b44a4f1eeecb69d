//! Random answers with random faults, cut anywhere: every way of reading one gives the same words, and
//! none is a success unless all of its words and its protocol's end are there.

#[path = "../../tests/api/streams.rs"]
mod streams;

use proptest::prelude::*;
use serde_json::Value;

use super::anthropic::decoder::Events;
use super::decoding::{self, Decoder, pieces};
use super::openai::decoder::Chunks;
use super::web_chat::decoder::Answer as Lines;
use crate::domain::answer::Answer;
use streams::{Protocol, Stream};

const MOST: usize = 1 << 20;

/// The text that came, the text in the bytes for callers of the same protocol, and whether it is a success.
fn read(mut decoder: impl Decoder, chunks: &[&[u8]]) -> (String, String, bool) {
    let (deltas, end) = decoding::read(&mut decoder, chunks);
    let (mut answer, mut wire, mut gap) = (Answer::default(), String::new(), false);
    for delta in &deltas {
        // What comes after a line that cannot be read is no part of what surely was said.
        gap |= delta.gap.is_some();
        if !gap {
            answer.apply(delta);
        }
        let chunk = delta.wire.as_deref().map(|wire| serde_json::from_slice::<Value>(wire).expect("JSON"));
        let content = chunk.map(|chunk| chunk["choices"][0]["delta"]["content"].clone());
        wire.push_str(content.as_ref().and_then(Value::as_str).unwrap_or_default());
    }
    (answer.text, wire, end.is_ok() && !gap)
}

fn check(stream: &Stream, protocol: Protocol, text: &str, success: bool) {
    assert_eq!(success, !stream.fails(protocol), "{protocol:?}");
    let words = if success { stream.words() } else { stream.good_words() };
    assert_eq!(text, words, "{protocol:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn an_answer_is_a_success_only_with_all_its_words_and_its_end(
        stream in streams::stream(),
        cuts in prop::collection::vec(0usize..600, 0..8),
    ) {
        for protocol in [Protocol::OpenAi, Protocol::Anthropic, Protocol::WebChat] {
            let bytes = stream.bytes(protocol);
            let chunks = pieces(&bytes, cuts.clone());
            let (text, wire, success) = match protocol {
                Protocol::OpenAi => read(Chunks::new(1, MOST), &chunks),
                Protocol::Anthropic => read(Events::new(MOST), &chunks),
                Protocol::WebChat => read(Lines::new(MOST), &chunks),
            };
            check(&stream, protocol, &text, success);
            if protocol == Protocol::OpenAi {
                prop_assert_eq!(&wire, &text, "the bytes say what they mean");
                let (_, wire, success) = read(Chunks::new(1, MOST).for_wire(), &chunks);
                // One without words is refused here; before callers of other protocols `InFlight` does.
                let is_silent = !stream.fails(protocol) && stream.words().trim().is_empty();
                check(&stream, protocol, &wire, success || is_silent);
            }
        }
    }
}
