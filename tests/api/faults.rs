//! What a broken upstream becomes: each fault is one row, in both protocols.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::helpers::{TestApp, spawn_before};
use crate::upstream::{Fake, Step, chunked, response, send};

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

const STREAM: &str = "data: {\"id\":\"r1\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"你好\"}}]}\n\n\
    data: {\"id\":\"r1\",\"choices\":[{\"delta\":{\"content\":\" 🙂\"}}]}\r\n\r\n\
    data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

const LINES: &str = concat!(
    "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\n",
    "{\"result\":{\"response\":{\"token\":\"你好\",\"responseId\":\"r1\"}}}\r\n",
    "{\"result\":{\"response\":{\"token\":\" 🙂\",\"responseId\":\"r1\"}}}\n",
    "{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true,\"responseId\":\"r1\"}}}\n",
    "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"你好 🙂\",\"responseId\":\"r1\"}}}}",
);

/// Short limits, so that silence shows at once.
const SHORT: &[(&str, &str)] = &[
    ("FIRST_BYTE_TIMEOUT_SECONDS", "0.4"),
    ("IDLE_TIMEOUT_SECONDS", "0.4"),
    ("REQUEST_TIMEOUT_SECONDS", "3"),
    ("UPSTREAM_API_KEY", "sk-canary-of-the-upstream"),
    ("UPSTREAM_COOKIE", "sso=cookie-canary-of-the-upstream"),
];

/// A fault, what it is in each protocol (openai, web-chat), and a word that its hint must hold.
struct Row {
    fault: &'static str,
    script: Vec<Step>,
    codes: (&'static str, &'static str),
    hint: &'static str,
}

fn row(fault: &'static str, script: Vec<Step>, code: &'static str, hint: &'static str) -> Row {
    Row { fault, script, codes: (code, code), hint }
}

fn told_apart(
    fault: &'static str,
    bytes: String,
    codes: (&'static str, &'static str),
    hint: &'static str,
) -> Row {
    Row { fault, script: send(bytes), codes, hint }
}

fn closing(bytes: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Step::Send(bytes.into()), Step::Close]
}

fn rows() -> Vec<Row> {
    let html = "<!doctype html><html><body>Log in</body></html>";
    let json = "application/json";
    let reason = r#"{"error":{"message":"your plan does not include this, sk-canary-of-the-upstream"}}"#;
    let with = |status: &str, header: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\n{header}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let head = |media: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n")
    };
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    vec![
        row("silence", vec![Step::Hang], "upstream_timeout", "FIRST_BYTE_TIMEOUT_SECONDS"),
        row("silence after the head", [send(head(SSE)), vec![Step::Hang]].concat(), "upstream_stalled", "IDLE_TIMEOUT_SECONDS"),
        row(
            "silence within the body",
            [send(head(SSE)), send(chunk("{\"a")), vec![Step::Hang]].concat(),
            "upstream_stalled",
            "IDLE_TIMEOUT_SECONDS",
        ),
        row("hanging up at once", vec![Step::Close], "upstream_disconnected", "try again"),
        row("hanging up within the head", closing("HTTP/1.1 200 OK\r\nContent-"), "upstream_disconnected", "try again"),
        row("no HTTP", closing("SSH-2.0-OpenSSH_9.2\r\n\r\n"), "upstream_invalid", "UPSTREAM_URL"),
        row(
            "a body shorter than announced",
            closing("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"result\":{\"response\":{\"token\":\"x\"}},\"choices\":[]}\n"),
            "upstream_truncated",
            "proxy",
        ),
        row("JSON that breaks off", send(chunked(json, "{\"choices\":[{\"message\":{\"content\":\"half")), "upstream_truncated", "try again"),
        told_apart("a web page", response("200 OK", "text/html; charset=utf-8", html), ("upstream_html", "upstream_auth_expired"), "UPSTREAM_COOKIE"),
        told_apart("a web page declared as JSON", response("200 OK", json, html), ("upstream_html", "upstream_auth_expired"), "UPSTREAM_COOKIE"),
        told_apart(
            "a redirect to a login page",
            "HTTP/1.1 302 Found\r\nLocation: https://accounts.example.com/login?t=1\r\nContent-Length: 0\r\n\r\n".into(),
            ("upstream_redirect", "upstream_auth_expired"),
            "UPSTREAM_COOKIE",
        ),
        row(
            "a redirect elsewhere",
            send("HTTP/1.1 301 Moved\r\nLocation: https://www.example.com/\r\nContent-Length: 0\r\n\r\n"),
            "upstream_redirect",
            "UPSTREAM_URL",
        ),
        row("compression", send(with("200 OK", "Content-Encoding: gzip", "xxxx")), "upstream_encoding", "compression"),
        row("an unknown coding", send(with("200 OK", "Content-Encoding: zstd-x", "xxxx")), "upstream_encoding", "compression"),
        row("an empty answer", send(response("200 OK", json, "")), "upstream_empty", "UPSTREAM_URL"),
        row("an empty chunked answer", send(head(SSE) + "0\r\n\r\n"), "upstream_empty", "UPSTREAM_URL"),
        row("no content", send("HTTP/1.1 204 No Content\r\n\r\n"), "upstream_empty", "UPSTREAM_URL"),
        row("JSON that breaks off with its connection", closing("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"choices\":["), "upstream_truncated", "try again"),
        row("another protocol from now on", send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "upstream_informational", "UPSTREAM_URL"),
        row("an interim answer alone", [send("HTTP/1.1 100 Continue\r\n\r\n"), vec![Step::Hang]].concat(), "upstream_timeout", "FIRST_BYTE_TIMEOUT_SECONDS"),
        row("garbage", send(response("200 OK", json, "garbage\nmore garbage\n")), "upstream_invalid", "UPSTREAM_PROTOCOL"),
        row("JSON of another protocol", send(response("200 OK", json, "{\"hello\":[1]}")), "upstream_invalid", "UPSTREAM_PROTOCOL"),
        row("401", send(response("401 Unauthorized", json, "{}")), "upstream_auth_expired", "UPSTREAM_"),
        row("402", send(response("402 Payment Required", json, reason)), "upstream_refused", "plan"),
        row("403 with a reason", send(response("403 Forbidden", json, reason)), "upstream_refused", "plan"),
        told_apart("403 with a page", response("403 Forbidden", "text/html", html), ("upstream_refused", "upstream_auth_expired"), ""),
        row("a browser check", send(with("403 Forbidden", "cf-mitigated: challenge", "{}")), "upstream_challenge", "browser"),
        row("404", send(response("404 Not Found", "text/plain", "404 page not found")), "upstream_not_found", "UPSTREAM_URL"),
        row("400", send(response("400 Bad Request", json, "{\"error\":\"bad temperature\"}")), "upstream_rejected", "temperature"),
        row("429", send(with("429 Too Many Requests", "Retry-After: 7", "{}")), "upstream_rate_limited", "Retry-After"),
        row("500", send(response("500 Internal Server Error", "text/html", html)), "upstream_error", "log"),
        row("503", send(response("503 Service Unavailable", json, reason)), "upstream_error", "log"),
        row("a failure in a good answer", send(response("200 OK", json, "{\"error\":{\"message\":\"Too many requests\",\"code\":8}}")), "upstream_rate_limited", "Retry-After"),
        row(
            "an endless line",
            vec![Step::Send(head(SSE).into()), Step::Send(chunk("data: ").into()), Step::Endless(chunk(&"x".repeat(64 << 10)).into())],
            "upstream_too_large",
            "shorter",
        ),
        row(
            "an endless answer",
            vec![Step::Send(head(SSE).into()), Step::Endless(chunk(&format!(": {}\n", "x".repeat(1000)).repeat(64)).into())],
            "upstream_too_large",
            "shorter",
        ),
    ]
}

