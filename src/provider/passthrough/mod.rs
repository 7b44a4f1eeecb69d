//! Completions on their way through: the caller gets what the mirror wrote, mended only where
//! clients stumble.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat-streaming>. A chunk is looked at
//! without being taken apart, and goes on as it is unless it lacks something: Dify crashes on a
//! chunk without `choices`, forgets a `finish_reason` when null follows, and wants `prompt_tokens`
//! in a `usage`. Clients differ most in how they join the pieces of tool calls: Dify goes by the
//! id, others by the index, and OpenAI's own library joins an id that comes twice to one of double
//! length. So a tool call goes on in one piece, with its id, which all of them understand.

mod tools;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use memchr::memchr;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::intake::{Intake, Rest};
use super::openai::{self, usage};
use super::template::{Mould, text};
use super::transport::Transport;
use super::{Decoder, Fault, Pieces, Progress, decode, first_byte, unfinished};
use crate::domain::chat::{Usage, estimate_tokens};
use crate::domain::error::{Error, Kind};
use tools::ToolCall;

/// One chunk of a completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Its JSON, in one line.
    pub data: Bytes,
    /// What the upstream says that the completion cost.
    pub usage: Option<Usage>,
    /// An estimate of the tokens in this chunk alone.
    pub tokens: u64,
}

/// A completion as it comes back.
pub enum Completion {
    /// All of it.
    Whole(u16, Chunk),
    /// Chunk by chunk.
    Chunks(Pieces<Chunk>),
}

/// Asks for a completion in its caller's own words.
pub(super) async fn complete(
    transport: &Rc<Transport>,
    body: Bytes,
    stream: bool,
    choices: usize,
) -> Result<Completion, Error> {
    let mut body = transport.open(openai::completion(body, stream)).await?;
    if stream {
        return Ok(Completion::Chunks(decode(
            Rc::clone(transport),
            body,
            Chunks::new(choices, transport.line_bytes()),
        )));
    }
    let status = body.status();
    let bytes = body.whole().await?;
    let read = match first_byte(&bytes) {
        None => Err(super::body::empty().into()),
        Some(b'<') => Err(Fault::Html),
        Some(b'{' | b'[') => whole::look(bytes).map(|chunk| Completion::Whole(status, chunk)),
        Some(_) => whole::joined(&bytes, choices).map(|chunk| Completion::Whole(status, chunk)),
    };
    read.map_err(|fault| super::name(transport, &body, fault))
}

/// What matters in a chunk.
#[derive(Deserialize)]
struct Seen<'a> {
    object: Option<&'a str>,
    #[serde(borrow)]
    choices: Option<Vec<SeenChoice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl<'a> Seen<'a> {
    /// The words of a chunk that says something and ends nothing.
    fn words(&self) -> Option<&'a RawValue> {
        let [choice] = self.choices.as_deref()? else { return None };
        let goes_on = choice.finish_reason.is_none() && self.usage.is_none();
        choice.delta.as_ref()?.content.filter(|_| goes_on)
    }
}

#[derive(Deserialize)]
struct SeenChoice<'a> {
    index: Option<u64>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<SeenDelta<'a>>,
}

#[derive(Deserialize)]
struct SeenDelta<'a> {
    role: Option<IgnoredAny>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// The `object` of a chunk.
const CHUNK: &str = "chat.completion.chunk";

/// Decodes a streamed completion into chunks; a whole one becomes one chunk.
pub struct Chunks {
    intake: Intake,
    /// How many choices the caller asked for.
    choices: usize,
    seen: BTreeSet<u64>,
    /// Why each choice ended.
    finished: BTreeMap<u64, String>,
    /// Tool calls that are still being written, in the order in which they began.
    calls: Vec<ToolCall>,
    /// What their chunk says beside them.
    calls_head: Map<String, Value>,
    /// The form of the latest chunk, where the next can be known by it.
    mould: Option<Mould>,
    understood: bool,
    done: bool,
    skipped: usize,
}

impl Chunks {
    /// A decoder of a completion with this many choices, in lines of at most so many bytes.
    pub fn new(choices: usize, line_bytes: usize) -> Self {
        Chunks {
            intake: Intake::new(line_bytes),
            choices,
            seen: BTreeSet::new(),
            finished: BTreeMap::new(),
            calls: Vec::new(),
            calls_head: Map::new(),
            mould: None,
            understood: false,
            done: false,
            skipped: 0,
        }
    }
}

impl Decoder for Chunks {
    type Piece = Chunk;

