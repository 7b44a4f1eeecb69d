//! What an upstream of the OpenAI protocol reports of itself reaches a caller of the same protocol as it
//! came: fields and status of errors, headers both ways.

use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, TestApp, spawn_before};
use crate::upstream::{Fake, chunk, response, send, stream_end, stream_head};

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "sk-canary-of-the-upstream";

/// An upstream's error: its status, its `error`, and the status and code that a caller reads.
fn reported() -> Vec<(u16, Value, u16, &'static str)> {
    let error = |message: &str, kind: &str, param: Value, code: Value| json!({"message": message, "type": kind, "param": param, "code": code});
    vec![
        (
            400,
            error("too long", "invalid_request_error", json!("messages"), json!("context_length_exceeded")),
            400,
            "context_length_exceeded",
        ),
        (400, error("bad", "invalid_request_error", Value::Null, Value::Null), 400, "upstream_rejected"),
        (
            404,
            error("no such model", "invalid_request_error", Value::Null, json!("model_not_found")),
            404,
            "model_not_found",
        ),
        (409, error("busy", "conflict_error", Value::Null, json!("conflict")), 409, "conflict"),
        (
            422,
            error("no", "unprocessable_entity", json!("top_k"), json!("invalid_value")),
            422,
            "invalid_value",
        ),
        (
            429,
            error("quota", "insufficient_quota", Value::Null, json!("insufficient_quota")),
            429,
            "insufficient_quota",
        ),
        (
            429,
            error("slow", "requests", Value::Null, json!("rate_limit_exceeded")),
            429,
            "rate_limit_exceeded",
        ),
        (500, error("oops", "server_error", Value::Null, Value::Null), 500, "upstream_error"),
        (503, error("The engine is overloaded", "overloaded_error", Value::Null, json!(503)), 503, "503"),
        (
            401,
            error("Incorrect API key", "invalid_request_error", Value::Null, json!("invalid_api_key")),
            502,
            "upstream_auth_expired",
        ),
        (403, error("not for you", "permission_error", Value::Null, Value::Null), 502, "upstream_refused"),
        (
            403,
            error("no quota", "new_api_error", Value::Null, json!("insufficient_user_quota")),
            403,
            "insufficient_user_quota",
        ),
        (403, error("flagged", "moderation", Value::Null, json!("content_filter")), 403, "content_filter"),
    ]
}

async fn complete(app: &TestApp, stream: bool) -> Answer {
    let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
    app.post(CHAT, KEY, &body.to_string()).await
}

fn check(given: &Value, error: &Value, code: &str) {
    let text = given["code"].as_str().map_or_else(|| given["code"].to_string(), String::from);
    assert_eq!(text, code, "{given}");
    assert!(given["hint"].is_string() && given["request_id"].is_string(), "{given}");
    assert!(!given.to_string().contains("canary"), "{given}");
    if !code.starts_with("upstream_auth") && !code.starts_with("upstream_refused") {
        for field in ["message", "type", "param"] {
            assert_eq!(given[field], error[field], "{field} of {given}");
        }
    }
}

