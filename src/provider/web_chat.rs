//! A mirror's web chat: one JSON object a line, behind a login cookie.
//!
//! A new conversation is a POST to `rest/app-chat/conversations/new`; later turns go to
//! `rest/app-chat/conversations/{id}/responses` with the id of the response they follow. After
//! `new` the answer's fields stand under `result.response`, after `responses` directly under
//! `result`: both are understood in either place.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::framing::Lines;
use super::template::{Mould, text};
use super::transport::{Call, Transport};
use super::{Decoder, Events, Fault, Progress, decode, first_byte, unfinished};
use crate::domain::chat::{Event, Message, Prompt, Role};
use crate::domain::error::{Error, Kind};

const CONVERSATIONS: [&str; 3] = ["rest", "app-chat", "conversations"];

/// A mirror's web chat.
pub struct Mirror {
    transport: Rc<Transport>,
    /// `UPSTREAM_BODY`
    switches: Map<String, Value>,
}

impl Mirror {
    pub(super) fn new(transport: Rc<Transport>, switches: Map<String, Value>) -> Self {
        Mirror { transport, switches }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(super) async fn ask(&self, prompt: &Prompt, total: Option<Duration>) -> Result<Events, Error> {
        let mut path = CONVERSATIONS.to_vec();
        match &prompt.thread {
            None => path.push("new"),
            Some(thread) => path.extend([thread.conversation.as_str(), "responses"]),
        }
        let body = serde_json::to_vec(&self.request(prompt))
            .map_err(|_| Error::new(Kind::Internal, "the request for the upstream cannot be written"))?;
        let call = Call {
            in_conversation: prompt.thread.is_some(),
            total,
            ..Call::post(&path, "application/x-ndjson, application/json, */*", body)
        };
        let body = self.transport.open(call).await?;
        Ok(decode(Rc::clone(&self.transport), body, Answer::new(self.transport.line_bytes())))
    }

    /// Asks for the list of conversations, which costs nothing and needs the login. A mirror
    /// without that list is reachable all the same.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        match self.transport.open(Call::get(&CONVERSATIONS)).await {
            Ok(body) => {
                body.drain();
                Ok(())
            }
            Err(error) => match error.kind {
                Kind::UpstreamNotFound | Kind::UpstreamRejected | Kind::UpstreamEmpty => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn request<'a>(&self, prompt: &'a Prompt) -> Request<'a> {
        let mut fields = Map::new();
        fields.insert("modelMode".into(), "auto".into());
        fields.extend(self.switches.clone());
        fields.shift_remove("message");
        if let Some(model) = &prompt.model {
            fields.insert("modelName".into(), model.clone().into());
        }
        if let Some(thread) = &prompt.thread {
            fields.insert("parentResponseId".into(), thread.last_response.clone().into());
        }
        Request { message: AsOneText(&prompt.messages), fields }
    }
}

/// The request's body: our defaults, the user's switches over them, the question over both.
#[derive(Serialize)]
struct Request<'a> {
    #[serde(serialize_with = "written_out")]
    message: AsOneText<'a>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

fn written_out<S: Serializer>(text: &AsOneText, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(text)
}

/// The one text that a web chat takes: the messages with a blank line between. Where answers are
/// among them, the mirror has not seen the conversation before, so it is told who said what.
struct AsOneText<'a>(&'a [Message]);

