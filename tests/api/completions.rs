//! The OpenAI-compatible face before an upstream of the same protocol.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, Answer, KEY, TestApp, spawn_before};
use crate::upstream::{Fake, Step, chunk, chunked, response, send, stream_end, stream_head};

const SSE: &str = "text/event-stream";

const STREAM: &str = "data: {\"id\":\"r\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"你好\"}}]}\n\n\
    : a comment\n\nevent: message\ndata: {\"id\":\"r\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" 🙂\"}}]}\r\n\r\n\
    data: {\"id\":\"r\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"id\":\"r\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\ndata: [DONE]\n\n";

impl TestApp {
    async fn complete(&self, body: Value) -> Answer {
        self.post("/v1/chat/completions", KEY, &body.to_string()).await
    }
}

fn question(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
}

/// The data of a stream's events; comments are left out.
fn data(text: &str) -> Vec<String> {
    assert!(text.ends_with("\n\n") && !text.contains('\r'), "{text:?}");
    let events = text.trim_end().split("\n\n").filter(|event| !event.starts_with(':'));
    let data = events.map(|event| {
        assert!(!event.contains('\n'), "one line an event: {event:?}");
        event.strip_prefix("data: ").expect("data").to_string()
    });
    data.collect()
}

#[actix_web::test]
async fn requests_and_answers_go_through_untouched() {
    const ANSWER: &str = r#"{"id":"x","object":"chat.completion","extra":[1,{"a":1e400}],"choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"t","function":{"name":"f","arguments":"{}"}}],"reasoning":"r"},"logprobs":{"content":[{"logprob":-0.30000001}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"details":{"cached":1}}}"#;
    let fake = Fake::start(|_| send(response("200 OK", "application/json", ANSWER))).await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-upstream")]).await;
    let body = r#"{ "messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}],"model":"m","tools":[{"type":"function"}],"response_format":{"type":"json_object"},"x":1.10 }"#;
    let answer = app.post("/v1/chat/completions", KEY, body).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, ANSWER));
    let asked = &fake.requests()[0];
    assert_eq!(asked.body, body);
    assert_eq!(asked.header("authorization"), Some("Bearer sk-upstream"));
    assert_eq!(asked.header("x-api-key"), None);
}

