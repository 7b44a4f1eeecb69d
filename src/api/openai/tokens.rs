//! What a request may cost, where no upstream has told it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::forms::text_or_json;
use super::messages::Content;
use crate::domain::chat::{Part, estimate_tokens};

/// An estimate of the tokens in the texts of a request; pictures and sounds count nothing.
pub fn of_prompt(body: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Request {
        messages: Option<Vec<Said>>,
        #[serde(alias = "prompt")]
        input: Option<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct Said {
        content: Option<Content>,
    }
    let Ok(Request { messages, input }) = serde_json::from_slice(body) else { return 0 };
    let parts = messages.into_iter().flatten().filter_map(|message| message.content);
    let texts = parts.flat_map(|Content(parts)| parts).map(|part| match part {
        Part::Text(text) => estimate_tokens(&text),
        Part::Image(_) | Part::Other(_) => 0,
    });
    texts.chain(input.map(|input| estimate_tokens(&text_or_json(input)))).sum()
}
