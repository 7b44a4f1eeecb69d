//! The OpenAI protocol: chat completions as JSON or server-sent events, and the list of models.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. Answers are asked for as a
//! stream, since a stream shows that the upstream is alive, brings a partial answer when it breaks,
//! and lets the idle limit tell a slow answer from a dead one. An upstream that answers with JSON
//! all the same is understood, and one that refuses to stream is asked again without.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::intake::{Intake, Rest};
use super::transport::{Call, Transport};
use super::{Decoder, Events, Fault, Progress, decode, first_byte, unfinished};
use crate::domain::chat::{Event, Model, Prompt, Usage, estimate_tokens};
use crate::domain::error::{Error, Kind};

/// A mirror that speaks the OpenAI protocol.
pub struct Mirror {
    transport: Rc<Transport>,
    /// Whether the mirror takes `stream`, as far as is known.
    streams: Cell<bool>,
}

impl Mirror {
    pub(super) fn new(transport: Rc<Transport>) -> Self {
        Mirror { transport, streams: Cell::new(true) }
    }

    pub(super) fn transport(&self) -> &Rc<Transport> {
        &self.transport
    }

    pub(super) async fn ask(&self, prompt: &Prompt, total: Option<Duration>) -> Result<Events, Error> {
        let answer = self.open(prompt, self.streams.get(), total).await;
        let body = match answer {
            Err(error) if self.streams.get() && refuses_to_stream(&error) => {
                log::warn!("the upstream refuses `stream`: answers are asked for as JSON from now on");
                self.streams.set(false);
                self.open(prompt, false, total).await?
            }
            answer => answer?,
        };
        Ok(decode(Rc::clone(&self.transport), body, Completion::new(self.transport.line_bytes())))
    }

    pub(super) async fn models(&self) -> Result<Vec<Model>, Error> {
        let mut body = self.transport.open(Call::get(&["models"])).await?;
        let bytes = body.whole().await?;
        match first_byte(&bytes) {
            None => return Err(super::body::empty()),
            Some(b'<') => return Err(self.transport.page(&body)),
            Some(_) => {}
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| not_json(&error))?;
        if value.get("error").is_some_and(|error| !error.is_null()) {
            return Err(self.transport.reported(body.place, &value));
        }
        let list = value.get("data").or_else(|| value.get("models")).unwrap_or(&value);
        let list = list.as_array().ok_or_else(|| {
            Error::new(Kind::UpstreamInvalid, "the upstream's list of models is not of the protocol")
        })?;
        Ok(list.iter().filter_map(model).collect())
    }

    async fn open(
        &self,
        prompt: &Prompt,
        stream: bool,
        total: Option<Duration>,
    ) -> Result<super::Body, Error> {
        let messages = prompt
            .messages
            .iter()
            .map(|message| WireMessage { role: message.role.name(), content: &message.text });
        let request = Request {
            model: prompt.model.as_deref(),
            messages: messages.collect(),
            temperature: prompt.temperature,
            max_tokens: prompt.max_tokens,
            stream: stream.then_some(true),
            stream_options: stream.then_some(StreamOptions { include_usage: true }),
        };
        let body = serde_json::to_vec(&request)
            .map_err(|_| Error::new(Kind::Internal, "the request for the upstream cannot be written"))?;
        self.transport.open(Call { total, ..completion(body, stream) }).await
    }
}

/// The request for a completion, whose body is JSON.
pub(super) fn completion<'a>(body: impl Into<Bytes>, stream: bool) -> Call<'a> {
    let accept = if stream { "text/event-stream, application/json" } else { "application/json" };
    Call::post(&["chat", "completions"], accept, body)
}

fn refuses_to_stream(error: &Error) -> bool {
    error.kind == Kind::UpstreamRejected
        && error.detail.as_deref().is_some_and(|detail| detail.to_ascii_lowercase().contains("stream"))
}

fn model(value: &Value) -> Option<Model> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let id = text("id").or_else(|| text("name")).or_else(|| value.as_str())?;
    Some(Model { id: id.to_string(), owned_by: text("owned_by").unwrap_or("upstream").to_string() })
}

