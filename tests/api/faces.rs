//! One question, asked through each of the service's faces.

use serde_json::{Value, json};

use crate::helpers::{KEY, TestApp};
use crate::upstream::{Request, chunked, response};

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    Chat,
    Completion,
    Stream,
    Mcp,
    Relayed,
}

/// The failure of a question.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    pub code: String,
    /// What was said of the answer all the same.
    pub part: String,
}

impl Face {
    pub const ALL: [Face; 5] = [Face::Chat, Face::Completion, Face::Stream, Face::Mcp, Face::Relayed];

    /// The faces in front of an upstream of this protocol: others than openai's relay nothing.
    pub fn before(protocol: &str) -> &'static [Face] {
        if protocol == "openai" { &Face::ALL } else { &Face::ALL[..4] }
    }

    /// Asks this, and gives the text of the answer.
    pub async fn ask(self, app: &TestApp, message: &str) -> Result<String, Failed> {
        match self {
            Face::Chat => of_envelope(&app.chat(json!({"message": message, "model": "m"})).await.json()),
            Face::Mcp => {
                let arguments = json!({"message": message, "model": "m"});
                let params = json!({"name": "chat", "arguments": arguments});
                let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
                let answer = app.post("/mcp", KEY, &call.to_string()).await.json();
                of_envelope(&answer["result"]["structuredContent"])
            }
            Face::Relayed => {
                let body = json!({"model": "m", "input": message}).to_string();
                let answer = app.post("/v1/embeddings", KEY, &body).await;
                assert!(!answer.text.is_empty(), "{} {:?}", answer.status, answer.headers);
                let answer = answer.json();
                refused(&answer).map_or_else(|| Ok(text(&answer["data"][0]["text"])), Err)
            }
            Face::Completion => {
                let answer = app.post("/v1/chat/completions", KEY, &completion(message, false)).await.json();
                let said = || text(&answer["choices"][0]["message"]["content"]);
                refused(&answer).map_or_else(|| Ok(said()), Err)
            }
            Face::Stream => {
                let answer = app.post("/v1/chat/completions", KEY, &completion(message, true)).await;
                of_stream(&answer.text)
            }
        }
    }
}

/// A good answer of this protocol with this text, for any request that a face makes.
pub fn good(protocol: &str, request: &Request, said: &str) -> String {
    let json = |value: Value| response("200 OK", "application/json", &value.to_string());
    if request.line.contains("/models") {
        return json(json!({"data": [{"id": "m"}]}));
    }
    let (media, body) = good_body(protocol, request, said);
    if media == "application/json" { response("200 OK", media, &body) } else { chunked(media, &body) }
}

/// Media type and body of such an answer.
pub fn good_body(protocol: &str, request: &Request, said: &str) -> (&'static str, String) {
    let stream = request.body.contains("\"stream\":true");
    match (protocol, stream) {
        ("openai", _) if request.line.contains("/embeddings") => {
            ("application/json", json!({"data": [{"text": said}]}).to_string())
        }
        ("openai", false) => {
            let choice = json!({"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"});
            ("application/json", json!({"choices": [choice]}).to_string())
        }
        ("openai", true) => {
            let choice = |delta: Value, finish: Option<&str>| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
            let (words, end) = (choice(json!({"content": said}), None), choice(json!({}), Some("stop")));
            ("text/event-stream", format!("data: {words}\n\ndata: {end}\n\ndata: [DONE]\n\n"))
        }
        ("anthropic", _) => {
            let events = [
                json!({"type": "message_start", "message": {"id": "r", "usage": {"input_tokens": 1, "output_tokens": 1}}}),
                json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}}),
                json!({"type": "content_block_stop", "index": 0}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
                json!({"type": "message_stop"}),
            ];
            ("text/event-stream", events.iter().map(|event| format!("data: {event}\n\n")).collect())
        }
        _ => {
            let lines = [
                json!({"result": {"conversation": {"conversationId": "c"}}}),
                json!({"result": {"response": {"token": said, "responseId": "r"}}}),
                json!({"result": {"response": {"modelResponse": {"message": said, "responseId": "r"}}}}),
            ];
            ("application/x-ndjson", lines.iter().map(|line| format!("{line}\n")).collect())
        }
    }
}

fn completion(message: &str, stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": message}]}).to_string()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn refused(answer: &Value) -> Option<Failed> {
    let code = answer["error"]["code"].as_str()?.to_string();
    Some(Failed { code, part: text(&answer["error"]["partial_answer"]) })
}

fn of_envelope(envelope: &Value) -> Result<String, Failed> {
    let said = text(&envelope["answer"]);
    match envelope["success"] == true {
        true => Ok(said),
        false => Err(Failed { code: text(&envelope["error"]["code"]), part: said }),
    }
}

fn of_stream(wire: &str) -> Result<String, Failed> {
    if let Some(failed) = serde_json::from_str(wire).ok().and_then(|answer| refused(&answer)) {
        return Err(failed);
    }
    let (mut said, mut done) = (String::new(), false);
    for data in wire.lines().filter_map(|line| line.strip_prefix("data: ")) {
        done = data == "[DONE]";
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        if let Some(code) = event["error"]["code"].as_str() {
            return Err(Failed { code: code.into(), part: said });
        }
        said += event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    assert!(done, "a stream that does not fail ends with [DONE]: {wire}");
    Ok(said)
}
