//! A prompt as a request of the OpenAI protocol.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/create>.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::dialect::Dialect;
use crate::domain::chat::{Message, Part, Prompt, Tool, ToolChoice};
use crate::domain::error::{Error, Kind};

/// The request's body.
pub fn body(prompt: &Prompt, dialect: Dialect) -> Result<Bytes, Error> {
    let chat = &prompt.chat;
    let mut request = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            request.insert(name.into(), value);
        }
    };
    set("model", prompt.model.clone().map(Value::from));
    set("messages", Some(chat.messages.iter().map(message).collect()));
    set("temperature", chat.temperature.map(Value::from));
    set("top_p", chat.top_p.map(Value::from));
    let most = if dialect.completion_tokens { "max_completion_tokens" } else { "max_tokens" };
    set(most, chat.max_tokens.map(Value::from));
    set("stop", (!chat.stop.is_empty()).then(|| chat.stop.clone().into()));
    set("tools", (!chat.tools.is_empty()).then(|| chat.tools.iter().map(tool).collect()));
    set("tool_choice", tool_choice(&chat.tool_choice));
    set("stream", dialect.streams.then_some(true.into()));
    let with_usage = dialect.streams && dialect.stream_options;
    set("stream_options", with_usage.then(|| json!({ "include_usage": true })));
    serde_json::to_vec(&request)
        .map(Bytes::from)
        .map_err(|_| Error::new(Kind::Internal, "the request for the upstream cannot be written"))
}

fn message(message: &Message) -> Value {
    let mut written = Map::new();
    written.insert("role".into(), message.role.name().into());
    let is_text = message.parts.iter().all(|part| matches!(part, Part::Text(_)));
    let content = match is_text {
        true => message.text().into(),
        false => message.parts.iter().map(part).collect(),
    };
    written.insert("content".into(), content);
    if !message.tool_calls.is_empty() {
        let call = |call: &crate::domain::chat::ToolCall| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        };
        written.insert("tool_calls".into(), message.tool_calls.iter().map(call).collect());
    }
    if let Some((id, _)) = &message.answers {
        written.insert("tool_call_id".into(), id.clone().into());
    }
    written.into()
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image(url) => json!({ "type": "image_url", "image_url": { "url": url } }),
        // Refused before by the capabilities.
        Part::Other(name) => json!({ "type": name }),
    }
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool.name.clone().into());
    function.extend(tool.description.clone().map(|text| ("description".into(), text.into())));
    let parameters = tool.parameters.as_ref().and_then(|json| serde_json::from_str(json.get()).ok());
    function.extend(parameters.map(|schema: Value| ("parameters".into(), schema)));
    json!({ "type": "function", "function": function })
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some("none".into()),
        ToolChoice::Required => Some("required".into()),
        ToolChoice::Named(name) => Some(json!({ "type": "function", "function": { "name": name } })),
    }
}