#[actix_web::test]
async fn each_fault_has_its_code_status_and_hint() {
    for row in rows() {
        for (protocol, code) in [("openai", row.codes.0), ("web-chat", row.codes.1)] {
            let script = row.script.clone();
            let fake = Fake::start(move |_| script.clone()).await;
            let app = spawn_before(&fake.url, protocol, SHORT).await;
            let start = Instant::now();
            let answer = app.chat(json!({"message": "Hello"})).await;
            let context = format!("{} ({protocol}): {}", row.fault, answer.text);
            let body = answer.json();
            assert_eq!(answer.code(), code, "{context}");
            assert_eq!(answer.status, 424, "{context}");
            assert_eq!(body["success"], false, "{context}");
            assert!(body["error"]["hint"].as_str().is_some_and(|hint| hint.contains(row.hint)), "{context}");
            assert_eq!(body["error"]["request_id"].as_str(), answer.header("x-request-id"), "{context}");
            assert!(!answer.text.contains("canary"), "{context}");
            assert!(start.elapsed() < Duration::from_secs(10), "{context}");
            if row.fault == "429" {
                assert_eq!(answer.header("retry-after"), Some("7"), "{context}");
            }
            assert_eq!(fake.requests().len(), 1, "a question is never sent twice: {context}");
        }
    }
}

#[actix_web::test]
async fn an_upstream_that_cannot_be_connected_to_is_told_apart() {
    let fake = Fake::start(|_| Vec::new()).await;
    let https = fake.url.replace("http:", "https:");
    for url in ["http://127.0.0.1:1", "http://no-such-host.invalid", &https] {
        let app = spawn_before(url, "openai", &[("CONNECT_TIMEOUT_SECONDS", "2")]).await;
        let answer = app.chat(json!({"message": "Hello"})).await;
        assert_eq!(
            (answer.code().as_str(), answer.status.as_u16()),
            ("upstream_unreachable", 424),
            "{url}: {}",
            answer.text
        );
        let health = app.get("/api/health").await;
        assert_eq!(
            (health.status.as_u16(), &health.json()["status"]),
            (200, &json!("down")),
            "{url}: {}",
            health.text
        );
    }
}

