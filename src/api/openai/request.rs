//! Requests for a completion, read: as little as needed of one that goes through, and what it means
//! where the upstream speaks another protocol.

use std::fmt;
use std::sync::Arc;

use actix_web::web::Bytes;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::chat::{Chat, Message, Owner, Part, Role, Tool, ToolCall, ToolChoice, estimate_tokens};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Asked, InferenceRequest, Transcript};
use crate::http::body;

/// What matters in a request that goes through.
#[derive(Deserialize)]
pub struct Head {
    model: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<usize>,
    // That it is a list is all that is asked of it here.
    #[serde(rename = "messages")]
    _messages: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// A request as the use case takes it, and whether its stream is to end with what the answer cost.
///
/// # Errors
/// When it is none for a completion.
pub fn inference(owner: Owner, body: Bytes) -> Result<(InferenceRequest, bool), Error> {
    let Head { model, stream, stream_options, n, .. } = head(&body)?;
    let choices = n.unwrap_or(1).max(1);
    let request = InferenceRequest {
        owner,
        operation: "chat_completions",
        model: model.filter(|model| !model.trim().is_empty()),
        asked: Asked::Transcript(Transcript { body, choices, read: chat, tokens: prompt_tokens }),
        stream: stream.unwrap_or_default(),
        total: None,
    };
    Ok((request, stream_options.and_then(|options| options.include_usage).unwrap_or_default()))
}

/// The head of a request.
///
/// # Errors
/// When it is none for a completion.
pub fn head(body: &[u8]) -> Result<Head, Error> {
    // Read fast; only what does not fit is read again, to say where.
    match serde_json::from_slice(body) {
        Ok(head) if body.trim_ascii_start().starts_with(b"{") => Ok(head),
        _ => body::parse(body),
    }
}

/// What a request means.
#[derive(Deserialize)]
struct Meant {
    messages: Messages,
    #[serde(default, deserialize_with = "number")]
    temperature: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    top_p: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    max_tokens: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    max_completion_tokens: Option<f64>,
    n: Option<usize>,
    #[serde(default)]
    tools: Vec<AskedTool>,
    tool_choice: Option<AskedChoice>,
    #[serde(default, deserialize_with = "one_or_more")]
    stop: Vec<String>,
}

#[derive(Deserialize)]
struct AskedTool {
    function: Option<AskedFunction>,
}

#[derive(Deserialize)]
struct AskedFunction {
    name: String,
    description: Option<String>,
    parameters: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AskedChoice {
    Word(String),
    Named { function: Named },
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl From<AskedChoice> for ToolChoice {
    fn from(asked: AskedChoice) -> Self {
        match asked {
            AskedChoice::Word(word) if word == "none" => ToolChoice::None,
            AskedChoice::Word(word) if word == "required" => ToolChoice::Required,
            AskedChoice::Named { function } => ToolChoice::Named(function.name),
            AskedChoice::Word(_) => ToolChoice::Auto,
            // Of another form, such as a list of the tools that are allowed.
            AskedChoice::Other(_) => ToolChoice::Required,
        }
    }
}

/// A number, which may be written as a text. What is none counts as absent: it is a hint alone.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number| number.is_finite()))
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        More(Vec<String>),
        None(()),
    }
    Ok(match Stop::deserialize(deserializer)? {
        Stop::One(text) => vec![text],
        Stop::More(texts) => texts,
        Stop::None(()) => Vec::new(),
    })
}

/// The messages, or why one of them is none. Lists become messages while they are read: a short element
/// can take many times its bytes.
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
    #[serde(default, deserialize_with = "calls")]
    tool_calls: Vec<ToolCall>,
    tool_call_id: Option<String>,
}

/// What a message says.
struct Content(Vec<Part>);

