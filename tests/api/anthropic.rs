//! Every face before an upstream of Anthropic's Messages API.

use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, TestApp, spawn, spawn_before, temporary_folder};
use crate::upstream::{Fake, Request, Step, chunked, response, send};

const SSE: &str = "text/event-stream";
const JSON: &str = "application/json";
const MODELS: &str = r#"{"data":[{"type":"model","id":"claude-a","display_name":"A","max_tokens":64000},
    {"type":"model","id":"claude-b","display_name":"B"}],"has_more":false,"first_id":"claude-a","last_id":"claude-b"}"#;

/// A streamed message with these blocks; a block is a text or a call of a tool.
fn events(blocks: &[Value], reason: &str) -> String {
    let usage = json!({"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1});
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-a-2026", "content": [],
        "stop_reason": null, "usage": usage});
    let mut all = vec![json!({"type": "message_start", "message": message}), json!({"type": "ping"})];
    for (index, block) in blocks.iter().enumerate() {
        let piece = |delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let (begun, deltas) = match block.as_str() {
            Some(text) => {
                let delta = |part: &str| piece(json!({"type": "text_delta", "text": part}));
                (
                    json!({"type": "text", "text": ""}),
                    text.split_inclusive(' ').map(delta).collect::<Vec<_>>(),
                )
            }
            None => {
                let mut begun = block.clone();
                let input = begun["input"].take().to_string();
                begun["input"] = json!({});
                let (head, rest) = input.split_at(input.len() / 2);
                let delta = |part: &str| piece(json!({"type": "input_json_delta", "partial_json": part}));
                (begun, vec![delta(""), delta(head), delta(rest)])
            }
        };
        all.push(json!({"type": "content_block_start", "index": index, "content_block": begun}));
        all.extend(deltas);
        all.push(json!({"type": "content_block_stop", "index": index}));
    }
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    all.push(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}));
    all.push(json!({"type": "message_stop"}));
    all.iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("?")))
        .collect()
}

fn call(id: &str, name: &str, input: Value) -> Value {
    json!({"type": "tool_use", "id": id, "name": name, "input": input})
}

/// Lists models, and says what it was asked last, or calls two tools where it is offered some.
fn speak(request: &Request) -> Vec<Step> {
    if request.line.starts_with("GET") {
        return send(response("200 OK", JSON, MODELS));
    }
    let asked = request.json();
    let last = asked["messages"].as_array().and_then(|messages| messages.last()).expect("a message");
    let blocks = last["content"].as_array().expect("blocks");
    let is_answered = blocks.iter().any(|block| block["type"] == "tool_result");
    if asked["tools"].is_array() && !is_answered {
        let calls = [
            json!("Let me see. "),
            call("toolu_1", "weather", json!({"city": "台北"})),
            call("toolu_2", "now", json!({})),
        ];
        return send(chunked(SSE, &events(&calls, "tool_use")));
    }
    let text = blocks.last().expect("a block")["text"].as_str().unwrap_or("results").to_string();
    send(chunked(SSE, &events(&[json!(format!("You said: {text}"))], "end_turn")))
}

async fn before(url: &str, more: &[(&str, &str)]) -> TestApp {
    spawn_before(url, "anthropic", more).await
}

