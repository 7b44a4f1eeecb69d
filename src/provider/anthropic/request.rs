//! A prompt as a request of the Messages API.
//!
//! Source: <https://platform.claude.com/docs/en/api/messages/create>. Instructions stand beside the
//! messages, which take turns: what one side says in a row becomes one message. Results of tools are
//! said by the user. Texts and images are written from where they stand, without a copy.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::domain::chat::{Message, Part, Prompt, Role, Tool, ToolCall, ToolChoice};
use crate::domain::error::{Error, Kind};

/// The most tokens to generate where nobody says how many: the API wants a number, and nearly all of
/// its models take this one.
const MAX_TOKENS: u32 = 8192;

/// The highest temperature of the API. Other protocols go up to 2; what is above is a wish for the
/// most that there is.
const MAX_TEMPERATURE: f64 = 1.0;

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    max_tokens: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    system: String,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    stream: bool,
}

/// What one side says, until the other goes on.
#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Vec<Block<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text { text: &'a str },
    Image { source: Source<'a> },
    ToolUse { id: Cow<'a, str>, name: &'a str, input: &'a RawValue },
    ToolResult { tool_use_id: Cow<'a, str>, content: Vec<Block<'a>> },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source<'a> {
    Base64 { media_type: &'a str, data: &'a str },
    Url { url: &'a str },
}

/// The request's body.
pub fn body(prompt: &Prompt) -> Result<Bytes, Error> {
    let chat = &prompt.chat;
    let system = chat.messages.iter().filter(|message| message.role == Role::System);
    let system: Vec<_> = system.map(Message::text).filter(|text| !text.trim().is_empty()).collect();
    let request = Request {
        model: prompt.model.as_deref(),
        max_tokens: chat.max_tokens.unwrap_or(MAX_TOKENS),
        system: system.join("\n\n"),
        messages: turns(&chat.messages)?,
        temperature: chat.temperature.map(|temperature| temperature.min(MAX_TEMPERATURE)),
        top_p: chat.top_p,
        stop_sequences: &chat.stop,
        tools: chat.tools.iter().map(tool).collect(),
        tool_choice: tool_choice(&chat.tool_choice, &chat.tools),
        stream: true,
    };
    serde_json::to_vec(&request)
        .map(Bytes::from)
        .map_err(|_| Error::new(Kind::Internal, "the request for the upstream cannot be written"))
}

fn invalid<T>(what: impl Into<String>, hint: &str) -> Result<T, Error> {
    Err(Error::new(Kind::InvalidRequest, what).hinted(hint))
}

fn turns(messages: &[Message]) -> Result<Vec<Turn<'_>>, Error> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for message in messages {
        let (role, content) = match message.role {
            Role::System => continue,
            Role::User => ("user", parts(message)?),
            Role::Assistant => ("assistant", said(message)?),
            Role::Tool => ("user", vec![result(message)?]),
        };
        match turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(content),
            // The API takes no empty message, and an empty one says nothing.
            _ if content.is_empty() => {}
            _ => turns.push(Turn { role, content }),
        }
    }
    if turns.is_empty() {
        return invalid(
            "the messages are instructions alone, and this upstream wants a question besides",
            "send the question as a message of the user",
        );
    }
    Ok(turns)
}

/// The parts of a message, without texts that are blank: the API refuses those.
fn parts(message: &Message) -> Result<Vec<Block<'_>>, Error> {
    let is_blank = |part: &&Part| matches!(part, Part::Text(text) if text.trim().is_empty());
    message.parts.iter().filter(|part| !is_blank(part)).map(part).collect()
}

fn part(part: &Part) -> Result<Block<'_>, Error> {
    match part {
        Part::Text(text) => Ok(Block::Text { text }),
        Part::Image(url) => Ok(Block::Image { source: source(url)? }),
        Part::Other(_) => {
            invalid("a message has a part that is neither text nor an image", "send text or images")
        }
    }
}

/// Where an image is: in its own URL, or behind it.
fn source(url: &str) -> Result<Source<'_>, Error> {
    let Some(inline) = url.strip_prefix("data:") else {
        return match url.starts_with("https://") || url.starts_with("http://") {
            true => Ok(Source::Url { url }),
            false => invalid("an image has an address that is no URL", "give an https URL, or a data URL"),
        };
    };
    let (head, data) = inline.split_once(',').unwrap_or_default();
    let media_type = head.split(';').next().unwrap_or_default();
    if media_type.is_empty() || !head.ends_with(";base64") {
        return invalid(
            "an image's data URL has no media type, or is not in base64",
            "write it as `data:image/png;base64,…`",
        );
    }
    // The name that is often written for it is none.
    let media_type = if media_type == "image/jpg" { "image/jpeg" } else { media_type };
    Ok(Source::Base64 { media_type, data })
}