#[actix_web::test]
async fn an_unknown_model_is_the_callers_to_mend() {
    let body = r#"{"error":{"message":"The model `x` does not exist","code":"model_not_found"}}"#;
    for protocol in ["openai", "web-chat"] {
        let fake = Fake::start(move |_| send(response("404 Not Found", "application/json", body))).await;
        let app = spawn_before(&fake.url, protocol, &[]).await;
        let answer = app.chat(json!({"message": "Hello", "model": "x"})).await;
        assert_eq!((answer.code().as_str(), answer.status.as_u16()), ("model_not_found", 422));
        assert_eq!(answer.json()["model"], serde_json::Value::Null);
    }
}

#[actix_web::test]
async fn a_partial_answer_is_returned_with_its_error_and_never_as_a_success() {
    for (protocol, media, whole) in [("openai", SSE, STREAM), ("web-chat", NDJSON, LINES)] {
        let failure = if protocol == "openai" {
            "data: {\"error\":{\"message\":\"boom\"}}\n\n"
        } else {
            "\n{\"error\":{\"message\":\"boom\"}}\n"
        };
        let half = whole.find(" 🙂").and_then(|at| whole[..at].rfind('\n')).expect("a half");
        for (rest, code) in [(failure, "upstream_error"), ("", "upstream_truncated")] {
            let text = format!("{}\n{rest}", &whole[..half]);
            let fake = Fake::start(move |_| send(chunked(media, &text))).await;
            let app = spawn_before(&fake.url, protocol, SHORT).await;
            let answer = app.chat(json!({"message": "Hello"})).await;
            assert_eq!((answer.code().as_str(), answer.status.as_u16()), (code, 424), "{}", answer.text);
            assert_eq!(answer.json()["answer"], "你好", "{protocol}: {}", answer.text);
        }
    }
}

/// Asks the app in front of a fake that sends `script`, and gives code and answer.
async fn ask(app: &TestApp) -> (String, String) {
    let answer = app.chat(json!({"message": "Hello"})).await;
    (answer.code(), answer.json()["answer"].as_str().unwrap_or_default().to_string())
}

#[actix_web::test]
async fn the_answer_does_not_depend_on_where_the_bytes_are_cut() {
    for (protocol, media, whole) in [("openai", SSE, STREAM), ("web-chat", NDJSON, LINES)] {
        let bytes = chunked(media, whole).into_bytes();
        let cuts = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (cut, all) = (cuts.clone(), bytes.clone());
        let fake = Fake::start(move |_| {
            let at = cut.load(std::sync::atomic::Ordering::Relaxed);
            let pause = Step::Pause(Duration::from_millis(1));
            vec![Step::Send(all[..at].to_vec()), pause, Step::Send(all[at..].to_vec())]
        })
        .await;
        let app = spawn_before(&fake.url, protocol, &[]).await;
        for at in 1..bytes.len() {
            cuts.store(at, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(ask(&app).await, (String::new(), "你好 🙂".into()), "{protocol}, cut at {at}");
        }
    }
}

#[actix_web::test]
async fn an_answer_that_ends_too_early_is_never_a_success() {
    for (protocol, media, whole, end) in [
        ("openai", SSE, STREAM, "\"finish_reason\":\"stop\"}]}"),
        ("web-chat", NDJSON, LINES, "\"isSoftStop\":true,\"responseId\":\"r1\"}}}"),
    ] {
        let complete = whole.find(end).expect("an end") + end.len();
        let length = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let cut = length.clone();
        let fake = Fake::start(move |_| {
            let body = &whole.as_bytes()[..cut.load(std::sync::atomic::Ordering::Relaxed)];
            let mut bytes = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                whole.len()
            )
            .into_bytes();
            bytes.extend_from_slice(body);
            vec![Step::Send(bytes), Step::Close]
        })
        .await;
        let app = spawn_before(&fake.url, protocol, &[]).await;
        for at in (0..whole.len()).step_by(3).chain([complete - 1, complete]) {
            length.store(at, std::sync::atomic::Ordering::Relaxed);
            let (code, answer) = ask(&app).await;
            if at < complete {
                assert!(
                    ["upstream_truncated", "upstream_empty"].contains(&code.as_str()),
                    "{protocol}, cut at {at}: {code}"
                );
                assert!("你好 🙂".starts_with(&answer), "{protocol}, cut at {at}: {answer}");
            } else {
                assert_eq!((code.as_str(), answer.as_str()), ("", "你好 🙂"), "{protocol}, cut at {at}");
            }
        }
    }
}

#[actix_web::test]
async fn a_failure_within_a_good_answer_counts_as_one_and_a_good_head_excuses_nothing() {
    let fake = Fake::start(|_| {
        let event = "data: {\"error\":{\"message\":\"out of order\",\"code\":500}}\n\n";
        send(chunked(SSE, event))
    })
    .await;
    let app = spawn_before(&fake.url, "openai", SHORT).await;
    for _ in 0..5 {
        assert_eq!(app.chat(json!({"message": "Hello"})).await.code(), "upstream_error");
    }
    let metrics = app.get_as_owner("/metrics").await.text;
    let state = metrics.lines().find(|line| line.starts_with("mirrorgate_upstream_breaker_state{"));
    assert!(state.is_some_and(|line| line.ends_with(" 2")), "open: {state:?}");
}