fn questions(fake: &Fake) -> Vec<Request> {
    fake.requests().into_iter().filter(|request| request.line.starts_with("POST")).collect()
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

#[actix_web::test]
async fn a_conversation_goes_to_the_messages_api_and_comes_back_in_the_envelope() {
    let fake = Fake::start(speak).await;
    let app = before(&format!("{}/v1/messages", fake.url), &[("UPSTREAM_API_KEY", "sk-ant-1")]).await;
    let asked = json!({"message": "你好", "system": "Be brief", "temperature": "1.5", "max_tokens": "12"});
    let answer = app.chat(asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    let id = body["conversation_id"].clone();
    assert_eq!(
        body,
        json!({"success": true, "answer": "You said: 你好", "conversation_id": id, "response_id": "msg_1", "model": "claude-a-2026",
            "finish_reason": "stop", "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "estimated": false}, "error": null})
    );
    let answer = app.chat(json!({"message": "again", "conversation_id": id})).await;
    assert_eq!(answer.json()["answer"], "You said: again");
    let asked = questions(&fake);
    assert_eq!(asked[0].line, "POST /v1/messages HTTP/1.1");
    assert_eq!(asked[0].header("x-api-key"), Some("sk-ant-1"));
    assert_eq!(asked[0].header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(
        asked[0].json(),
        json!({"model": "m", "max_tokens": 12, "system": "Be brief", "temperature": 1.0, "stream": true,
            "messages": [{"role": "user", "content": [text("你好")]}]})
    );
    assert_eq!(
        asked[1].json()["messages"],
        json!([
            {"role": "user", "content": [text("你好")]},
            {"role": "assistant", "content": [text("You said: 你好")]},
            {"role": "user", "content": [text("again")]},
        ])
    );
    assert_eq!(asked[1].json()["system"], "Be brief");
}

#[actix_web::test]
async fn a_mirror_that_wants_other_headers_gets_them() {
    let fake = Fake::start(speak).await;
    let headers = "Authorization: Bearer of-the-mirror\nanthropic-version: 2030-01-01\nanthropic-beta: x";
    let app = before(&fake.url, &[("UPSTREAM_HEADERS", headers)]).await;
    assert_eq!(app.chat(json!({"message": "x"})).await.status, 200);
    let asked = &questions(&fake)[0];
    assert_eq!(asked.header("authorization"), Some("Bearer of-the-mirror"));
    assert_eq!(asked.header("anthropic-version"), Some("2030-01-01"));
    assert_eq!((asked.header("anthropic-beta"), asked.header("x-api-key")), (Some("x"), None));
}

#[actix_web::test]
async fn an_answer_may_be_as_long_as_the_list_of_models_says() {
    let fake = Fake::start(speak).await;
    let app = spawn(&[("UPSTREAM_URL", &fake.url), ("UPSTREAM_PROTOCOL", "anthropic")]).await;
    let models = app.get("/api/models").await.json();
    assert_eq!(
        models["models"],
        json!([{"id": "claude-a", "owned_by": "anthropic"}, {"id": "claude-b", "owned_by": "anthropic"}])
    );
    assert_eq!(models["default_model"], "claude-a");
    app.chat(json!({"message": "x"})).await;
    app.chat(json!({"message": "x", "model": "claude-b"})).await;
    app.chat(json!({"message": "x", "max_tokens": "5"})).await;
    let body = json!({"model": "claude-a", "messages": [{"role": "user", "content": "x"}]}).to_string();
    app.post("/v1/chat/completions", KEY, &body).await;
    let asked: Vec<_> = questions(&fake).iter().map(|request| request.json()["max_tokens"].clone()).collect();
    assert_eq!(asked, [64000, 8192, 5, 64000]);
    let listed = fake.requests().iter().filter(|request| request.line.starts_with("GET")).count();
    assert_eq!((listed, fake.requests()[0].line.as_str()), (1, "GET /v1/models?limit=1000 HTTP/1.1"));
    assert_eq!(app.get("/api/health").await.json()["status"], "ok");
}

#[actix_web::test]
async fn an_upstream_that_hangs_on_its_list_is_asked_all_the_same() {
    let fake = Fake::start(|request| match request.line.starts_with("GET") {
        true => vec![Step::Hang],
        false => speak(request),
    })
    .await;
    let app = before(&fake.url, &[]).await;
    let start = std::time::Instant::now();
    assert_eq!(app.chat(json!({"message": "x"})).await.json()["answer"], "You said: x");
    assert!(start.elapsed() < std::time::Duration::from_secs(3));
    assert_eq!(questions(&fake)[0].json()["max_tokens"], 8192);
}

fn tools() -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object", "properties": {}}}});
    json!([tool("weather"), tool("now")])
}

/// The data of each event.
fn data(answer: &Answer) -> Vec<&str> {
    answer.text.trim_end().split("\n\n").map(|event| &event["data: ".len()..]).collect()
}

#[actix_web::test]
async fn tools_go_round_whole_and_streamed() {
    let fake = Fake::start(speak).await;
    let app = before(&fake.url, &[]).await;
    let mut body = json!({"messages": [{"role": "user", "content": "weather?"}], "tools": tools(), "tool_choice": "required"});
    let whole = app.post("/v1/chat/completions", KEY, &body.to_string()).await.json();
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("Let me see. "))
    );
    let calls = choice["message"]["tool_calls"].clone();
    let made = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        calls,
        json!([made("toolu_1", "weather", "{\"city\":\"台北\"}"), made("toolu_2", "now", "{}")])
    );

    body["stream"] = true.into();
    let streamed = app.post("/v1/chat/completions", KEY, &body.to_string()).await;
    let events = data(&streamed);
    assert_eq!(events.last(), Some(&"[DONE]"));
    let mut joined = [String::new(), String::new()];
    for event in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        for piece in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let call = &mut joined[piece["index"].as_u64().expect("an index") as usize];
            for text in [&piece["id"], &piece["function"]["name"], &piece["function"]["arguments"]] {
                call.push_str(text.as_str().unwrap_or_default());
            }
        }
    }
    assert_eq!(joined, ["toolu_1weather{\"city\":\"台北\"}", "toolu_2now{}"]);

    let messages = body["messages"].as_array_mut().expect("messages");
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": "toolu_1", "content": "rain"}));
    messages.push(json!({"role": "tool", "tool_call_id": "toolu_2", "content": "noon"}));
    let streamed = app.post("/v1/chat/completions", KEY, &body.to_string()).await;
    assert!(
        streamed.text.contains("results") && streamed.text.contains(r#""finish_reason":"stop""#),
        "{}",
        streamed.text
    );
    let asked = questions(&fake).pop().expect("a question").json();
    assert_eq!(asked["tool_choice"], json!({"type": "any"}));
    assert_eq!(
        asked["tools"][0],
        json!({"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}})
    );
    let result =
        |id: &str, said: &str| json!({"type": "tool_result", "tool_use_id": id, "content": [text(said)]});
    assert_eq!(
        asked["messages"],
        json!([
            {"role": "user", "content": [text("weather?")]},
            {"role": "assistant", "content": [text("Let me see. "), call("toolu_1", "weather", json!({"city": "台北"})), call("toolu_2", "now", json!({}))]},
            {"role": "user", "content": [result("toolu_1", "rain"), result("toolu_2", "noon")]},
        ])
    );
}

#[actix_web::test]
async fn what_the_upstream_cannot_take_is_refused_before_it_is_asked() {
    let fake = Fake::start(speak).await;
    let app = before(&fake.url, &[]).await;
    let user = json!({"role": "user", "content": "x"});
    let called = json!({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{\"half"}}]});
    let sound = json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]});
    let image =
        json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]});
    for body in [
        json!({"messages": [user, called, {"role": "tool", "tool_call_id": "c", "content": "x"}]}),
        json!({"messages": [user, {"role": "tool", "content": "x"}]}),
        json!({"messages": [sound]}),
        json!({"messages": [image]}),
        json!({"messages": [{"role": "system", "content": "x"}]}),
    ] {
        let answer = app.post("/v1/chat/completions", KEY, &body.to_string()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "invalid_request"),
            "{body}: {}",
            answer.text
        );
    }
    for parameter in [json!({"n": 2}), json!({"response_format": {"type": "json_object"}})] {
        let mut body = json!({"messages": [user]});
        body.as_object_mut().expect("an object").extend(parameter.as_object().expect("one").clone());
        let answer = app.post("/v1/chat/completions", KEY, &body.to_string()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "unsupported_parameter"),
            "{body}"
        );
    }
    assert!(questions(&fake).is_empty());
}