pub(super) fn not_json(error: &serde_json::Error) -> Error {
    if error.is_eof() {
        Error::new(Kind::UpstreamTruncated, "the upstream's JSON ended before it was complete")
    } else {
        Error::new(Kind::UpstreamInvalid, "the upstream's answer is not JSON of the protocol")
    }
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    messages: Vec<WireMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// A completion, or a chunk of one: a mirror's JSON differs from OpenAI's in the fields that do
/// not matter, so those are taken as they come.
#[derive(Deserialize)]
struct Chunk {
    id: Option<Value>,
    model: Option<Value>,
    choices: Option<Vec<Choice>>,
    usage: Option<Value>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    message: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<Content>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

impl Content {
    fn text(self) -> String {
        match self {
            Content::Text(text) => text,
            Content::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect(),
        }
    }
}

/// Decodes a completion, whole or streamed: which of the two shows in its first byte.
pub(super) struct Completion {
    intake: Intake,
    named: bool,
    choices_seen: bool,
    finished: bool,
    done: bool,
    skipped: usize,
}

impl Decoder for Completion {
    type Piece = Event;

    fn feed(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), Fault> {
        // The closure cannot borrow the intake and the rest of the decoder at once.
        let mut intake = std::mem::take(&mut self.intake);
        let result = intake.feed(bytes, |data| self.event(&data, events));
        self.intake = intake;
        result
    }

    fn progress(&self) -> Progress {
        if self.done {
            Progress::Done
        } else if self.finished {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn finish(&mut self, events: &mut VecDeque<Event>) -> Result<(), Fault> {
        match self.intake.finish()? {
            Rest::Nothing => Err(super::body::empty().into()),
            Rest::Json(bytes) => {
                let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
                let chunk = serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
                self.chunk(chunk, events)?;
                if !self.choices_seen {
                    return Err(unfinished(false, 1, b""));
                }
                Ok(())
            }
            Rest::Event(data) => {
                self.event(&data, events)?;
                self.skipped += self.intake.skipped;
                if self.skipped > 0 {
                    log::warn!(lines = self.skipped; "skipped parts of the upstream's stream that are not of the protocol");
                }
                if self.done || self.finished {
                    Ok(())
                } else {
                    Err(unfinished(self.choices_seen, self.skipped, &data))
                }
            }
        }
    }
}

impl Completion {
    pub(super) fn new(line_bytes: usize) -> Self {
        Completion {
            intake: Intake::new(line_bytes),
            named: false,
            choices_seen: false,
            finished: false,
            done: false,
            skipped: 0,
        }
    }

    /// Takes in the data of one server-sent event.
    fn event(&mut self, data: &[u8], events: &mut VecDeque<Event>) -> Result<(), Fault> {
        let data = data.trim_ascii();
        if data.is_empty() || self.done {
            return Ok(());
        }
        if data == b"[DONE]" {
            if !self.choices_seen {
                return Err(super::body::empty().into());
            }
            self.done = true;
            return Ok(());
        }
        match serde_json::from_slice(data) {
            Ok(chunk) => self.chunk(chunk, events),
            Err(_) => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    fn chunk(&mut self, chunk: Chunk, events: &mut VecDeque<Event>) -> Result<(), Fault> {
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(Fault::Reported(serde_json::json!({ "error": error })));
        }
        if !std::mem::replace(&mut self.named, true) {
            let text = |value: Option<Value>| {
                value.and_then(|value| value.as_str().map(String::from)).filter(|text| !text.is_empty())
            };
            events.extend(text(chunk.id).map(Event::ResponseId));
            events.extend(text(chunk.model).map(Event::Model));
        }
        // Only the first choice is asked for; a mirror that sends more would mix them up.
        if let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) {
            self.choices_seen = true;
            if let Some(delta) = choice.delta.or(choice.message) {
                let thinking = delta.reasoning_content.filter(|text| !text.is_empty());
                events.extend(thinking.map(Event::Thinking));
                let text = delta.content.map(Content::text).filter(|text| !text.is_empty());
                events.extend(text.map(Event::Text));
            }
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finished = true;
                events.push_back(Event::Finish(reason));
            }
        }
        events.extend(chunk.usage.as_ref().and_then(usage).map(Event::Usage));
        Ok(())
    }
}

/// An estimate of the tokens in the texts of a request; pictures and sounds count nothing.
pub fn prompt_tokens(body: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Asked {
        messages: Option<Vec<AskedMessage>>,
        #[serde(alias = "prompt")]
        input: Option<Value>,
    }
    #[derive(Deserialize)]
    struct AskedMessage {
        content: Option<Content>,
    }
    let Ok(Asked { messages, input }) = serde_json::from_slice(body) else { return 0 };
    let texts = messages.into_iter().flatten().filter_map(|message| message.content).map(Content::text);
    let input = input.map(|input| input.as_str().map_or_else(|| input.to_string(), String::from));
    texts.chain(input).map(|text| estimate_tokens(&text)).sum()
}

/// What an upstream says that an answer cost; `None` without the tokens of the question.
pub(super) fn usage(value: &Value) -> Option<Usage> {
    let number = |key: &str| value.get(key).and_then(Value::as_u64);
    let prompt_tokens = number("prompt_tokens")?;
    let completion_tokens = number("completion_tokens").unwrap_or_default();
    let total_tokens = number("total_tokens").unwrap_or(prompt_tokens.saturating_add(completion_tokens));
    Some(Usage { prompt_tokens, completion_tokens, total_tokens, estimated: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat::Answer;
    use crate::provider::pieces;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> Result<Answer, Kind> {
        let mut decoder = Completion::new(1 << 20);
        let mut events = VecDeque::new();
        let result = chunks.iter().try_for_each(|chunk| decoder.feed(chunk, &mut events)).and_then(|()| {
            if decoder.progress() == Progress::Done { Ok(()) } else { decoder.finish(&mut events) }
        });
        let mut answer = Answer::default();
        events.iter().for_each(|event| answer.apply(event));
        match result {
            Ok(()) => Ok(answer),
            Err(Fault::Error(error)) => Err(error.kind),
            Err(Fault::Html) => Err(Kind::UpstreamHtml),
            Err(Fault::Reported(_)) => Err(Kind::UpstreamError),
        }
    }

    const STREAM: &str = "\u{feff}: hello\r\n\r\ndata: {\"id\":\"r1\",\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\r\n\
        event: x\ndata: {\"id\":\"r1\",\"choices\":[{\"delta\":{\"content\":\"你好 🙂\"}}]}\n\n\
        data: not json\n\n\
        data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn a_stream_and_a_whole_answer_mean_the_same() {
        let streamed = read(&[STREAM.as_bytes()]).expect("a stream");
        let whole = r#"{"id":"r1","model":"m","choices":[{"message":{"content":"你好 🙂","reasoning_content":"hm","tool_calls":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
        assert_eq!(read(&[whole.as_bytes()]), Ok(streamed.clone()));
        let parts = whole.replace("\"你好 🙂\"", r#"[{"type":"text","text":"你好"},{"text":" 🙂"}]"#);
        assert_eq!(read(&[parts.as_bytes()]), Ok(streamed));
    }

    #[test]
    fn every_cut_before_the_finish_is_truncation() {
        let finish = STREAM.find("\"finish_reason\"").expect("a finish");
        let first = STREAM.find("}]}").expect("a chunk") + 3;
        for end in first..finish {
            assert_eq!(
                read(&[&STREAM.as_bytes()[..end]]).expect_err("cut"),
                Kind::UpstreamTruncated,
                "at {end}"
            );
        }
    }

    #[test]
    fn bad_answers_are_named() {
        for (text, kind) in [
            (" ", Kind::UpstreamEmpty),
            ("<html>", Kind::UpstreamHtml),
            ("{\"choices\":[{\"mess", Kind::UpstreamTruncated),
            ("{\"choices\": oops}", Kind::UpstreamInvalid),
            ("{\"choices\":[]}", Kind::UpstreamInvalid),
            ("{\"hello\":1}", Kind::UpstreamInvalid),
            ("garbage\ngarbage", Kind::UpstreamInvalid),
            ("data: garbage\n\n", Kind::UpstreamInvalid),
            ("data: [DONE]\n\n", Kind::UpstreamEmpty),
            ("{\"error\":{\"message\":\"x\"}}", Kind::UpstreamError),
            ("data: {\"error\":{\"message\":\"x\"}}\n\n", Kind::UpstreamError),
        ] {
            assert_eq!(read(&[text.as_bytes()]).expect_err(text), kind, "{text}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..STREAM.len(), 0..12)) {
            let bytes = STREAM.as_bytes();
            prop_assert_eq!(read(&pieces(bytes, cuts)), read(&[bytes]));
        }
    }
}
