//! What operators rely on: liveness, request ids, a body that never comes, a caller that leaves.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::helpers::{KEY, spawn, spawn_before};
use crate::upstream::{Fake, Step, response};

#[actix_web::test]
async fn liveness_and_readiness_never_ask_the_upstream() {
    let fake = Fake::start(|_| vec![Step::Hang]).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    assert_eq!(app.get("/health").await.json(), json!({"status": "ok"}));
    assert_eq!(app.get("/ready").await.json(), json!({"status": "ok", "reasons": []}));
    assert_eq!(fake.requests().len(), 0);
}

#[actix_web::test]
async fn a_plain_request_id_is_kept_and_another_replaced() {
    let app = spawn(&[]).await;
    let answer = app.call("GET", "/health", &[("x-request-id", "abc-123")], None).await;
    assert_eq!(answer.header("x-request-id"), Some("abc-123"));
    let answer = app.call("GET", "/health", &[("x-request-id", "a b{}")], None).await;
    assert_eq!(answer.header("x-request-id").map(str::len), Some(16));
}

#[actix_web::test]
async fn a_caller_that_leaves_cancels_the_upstream_call() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::start(move |_| {
        sender.send(()).expect("the test waits");
        vec![Step::Hang]
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let mut caller = tokio::net::TcpStream::connect(app.address).await.expect("a connection");
    let body = r#"{"message":"x"}"#;
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    caller.write_all(request.as_bytes()).await.expect("a request");
    receiver.recv().await.expect("the upstream is asked");
    drop(caller);
    let start = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), fake.left()).await.expect("the upstream call ends");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[actix_web::test]
async fn a_request_that_breaks_http_is_refused() {
    let app = spawn(&[]).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(app.address).await.expect("a connection");
        stream.write_all(bytes).await.expect("a request");
        let mut head = [0; 12];
        let read = tokio::time::timeout(Duration::from_secs(8), stream.read_exact(&mut head)).await;
        read.expect("an answer in time").expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 400", "{}", String::from_utf8_lossy(bytes));
    }
}

#[actix_web::test]
async fn a_connection_that_the_upstream_has_closed_meanwhile_costs_no_answer() {
    // The fake closes a connection with the second request on its way.
    let body = r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    let fake = Fake::start(move |request| match request.earlier {
        0 => vec![Step::Send(response("200 OK", "application/json", body).into())],
        _ => vec![Step::Close],
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let reused = || fake.requests().iter().filter(|request| request.earlier > 0).count();
    let mut spared = 0;
    for _ in 0..60 {
        let before = reused();
        let answer = app.chat(json!({"message": "Hello"})).await;
        // On a busy machine the fake may take longer to close than a mirror that has closed already could.
        let is_late = answer.status == 424 && answer.code() == "upstream_disconnected";
        assert!(answer.status == 200 || is_late, "{}", answer.text);
        spared += usize::from(answer.status == 200 && reused() > before);
        if spared == 3 {
            return;
        }
    }
    panic!("{spared} questions on a used connection were spared, of {}", reused());
}

#[actix_web::test]
async fn a_question_that_may_have_been_worked_on_is_never_sent_again() {
    let body = r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    let fake = Fake::start(move |request| match request.earlier {
        0 => vec![Step::Send(response("200 OK", "application/json", body).into())],
        _ => vec![Step::Pause(Duration::from_millis(100)), Step::Close],
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for number in 1..=12 {
        let answer = app.chat(json!({"message": "Hello"})).await;
        let late = fake.requests().last().is_some_and(|request| request.earlier > 0);
        assert_eq!(answer.status, if late { 424 } else { 200 }, "{}", answer.text);
        assert_eq!(fake.requests().len(), number, "each question is sent once");
    }
    let reused = fake.requests().iter().filter(|request| request.earlier > 0).count();
    assert!(reused > 0, "no connection was used twice, so nothing was shown");
}
