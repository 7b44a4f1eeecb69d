//! Completions on their way through: the caller gets what the mirror wrote, mended only where
//! clients stumble.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat-streaming>. A chunk is looked at
//! without being taken apart, and goes on as it is unless it lacks something: Dify crashes on a
//! chunk without `choices`, forgets a `finish_reason` when null follows, and wants `prompt_tokens`
//! in a `usage`. Clients differ most in how they join the pieces of tool calls: Dify goes by the
//! id, others by the index, and OpenAI's own library joins an id that comes twice to one of double
//! length. So a tool call goes on in one piece, with its id, which all of them understand.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::framing::{Lines, SseEvents};
use super::openai::{self, is_sse_line, not_json, usage};
use super::transport::Transport;
use super::{Decoder, Fault, Pieces, Progress, decode, first_byte, unfinished};
use crate::chat::{Usage, estimate_tokens};
use crate::error::{Error, Kind};

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
        Some(b'{' | b'[') => whole(bytes).map(|chunk| Completion::Whole(status, chunk)),
        Some(_) => joined(&bytes, choices).map(|chunk| Completion::Whole(status, chunk)),
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

#[derive(Deserialize)]
struct SeenChoice<'a> {
    index: Option<u64>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
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
    line_bytes: usize,
    form: Form,
    /// What came before the first byte that tells the form.
    begun: Vec<u8>,
    /// How many choices the caller asked for.
    choices: usize,
    seen: HashSet<u64>,
    /// Why each choice ended.
    finished: HashMap<u64, String>,
    /// Tool calls that are still being written, in the order in which they began.
    calls: Vec<ToolCall>,
    /// What their chunk says beside them.
    calls_head: Map<String, Value>,
    understood: bool,
    done: bool,
    skipped: usize,
}

/// A tool call, joined from its pieces.
struct ToolCall {
    choice: u64,
    index: u64,
    call: Map<String, Value>,
    name: String,
    arguments: String,
}

enum Form {
    Unknown,
    Json(Vec<u8>),
    Events(Lines, SseEvents),
}

impl Chunks {
    /// A decoder of a completion with this many choices, in lines of at most so many bytes.
    pub fn new(choices: usize, line_bytes: usize) -> Self {
        Chunks {
            line_bytes,
            form: Form::Unknown,
            begun: Vec::new(),
            choices,
            seen: HashSet::new(),
            finished: HashMap::new(),
            calls: Vec::new(),
            calls_head: Map::new(),
            understood: false,
            done: false,
            skipped: 0,
        }
    }
}

impl Decoder for Chunks {
    type Piece = Chunk;

