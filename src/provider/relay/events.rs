//! An event stream that is passed on event by event, in its own words.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::decoding::{Decoder, Fault, Progress};
use super::super::framing::{ERRORS, LineTooLong, Lines};
use super::super::reason::{self, finishes};
use super::{check, look};
use crate::domain::answer::Delta;
use crate::domain::error::{Error, Kind};

/// The ends of streams, by the `type` of their last event. Source:
/// <https://platform.openai.com/docs/api-reference/responses-streaming> and its neighbours, and
/// <https://docs.anthropic.com/en/docs/build-with-claude/streaming>.
const LAST_EVENTS: [&str; 6] =
    [".completed", ".done", ".failed", ".incomplete", ".cancelled", "message_stop"];

/// Server-sent events in their own words, with LF for any line end.
pub struct EventBlocks {
    max_bytes: usize,
    lines: Option<Lines>,
    block: Vec<u8>,
    data: Vec<u8>,
    /// Whether the event is called an error.
    is_failure: bool,
    /// Whether its data are JSON without a field, which most often reports an error.
    is_bare: bool,
    /// The last event that ends a stream, unless more of its kind came.
    ended: Option<String>,
    /// The choices of a completion that have not said why they end, and those that have.
    choices: BTreeMap<u64, bool>,
}

impl Decoder for EventBlocks {
    fn feed(&mut self, bytes: &[u8], pieces: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let Some(mut lines) = self.lines.take() else { return Ok(()) };
        let result = lines.feed(bytes, |line| self.line(line, pieces));
        self.lines = Some(lines);
        result
    }

    fn progress(&self) -> Progress {
        if self.has_ended() { Progress::Settled } else { Progress::Open }
    }

    fn finish(&mut self, pieces: &mut VecDeque<Delta>) -> Result<(), Fault> {
        if let Some(last) = self.lines.as_mut().and_then(Lines::rest) {
            self.line(&last, pieces)?;
        }
        self.line(b"", pieces)?;
        if self.has_ended() {
            Ok(())
        } else {
            Err(Error::new(Kind::UpstreamTruncated, "the upstream's stream ended before its last event")
                .into())
        }
    }
}

impl EventBlocks {
    /// Events of at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        let lines = Some(Lines::new(max_bytes));
        EventBlocks {
            max_bytes,
            lines,
            block: Vec::new(),
            data: Vec::new(),
            is_failure: false,
            is_bare: false,
            ended: None,
            choices: BTreeMap::new(),
        }
    }

    fn line(&mut self, line: &[u8], pieces: &mut VecDeque<Delta>) -> Result<(), Fault> {
        if !line.is_empty() {
            self.block.extend_from_slice(line);
            self.block.push(b'\n');
            if let Some(data) = line.strip_prefix(b"data:") {
                self.data.extend_from_slice(data);
            } else if let Some(name) = line.strip_prefix(b"event:") {
                self.is_failure = ERRORS.contains(&name.trim_ascii());
            } else if let Some(data) = line.strip_prefix(b"error:") {
                self.data.extend_from_slice(data);
                self.is_failure = true;
            } else if line.starts_with(b"{") || self.is_bare {
                self.data.extend_from_slice(line);
                self.is_bare = true;
            }
            return if self.block.len() > self.max_bytes {
                Err(LineTooLong(self.max_bytes).into())
            } else {
                Ok(())
            };
        }
        if self.block.is_empty() {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        block.push(b'\n');
        let data = std::mem::take(&mut self.data);
        let data = data.trim_ascii();
        if std::mem::take(&mut self.is_failure) && !data.is_empty() {
            let error = serde_json::from_slice(&reason::named(data.to_vec())).unwrap_or_default();
            Fault::check(&error)?;
        }
        self.is_bare = false;
        if !data.is_empty() {
            self.see(data)?;
        }
        let usage = look(data).unwrap_or_default();
        pieces.push_back(Delta { wire: Some(block.into()), ..Delta::costing(usage) });
        Ok(())
    }

    /// Whether the last event is one that ends a stream: by its name, or by its choices, of which all have said
    /// why they end.
    fn has_ended(&self) -> bool {
        self.ended.is_some() || !self.choices.is_empty() && self.choices.values().all(|has_ended| *has_ended)
    }

    /// Looks at the data of an event for an error, and for whether its stream ends with it.
    fn see(&mut self, data: &[u8]) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Named<'a> {
            r#type: Option<&'a str>,
            object: Option<&'a str>,
            error: Option<IgnoredAny>,
            choices: Option<Vec<Choice<'a>>>,
        }
        #[derive(Deserialize)]
        struct Choice<'a> {
            index: Option<u64>,
            #[serde(borrow)]
            finish_reason: Option<Cow<'a, str>>,
        }
        let Ok(named) = serde_json::from_slice::<Named<'_>>(data) else {
            self.ended = (data == b"[DONE]").then(String::new).or(self.ended.take());
            return check(data);
        };
        if named.error.is_some() || [named.r#type, named.object].contains(&Some("error")) {
            check(data)?;
        }
        for Choice { index, finish_reason } in named.choices.into_iter().flatten() {
            let ends = finish_reason.is_some_and(|reason| finishes(&reason));
            *self.choices.entry(index.unwrap_or_default()).or_default() |= ends;
        }
        let Some(name) = named.r#type else { return Ok(()) };
        // Within a response, single parts are done before all of it is.
        let is_part = name.starts_with("response.") && name.matches('.').count() > 1;
        let kind = name.split('.').next().unwrap_or_default();
        if !is_part && LAST_EVENTS.iter().any(|end| name.ends_with(end)) {
            self.ended = Some(kind.into());
        } else if self.ended.as_deref() == Some(kind) && kind != "response" {
            self.ended = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat::Usage;
    use crate::provider::decoding::pieces;
    use proptest::prelude::*;

    const STREAM: &str = "event: response.created\r\ndata: {\"type\":\"response.created\"}\r\n\r\n: ping\n\n\
        event: x\ndata: {\"type\":\"response.output_text.done\",\"text\":\"你好\"}\n\n\
        data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":2}}}\n\n";

    fn read(chunks: &[&[u8]]) -> (String, Option<Usage>, bool) {
        let (mut decoder, mut queue) = (EventBlocks::new(1000), VecDeque::new());
        for chunk in chunks {
            assert!(decoder.feed(chunk, &mut queue).is_ok());
        }
        let complete = decoder.finish(&mut queue).is_ok();
        let wire = queue.iter().filter_map(|delta| delta.wire.as_ref());
        let text = wire.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        (text, queue.iter().find_map(Delta::usage), complete)
    }

    #[test]
    fn events_go_on_in_their_own_words() {
        let (text, usage, complete) = read(&[STREAM.as_bytes()]);
        assert_eq!(text, STREAM.replace('\r', ""));
        assert_eq!(usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens)), Some((3, 2)));
        assert!(complete);
        let cut = STREAM.find("data: {\"type\":\"response.completed").expect("an end");
        assert!(!read(&[&STREAM.as_bytes()[..cut]]).2);
        assert!(read(&[b"data: {\"choices\":[]}\n\ndata: [DONE]\n\n"]).2);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..400, 0..8)) {
            prop_assert_eq!(read(&pieces(STREAM.as_bytes(), cuts)), read(&[STREAM.as_bytes()]));
        }
    }
}