impl fmt::Display for AsOneText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_answers = self.0.iter().any(|message| message.role == Role::Assistant);
        let task = "Continue this conversation with the assistant's next answer, and write nothing else.";
        let (system, spoken): (Vec<&Message>, Vec<&Message>) =
            self.0.iter().partition(|message| message.role == Role::System);
        let instructions = system.iter().map(|message| ("", &*message.text));
        let spoken = spoken.iter().map(|message| match message.role {
            Role::Assistant => ("Assistant: ", &*message.text),
            Role::User if has_answers => ("User: ", &*message.text),
            Role::User | Role::System => ("", &*message.text),
        });
        let parts = instructions.chain(has_answers.then_some(("", task))).chain(spoken);
        for (index, (who, what)) in parts.enumerate() {
            f.write_str(if index == 0 { "" } else { "\n\n" })?;
            f.write_str(who)?;
            f.write_str(what)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    result: Option<ResultPart<'a>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultPart<'a> {
    conversation: Option<Conversation>,
    #[serde(borrow)]
    response: Option<Part<'a>>,
    // The fields of a part that stands here itself; `flatten` would keep a copy of all fields first.
    #[serde(borrow)]
    token: Option<Token<'a>>,
    response_id: Option<String>,
    is_thinking: Option<bool>,
    is_soft_stop: Option<bool>,
    model_response: Option<ModelResponse>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conversation {
    conversation_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    token: Option<Token<'a>>,
    response_id: Option<String>,
    is_thinking: Option<bool>,
    is_soft_stop: Option<bool>,
    model_response: Option<ModelResponse>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelResponse {
    message: Option<String>,
    response_id: Option<String>,
    model: Option<String>,
    #[serde(default)]
    stream_errors: Vec<Value>,
}

/// A token, and its place in the line.
struct Token<'a> {
    text: Cow<'a, str>,
    raw: &'a RawValue,
}

impl<'de: 'a, 'a> Deserialize<'de> for Token<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        text(raw).map(|text| Token { text, raw }).ok_or_else(|| D::Error::custom("a token is no text"))
    }
}

impl Part<'_> {
    fn is_thinking(&self) -> bool {
        self.is_thinking.unwrap_or_default()
    }

    fn ends(&self) -> bool {
        self.is_soft_stop.unwrap_or_default() || self.model_response.is_some()
    }
}

/// Decodes the lines of an answer.
pub(super) struct Answer {
    lines: Option<Lines>,
    /// The form of the latest line, where the next can be known by it, and whether such a line thinks.
    mould: Option<(Mould, bool)>,
    started: bool,
    understood: bool,
    skipped: usize,
    soft_stopped: bool,
    whole: bool,
    response_id: Option<String>,
}

impl Decoder for Answer {
    type Piece = Event;

    fn feed(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), Fault> {
        // The closure cannot borrow the framing and the rest of the decoder at once.
        let Some(mut lines) = self.lines.take() else { return Ok(()) };
        let result = lines.feed(bytes, |line| self.line(line, events));
        self.lines = Some(lines);
        result
    }

