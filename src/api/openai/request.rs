//! Requests for a completion, read: as little as needed of one that goes through, and what it means
//! where the upstream speaks another protocol.

use actix_web::web::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::forms::{self, List};
use super::messages::{Messages, name_tools};
use super::tokens;
use crate::domain::chat::{Chat, Owner, Part, Role, Tool, ToolChoice};
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
pub fn inference(
    owner: Owner,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
) -> Result<(InferenceRequest, bool), Error> {
    let Head { model, stream, stream_options, n, .. } = head(&body)?;
    let choices = n.unwrap_or(1).max(1);
    let model = model.filter(|model| !model.trim().is_empty());
    let names_model = model.is_some();
    let request = InferenceRequest {
        owner,
        operation: "chat_completions",
        model,
        asked: Asked::Transcript(Transcript {
            body,
            names_model,
            choices,
            headers,
            read: chat,
            tokens: tokens::of_prompt,
        }),
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
    #[serde(default, deserialize_with = "forms::number")]
    temperature: Option<f64>,
    #[serde(default, deserialize_with = "forms::number")]
    top_p: Option<f64>,
    #[serde(default, deserialize_with = "forms::number")]
    max_tokens: Option<f64>,
    #[serde(default, deserialize_with = "forms::number")]
    max_completion_tokens: Option<f64>,
    n: Option<usize>,
    tools: Option<List<AskedTool>>,
    #[serde(default, deserialize_with = "forms::tool_choice")]
    tool_choice: ToolChoice,
    parallel_tool_calls: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "forms::one_or_more")]
    stop: Vec<String>,
    #[serde(default, deserialize_with = "forms::response_format")]
    response_format: Option<String>,
    logprobs: Option<Box<RawValue>>,
    seed: Option<IgnoredAny>,
    presence_penalty: Option<IgnoredAny>,
    frequency_penalty: Option<IgnoredAny>,
    logit_bias: Option<IgnoredAny>,
    top_k: Option<IgnoredAny>,
}

impl Meant {
    fn other_hints(&self) -> Vec<&'static str> {
        let hints = [
            ("seed", &self.seed),
            ("presence_penalty", &self.presence_penalty),
            ("frequency_penalty", &self.frequency_penalty),
            ("logit_bias", &self.logit_bias),
            ("top_k", &self.top_k),
        ];
        hints.into_iter().filter(|(_, given)| given.is_some()).map(|(name, _)| name).collect()
    }
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

/// What a request means.
///
/// # Errors
/// When it is none for a completion.
pub fn chat(bytes: &[u8]) -> Result<Chat, Error> {
    let asked: Meant = body::parse(bytes)?;
    let invalid = |what: &str, hint: &str| Err(Error::new(Kind::InvalidRequest, what).hinted(hint));
    let other_hints = asked.other_hints();
    let mut messages = asked.messages.0?;
    name_tools(&mut messages);
    let Some(last) = messages.last() else {
        return invalid("`messages` is empty", "send at least the question");
    };
    // A tool may have nothing to tell.
    let is_empty = |part: &Part| matches!(part, Part::Text(text) if text.trim().is_empty());
    if last.role != Role::Tool && last.parts.iter().all(is_empty) {
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
        other_hints,
        tools: asked.tools.into_iter().flat_map(|List(tools)| tools).filter_map(tool).collect(),
        tool_choice: asked.tool_choice,
        single_call: asked.parallel_tool_calls.is_some_and(|asked| asked.get() == "false"),
        temperature: asked.temperature,
        top_p: asked.top_p,
        max_tokens,
        stop: asked.stop,
        choices: asked.n,
        response_format: asked.response_format,
        logprobs: asked.logprobs.is_some_and(|asked| asked.get() == "true"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openai::forms::MAX_ELEMENTS;
    use serde_json::{Value, json};

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
        assert_eq!(chat.messages[3].answers, Some(("c".into(), Some("f".into()))));
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
        let (request, include_usage) = inference(owner(), Vec::new(), Bytes::from(body)).expect("valid");
        assert!(request.model.is_none() && !request.stream && !include_usage);
        for body in
            ["", "[]", "{}", r#"{"messages":{}}"#, r#"{"messages":[],"stream":"yes"}"#, "[null,null,null,[]]"]
        {
            assert!(inference(owner(), Vec::new(), Bytes::from(body)).is_err(), "{body}");
        }
    }

    #[test]
    fn no_more_is_kept_than_a_request_may_hold() {
        let said = json!({"role": "user", "content": [{"type": "text", "text": "a"}]});
        let half = MAX_ELEMENTS / 2;
        assert!(read(json!({"messages": vec![&said; half]})).is_ok());
        let calls = json!({"role": "assistant", "tool_calls": vec![json!({}); MAX_ELEMENTS + 1]});
        let parts = json!({"role": "user", "content": vec![json!({"type": "text"}); MAX_ELEMENTS + 1]});
        for asked in [
            json!({"messages": vec![&said; half + 1]}),
            json!({"messages": [calls]}),
            json!({"messages": [parts]}),
            json!({"messages": [&said], "tools": vec![json!({}); MAX_ELEMENTS + 1]}),
        ] {
            let error = read(asked).expect_err("too much");
            assert_eq!(error.kind, Kind::InvalidRequest);
            assert!(error.caller_message().contains("more than 100000"), "{}", error.caller_message());
        }
    }

    #[test]
    fn values_of_several_forms_are_understood() {
        let with = |name: &str, value: Value| {
            let mut asked = json!({"messages": [{"role": "user", "content": "a"}]});
            asked[name] = value;
            read(asked)
        };
        for (value, choice) in [
            (json!(null), ToolChoice::Auto),
            (json!("auto"), ToolChoice::Auto),
            (json!("none"), ToolChoice::None),
            (json!("required"), ToolChoice::Required),
            (json!({"type": "function", "function": {"name": "f"}}), ToolChoice::Named("f".into())),
            (json!([0, 0]), ToolChoice::Required),
        ] {
            assert_eq!(with("tool_choice", value).expect("good").tool_choice, choice);
        }
        for (value, number) in
            [(json!("0.5"), Some(0.5)), (json!(1), Some(1.0)), (json!([0]), None), (json!(true), None)]
        {
            assert_eq!(with("temperature", value).expect("good").temperature, number);
        }
        for (value, form) in [
            (json!(null), None),
            (json!({"type": "text"}), None),
            (json!({"type": "json_schema", "json_schema": {}}), Some("json_schema")),
            (json!("json"), Some("another form")),
        ] {
            assert_eq!(with("response_format", value).expect("good").response_format.as_deref(), form);
        }
        assert_eq!(with("stop", json!(["a", "b"])).expect("good").stop, ["a", "b"]);
        assert!(with("stop", json!(null)).expect("good").stop.is_empty());
        assert!(with("stop", json!([0])).is_err());
    }
}
