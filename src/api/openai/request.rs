//! Requests for a completion, read: as little as needed of one that goes through, and all that a
//! web chat can take of one that it is to answer.

use actix_web::web::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::super::body;
use crate::chat::{Message, Owner, Role};
use crate::error::{Error, Kind};
use crate::service::{CompletionRequest, Talk};

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

/// What a web chat can take of a request.
#[derive(Deserialize)]
struct Asked {
    model: Option<String>,
    messages: Vec<AskedMessage>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<u32>,
    n: Option<usize>,
    tool_choice: Option<Value>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct AskedMessage {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
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
    if asked.messages.is_empty() {
        return cannot("`messages` is empty", "send at least the question");
    }
    if asked.n.is_some_and(|choices| choices > 1) {
        return cannot("a web chat gives one answer at a time", "leave `n` out");
    }
    let must_call = |choice: &Value| choice == "required" || choice.is_object();
    if asked.tool_choice.as_ref().is_some_and(must_call) {
        return cannot(
            "a web chat calls no tools",
            "leave `tool_choice` out, or use an upstream with the openai protocol",
        );
    }
    let messages = asked.messages.into_iter().map(message).collect::<Result<Vec<_>, Error>>()?;
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
    let mut text = match asked.content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            if let Some(other) = parts.iter().find(|part| part.text.is_none()) {
                let kind = other.r#type.chars().take(40).collect::<String>();
                return Err(Error::new(Kind::InvalidRequest, "a web chat takes text alone")
                    .detail(Some(format!("the message has a part of type {kind:?}")))
                    .hinted("send text, or use an upstream with the openai protocol for images and sounds"));
            }
            parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join("\n")
        }
    };
    for call in asked.tool_calls.into_iter().flatten().filter_map(|call| call.function) {
        let (name, arguments) = (call.name.unwrap_or_default(), call.arguments.unwrap_or_default());
        text = format!("{text}\nCalled {name} with {arguments}").trim().to_string();
    }
    let role = match asked.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => {
            let name = asked.name.map(|name| format!(" {name}")).unwrap_or_default();
            text = format!("The result of the tool{name}: {text}");
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
    use serde_json::json;

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
        let texts: Vec<_> = talk.messages.iter().map(|message| message.text.as_str()).collect();
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