    fn feed(&mut self, bytes: &[u8], pieces: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if matches!(self.form, Form::Unknown) {
            self.begun.extend_from_slice(bytes);
        }
        let begun = std::mem::take(&mut self.begun);
        let bytes = if begun.is_empty() { bytes } else { &begun };
        if let Form::Unknown = self.form {
            self.form = match first_byte(bytes) {
                None => {
                    // A mark is shorter than this; blanks without end are not kept.
                    if begun.len() <= 4096 {
                        self.begun = begun;
                    }
                    return Ok(());
                }
                Some(b'<') => return Err(Fault::Html),
                Some(b'{' | b'[') => Form::Json(Vec::new()),
                Some(_) => Form::Events(Lines::new(self.line_bytes), SseEvents::new(self.line_bytes)),
            };
        }
        match std::mem::replace(&mut self.form, Form::Unknown) {
            Form::Unknown => Ok(()),
            Form::Json(mut all) => {
                all.extend_from_slice(bytes);
                self.form = Form::Json(all);
                Ok(())
            }
            Form::Events(mut lines, mut sse) => {
                let result = lines.feed(bytes, |line| {
                    self.skipped += usize::from(!is_sse_line(line));
                    match sse.line(line)? {
                        Some(data) => self.event(data, false, pieces),
                        None => Ok(()),
                    }
                });
                self.form = Form::Events(lines, sse);
                result
            }
        }
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
        match std::mem::replace(&mut self.form, Form::Unknown) {
            Form::Unknown => Err(super::body::empty().into()),
            Form::Json(bytes) => {
                pieces.push_back(chunk_of(&bytes)?);
                Ok(())
            }
            Form::Events(mut lines, mut sse) => {
                let last = lines.rest().unwrap_or_default();
                self.skipped += usize::from(!is_sse_line(&last));
                let complete = sse.line(&last)?;
                let data = complete.or_else(|| sse.end()).unwrap_or_default();
                self.event(data.clone(), true, pieces)?;
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
        data.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        let understood = self.understood;
        let broken = || {
            if last {
                return unfinished(understood, 0, b"");
            }
            Error::new(Kind::UpstreamInvalid, "a part of the upstream's stream is broken")
                .hinted("try again; if it stays, look into the mirror's own log")
                .into()
        };
        let text = std::str::from_utf8(&data).map_err(|_| broken())?;
        let looked = match serde_json::from_str::<Seen<'_>>(text) {
            Ok(seen) => self.look(seen)?,
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
        let mut open: Vec<u64> =
            self.seen.iter().copied().filter(|index| !self.finished.contains_key(index)).collect();
        open.sort_unstable();
        for index in open {
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
            !begins_unnamed && !forgets_the_end && !ends_calls && delta.tool_calls.is_none()
        };
        if !choices.iter().all(is_good) {
            return Ok(None);
        }
        let mut tokens = 0;
        for choice in choices {
            let reason = choice.finish_reason.filter(|reason| !reason.is_empty());
            self.note(choice.index.unwrap_or_default(), reason.as_deref());
            let content = choice.delta.and_then(|delta| delta.content);
            tokens += content.map_or(0, |content| {
                // Most pieces hold no escape, so their text need not be copied.
                serde_json::from_str::<Cow<'_, str>>(content.get()).map_or(0, |text| estimate_tokens(&text))
            });
        }
        Ok(Some((spent.flatten(), tokens)))
    }

    fn note(&mut self, choice: u64, reason: Option<&str>) {
        self.understood = true;
        self.seen.insert(choice);
        if let Some(reason) = reason {
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

    /// Adds a piece to its tool call: by the index, else by the id, else to the latest.
    fn join(&mut self, choice: u64, place: usize, mut piece: Map<String, Value>) {
        let id = piece.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(String::from);
        let mut function = match piece.shift_remove("function") {
            Some(Value::Object(function)) => function,
            _ => Map::new(),
        };
        let mut text = |key: &str| match function.shift_remove(key) {
            Some(Value::String(text)) => text,
            Some(Value::Null) | None => String::new(),
            // Some mirrors give the arguments as the object that they describe.
            Some(value) => value.to_string(),
        };
        let (name, arguments) = (text("name"), text("arguments"));
        let of_choice = |call: &&mut ToolCall| call.choice == choice;
        let found = match (piece.get("index").and_then(Value::as_u64), &id) {
            (Some(index), _) => self.calls.iter_mut().filter(of_choice).find(|call| call.index == index),
            (None, Some(id)) => {
                self.calls.iter_mut().filter(of_choice).find(|call| call.call["id"].as_str() == Some(id))
            }
            (None, None) => self.calls.iter_mut().rfind(|call| call.choice == choice),
        };
        match found {
            Some(call) => {
                call.arguments.push_str(&arguments);
                if call.name.is_empty() {
                    call.name = name;
                }
            }
            None => {
                let index = piece.get("index").and_then(Value::as_u64).unwrap_or(place as u64);
                piece.insert("id".into(), id.unwrap_or_else(new_call_id).into());
                piece.insert("type".into(), "function".into());
                self.calls.push(ToolCall { choice, index, call: piece, name, arguments });
            }
        }
    }

    /// Sends the tool calls that are complete, in a chunk before the one that ends their choice.
    fn release(&mut self, is_complete: impl Fn(&ToolCall) -> bool, pieces: &mut VecDeque<Chunk>) {
        let mut complete = Vec::new();
        let mut index = 0;
        while index < self.calls.len() {
            if is_complete(&self.calls[index]) { complete.push(self.calls.remove(index)) } else { index += 1 }
        }
        complete.sort_by_key(|call| (call.choice, call.index));
        let mut choices: Vec<Value> = Vec::new();
        let mut tokens = 0;
        for ToolCall { choice, mut call, name, arguments, .. } in complete {
            tokens += estimate_tokens(&name) + estimate_tokens(&arguments);
            if choices.last().is_none_or(|last| last["index"] != choice) {
                choices
                    .push(json!({ "index": choice, "delta": { "tool_calls": [] }, "finish_reason": null }));
            }
            let calls = choices.last_mut().and_then(|last| last["delta"]["tool_calls"].as_array_mut());
            let calls = calls.expect("a choice with calls was just put there");
            call.insert("index".into(), calls.len().into());
            call.insert("function".into(), json!({ "name": name, "arguments": arguments }));
            calls.push(call.into());
        }
        if !choices.is_empty() {
            let mut chunk = self.calls_head.clone();
            chunk.insert("choices".into(), choices.into());
            pieces.push_back(Chunk { data: Value::Object(chunk).to_string().into(), usage: None, tokens });
        }
    }
}

fn reported(error: Value) -> Fault {
    Fault::Reported(json!({ "error": error }))
}

fn new_call_id() -> String {
    format!("call_{}", uuid::Uuid::new_v4().simple())
}

/// A whole completion as one chunk, for callers that asked for a stream.
fn chunk_of(bytes: &[u8]) -> Result<Chunk, Fault> {
    let mut value = whole_value(bytes)?;
    let Some(object) = value.as_object_mut() else { return Err(unfinished(false, 1, b"")) };
    object.insert("object".into(), CHUNK.into());
    let spent = object.get("usage").and_then(usage);
    for choice in object.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(choice) = choice.as_object_mut() else { continue };
        let mut delta = choice.remove("message").unwrap_or_else(|| json!({}));
        let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten();
        for (index, call) in calls.filter_map(Value::as_object_mut).enumerate() {
            call.insert("index".into(), index.into());
        }
        choice.insert("delta".into(), delta);
    }
    let tokens = estimate_tokens(&value["choices"][0]["delta"]["content"].to_string());
    Ok(Chunk { data: value.to_string().into(), usage: spent, tokens })
}

/// A stream, all of which is here, as the whole completion that was asked for.
fn joined(bytes: &[u8], choices: usize) -> Result<Chunk, Fault> {
    // Its length is bounded already, and so are its lines.
    let (mut decoder, mut pieces) = (Chunks::new(choices, usize::MAX), VecDeque::new());
    decoder.feed(bytes, &mut pieces)?;
    if decoder.progress() != Progress::Done {
        decoder.finish(&mut pieces)?;
    }
    let usage = pieces.iter().filter_map(|chunk| chunk.usage).next_back();
    let tokens = pieces.iter().map(|chunk| chunk.tokens).sum();
    let mut whole = Map::new();
    let mut messages: BTreeMap<u64, (Map<String, Value>, Value)> = BTreeMap::new();
    for chunk in &pieces {
        let Ok(Value::Object(mut chunk)) = serde_json::from_slice(&chunk.data) else { continue };
        let Some(Value::Array(choices)) = chunk.shift_remove("choices") else { continue };
        for mut choice in choices {
            let (message, reason) = messages.entry(choice["index"].as_u64().unwrap_or_default()).or_default();
            if choice["finish_reason"].is_string() {
                *reason = choice["finish_reason"].take();
            }
            if let Value::Object(delta) = choice["delta"].take() {
                delta.into_iter().for_each(|(key, value)| add(message, key, value));
            }
        }
        chunk.into_iter().filter(|(_, value)| !value.is_null()).for_each(|(key, value)| {
            whole.insert(key, value);
        });
    }
    whole.insert("object".into(), "chat.completion".into());
    let choices = messages.into_iter().map(|(index, (mut message, reason))| {
        message.entry("content").or_insert(Value::Null);
        json!({ "index": index, "message": message, "finish_reason": reason })
    });
    whole.insert("choices".into(), choices.collect());
    Ok(Chunk { data: Value::Object(whole).to_string().into(), usage, tokens })
}

/// Adds a field of a delta to a message: texts and lists go on, all else is replaced.
fn add(message: &mut Map<String, Value>, key: String, value: Value) {
    match (message.get_mut(&key), value) {
        (Some(Value::String(text)), Value::String(more)) if key != "role" => text.push_str(&more),
        (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
        (Some(_), Value::Null) => {}
        (_, value) => {
            message.insert(key, value);
        }
    }
}

fn whole_value(bytes: &[u8]) -> Result<Value, Fault> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
    if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
        return Err(reported(error.clone()));
    }
    match value["choices"].as_array() {
        Some(choices) if choices.is_empty() => Err(super::body::empty().into()),
        Some(_) => Ok(value),
        None => Err(unfinished(false, 1, b"")),
    }
}

/// A whole completion that goes on as it is, unless it lacks what Dify's client insists on: a
/// `content`, be it null, and both counts in a `usage`.
pub(super) fn whole(bytes: Bytes) -> Result<Chunk, Fault> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        choices: Option<Vec<WholeChoice<'a>>>,
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct WholeChoice<'a> {
        #[serde(borrow)]
        message: Option<Message<'a>>,
    }
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        content: Option<&'a RawValue>,
    }
    fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
        Deserialize::deserialize(value).map(Some)
    }
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let good = serde_json::from_slice::<Whole<'_>>(text).ok().filter(|whole| whole.error.is_none());
    if let Some(Whole { choices: Some(choices), usage: spent, .. }) = good {
        let spent = spent.map(|text| serde_json::from_str(text.get()).ok().as_ref().and_then(complete_usage));
        let contents: Option<Vec<&RawValue>> =
            choices.iter().map(|choice| choice.message.as_ref()?.content).collect();
        if let Some(contents) = contents.filter(|all| !all.is_empty() && spent != Some(None)) {
            let spent = spent.flatten();
            let estimate = || contents.iter().map(|content| estimate_tokens(content.get())).sum();
            let tokens = if spent.is_some() { 0 } else { estimate() };
            return Ok(Chunk { data: bytes.slice_ref(text), usage: spent, tokens });
        }
    }
    let mut value = whole_value(text)?;
    let spent = usage(&value["usage"]);
    if !value["usage"].is_null() && complete_usage(&value["usage"]).is_none() {
        value["usage"] = match spent {
            Some(Usage { prompt_tokens, completion_tokens, total_tokens, .. }) => {
                json!({ "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total_tokens })
            }
            None => Value::Null,
        };
    }
    for choice in value["choices"].as_array_mut().into_iter().flatten() {
        if let Some(message) = choice.get_mut("message").and_then(Value::as_object_mut) {
            message.entry("content").or_insert(Value::Null);
        }
    }
    let tokens = estimate_tokens(&value["choices"].to_string());
    Ok(Chunk { data: value.to_string().into(), usage: spent, tokens })
}

/// A usage that names both counts.
fn complete_usage(value: &Value) -> Option<Usage> {
    usage(value).filter(|_| value.get("completion_tokens").is_some_and(Value::is_u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::upstream::pieces;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> (Vec<Value>, Result<(), Kind>) {
        let mut decoder = Chunks::new(1, 1 << 20);
        let mut queue = VecDeque::new();
        let result = chunks.iter().try_for_each(|chunk| decoder.feed(chunk, &mut queue)).and_then(|()| {
            if decoder.progress() == Progress::Done { Ok(()) } else { decoder.finish(&mut queue) }
        });
        let data = queue.iter().map(|chunk| {
            assert!(!chunk.data.contains(&b'\n'));
            serde_json::from_slice(&chunk.data).expect("a chunk is JSON")
        });
        let result = result.map_err(|fault| match fault {
            Fault::Error(error) => error.kind,
            Fault::Html => Kind::UpstreamHtml,
            Fault::Reported(_) => Kind::UpstreamError,
        });
        (data.collect(), result)
    }

    const STREAM: &str = "\u{feff}: hello\r\n\r\nevent: message\r\ndata: {\"id\":\"r\",\"x\":1.10,\r\ndata:  \"choices\":[{\"index\":0,\"delta\":{\"content\":\"你\"}}]}\r\n\r\n\
        data: {\"id\":\"r\"}\n\ndata: not json\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\"}}]}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"function\":{\"name\":\"g\"}}]}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"}\"}}]}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":null}],\"usage\":{\"total_tokens\":1}}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\ndata: [DONE]\n\n";

    #[test]
    fn chunks_are_mended_where_clients_stumble() {
        let (chunks, result) = read(&[STREAM.as_bytes()]);
        assert_eq!(result, Ok(()));
        assert_eq!(
            chunks[0],
            json!({"id": "r", "x": 1.10, "choices": [{"index": 0, "delta": {"content": "你", "role": "assistant"}}], "object": CHUNK})
        );
        assert_eq!(chunks[1], json!({"id": "r", "choices": [], "object": CHUNK}));
        let calls = &chunks[2]["choices"][0]["delta"]["tool_calls"];
        assert_eq!(
            calls[0],
            json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}})
        );
        assert!(calls[1]["id"].as_str().is_some_and(|id| id.starts_with("call_")) && calls[1]["index"] == 1);
        assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks[4]["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks[4]["usage"], Value::Null);
        assert_eq!(chunks[5]["usage"]["prompt_tokens"], 3);
        assert_eq!(chunks.len(), 6);
    }

    #[test]
    fn a_whole_completion_is_one_chunk() {
        let whole = r#"{"id":"r","choices":[{"index":0,"message":{"content":"hi","tool_calls":[{"id":"a"}]},"finish_reason":"stop"}]}"#;
        let (chunks, result) = read(&[whole.as_bytes()]);
        assert_eq!(result, Ok(()));
        assert_eq!(chunks[0]["object"], "chat.completion.chunk");
        assert_eq!(chunks[0]["choices"][0]["delta"]["tool_calls"][0]["index"], 0);
        assert_eq!(read(&[&whole.as_bytes()[..40]]).1, Err(Kind::UpstreamTruncated));
    }

    #[test]
    fn what_small_mirrors_leave_out_is_filled_in() {
        let (chunks, result) = read(&[b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":null}]}\n\ndata: [DONE]\n\n"]);
        assert_eq!(result, Ok(()));
        assert_eq!(
            chunks[0]["choices"][0],
            json!({"delta": {"content": "a", "role": "assistant"}, "index": 0})
        );
        assert_eq!(chunks[1]["choices"][0]["delta"], json!({}));
        assert_eq!(chunks[2]["choices"][0], json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
        let good = "{\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}";
        for broken in ["{\"choices\":[{", "{\"id\":\"\u{fffd}"] {
            let text = format!("data: {good}\n\ndata: {broken}\n\ndata: [DONE]\n\n");
            assert_eq!(read(&[text.as_bytes()]).1, Err(Kind::UpstreamInvalid));
        }
        let mut bytes = format!("data: {good}\n\n").into_bytes();
        bytes.extend(b"data: {\"id\":\"\xff\",\"choices\":[]}\n\n");
        assert_eq!(read(&[&bytes]).1, Err(Kind::UpstreamInvalid));
    }

    #[test]
    fn a_stream_that_was_not_asked_for_is_joined() {
        let chunk = joined(STREAM.as_bytes(), 1).unwrap_or_else(|_| panic!("a completion"));
        let whole: Value = serde_json::from_slice(&chunk.data).expect("JSON");
        assert_eq!((whole["object"].as_str(), whole["id"].as_str()), (Some("chat.completion"), Some("r")));
        let message = &whole["choices"][0]["message"];
        assert_eq!(
            (message["content"].as_str(), message["tool_calls"].as_array().map(Vec::len)),
            (Some("你"), Some(2))
        );
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunk.usage.map(|usage| usage.prompt_tokens), Some(3));
    }

    #[test]
    fn every_cut_before_the_finish_is_truncation() {
        let finish = STREAM.find("\"finish_reason\"").expect("a finish");
        let first = STREAM.find("}]}").expect("a chunk") + 3;
        for end in first..finish {
            assert_eq!(read(&[&STREAM.as_bytes()[..end]]).1, Err(Kind::UpstreamTruncated), "at {end}");
        }
    }

    #[test]
    fn bad_streams_are_named() {
        for (text, kind) in [
            ("data: {\"error\":{\"message\":\"x\"}}\n\n", Kind::UpstreamError),
            ("data: {\"error\":\"x\",\"choices\":[]}\n\n", Kind::UpstreamError),
            ("<html>", Kind::UpstreamHtml),
            (" ", Kind::UpstreamEmpty),
            ("data: [DONE]\n\n", Kind::UpstreamEmpty),
            ("{\"result\":{}}", Kind::UpstreamInvalid),
            ("{\"choices\":[]}", Kind::UpstreamEmpty),
            ("garbage\n\n", Kind::UpstreamInvalid),
        ] {
            assert_eq!(read(&[text.as_bytes()]).1, Err(kind), "{text}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..1200, 0..10)) {
            let id = |chunks: Vec<Value>| {
                // The id of a call that the upstream did not name is random.
                let text = Value::from(chunks).to_string();
                let at = text.find("call_").expect("an id of ours");
                text.replace(&text[at..at + 37], "")
            };
            let (cut, whole) = (read(&pieces(STREAM.as_bytes(), cuts)), read(&[STREAM.as_bytes()]));
            prop_assert_eq!(cut.1, whole.1);
            prop_assert_eq!(id(cut.0), id(whole.0));
        }
    }
}