/// What the model said, and the tools that it called.
fn said(message: &Message) -> Result<Vec<Block<'_>>, Error> {
    let mut blocks = parts(message)?;
    for ToolCall { id, name, arguments } in &message.tool_calls {
        let Some(input) = input(arguments) else {
            return invalid(
                format!("the arguments of a call of `{name}` are no JSON object"),
                "send back the arguments as the model wrote them",
            );
        };
        blocks.push(Block::ToolUse { id: call_id(id)?, name, input });
    }
    Ok(blocks)
}

/// The object that a call's arguments are; none are an empty one.
fn input(arguments: &str) -> Option<&RawValue> {
    let text = match arguments.trim() {
        "" | "null" => "{}",
        text => text,
    };
    serde_json::from_str(text).ok().filter(|_| text.starts_with('{'))
}

fn result(message: &Message) -> Result<Block<'_>, Error> {
    let id = message.answers.as_ref().map_or("", |(id, _)| id);
    Ok(Block::ToolResult { tool_use_id: call_id(id)?, content: parts(message)? })
}

/// A call's id in the characters that the API takes: the models of others put more into theirs.
fn call_id(id: &str) -> Result<Cow<'_, str>, Error> {
    let is_taken = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match id {
        "" => invalid(
            "a call of a tool, or its result, has no id",
            "send `id` with each of `tool_calls`, and the same as `tool_call_id` with its result",
        ),
        id if id.chars().all(is_taken) => Ok(id.into()),
        id => Ok(id.replace(|c| !is_taken(c), "_").into()),
    }
}

fn tool(tool: &Tool) -> Value {
    let mut written = Map::new();
    written.insert("name".into(), tool.name.clone().into());
    written.extend(tool.description.clone().map(|text| ("description".into(), text.into())));
    let schema = tool.parameters.as_ref().and_then(|json| serde_json::from_str(json.get()).ok());
    let mut schema = schema.unwrap_or_else(|| json!({}));
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("type").or_insert_with(|| "object".into());
    }
    written.insert("input_schema".into(), schema);
    written.into()
}