    fn progress(&self) -> Progress {
        if self.whole {
            Progress::Done
        } else if self.soft_stopped {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn finish(&mut self, events: &mut VecDeque<Event>) -> Result<(), Fault> {
        let last = self.lines.as_mut().and_then(Lines::rest).unwrap_or_default();
        self.line(&last, events)?;
        if self.skipped > 0 {
            log::warn!(lines = self.skipped; "skipped lines of the upstream's answer that are not of the protocol");
        }
        if self.whole || self.soft_stopped {
            Ok(())
        } else if !self.started {
            Err(super::body::empty().into())
        } else {
            Err(unfinished(self.understood, self.skipped, &last))
        }
    }
}

impl Answer {
    pub(super) fn new(line_bytes: usize) -> Self {
        Answer {
            lines: Some(Lines::new(line_bytes)),
            mould: None,
            started: false,
            understood: false,
            skipped: 0,
            soft_stopped: false,
            whole: false,
            response_id: None,
        }
    }

    fn line(&mut self, line: &[u8], events: &mut VecDeque<Event>) -> Result<(), Fault> {
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line).trim_ascii();
        if line.is_empty() || self.whole {
            return Ok(());
        }
        if !std::mem::replace(&mut self.started, true) && first_byte(line) == Some(b'<') {
            return Err(Fault::Html);
        }
        if let Some((mould, thinking)) = &self.mould
            && let Some(words) = mould.words(line)
        {
            events.extend(said(words, *thinking));
            return Ok(());
        }
        self.mould = None;
        let Ok(Line { result, error }) = serde_json::from_slice(line) else {
            self.skipped += 1;
            events.push_back(Event::Gap);
            return Ok(());
        };
        fail_if_reported(error)?;
        let Some(result) = result else {
            self.skipped += 1;
            return Ok(());
        };
        self.understood = true;
        let ResultPart {
            conversation,
            response,
            token,
            response_id,
            is_thinking,
            is_soft_stop,
            model_response,
            error,
        } = result;
        let conversation = conversation.and_then(|conversation| conversation.conversation_id);
        events.extend(conversation.map(Event::ConversationId));
        let own = Part { token, response_id, is_thinking, is_soft_stop, model_response, error };
        self.mould = match (&own, response.as_ref()) {
            (part @ Part { token: Some(token), .. }, None)
            | (Part { token: None, .. }, Some(part @ Part { token: Some(token), .. }))
                if !own.ends() && !part.ends() && part.error.is_none() =>
            {
                Mould::of(line, token.raw).map(|mould| (mould, part.is_thinking()))
            }
            _ => None,
        };
        self.part(own, events)?;
        response.map_or(Ok(()), |part| self.part(part, events))
    }

    fn part(&mut self, part: Part<'_>, events: &mut VecDeque<Event>) -> Result<(), Fault> {
        let (thinking, ends) = (part.is_thinking(), part.ends());
        fail_if_reported(part.error)?;
        self.respond(part.response_id, events);
        if let Some(token) = part.token {
            events.extend(said(&token.text, thinking));
        }
        if let Some(response) = part.model_response {
            // A mirror tells of a usage limit or an overload here, in an answer that is else complete.
            fail_if_reported(response.stream_errors.into_iter().next())?;
            self.whole = true;
            self.respond(response.response_id, events);
            events.extend(response.model.map(Event::Model));
            // An empty one settles nothing: the words came before.
            events.extend(response.message.filter(|text| !text.is_empty()).map(Event::WholeText));
        }
        if ends {
            self.stop(events);
        }
        Ok(())
    }

    fn respond(&mut self, id: Option<String>, events: &mut VecDeque<Event>) {
        if let Some(id) = id.filter(|id| !id.is_empty() && self.response_id.as_ref() != Some(id)) {
            self.response_id = Some(id.clone());
            events.push_back(Event::ResponseId(id));
        }
    }

    fn stop(&mut self, events: &mut VecDeque<Event>) {
        if !std::mem::replace(&mut self.soft_stopped, true) {
            events.push_back(Event::Finish("stop".into()));
        }
    }
}

/// Fails with an error that a line holds, unless it is none.
fn fail_if_reported(error: Option<Value>) -> Result<(), Fault> {
    match error {
        None | Some(Value::Null) => Ok(()),
        Some(error) => Err(Fault::Reported(serde_json::json!({ "error": error }))),
    }
}

fn said(words: &str, thinking: bool) -> Option<Event> {
    let event = if thinking { Event::Thinking } else { Event::Text };
    (!words.is_empty()).then(|| event(words.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat;
    use crate::provider::pieces;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> Result<chat::Answer, Kind> {
        let mut decoder = Answer::new(1 << 20);
        let mut events = VecDeque::new();
        let result = chunks.iter().try_for_each(|chunk| decoder.feed(chunk, &mut events)).and_then(|()| {
            if decoder.progress() == Progress::Done { Ok(()) } else { decoder.finish(&mut events) }
        });
        let mut answer = chat::Answer::default();
        events.iter().for_each(|event| answer.apply(event));
        match result {
            Ok(()) => Ok(answer),
            Err(Fault::Error(error)) => Err(error.kind),
            Err(Fault::Html) => Err(Kind::UpstreamAuthExpired),
            Err(Fault::Reported(_)) => Err(Kind::UpstreamError),
        }
    }

    const NEW: &str = concat!(
        "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\r\n",
        "{\"result\":{\"response\":{\"token\":\"hm\",\"isThinking\":true,\"responseId\":\"r1\"}}}\n",
        "broken {\n\n",
        "{\"unknown\":1}\n",
        "{\"result\":{\"response\":{\"token\":\"你好\",\"isThinking\":false,\"responseId\":\"r1\"}}}\n",
        "{\"result\":{\"response\":{\"token\":\" 🙂\",\"responseId\":\"r1\"}}}\n",
        "{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true,\"responseId\":\"r1\"}}}\n",
    );
    const WHOLE: &str = "{\"result\":{\"modelResponse\":{\"message\":\"你好 🙂!\",\"responseId\":\"r2\"}}}";

    #[test]
    fn both_shapes_are_understood_and_the_whole_message_wins() {
        let answer = read(&[NEW.as_bytes()]).expect("an answer");
        assert_eq!(answer.text, "你好 🙂");
        assert_eq!(
            (answer.upstream_conversation.as_deref(), answer.response_id.as_deref()),
            (Some("c1"), Some("r1"))
        );
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
        let answer = read(&[NEW.as_bytes(), WHOLE.as_bytes()]).expect("an answer");
        assert_eq!((answer.text.as_str(), answer.response_id.as_deref()), ("你好 🙂!", Some("r2")));
        let direct = NEW.replace("{\"response\":{", "{").replace("}}}", "}}");
        assert_eq!(read(&[direct.as_bytes()]).expect("an answer").text, "你好 🙂");
    }

    #[test]
    fn every_cut_before_the_stop_is_truncation() {
        let stop = NEW.find("\"isSoftStop\"").expect("a stop");
        let first = NEW.find('\n').expect("a line");
        for end in first..stop {
            assert_eq!(
                read(&[&NEW.as_bytes()[..end]]).expect_err("cut"),
                Kind::UpstreamTruncated,
                "at {end}"
            );
        }
    }

    #[test]
    fn bad_answers_are_named() {
        for (text, kind) in [
            ("\n \n", Kind::UpstreamEmpty),
            ("<!doctype html>\n<html>", Kind::UpstreamAuthExpired),
            ("garbage\nmore", Kind::UpstreamInvalid),
            ("{\"hello\":1}\n", Kind::UpstreamInvalid),
            ("{\"error\":{\"message\":\"x\",\"code\":8}}\n", Kind::UpstreamError),
        ] {
            assert_eq!(read(&[text.as_bytes()]).expect_err(text), kind, "{text}");
        }
    }

    /// Lines that a mould of another could be taken for, or not.
    const LINES: [&str; 12] = [
        r#"{"result":{"token":"a","responseId":"r1"}}"#,
        r#"{"result":{"token":"é b","responseId":"r1"}}"#,
        r#"{"result":{"token":"\u00e9\"","responseId":"r1"}}"#,
        r#"{"result":{"token":"\ud800","responseId":"r1"}}"#,
        r#"{"result":{"token":"","responseId":"r1"}}"#,
        r#"{"result":{"token":null,"responseId":"r1"}}"#,
        r#"{"result":{"token":7,"responseId":"r1"}}"#,
        r#"{"result":{"token":"c","responseId":"r2"}}"#,
        r#"{"result":{"token":"d","isThinking":true,"responseId":"r2"}}"#,
        r#"{"result":{"response":{"token":"e","isThinking":false}}}"#,
        r#"{"result":{"response":{"token":"f"},"token":"g"}}"#,
        r#"{"result":{"response":{"token":"h","isSoftStop":true}}}"#,
    ];

    proptest! {
        #[test]
        fn a_line_means_the_same_after_any_other(lines in prop::collection::vec(0..LINES.len(), 1..20)) {
            let text = |blanks: fn(usize) -> usize| -> String {
                let line = |(number, line): (usize, &usize)| format!("{{{}{}\n", " ".repeat(blanks(number)), &LINES[*line][1..]);
                lines.iter().enumerate().map(line).collect()
            };
            // No line has the mould of another where each has its own number of blanks.
            prop_assert_eq!(read(&[text(|_| 0).as_bytes()]), read(&[text(|number| number).as_bytes()]));
        }

        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..NEW.len(), 0..12)) {
            let bytes = NEW.as_bytes();
            prop_assert_eq!(read(&pieces(bytes, cuts)), read(&[bytes]));
        }
    }
}