#[actix_web::test]
async fn failures_are_told_in_the_upstreams_words() {
    for (status, kind, code, v1) in [
        ("400 Bad Request", "invalid_request_error", "upstream_rejected", 400),
        ("401 Unauthorized", "authentication_error", "upstream_auth_expired", 502),
        ("402 Payment Required", "billing_error", "upstream_refused", 402),
        ("403 Forbidden", "permission_error", "upstream_refused", 502),
        ("404 Not Found", "not_found_error", "upstream_not_found", 404),
        ("413 Too Large", "request_too_large", "upstream_rejected", 413),
        ("429 Too Many Requests", "rate_limit_error", "upstream_rate_limited", 429),
        ("500 Internal Server Error", "api_error", "upstream_error", 500),
        ("529 Overloaded", "overloaded_error", "upstream_error", 529),
        ("200 OK", "overloaded_error", "upstream_error", 502),
        ("200 OK", "rate_limit_error", "upstream_rate_limited", 429),
    ] {
        let error = json!({"type": "error", "error": {"type": kind, "message": "in its words"}, "request_id": "req_1"});
        let fake = Fake::start(move |_| send(response(status, JSON, &error.to_string()))).await;
        let app = before(&fake.url, &[]).await;
        let answer = app.chat(json!({"message": "x", "max_tokens": "9"})).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (424, code),
            "{status}: {}",
            answer.text
        );
        let told = &answer.json()["error"];
        assert!(told["message"].as_str().is_some_and(|message| message.contains("in its words")), "{told}");
        let retryable = ["upstream_error", "upstream_rate_limited"].contains(&code);
        assert_eq!(told["retryable"], retryable, "{status}");
        let body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}).to_string();
        assert_eq!(app.post("/v1/chat/completions", KEY, &body).await.status.as_u16(), v1, "{status}");
        assert_eq!(fake.requests().len(), 2, "a question is never sent twice");
    }
}