#[actix_web::test]
async fn an_error_keeps_its_fields_and_its_status_but_for_those_of_the_upstreams_credentials() {
    for (status, error, seen, code) in reported() {
        let body = json!({ "error": error }).to_string();
        let whole = response(&format!("{status} X"), "application/json", &body);
        let fake = Fake::start(move |_| send(whole.clone())).await;
        let app = spawn_before(&fake.url, "openai", &[]).await;
        let relayed = app.post("/v1/embeddings", KEY, r#"{"model":"m","input":"x"}"#).await;
        for answer in [complete(&app, false).await, complete(&app, true).await, relayed] {
            assert_eq!(answer.status.as_u16(), seen, "{}", answer.text);
            check(&answer.json()["error"], &error, code);
        }
    }
}

#[actix_web::test]
async fn the_last_event_of_a_stream_that_fails_keeps_the_fields_of_its_error() {
    let error = json!({"message": format!("no {SECRET}"), "type": "t", "param": "p", "code": "content_filter", "innererror": {"code": "Policy", "seen": [SECRET]}});
    let event = format!("data: {}\n\n", json!({ "error": error }));
    let script = move |_: &_| {
        let failing = format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
        vec![stream_head(), chunk("Hello", None), crate::upstream::Step::Send(failing.into_bytes())]
    };
    let fake = Fake::start(script).await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", SECRET)]).await;
    let answer = complete(&app, true).await;
    let last = answer.text.trim_end().lines().last().and_then(|line| line.strip_prefix("data: "));
    let last: Value = serde_json::from_str(last.expect("an event")).expect("JSON");
    let given = &last["error"];
    let clean: Value = serde_json::from_str(&error.to_string().replace(SECRET, "[redacted]")).expect("JSON");
    check(given, &clean, "content_filter");
    assert_eq!(given["innererror"], clean["innererror"]);
}

#[actix_web::test]
async fn headers_of_the_lists_pass_both_ways_and_no_other_does() {
    let passed = [
        ("x-ratelimit-remaining-requests", "7"),
        ("openai-processing-ms", "12"),
        ("openai-organization", "org"),
    ];
    let lines: String = passed.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let lines = format!("{lines}x-canary: 1\r\n");
    let fake = Fake::start(move |request| {
        if request.body.contains("\"fail\"") {
            let more = "retry-after-ms: 1500\r\nx-should-retry: false\r\n";
            let body = r#"{"error":{"message":"slow"}}"#;
            let head = response("503 X", "application/json", body);
            return send(head.replacen("\r\n", &format!("\r\n{lines}{more}"), 1));
        }
        if request.body.contains("\"stream\":true") {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n";
            return vec![
                crate::upstream::Step::Send(format!("{head}{lines}\r\n").into_bytes()),
                chunk("Hello", Some("stop")),
                stream_end(),
            ];
        }
        let body = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#;
        send(response("200 OK", "application/json", body).replacen("\r\n", &format!("\r\n{lines}"), 1))
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let key = format!("Bearer {KEY}");
    let mut asked = [
        ("openai-beta", "b=1"),
        ("idempotency-key", "i-1"),
        ("anthropic-beta", "a"),
        ("anthropic-version", "2023-06-01"),
        ("x-canary", "1"),
        ("authorization", &key),
        ("content-type", "application/json"),
    ];
    let whole = r#"{"model":"m","messages":[]}"#;
    let stream = r#"{"model":"m","messages":[],"stream":true}"#;
    let fails = r#"{"model":"m","messages":[],"user":"fail"}"#;
    let other = r#"{"model":"m","input":"x"}"#;
    // The same key would be the same call.
    for (path, body, id) in
        [(CHAT, whole, "1"), (CHAT, stream, "2"), (CHAT, fails, "3"), ("/v1/embeddings", other, "4")]
    {
        asked[1] = ("idempotency-key", id);
        let answer = app.call("POST", path, &asked, Some(body.as_bytes().to_vec())).await;
        for (name, value) in passed {
            assert_eq!(answer.header(name), Some(value), "{path} {body}: {name}");
        }
        assert_eq!(answer.header("x-canary"), None);
        if body == fails {
            let told = ["retry-after-ms", "x-should-retry", "retry-after"].map(|name| answer.header(name));
            assert_eq!(told, [Some("1500"), Some("false"), None]);
        }
        let seen = fake.requests().pop().expect("a request");
        assert!(
            seen.header("idempotency-key").is_some_and(|name| name != id),
            "{path}: it is made the caller's own"
        );
        for (name, value) in asked[..4].iter().filter(|(name, _)| *name != "idempotency-key") {
            assert_eq!(seen.header(name), Some(*value), "{path} {body}: {name}");
        }
        assert_eq!(seen.header("x-canary"), None);
    }
}