    fn feed(&mut self, bytes: &[u8], pieces: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        // The closure cannot borrow the intake and the rest of the decoder at once.
        let mut intake = std::mem::take(&mut self.intake);
        let result = intake.feed(bytes, |data| self.event(data, false, pieces));
        self.intake = intake;
        result
    }

    fn progress(&self) -> Progress {
        if self.done {
            Progress::Done
        } else if self.has_ended() {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn finish(&mut self, pieces: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        match self.intake.finish()? {
            Rest::Nothing => Err(super::body::empty().into()),
            Rest::Json(bytes) => {
                pieces.push_back(whole::chunk_of(&bytes)?);
                Ok(())
            }
            Rest::Event(data) => {
                self.event(data.clone(), true, pieces)?;
                self.skipped += self.intake.skipped;
                self.release(|_| true, pieces);
                if self.skipped > 0 {
                    log::warn!(lines = self.skipped; "skipped parts of the upstream's stream that are not of the protocol");
                }
                if self.done || self.has_ended() {
                    Ok(())
                } else {
                    Err(unfinished(self.understood, self.skipped, &data))
                }
            }
        }
    }
}

impl Chunks {
    fn has_ended(&self) -> bool {
        self.finished.len() >= self.choices.max(self.seen.len())
    }

    /// Takes in the data of one server-sent event. The `last` one, which nothing ends, may break off.
    fn event(&mut self, mut data: Vec<u8>, last: bool, pieces: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        let text = data.trim_ascii();
        if text.is_empty() || self.done {
            return Ok(());
        }
        if text == b"[DONE]" {
            if !self.understood {
                return Err(super::body::empty().into());
            }
            self.done = true;
            self.end(pieces);
            return Ok(());
        }
        if text[0] != b'{' {
            self.skipped += 1;
            return Ok(());
        }
        // In valid JSON a line end stands between tokens alone, so a blank means the same.
        while let Some(place) = memchr(b'\n', &data) {
            data[place] = b' ';
        }
        let understood = self.understood;
        let broken = || {
            if last {
                return unfinished(understood, 0, b"");
            }
            Error::new(Kind::UpstreamInvalid, "a part of the upstream's stream is broken")
                .hinted("try again; if it stays, look into the mirror's own log")
                .into()
        };
        if let Some(words) = self.mould.as_ref().and_then(|mould| mould.words(&data)) {
            let tokens = estimate_tokens(words);
            pieces.push_back(Chunk { data: data.into(), usage: None, tokens });
            return Ok(());
        }
        let text = std::str::from_utf8(&data).map_err(|_| broken())?;
        let looked = match serde_json::from_str::<Seen<'_>>(text) {
            Ok(seen) => {
                let mould = seen.words().and_then(|words| Mould::of(&data, words));
                let looked = self.look(seen)?;
                self.mould = mould.filter(|_| looked.is_some());
                looked
            }
            Err(_) => None,
        };
        match looked {
            Some((usage, tokens)) => pieces.push_back(Chunk { data: data.into(), usage, tokens }),
            None => self.mend(serde_json::from_str(text).map_err(|_| broken())?, pieces)?,
        }
        Ok(())
    }

    /// Says what the upstream left out at the end: the tool calls still held, and why choices ended.
    fn end(&mut self, pieces: &mut VecDeque<Chunk>) {
        self.release(|_| true, pieces);
        for index in self.seen.iter().filter(|index| !self.finished.contains_key(index)) {
            let choice = json!({ "index": index, "delta": {}, "finish_reason": "stop" });
            let chunk = json!({ "object": CHUNK, "choices": [choice] });
            pieces.push_back(Chunk { data: chunk.to_string().into(), usage: None, tokens: 0 });
        }
    }

    /// Takes in a chunk that can go on as it is, and gives its usage and an estimate of its tokens;
    /// `None` for one that must be mended.
    fn look(&mut self, seen: Seen<'_>) -> Result<Option<(Option<Usage>, u64)>, Fault> {
        if let Some(error) = seen.error {
            return Err(reported(serde_json::from_str(error.get()).unwrap_or_default()));
        }
        let spent = seen.usage.map(|text| serde_json::from_str(text.get()).ok().as_ref().and_then(usage));
        let Some(choices) = seen.choices.filter(|_| spent != Some(None)) else { return Ok(None) };
        if seen.object.is_none() {
            return Ok(None);
        }
        let is_good = |choice: &SeenChoice<'_>| {
            let (Some(index), Some(delta)) = (choice.index, &choice.delta) else { return false };
            let begins_unnamed = delta.role.is_none() && !self.seen.contains(&index);
            let forgets_the_end = choice.finish_reason.is_none() && self.finished.contains_key(&index);
            let ends_calls =
                choice.finish_reason.is_some() && self.calls.iter().any(|call| call.choice == index);
            let is_text = choice.finish_reason.is_none_or(|reason| reason.get().starts_with('"'));
            !begins_unnamed && !forgets_the_end && !ends_calls && is_text && delta.tool_calls.is_none()
        };
        if !choices.iter().all(is_good) {
            return Ok(None);
        }
        let mut tokens = 0;
        for choice in choices {
            let reason = choice.finish_reason.and_then(text).filter(|reason| !reason.is_empty());
            self.note(choice.index.unwrap_or_default(), reason.as_deref());
            let content = choice.delta.and_then(|delta| delta.content).and_then(text);
            tokens += content.map_or(0, |content| estimate_tokens(&content));
        }
        Ok(Some((spent.flatten(), tokens)))
    }