#[actix_web::test]
async fn a_stream_that_fails_is_never_a_success() {
    let whole = events(&[json!("the beginning and the end")], "end_turn");
    let half = whole.find("and ").and_then(|at| whole[..at].rfind("event:")).expect("a half");
    let failure = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let unstopped = whole.find("event: message_delta").expect("a reason to stop");
    for (text, code, said) in [
        (whole[..half].to_string() + failure, "upstream_error", "the beginning "),
        (whole[..half].to_string(), "upstream_truncated", "the beginning "),
        (
            whole[..half].to_string() + "data: {\"type\":\n\n" + &whole[half..],
            "upstream_invalid",
            "the beginning ",
        ),
        (whole[..unstopped].to_string(), "upstream_truncated", "the beginning and the end"),
    ] {
        let fake = Fake::start(move |_| send(chunked(SSE, &text))).await;
        let app = before(&fake.url, &[]).await;
        let answer = app.chat(json!({"message": "x"})).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (424, code), "{}", answer.text);
        assert_eq!(answer.json()["answer"], said);
        let body = json!({"stream": true, "messages": [{"role": "user", "content": "x"}]}).to_string();
        let answer = app.post("/v1/chat/completions", KEY, &body).await;
        assert!(answer.text.contains(code) && !answer.text.contains("[DONE]"), "{}", answer.text);
    }
}

#[actix_web::test]
async fn a_mirror_that_does_not_stream_is_understood_and_its_thinking_kept_apart() {
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "c",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Hi"}],
        "stop_reason": "max_tokens", "usage": {"input_tokens": 3, "output_tokens": 5}});
    let fake = Fake::start(move |_| send(response("200 OK", JSON, &message.to_string()))).await;
    let app = before(&fake.url, &[]).await;
    let answer = app.chat(json!({"message": "x"})).await.json();
    assert_eq!((&answer["answer"], &answer["finish_reason"]), (&json!("Hi"), &json!("length")));
    let body = json!({"messages": [{"role": "user", "content": "x"}]}).to_string();
    let answer = app.post("/v1/chat/completions", KEY, &body).await.json();
    assert_eq!(
        answer["choices"][0]["message"],
        json!({"role": "assistant", "content": "Hi", "reasoning_content": "hm"})
    );
    assert_eq!(answer["usage"]["total_tokens"], 8);
}

#[actix_web::test]
async fn the_tools_over_mcp_ask_it_too() {
    let fake = Fake::start(speak).await;
    let app = before(&fake.url, &[]).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": {"message": "你好"}}});
    let answer = app.post("/mcp", KEY, &call.to_string()).await;
    assert!(answer.text.contains("You said: 你好"), "{}", answer.text);
}

#[actix_web::test]
async fn an_overloaded_upstream_gives_the_question_to_another() {
    let overloaded = Fake::start(|request| match request.line.starts_with("GET") {
        true => send(response("200 OK", JSON, MODELS)),
        false => send(response(
            "529 Overloaded",
            JSON,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        )),
    })
    .await;
    let well = Fake::start(speak).await;
    let urls = format!("{},{}", overloaded.url, well.url);
    let app = spawn(&[("UPSTREAM_URL", &urls), ("UPSTREAM_PROTOCOL", "anthropic")]).await;
    for _ in 0..4 {
        assert_eq!(app.chat(json!({"message": "x"})).await.json()["answer"], "You said: x");
    }
}

#[actix_web::test]
async fn beside_an_upstream_of_another_protocol_each_gets_the_questions_for_its_models() {
    let other = Fake::start(|request| {
        let body = match request.line.starts_with("GET") {
            true => r#"{"data":[{"id":"gpt"}]}"#,
            false => r#"{"choices":[{"index":0,"message":{"content":"the other"},"finish_reason":"stop"}]}"#,
        };
        send(response("200 OK", JSON, body))
    })
    .await;
    let fake = Fake::start(speak).await;
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = format!("{folder}/upstreams.toml");
    let file = format!(
        "[[upstream]]\nname = \"one\"\nurl = \"{}\"\n[[upstream]]\nname = \"two\"\nurl = \"{}\"\nprotocol = \"anthropic\"\nkey = \"sk-ant-1\"\n",
        other.url, fake.url
    );
    std::fs::write(&path, file).expect("a file");
    let app = spawn(&[("UPSTREAMS_FILE", &path)]).await;
    for (model, said) in [("gpt", "the other"), ("claude-a", "You said: x")] {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "x"}]}).to_string();
        let answer = app.post("/v1/chat/completions", KEY, &body).await.json();
        assert_eq!(answer["choices"][0]["message"]["content"], said, "{answer}");
        assert_eq!(app.chat(json!({"message": "x", "model": model})).await.json()["answer"], said);
    }
    assert_eq!(questions(&fake)[0].header("x-api-key"), Some("sk-ant-1"));
}
