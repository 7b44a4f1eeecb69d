//! Limits towards callers and the upstream: each is met with an answer that says what to do.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::helpers::{Answer, KEY, OTHER_KEY, TestApp, post, raw, spawn_before};
use crate::upstream::{Fake, Step, chunk, response, send, stream_end, stream_head};

const STREAM: &str = r#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#;

/// An upstream that begins a stream and says nothing more.
async fn hanging() -> Fake {
    Fake::start(|_| vec![stream_head(), chunk("one", None), Step::Hang]).await
}

async fn good() -> Fake {
    let body = r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    Fake::start(move |_| send(response("200 OK", "application/json", body))).await
}

/// Begins a stream; it goes on until the result is aborted.
async fn open_stream(app: &TestApp, key: &'static str, fake: &Fake) -> tokio::task::JoinHandle<Answer> {
    let before = fake.requests().len();
    let address = app.address;
    let task =
        tokio::task::spawn_local(async move { post(address, "/v1/chat/completions", key, STREAM).await });
    while fake.requests().len() == before {
        sleep(Duration::from_millis(10)).await;
    }
    task
}

fn is(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.text);
    let after = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    assert!(after.is_some_and(|seconds| (1..=60).contains(&seconds)), "{after:?}");
}

#[actix_web::test]
async fn a_full_process_refuses_at_once_and_recovers() {
    let fake = hanging().await;
    let app = spawn_before(&fake.url, "openai", &[("MAX_STREAMS", "1")]).await;
    let open = open_stream(&app, KEY, &fake).await;
    let refused = app.post("/api/chat", OTHER_KEY, r#"{"message": "hi"}"#).await;
    is(&refused, 424, "overloaded");
    assert!(refused.text.contains("MAX_STREAMS"));
    is(&app.post("/v1/chat/completions", OTHER_KEY, STREAM).await, 503, "overloaded");
    assert_eq!(app.get("/health").await.status, 200);
    assert_eq!(fake.requests().len(), 1);
    open.abort();
    fake.left().await;
    open_stream(&app, KEY, &fake).await.abort();
}

#[actix_web::test]
async fn a_key_has_its_own_share_unless_there_are_no_keys() {
    let fake = hanging().await;
    let settings = [("MAX_STREAMS_PER_KEY", "1")];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let open = open_stream(&app, KEY, &fake).await;
    is(&app.post("/v1/chat/completions", KEY, STREAM).await, 503, "overloaded");
    open_stream(&app, OTHER_KEY, &fake).await.abort();
    open.abort();
    let settings = [("MAX_STREAMS_PER_KEY", "1"), ("GATEWAY_AUTH", "none")];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let first = open_stream(&app, KEY, &fake).await;
    let second = open_stream(&app, KEY, &fake).await;
    first.abort();
    second.abort();
}

#[actix_web::test]
async fn a_key_may_send_so_many_requests_a_minute() {
    let fake = good().await;
    let app = spawn_before(&fake.url, "openai", &[("RATE_LIMIT_PER_MINUTE", "2")]).await;
    for _ in 0..2 {
        assert_eq!(app.chat(json!({"message": "hi"})).await.status, 200);
    }
    is(&app.chat(json!({"message": "hi"})).await, 424, "rate_limited");
    is(&app.post("/v1/chat/completions", KEY, STREAM).await, 429, "rate_limited");
    assert_eq!(app.get("/health").await.status, 200);
    assert_eq!(app.post("/api/chat", OTHER_KEY, r#"{"message": "hi"}"#).await.status, 200);
    assert_eq!(fake.requests().len(), 3);
}

#[actix_web::test]
async fn so_many_answers_go_on_without_their_callers() {
    let fake = hanging().await;
    let app = spawn_before(&fake.url, "openai", &[("LONG_ANSWERS", "true"), ("MAX_LONG_ANSWERS", "1")]).await;
    let ask = json!({"message": "hi", "wait_seconds": "0.2"});
    assert_eq!(app.chat(ask.clone()).await.code(), "still_running");
    let second = app.chat(ask).await;
    assert_eq!((second.status.as_u16(), second.code().as_str()), (424, "upstream_deadline"));
    assert_eq!(second.json()["answer"], "one");
}

const SMALL_MEMORY: [(&str, &str); 3] =
    [("MAX_BODY_BYTES", "4096"), ("MAX_V1_BODY_BYTES", "4096"), ("MEMORY_BUDGET_BYTES", "16384")];

#[actix_web::test]
async fn bodies_in_flight_have_a_budget_of_which_one_key_takes_three_quarters() {
    let fake = hanging().await;
    let app = spawn_before(&fake.url, "openai", &SMALL_MEMORY).await;
    let padded = STREAM.replace("hi", &"x".repeat(3000));
    let address = app.address;
    let begin = |key: &'static str| {
        let padded = padded.clone();
        tokio::task::spawn_local(async move { post(address, "/v1/chat/completions", key, &padded).await })
    };
    let mut open: Vec<_> = [KEY; 3].map(begin).into();
    while fake.requests().len() < open.len() {
        sleep(Duration::from_millis(10)).await;
    }
    let refused = app.post("/v1/chat/completions", KEY, &padded).await;
    is(&refused, 503, "overloaded");
    assert!(refused.text.contains("one key may hold") && refused.text.contains("MEMORY_BUDGET_BYTES"));
    open.push(begin(OTHER_KEY));
    while fake.requests().len() < open.len() {
        sleep(Duration::from_millis(10)).await;
    }
    let refused = app.post("/v1/chat/completions", OTHER_KEY, &padded).await;
    is(&refused, 503, "overloaded");
    assert!(refused.text.contains("all requests together may hold"), "{}", refused.text);
    let message = json!({"message": "x".repeat(3000)}).to_string();
    is(&app.post("/api/chat", KEY, &message).await, 424, "overloaded");
    assert_eq!(app.get("/health").await.status, 200);
    open.iter().for_each(tokio::task::JoinHandle::abort);
    fake.left().await;
    let again = post(address, "/v1/chat/completions", KEY, &padded);
    assert!(timeout(Duration::from_millis(500), again).await.is_err(), "it is let in again");
}

#[actix_web::test]
async fn answers_that_are_collected_have_the_same_budget() {
    let long = "word ".repeat(4000);
    let text = long.clone();
    let fake = Fake::start(move |request| {
        if request.body.contains("short") {
            return vec![stream_head(), chunk("one", Some("stop")), stream_end()];
        }
        let body = json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string();
        if request.json()["stream"] == true {
            let mut steps = vec![stream_head()];
            for piece in text.as_bytes().chunks(1000) {
                steps.push(chunk(std::str::from_utf8(piece).expect("ASCII"), None));
                steps.push(Step::Pause(Duration::from_millis(2)));
            }
            steps.extend([chunk("", Some("stop")), stream_end()]);
            steps
        } else {
            send(response("200 OK", "application/json", &body))
        }
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &SMALL_MEMORY).await;
    let failed = app.chat(json!({"message": "a long one"})).await;
    is(&failed, 424, "overloaded");
    let part = failed.json()["answer"].as_str().map(String::from).unwrap_or_default();
    assert!(part.len() >= 1000 && long.starts_with(&part), "the part that came is told: {part}");
    let whole = r#"{"model": "m", "messages": [{"role": "user", "content": "a long one"}]}"#;
    is(&app.post("/v1/chat/completions", KEY, whole).await, 503, "overloaded");
    // What goes through as it comes is not collected.
    let streamed = app.post("/v1/chat/completions", KEY, STREAM).await;
    assert!(streamed.text.contains("[DONE]"), "{}", streamed.text);
    for _ in 0..5 {
        assert_eq!(app.chat(json!({"message": "a short one"})).await.status, 200);
    }
}

#[actix_web::test]
async fn deep_nesting_is_refused_before_it_is_parsed() {
    let fake = good().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (depth, status) in [(63, 200), (64, 400)] {
        let body = format!(r#"{{"message": "hi", "more": {}}}"#, nested(depth));
        assert_eq!(app.post("/api/chat", KEY, &body).await.status.as_u16(), status, "{depth}");
        let body = format!(r#"{{"messages": [], "more": {}}}"#, nested(depth));
        let answer = app.post("/v1/chat/completions", KEY, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{depth}: {}", answer.text);
        if status == 400 {
            assert_eq!(answer.code(), "invalid_json");
        }
    }
}

#[actix_web::test]
async fn slow_heads_and_slow_bodies_are_ended() {
    let fake = good().await;
    let settings = [
        ("HEADER_TIMEOUT_SECONDS", "1"),
        ("BODY_IDLE_TIMEOUT_SECONDS", "0.3"),
        ("BODY_TIMEOUT_SECONDS", "0.8"),
    ];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let head = raw(app.address, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow").await;
    assert!(head.starts_with("HTTP/1.1 408"), "{head}");
    let post = format!(
        "POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    let stalled = raw(app.address, post.as_bytes()).await;
    assert!(stalled.starts_with("HTTP/1.1 408") && stalled.contains("body_timeout"), "{stalled}");
    // Never silent for long, and never done.
    let mut stream = tokio::net::TcpStream::connect(app.address).await.expect("a connection");
    stream.write_all(post.as_bytes()).await.expect("it is taken");
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::task::spawn_local(async move {
        while write.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = [0; 12];
    let got = timeout(Duration::from_secs(3), read.read_exact(&mut answer)).await;
    assert!(got.is_ok(), "it is answered in time");
    assert_eq!(&answer, b"HTTP/1.1 408");
    dripping.abort();
}

#[actix_web::test]
#[cfg(target_os = "linux")]
async fn a_caller_who_stops_reading_frees_its_question() {
    let event = format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(8000)}, "finish_reason": null}]})
    );
    let event = format!("{:x}\r\n{event}\r\n", event.len()).into_bytes();
    let fake = Fake::start(move |_| vec![stream_head(), Step::Endless(event.clone())]).await;
    let settings = [("SLOW_READER_TIMEOUT_SECONDS", "1"), ("MAX_ANSWER_BYTES", "1073741824")];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8192).expect("a small buffer");
    let mut stream = socket.connect(app.address).await.expect("a connection");
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{STREAM}",
        STREAM.len()
    );
    stream.write_all(request.as_bytes()).await.expect("it is taken");
    let mut first = [0; 1024];
    assert!(stream.read(&mut first).await.is_ok_and(|count| count > 0));
    // From here on nothing is read, and the connection stays open.
    timeout(Duration::from_secs(20), fake.left()).await.expect("the upstream's call is cancelled");
    drop(stream);
}

#[actix_web::test]
async fn an_answer_and_a_line_of_it_are_bounded() {
    let body = format!(
        r#"{{"choices":[{{"message":{{"content":"{}"}},"finish_reason":"stop"}}]}}"#,
        "x".repeat(3000)
    );
    let fake = Fake::start(move |_| send(response("200 OK", "application/json", &body))).await;
    let app = spawn_before(&fake.url, "openai", &[("MAX_ANSWER_BYTES", "2000")]).await;
    let answer = app.chat(json!({"message": "hi"})).await;
    assert_eq!(answer.code(), "upstream_too_large", "{}", answer.text);
    assert!(answer.text.contains("MAX_ANSWER_BYTES"));
    let fake = Fake::start(|_| vec![stream_head(), chunk(&"x".repeat(3000), None), Step::Hang]).await;
    let app = spawn_before(&fake.url, "openai", &[("MAX_ANSWER_BYTES", "2000")]).await;
    let answer = app.chat(json!({"message": "hi"})).await;
    assert_eq!(answer.code(), "upstream_too_large", "{}", answer.text);
    assert!(answer.text.contains("MAX_ANSWER_BYTES"));
}