    fn note(&mut self, choice: u64, reason: Option<&str>) {
        self.understood = true;
        self.seen.insert(choice);
        if let Some(reason) = reason {
            self.mould = None;
            self.finished.entry(choice).or_insert_with(|| reason.to_string());
        }
    }

    /// Makes a chunk one that clients understand.
    fn mend(&mut self, mut chunk: Map<String, Value>, pieces: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(reported(error.clone()));
        }
        let spent = chunk.get("usage").and_then(usage);
        if spent.is_none()
            && let Some(usage) = chunk.get_mut("usage")
        {
            *usage = Value::Null;
        }
        if !chunk.get("object").is_some_and(Value::is_string) {
            chunk.insert("object".into(), CHUNK.into());
        }
        let mut choices = match chunk.insert("choices".into(), Value::Null) {
            Some(Value::Array(choices)) => choices,
            _ => Vec::new(),
        };
        let mut tokens = 0;
        let before = choices.len();
        for (place, choice) in choices.iter_mut().enumerate() {
            if let Some(choice) =
                choice.as_object_mut().filter(|choice| !choice.get("index").is_some_and(Value::is_u64))
            {
                choice.insert("index".into(), place.into());
            }
        }
        choices.retain_mut(|choice| self.mend_choice(choice, &chunk, &mut tokens));
        let said_nothing_else = choices.len() < before && choices.is_empty() && spent.is_none();
        let ended = choices.iter().filter(|choice| choice["finish_reason"].is_string());
        let ended: Vec<u64> = ended.map(|choice| choice["index"].as_u64().unwrap_or_default()).collect();
        self.release(|call| ended.contains(&call.choice), pieces);
        if !said_nothing_else {
            chunk.insert("choices".into(), choices.into());
            pieces.push_back(Chunk { data: Value::Object(chunk).to_string().into(), usage: spent, tokens });
        }
        Ok(())
    }

    /// Mends one choice of a chunk; false when nothing is left of it but pieces of tool calls.
    fn mend_choice(&mut self, choice: &mut Value, chunk: &Map<String, Value>, tokens: &mut u64) -> bool {
        let Some(choice) = choice.as_object_mut() else { return true };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
        let reason = choice.get("finish_reason").and_then(Value::as_str);
        let reason = reason.filter(|reason| !reason.is_empty()).map(String::from);
        let begins = !self.seen.contains(&index);
        self.note(index, reason.as_deref());
        if let (None, Some(before)) = (&reason, self.finished.get(&index)) {
            choice.insert("finish_reason".into(), before.clone().into());
        }
        if !choice.get("delta").is_some_and(Value::is_object) {
            choice.insert("delta".into(), json!({}));
        }
        let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) else { return true };
        if begins && !delta.get("role").is_some_and(Value::is_string) {
            delta.insert("role".into(), "assistant".into());
        }
        *tokens += delta.get("content").and_then(Value::as_str).map_or(0, estimate_tokens);
        let Some(Value::Array(calls)) = delta.shift_remove("tool_calls") else { return true };
        if self.calls.is_empty() {
            self.calls_head = chunk.clone();
            self.calls_head.insert("usage".into(), Value::Null);
        }
        for (place, piece) in calls.into_iter().enumerate() {
            if let Value::Object(piece) = piece {
                self.join(index, place, piece);
            }
        }
        let has_words = |(_, value): (&String, &Value)| {
            !value.is_null() && value.as_str().is_none_or(|text| !text.is_empty())
        };
        choice.get("finish_reason").is_some_and(Value::is_string)
            || choice["delta"].as_object().is_some_and(|delta| delta.iter().any(has_words))
    }
}

fn reported(error: Value) -> Fault {
    Fault::Reported(json!({ "error": error }))
}