fn tool_choice(choice: &ToolChoice, tools: &[Tool]) -> Option<Value> {
    match choice {
        ToolChoice::Auto => None,
        // The API takes a choice with tools alone.
        ToolChoice::None if tools.is_empty() => None,
        ToolChoice::None => Some(json!({ "type": "none" })),
        ToolChoice::Required => Some(json!({ "type": "any" })),
        ToolChoice::Named(name) => Some(json!({ "type": "tool", "name": name })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat::Chat;

    fn written(chat: Chat) -> Result<Value, Kind> {
        let prompt = Prompt { model: Some("m".into()), chat, thread: None, total: None };
        let body = body(&prompt).map_err(|error| error.kind)?;
        Ok(serde_json::from_slice(&body).expect("JSON"))
    }

    fn of(messages: Vec<Message>) -> Result<Value, Kind> {
        written(Chat { messages, ..Chat::default() })
    }

    fn called(calls: &[(&str, &str)]) -> Message {
        let call = |(id, arguments): &(&str, &str)| ToolCall {
            id: (*id).into(),
            name: "f".into(),
            arguments: (*arguments).into(),
        };
        Message { tool_calls: calls.iter().map(call).collect(), ..Message::new(Role::Assistant, "") }
    }

    fn answered(id: &str, text: &str) -> Message {
        Message { answers: Some((id.into(), None)), ..Message::new(Role::Tool, text) }
    }

    #[test]
    fn instructions_stand_apart_and_the_sides_take_turns() {
        let said = |role, text: &str| Message::new(role, text);
        let request = of(vec![
            said(Role::System, "be brief"),
            said(Role::User, "a"),
            said(Role::User, " "),
            said(Role::User, "b"),
            said(Role::Assistant, ""),
            said(Role::System, "be kind"),
            said(Role::User, "c"),
            said(Role::Assistant, "d"),
            said(Role::Assistant, "e"),
        ]);
        let text = |text: &str| json!({"type": "text", "text": text});
        assert_eq!(
            request.expect("good"),
            json!({"model": "m", "max_tokens": 8192, "system": "be brief\n\nbe kind", "stream": true, "messages": [
                {"role": "user", "content": [text("a"), text("b"), text("c")]},
                {"role": "assistant", "content": [text("d"), text("e")]},
            ]})
        );
        assert_eq!(of(vec![said(Role::System, "x"), said(Role::User, "")]), Err(Kind::InvalidRequest));
    }

    #[test]
    fn parameters_have_the_names_and_bounds_of_the_api() {
        let tool = |parameters: Option<&str>| Tool {
            name: "f".into(),
            description: None,
            parameters: parameters.map(|text| RawValue::from_string(text.into()).expect("JSON")),
        };
        let chat = Chat {
            messages: vec![Message::new(Role::User, "a")],
            tools: vec![tool(None), tool(Some("{}")), tool(Some(r#"{"type":"object","properties":{}}"#))],
            tool_choice: ToolChoice::Named("f".into()),
            temperature: Some(1.7),
            top_p: Some(0.5),
            max_tokens: Some(7),
            stop: vec!["x".into()],
            choices: Some(1),
            ..Chat::default()
        };
        let request = written(chat.clone()).expect("good");
        assert_eq!(
            (&request["temperature"], &request["top_p"], &request["max_tokens"], &request["stop_sequences"]),
            (&json!(1.0), &json!(0.5), &json!(7), &json!(["x"]))
        );
        let schemas: Vec<_> =
            (0..3).map(|number| request["tools"][number]["input_schema"].to_string()).collect();
        let least = r#"{"type":"object"}"#;
        assert_eq!(schemas, [least, least, r#"{"type":"object","properties":{}}"#]);
        assert_eq!(request["tool_choice"], json!({"type": "tool", "name": "f"}));
        for (choice, written_as) in [(ToolChoice::Required, "any"), (ToolChoice::None, "none")] {
            let request = written(Chat { tool_choice: choice, ..chat.clone() }).expect("good");
            assert_eq!(request["tool_choice"], json!({ "type": written_as }));
        }
        let request = written(Chat { tool_choice: ToolChoice::None, tools: Vec::new(), ..chat });
        assert_eq!(request.expect("good").get("tool_choice"), None);
    }

    #[test]
    fn images_go_in_themselves_or_by_their_address() {
        let image = |url: &str| {
            let parts = vec![Part::Text("what is it?".into()), Part::Image(url.into())];
            of(vec![Message { parts, ..Message::new(Role::User, "") }])
        };
        let source =
            |url: &str| image(url).map(|request| request["messages"][0]["content"][1]["source"].clone());
        assert_eq!(
            source("data:image/jpg;name=a;base64,QUI="),
            Ok(json!({"type": "base64", "media_type": "image/jpeg", "data": "QUI="}))
        );
        let url = "https://example.com/a.png";
        assert_eq!(source(url), Ok(json!({ "type": "url", "url": url })));
        for bad in ["data:,", "data:image/png,abc", "data:;base64,QUI=", "file:///etc/passwd", ""] {
            assert_eq!(source(bad), Err(Kind::InvalidRequest), "{bad}");
        }
    }

    #[test]
    fn calls_and_their_results_are_blocks() {
        let request = of(vec![
            Message::new(Role::User, "go"),
            called(&[("c1", r#"{"x": 1}"#), ("f:2", " ")]),
            answered("c1", "one"),
            answered("f:2", ""),
            Message::new(Role::User, "and?"),
        ]);
        let call =
            |id: &str, input: Value| json!({"type": "tool_use", "id": id, "name": "f", "input": input});
        let result =
            |id: &str, content: Value| json!({"type": "tool_result", "tool_use_id": id, "content": content});
        let text = |text: &str| json!({"type": "text", "text": text});
        assert_eq!(
            request.expect("good")["messages"],
            json!([
                {"role": "user", "content": [text("go")]},
                {"role": "assistant", "content": [call("c1", json!({"x": 1})), call("f_2", json!({}))]},
                {"role": "user", "content": [result("c1", json!([text("one")])), result("f_2", json!([])), text("and?")]},
            ])
        );
        for bad in ["{", "[]", "{\"x\":}", "7", "{} {}"] {
            assert_eq!(of(vec![called(&[("c", bad)])]), Err(Kind::InvalidRequest), "{bad}");
        }
        assert_eq!(of(vec![called(&[("", "{}")])]), Err(Kind::InvalidRequest));
        assert_eq!(of(vec![answered("", "x")]), Err(Kind::InvalidRequest));
    }
}