#[derive(Deserialize)]
struct AskedPart {
    r#type: String,
    text: Option<Arc<str>>,
    image_url: Option<AskedImage>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AskedImage {
    Url(Arc<str>),
    Object { url: Arc<str> },
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
                Ok(Content(vec![Part::Text(text.into())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut asked: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(AskedPart { r#type, text, image_url }) = asked.next_element()? {
                    parts.push(match (text, image_url) {
                        (Some(text), _) => Part::Text(text),
                        (None, Some(AskedImage::Url(url) | AskedImage::Object { url })) => Part::Image(url),
                        (None, None) => Part::Other(r#type),
                    });
                }
                Ok(Content(parts))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The tools that a message called. Arguments may be the object that they describe.
fn calls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ToolCall>, D::Error> {
    #[derive(Deserialize)]
    struct AskedCall {
        id: Option<String>,
        function: Option<Function>,
    }
    #[derive(Deserialize)]
    struct Function {
        name: Option<String>,
        arguments: Option<Value>,
    }
    let asked: Option<Vec<AskedCall>> = Deserialize::deserialize(deserializer)?;
    let call = |AskedCall { id, function }| {
        let Function { name, arguments } = function?;
        let arguments = match arguments.unwrap_or_default() {
            Value::String(text) => text,
            Value::Null => String::new(),
            object => object.to_string(),
        };
        Some(ToolCall { id: id.unwrap_or_default(), name: name.unwrap_or_default(), arguments })
    };
    Ok(asked.into_iter().flatten().filter_map(call).collect())
}

/// What a request means.
///
/// # Errors
/// When it is none for a completion.
pub fn chat(bytes: &[u8]) -> Result<Chat, Error> {
    let asked: Meant = body::parse(bytes)?;
    let invalid = |what: &str, hint: &str| Err(Error::new(Kind::InvalidRequest, what).hinted(hint));
    let messages = asked.messages.0?;
    let Some(last) = messages.last() else {
        return invalid("`messages` is empty", "send at least the question");
    };
    if last.parts.iter().all(|part| matches!(part, Part::Text(text) if text.trim().is_empty())) {
        return invalid("the last message is empty", "send the question in the last message");
    }
    let tool = |tool: AskedTool| {
        let AskedFunction { name, description, parameters } = tool.function?;
        Some(Tool { name, description, parameters })
    };
    // Clients write -1 for no bound.
    let max_tokens = asked.max_completion_tokens.or(asked.max_tokens);
    let max_tokens = max_tokens.filter(|most| *most >= 1.0).map(|most| most as u32);
    Ok(Chat {
        messages,
        tools: asked.tools.into_iter().filter_map(tool).collect(),
        tool_choice: asked.tool_choice.map(ToolChoice::from).unwrap_or_default(),
        temperature: asked.temperature,
        top_p: asked.top_p,
        max_tokens,
        stop: asked.stop,
        choices: asked.n,
    })
}

fn message(asked: AskedMessage) -> Result<Message, Error> {
    let AskedMessage { role, content, name, tool_calls, tool_call_id } = asked;
    let (role, answers) = match role.as_str() {
        "system" | "developer" => (Role::System, None),
        "user" => (Role::User, None),
        "assistant" => (Role::Assistant, None),
        "tool" | "function" => (Role::Tool, Some((tool_call_id.unwrap_or_default(), name))),
        _ => {
            return Err(Error::new(Kind::InvalidRequest, "a message has an unknown role")
                .hinted("use system, developer, user, assistant or tool"));
        }
    };
    let parts = content.map_or_else(Vec::new, |Content(parts)| parts);
    Ok(Message { role, parts, tool_calls, answers })
}

/// An estimate of the tokens in the texts of a request; pictures and sounds count nothing.
pub fn prompt_tokens(body: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Request {
        messages: Option<Vec<Said>>,
        #[serde(alias = "prompt")]
        input: Option<Value>,
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
    let input = input.map(|input| input.as_str().map_or_else(|| input.to_string(), String::from));
    texts.chain(input.map(|text| estimate_tokens(&text))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Chat, Error> {
        chat(value.to_string().as_bytes())
    }

    #[test]
    fn every_message_is_understood() {
        let chat = read(json!({"stop": "x", "tools": [{"type": "function", "function": {"name": "f"}}], "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"x": 1}}}]},
            {"role": "tool", "content": "42", "tool_call_id": "c"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "input_audio"}]},
        ]}))
        .expect("valid");
        let texts: Vec<_> = chat.messages.iter().map(|message| message.text().into_owned()).collect();
        assert_eq!(texts, ["be brief", "a\nb", "", "42", ""]);
        assert_eq!(chat.messages[2].tool_calls[0].arguments, r#"{"x":1}"#);
        assert_eq!(chat.messages[3].answers, Some(("c".into(), None)));
        assert_eq!(chat.messages[4].parts, [Part::Image("data:x".into()), Part::Other("input_audio".into())]);
        assert_eq!((chat.stop, chat.tools.len()), (vec!["x".to_string()], 1));
    }

    #[test]
    fn what_is_no_request_for_a_completion_is_refused() {
        for body in [
            json!({}),
            json!([]),
            json!({"messages": []}),
            json!({"messages": "hi"}),
            json!({"messages": [{"role": "user"}]}),
            json!({"messages": [{"role": "user", "content": " "}]}),
            json!({"messages": [{"role": "user", "content": 1}]}),
            json!({"messages": [{"role": "judge", "content": "x"}]}),
        ] {
            let error = read(body.clone()).expect_err("not valid");
            assert_eq!(error.kind, Kind::InvalidRequest, "{body}");
        }
    }

    #[test]
    fn a_request_that_passes_is_read_as_little_as_possible() {
        let owner = || Owner("x".into());
        let body = r#"{"messages":[{"any":"thing"}],"stream":null,"model":" ","x":1}"#;
        let (request, include_usage) = inference(owner(), Bytes::from(body)).expect("valid");
        assert!(request.model.is_none() && !request.stream && !include_usage);
        for body in
            ["", "[]", "{}", r#"{"messages":{}}"#, r#"{"messages":[],"stream":"yes"}"#, "[null,null,null,[]]"]
        {
            assert!(inference(owner(), Bytes::from(body)).is_err(), "{body}");
        }
    }
}