#[actix_web::test]
async fn the_default_model_stands_in_for_none() {
    let fake =
        Fake::start(|_| send(response("200 OK", "application/json", r#"{"choices":[{"message":{}}]}"#)))
            .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for model in [json!(null), json!(""), json!("m2")] {
        app.complete(json!({"model": model, "messages": [], "y": {"z": [1]}})).await;
    }
    let models: Vec<Value> = fake.requests().iter().map(|request| request.json()["model"].clone()).collect();
    assert_eq!(models, ["m", "m", "m2"]);
    assert_eq!(fake.requests()[0].json()["y"], json!({"z": [1]}));
    // A message without content is mended: Dify's client needs the field.
    assert_eq!(app.complete(question(false)).await.json()["choices"][0]["message"]["content"], Value::Null);
}

#[actix_web::test]
async fn a_stream_goes_through_event_by_event() {
    let fake = Fake::start(|_| send(chunked(SSE, STREAM))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for path in ["/v1/chat/completions", "/v1/v1/chat/completions", "/chat/completions"] {
        let answer = app.post(path, KEY, &question(true).to_string()).await;
        assert_eq!(answer.header("content-type"), Some(SSE));
        let data = data(&answer.text);
        assert_eq!(data.len(), 5, "{}", answer.text);
        assert_eq!(data[4], "[DONE]");
        assert_eq!(
            serde_json::from_str::<Value>(&data[1]).expect("JSON")["choices"][0]["delta"]["content"],
            " 🙂"
        );
    }
    let usage = app.get("/api/usage").await.json();
    assert_eq!((usage["requests"].clone(), usage["total_tokens"].clone()), (json!(3), json!(15)));
}

#[actix_web::test]
async fn an_answer_in_the_other_form_is_understood() {
    let whole = r#"{"id":"x","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
    let fake = Fake::start(move |request| {
        let streams = request.json()["stream"] == true;
        send(if streams { response("200 OK", "application/json", whole) } else { chunked(SSE, STREAM) })
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let events = data(&app.complete(question(true)).await.text);
    assert!(events[0].contains(r#""delta":{"content":"hi","role":"assistant"}"#) && events[1] == "[DONE]");
    let answer = app.complete(question(false)).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "你好 🙂");
    assert_eq!(answer["usage"]["total_tokens"], 5);
}

#[actix_web::test]
async fn a_stream_cut_at_any_byte_ends_with_an_error_and_never_with_done() {
    // Cut by a length that is not kept, since awc hides a cut in the chunked coding.
    let finish = STREAM.find("\"finish_reason\"").expect("a finish");
    let fake = Fake::start(move |request| {
        let cut: usize = request.json()["cut"].as_u64().expect("a cut") as usize;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {SSE}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = format!("{:x}\r\n", STREAM.len());
        let bytes = [head.as_bytes(), piece.as_bytes(), &STREAM.as_bytes()[..cut]].concat();
        vec![Step::Send(bytes), Step::Close]
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for cut in 0..finish {
        let mut body = question(true);
        body["cut"] = cut.into();
        let answer = app.complete(body).await;
        assert!(!answer.text.contains("[DONE]"), "at {cut}: {}", answer.text);
        let error = match answer.status.as_u16() {
            200 => serde_json::from_str::<Value>(data(&answer.text).last().expect("an event")).expect("JSON"),
            502 => answer.json(),
            other => panic!("at {cut}: {other}"),
        };
        assert!(
            ["upstream_truncated", "upstream_empty"]
                .contains(&error["error"]["code"].as_str().expect("a code")),
            "at {cut}"
        );
    }
}

#[actix_web::test]
async fn failures_have_openais_shape_and_statuses() {
    let body = r#"{"error":{"message":"no, sk-canary-of-the-upstream"}}"#;
    let limited = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    for (bytes, status, code) in [
        (response("401 Unauthorized", "application/json", body), 502, "upstream_auth_expired"),
        (response("403 Forbidden", "application/json", body), 502, "upstream_refused"),
        (
            response("404 Not Found", "application/json", r#"{"error":{"code":"model_not_found"}}"#),
            404,
            "model_not_found",
        ),
        (response("400 Bad Request", "application/json", body), 400, "upstream_rejected"),
        (limited.to_string(), 429, "upstream_rate_limited"),
        (response("500 Oops", "text/plain", "oops"), 500, "upstream_error"),
        (response("200 OK", "text/html", "<html>"), 502, "upstream_html"),
        (response("200 OK", "application/json", "{\"choices\":"), 502, "upstream_truncated"),
        (response("200 OK", "application/json", body), 502, "upstream_error"),
        (response("200 OK", SSE, "data: {\"error\":{\"message\":\"x\"}}\n\n"), 502, "upstream_error"),
    ] {
        let fake = Fake::start(move |_| send(bytes.clone())).await;
        let app =
            spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-canary-of-the-upstream")]).await;
        for stream in [false, true] {
            let answer = app.complete(question(stream)).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.text);
            assert!(!answer.text.contains("canary"), "{}", answer.text);
            let error = &answer.json()["error"];
            assert!(error["message"].is_string() && error["type"].is_string() && error["hint"].is_string());
            assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"));
            let again = if error["code"] == "upstream_error" || status == 429 || code == "upstream_truncated"
            {
                "true"
            } else {
                "false"
            };
            assert_eq!(answer.header("x-should-retry"), Some(again));
            assert_eq!(answer.header("retry-after"), (status == 429).then_some("7"));
        }
        assert_eq!(fake.requests().len(), 2, "no request is repeated");
    }
}

#[actix_web::test]
async fn what_callers_do_wrong_is_said_in_openais_shape() {
    let fake = Fake::start(|_| send(response("200 OK", "application/json", "{}"))).await;
    let app = spawn_before(&fake.url, "openai", &[("MODELS", "m,n"), ("MAX_V1_BODY_BYTES", "4096")]).await;
    let key = format!("Bearer {KEY}");
    let json = ("content-type", "application/json");
    let long = format!(r#"{{"messages":["{}"]}}"#, "x".repeat(5000));
    let path = "/v1/chat/completions";
    for (method, path, headers, body, status, code) in [
        ("POST", path, vec![json], "{}", 401, "gateway_key_missing"),
        ("POST", path, vec![json, ("authorization", "Bearer wrong")], "{}", 401, "gateway_key_wrong"),
        ("POST", path, vec![json, ("authorization", &key)], "{", 400, "invalid_json"),
        ("POST", path, vec![json, ("authorization", &key)], "{}", 400, "invalid_request"),
        ("POST", path, vec![("authorization", &key)], "{}", 415, "unsupported_media_type"),
        ("POST", path, vec![json, ("authorization", &key)], &long, 413, "body_too_large"),
        (
            "POST",
            path,
            vec![json, ("authorization", &key)],
            r#"{"model":"z","messages":[]}"#,
            404,
            "model_not_found",
        ),
        ("GET", path, vec![("authorization", &key)], "", 405, "method_not_allowed"),
        ("PUT", "/v1/files", vec![("authorization", &key)], "", 405, "method_not_allowed"),
        ("GET", "/v1/models/z", vec![("authorization", &key)], "", 404, "model_not_found"),
        ("GET", "/v1/files/%2e%2e/x", vec![("authorization", &key)], "", 404, "not_found"),
        ("GET", "/v1/files//x", vec![("authorization", &key)], "", 404, "not_found"),
    ] {
        let answer = app.call(method, path, &headers, Some(body.as_bytes().to_vec())).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{method} {path} {}",
            answer.text
        );
        assert!(answer.json()["error"]["type"].is_string());
    }
    assert!(fake.requests().is_empty());
}

#[actix_web::test]
async fn silence_is_filled_with_comments_and_blanks() {
    let pause = Duration::from_millis(700);
    let fake = Fake::start(move |request| {
        let (text, media) = if request.json()["stream"] == true {
            (STREAM.to_string(), SSE)
        } else {
            (r#"{"choices":[{"message":{"content":"hi"}}]}"#.to_string(), "application/json")
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", text.len());
        let (one, two) = text.split_at(text.find("}]").expect("a place within"));
        [vec![Step::Pause(pause)], send(head), send(one), vec![Step::Pause(pause)], send(two)].concat()
    })
    .await;
    let beats = [("V1_HEARTBEAT_AFTER_SECONDS", "0.2"), ("HEARTBEAT_SECONDS", "0.2")];
    let app = spawn_before(&fake.url, "openai", &beats).await;
    let streamed = app.complete(question(true)).await;
    assert!(streamed.text.starts_with(": ping\n\n"), "{}", streamed.text);
    assert!(streamed.text.matches(": ping\n\n").count() >= 5, "{}", streamed.text);
    assert_eq!(data(&streamed.text).last().map(String::as_str), Some("[DONE]"));
    let whole = app.complete(question(false)).await;
    assert!(whole.text.starts_with("   ") && whole.json()["choices"][0]["message"]["content"] == "hi");
    let quiet =
        spawn_before(&fake.url, "openai", &[("V1_HEARTBEAT_AFTER_SECONDS", "0"), ("HEARTBEAT_SECONDS", "0")])
            .await;
    assert!(quiet.complete(question(true)).await.text.starts_with("data: "));
    assert!(quiet.complete(question(false)).await.text.starts_with('{'));
}

#[actix_web::test]
async fn a_late_failure_is_the_last_event() {
    let fake = Fake::start(|_| {
        [vec![Step::Pause(Duration::from_millis(400))], send(response("500 Oops", "text/plain", "oops"))]
            .concat()
    })
    .await;
    let beats = [("V1_HEARTBEAT_AFTER_SECONDS", "0.1"), ("HEARTBEAT_SECONDS", "0.1")];
    let app = spawn_before(&fake.url, "openai", &beats).await;
    let answer = app.complete(question(true)).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert!(data(&answer.text)[0].contains("upstream_error") && !answer.text.contains("[DONE]"));
    // A client that looks at `object` alone must not take it for a completion; an early one has a status.
    let late = app.complete(question(false)).await;
    assert!(late.text.starts_with(' ') && late.status.as_u16() == 200, "{}", late.text);
    assert_eq!((late.code().as_str(), &late.json()["object"]), ("upstream_error", &json!("error")));
    let app = spawn_before(&fake.url, "openai", &[("HEARTBEAT_AFTER_SECONDS", "0.1")]).await;
    let early = app.complete(question(false)).await;
    assert_eq!((early.status.as_u16(), early.json().get("object")), (500, None), "{}", early.text);
}

#[actix_web::test]
async fn an_answer_that_never_ends_meets_its_deadline() {
    let fake = Fake::start(|_| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {SSE}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let drip = vec![Step::Send(b"8\r\n: drip\n\n\r\n".to_vec()), Step::Pause(Duration::from_millis(50))];
        [send(head), vec![drip; 100].concat()].concat()
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[("REQUEST_TIMEOUT_SECONDS", "0.5")]).await;
    let answer = app.complete(question(true)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (504, "upstream_deadline"),
        "{}",
        answer.text
    );
}

#[actix_web::test]
async fn a_caller_who_leaves_frees_the_upstream() {
    let fake = Fake::start(|_| {
        let first = STREAM.split_inclusive("\n\n").next().expect("an event");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {SSE}\r\nTransfer-Encoding: chunked\r\n\r\n");
        [send(head), send(format!("{:x}\r\n{first}\r\n", first.len())), vec![Step::Hang]].concat()
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let call = app.complete(question(true));
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    let start = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), fake.left()).await.expect("the upstream is let go");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[actix_web::test]
async fn other_endpoints_go_through() {
    let fake = Fake::start(|request| {
        send(match request.line.split(' ').nth(1).expect("a path") {
            "/v1/embeddings" => response("200 OK", "application/json", r#"{"data":[{"embedding":[0.10]}],"usage":{"prompt_tokens":4,"total_tokens":4}}"#),
            "/v1/responses" => chunked(SSE, "event: a\r\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\r\n\r\n"),
            "/v1/audio/speech" => response("200 OK", "audio/mpeg", "bytes\u{0}\r\n"),
            "/v1/files/f?limit=2&a=%26" => response("201 Created", "application/json", "[1]"),
            "/v1/images/generations" => response("200 OK", "application/json", "{\"data\":"),
            other => response("404 Not Found", "text/plain", other),
        })
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-upstream")]).await;
    let answer = app.post("/v1/embeddings", KEY, r#"{"input":"x"}"#).await;
    assert!(answer.status == 200 && answer.text.contains("[0.10]"));
    let answer = app.post("/v1/responses", KEY, "{}").await;
    assert_eq!(answer.header("content-type"), Some(SSE));
    assert!(answer.text.starts_with("event: a\ndata: {\"type\":\"response.completed\""), "{}", answer.text);
    let key = format!("Bearer {KEY}");
    let form = "multipart/form-data; boundary=x";
    let headers =
        [("authorization", key.as_str()), ("content-type", form), ("cookie", "a=b"), ("x-api-key", "z")];
    let answer = app.call("POST", "/v1/audio/speech", &headers, Some(b"--x--".to_vec())).await;
    assert_eq!((answer.header("content-type"), answer.text.as_str()), (Some("audio/mpeg"), "bytes\u{0}\r\n"));
    let answer = app.get_as_owner("/v1/files/f?key=another&limit=2&a=%26").await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (201, "[1]"));
    assert_eq!(app.post("/v1/images/generations", KEY, "{}").await.code(), "upstream_truncated");
    assert_eq!(app.post("/v1/unknown", ADMIN_KEY, "{}").await.code(), "upstream_not_found");
    let speech = fake.requests().into_iter().find(|request| request.line.contains("speech")).expect("asked");
    assert_eq!((speech.body.as_str(), speech.header("content-type")), ("--x--", Some(form)));
    assert_eq!((speech.header("cookie"), speech.header("x-api-key")), (None, None));
    assert_eq!(speech.header("authorization"), Some("Bearer sk-upstream"));
    let usage = app.get("/api/usage").await.json();
    assert_eq!(
        (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone()),
        (json!(5), json!(2)),
        "{usage}"
    );
}

#[test]
fn the_upstreams_chunks_do_not_matter() {
    let runtime = actix_web::rt::System::new();
    let (fake, app) = runtime.block_on(async {
        let fake = Fake::start(|request| {
            let cuts: Vec<usize> = serde_json::from_value(request.json()["cuts"].clone()).expect("cuts");
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: {SSE}\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut steps = send(head);
            let mut from = 0;
            for to in cuts.into_iter().chain([STREAM.len()]).filter(|to| *to <= STREAM.len()) {
                if to > from {
                    let piece =
                        [format!("{:x}\r\n", to - from).as_bytes(), &STREAM.as_bytes()[from..to], b"\r\n"]
                            .concat();
                    steps.extend([Step::Send(piece), Step::Pause(Duration::from_millis(1))]);
                    from = to;
                }
            }
            steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
            steps
        })
        .await;
        let app = spawn_before(&fake.url, "openai", &[]).await;
        (fake, app)
    });
    let ask = |cuts: Vec<usize>| {
        let mut body = question(true);
        body["cuts"] = cuts.into();
        runtime.block_on(app.complete(body)).text
    };
    let whole = ask(Vec::new());
    let cuts = prop::collection::btree_set(0..STREAM.len(), 0..12);
    proptest!(ProptestConfig::with_cases(48), |(cuts in cuts)| {
        prop_assert_eq!(ask(cuts.into_iter().collect()), whole.clone());
    });
    drop(fake);
}

#[actix_web::test]
async fn a_piece_of_a_tool_call_arrives_as_soon_as_the_upstream_sends_it() {
    let piece = |call: Value| {
        let event = json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
        let event = format!("data: {event}\n\n");
        Step::Send(format!("{:x}\r\n{event}\r\n", event.len()).into_bytes())
    };
    let begin =
        piece(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}));
    let rest = piece(json!({"index": 0, "function": {"arguments": "{}"}}));
    let pause = Duration::from_millis(700);
    let script =
        vec![stream_head(), begin, Step::Pause(pause), rest, chunk("", Some("tool_calls")), stream_end()];
    let fake = Fake::start(move |_| script.clone()).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let client = awc::Client::builder().disable_timeout().finish();
    let begun = Instant::now();
    let request = client.post(app.url("/v1/chat/completions")).bearer_auth(KEY);
    let mut answer = request.send_json(&question(true)).await.expect("an answer");
    let first = answer.next().await.expect("a piece").expect("bytes");
    assert!(begun.elapsed() < pause / 2, "{:?}", begun.elapsed());
    assert!(String::from_utf8_lossy(&first).contains(r#""name":"f""#), "{first:?}");
    let rest = answer.body().await.expect("the rest");
    let rest = String::from_utf8_lossy(&rest);
    assert!(
        rest.contains(r#"{"index":0,"function":{"arguments":"{}"}}"#) && rest.contains("[DONE]"),
        "{rest}"
    );
}
