//! Requests for a completion, read: as little as needed of one that goes through, and all that a
//! web chat can take of one that it is to answer.

use std::fmt;
use std::sync::Arc;

use actix_web::web::Bytes;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::domain::chat::{Message, Owner, Role};
use crate::domain::error::{Error, Kind};
use crate::gateway::{CompletionRequest, Talk};
use crate::http::body;

/// What matters in a request that goes through.
#[derive(Deserialize)]
struct Head {
    model: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    n: Option<usize>,
    // That it is a list is all that is asked of it here.
    #[serde(rename = "messages")]
    _messages: Vec<IgnoredAny>,
}

/// What a web chat can take of a request. Lists become texts while they are read: a short element
/// can take many times its bytes.
#[derive(Deserialize)]
struct Asked {
    model: Option<String>,
    messages: Messages,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<u32>,
    n: Option<usize>,
    tool_choice: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// The messages, or why a web chat cannot take one of them.
struct Messages(Result<Vec<Message>, Error>);

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut asked: A) -> Result<Messages, A::Error> {
                let mut messages = Vec::new();
                while let Some(next) = asked.next_element::<AskedMessage>()? {
                    match message(next) {
                        Ok(message) => messages.push(message),
                        Err(error) => {
                            while asked.next_element::<IgnoredAny>()?.is_some() {}
                            return Ok(Messages(Err(error)));
                        }
                    }
                }
                Ok(Messages(Ok(messages)))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

#[derive(Deserialize)]
struct AskedMessage {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Calls>,
}

/// What a message says.
#[derive(Default)]
struct Content {
    text: Arc<str>,
    /// The type of the first part that is no text.
    other: Option<String>,
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content { text: text.into(), other: None })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let (mut all, mut other) = (String::new(), None);
                let mut separator = "";
                while let Some(Part { r#type, text }) = parts.next_element()? {
                    match text {
                        Some(text) => all.extend([separator, &text]),
                        None => other = other.or(Some(r#type)),
                    }
                    separator = "\n";
                }
                Ok(Content { text: all.into(), other })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The tools that a message called, one a line.
struct Calls(String);

#[derive(Deserialize)]
struct ToolCall {
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

impl<'de> Deserialize<'de> for Calls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Calls;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of calls")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut calls: A) -> Result<Calls, A::Error> {
                let mut text = String::new();
                while let Some(ToolCall { function }) = calls.next_element()? {
                    if let Some(Function { name, arguments }) = function {
                        let (name, arguments) = (name.unwrap_or_default(), arguments.unwrap_or_default());
                        text.extend(["\nCalled ", &name, " with ", &arguments]);
                    }
                }
                Ok(Calls(text))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

/// A request that goes through as it is.
///
/// # Errors
/// When it is none for a completion.
pub fn passing(owner: Owner, body: Bytes) -> Result<CompletionRequest, Error> {
    // Read fast; only what does not fit is read again, to say where.
    let Head { model, stream, n, .. } = match serde_json::from_slice(&body) {
        Ok(head) if body.trim_ascii_start().starts_with(b"{") => head,
        _ => body::parse(&body)?,
    };
    let model = model.filter(|model| !model.trim().is_empty());
    let choices = n.unwrap_or(1).max(1);
    Ok(CompletionRequest { owner, model, stream: stream.unwrap_or_default(), choices, body })
}

/// How a web chat's answer is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// As a stream.
    pub stream: bool,
    /// With a chunk for what it cost.
    pub include_usage: bool,
}

/// A request that a web chat answers.
///
/// # Errors
/// When it is none for a completion, or asks for what a web chat cannot do.
pub fn talk(owner: Owner, bytes: &[u8]) -> Result<(Talk, Form), Error> {
    let asked: Asked = body::parse(bytes)?;
    let cannot = |what: &str, hint: &str| Err(Error::new(Kind::InvalidRequest, what).hinted(hint));
    let Messages(messages) = asked.messages;
    if messages.as_ref().is_ok_and(Vec::is_empty) {
        return cannot("`messages` is empty", "send at least the question");
    }
    if asked.n.is_some_and(|choices| choices > 1) {
        return cannot("a web chat gives one answer at a time", "leave `n` out");
    }
    let must_call = |choice: &RawValue| choice.get() == "\"required\"" || choice.get().starts_with('{');
    if asked.tool_choice.as_deref().is_some_and(must_call) {
        return cannot(
            "a web chat calls no tools",
            "leave `tool_choice` out, or use an upstream with the openai protocol",
        );
    }
    let messages = messages?;
    if messages.last().is_none_or(|last| last.text.trim().is_empty()) {
        return cannot("the last message is empty", "send the question in the last message");
    }
    let include_usage = asked.stream_options.and_then(|options| options.include_usage).unwrap_or_default();
    let form = Form { stream: asked.stream.unwrap_or_default(), include_usage };
    let talk = Talk {
        owner,
        model: asked.model.filter(|model| !model.trim().is_empty()),
        messages,
        temperature: asked.temperature,
        max_tokens: asked.max_tokens,
    };
    Ok((talk, form))
}

/// A message as a text that one of three says.
fn message(asked: AskedMessage) -> Result<Message, Error> {
    let Content { mut text, other } = asked.content.unwrap_or_default();
    if let Some(other) = other {
        let kind = other.chars().take(40).collect::<String>();
        return Err(Error::new(Kind::InvalidRequest, "a web chat takes text alone")
            .detail(Some(format!("the message has a part of type {kind:?}")))
            .hinted("send text, or use an upstream with the openai protocol for images and sounds"));
    }
    if let Some(Calls(calls)) = asked.tool_calls {
        text = format!("{text}{calls}").trim().into();
    }
    let role = match asked.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => {
            let name = asked.name.map(|name| format!(" {name}")).unwrap_or_default();
            text = format!("The result of the tool{name}: {text}").into();
            Role::User
        }
        _ => {
            return Err(Error::new(Kind::InvalidRequest, "a message has an unknown role")
                .hinted("use system, developer, user, assistant or tool"));
        }
    };
    Ok(Message { role, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<(Talk, Form), Error> {
        talk(Owner("x".into()), value.to_string().as_bytes())
    }

    #[test]
    fn every_message_becomes_text() {
        let (talk, form) = read(json!({"model": "", "stream": true, "stream_options": {"include_usage": true}, "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "42", "tool_call_id": "x"},
        ]}))
        .expect("valid");
        let texts: Vec<_> = talk.messages.iter().map(|message| &*message.text).collect();
        assert_eq!(texts, ["be brief", "a\nb", "Called f with {}", "The result of the tool: 42"]);
        assert!(form.stream && form.include_usage && talk.model.is_none());
    }

    #[test]
    fn what_a_web_chat_cannot_do_is_refused() {
        for body in [
            json!({}),
            json!([]),
            json!({"messages": []}),
            json!({"messages": "hi"}),
            json!({"messages": [{"role": "user"}]}),
            json!({"messages": [{"role": "user", "content": " "}]}),
            json!({"messages": [{"role": "user", "content": 1}]}),
            json!({"messages": [{"role": "judge", "content": "x"}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}),
            json!({"messages": [{"role": "user", "content": "x"}], "n": 2}),
            json!({"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"}),
        ] {
            let error = read(body.clone()).expect_err("not valid");
            assert_eq!(error.kind, Kind::InvalidRequest, "{body}");
        }
    }

    #[test]
    fn a_request_that_passes_is_read_as_little_as_possible() {
        let body = r#"{"messages":[{"any":"thing"}],"stream":null,"model":" ","x":1}"#;
        let request = passing(Owner("x".into()), Bytes::from(body)).expect("valid");
        assert!(request.model.is_none() && !request.stream && request.choices == 1);
        for body in
            ["", "[]", "{}", r#"{"messages":{}}"#, r#"{"messages":[],"stream":"yes"}"#, "[null,null,null,[]]"]
        {
            assert!(passing(Owner("x".into()), Bytes::from(body)).is_err(), "{body}");
        }
    }
}
