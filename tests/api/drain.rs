//! The service is told to stop: what runs may finish, and what cannot says so.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::helpers::{KEY, call, post, temporary_folder};
use crate::running::Process;
use crate::upstream::{Fake, Step, chunk, stream_end, stream_head};

const ASK: &str = r#"{"model": "m", "message": "hi"}"#;
const STREAM: &str = r#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#;

/// An upstream that says one word, pauses, and says another; or nothing more for ever.
async fn slow(pause: Option<Duration>) -> Fake {
    Fake::start(move |_| {
        let mut steps = vec![stream_head(), chunk("one", None)];
        match pause {
            Some(pause) => {
                steps.extend([Step::Pause(pause), chunk(" two", Some("stop")), stream_end()]);
            }
            None => steps.push(Step::Hang),
        }
        steps
    })
    .await
}

fn start(url: &str, folder: &str, seconds: &str) -> Process {
    Process::start(&[
        ("UPSTREAM_URL", url),
        ("DEFAULT_MODEL", "m"),
        ("GATEWAY_API_KEYS", &format!("tests:{KEY}")),
        ("DATA_DIR", folder),
        ("LONG_ANSWERS", "true"),
        ("SHUTDOWN_TIMEOUT_SECONDS", seconds),
    ])
}

/// Waits until the upstream was asked so often.
async fn asked(fake: &Fake, times: usize) {
    while fake.requests().len() < times {
        sleep(Duration::from_millis(10)).await;
    }
}

async fn get(process: &Process, path: &str) -> Value {
    call(process.address, "GET", path, &[("x-api-key", KEY)], None).await.json()
}

#[actix_web::test]
async fn what_can_finish_in_time_finishes() {
    let fake = slow(Some(Duration::from_millis(900))).await;
    let mut process = start(&fake.url, &temporary_folder(), "20");
    let address = process.address;
    let whole = actix_web::rt::spawn(post(address, "/api/chat", KEY, ASK));
    let streamed = actix_web::rt::spawn(post(address, "/v1/chat/completions", KEY, STREAM));
    asked(&fake, 2).await;
    process.signal("TERM");
    sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody new is let in");
    let whole = whole.await.expect("an answer");
    assert_eq!(whole.header("connection"), Some("close"));
    let whole = whole.json();
    assert_eq!((&whole["success"], &whole["answer"]), (&json!(true), &json!("one two")));
    let streamed = streamed.await.expect("an answer").text;
    assert!(streamed.contains(" two") && streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    let (status, time) = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.output());
    assert!(time < Duration::from_secs(5), "it does not wait for the rest of its time: {time:?}");
}

#[actix_web::test]
async fn what_cannot_finish_is_told_so_and_its_part_is_kept() {
    let fake = slow(None).await;
    let folder = temporary_folder();
    let mut process = start(&fake.url, &folder, "2");
    let address = process.address;
    let whole = actix_web::rt::spawn(post(address, "/api/chat", KEY, ASK));
    let streamed = actix_web::rt::spawn(post(address, "/v1/chat/completions", KEY, STREAM));
    let long = r#"{"model": "m", "message": "hi", "wait_seconds": "0.2"}"#;
    let long = post(address, "/api/chat", KEY, long).await.json();
    assert_eq!(long["error"]["code"], "still_running", "{long}");
    asked(&fake, 3).await;
    process.signal("TERM");
    let whole = whole.await.expect("an answer");
    let envelope = whole.json();
    assert_eq!((whole.status.as_u16(), whole.code().as_str()), (424, "shutting_down"), "{envelope}");
    assert_eq!((&envelope["answer"], &envelope["error"]["retryable"]), (&json!("one"), &json!(true)));
    assert!(whole.header("retry-after").is_some());
    let streamed = streamed.await.expect("an answer");
    let last = streamed.text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    assert!(last.contains("shutting_down") && !streamed.text.contains("[DONE]"), "{}", streamed.text);
    let (status, time) = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.output());
    assert!(time < Duration::from_secs(3), "{time:?}");

    let process = start(&fake.url, &folder, "2");
    let conversation = envelope["conversation_id"].as_str().expect("a conversation");
    let kept = get(&process, &format!("/api/conversations/{conversation}")).await;
    assert_eq!(kept["messages"][1]["content"], "one", "{kept}");
    let id = long["response_id"].as_str().expect("an id");
    let kept = get(&process, &format!("/api/answers/{id}")).await;
    assert_eq!((&kept["answer"], &kept["error"]["code"]), (&json!("one"), &json!("shutting_down")), "{kept}");
}

#[actix_web::test]
async fn a_question_that_waits_for_the_first_byte_is_told_so() {
    let fake = Fake::start(|_| vec![Step::Hang]).await;
    let mut process = start(&fake.url, &temporary_folder(), "2");
    let waiting = actix_web::rt::spawn(post(process.address, "/v1/chat/completions", KEY, STREAM));
    asked(&fake, 1).await;
    process.signal("INT");
    let answer = waiting.await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "shutting_down"));
    assert_eq!(process.ended().await.0.code(), Some(0));
}

#[actix_web::test]
async fn an_answer_without_a_caller_is_waited_for() {
    let fake = slow(Some(Duration::from_millis(3000))).await;
    let folder = temporary_folder();
    let mut process = start(&fake.url, &folder, "20");
    let ask = r#"{"model": "m", "message": "hi", "wait_seconds": "0.2"}"#;
    let told = post(process.address, "/api/chat", KEY, ask).await.json();
    assert_eq!(told["error"]["code"], "still_running", "{told}");
    process.signal("TERM");
    let (status, time) = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.output());
    assert!(time > Duration::from_millis(600) && time < Duration::from_secs(8), "{time:?}");
    let process = start(&fake.url, &folder, "2");
    let id = told["response_id"].as_str().expect("an id");
    let kept = get(&process, &format!("/api/answers/{id}")).await;
    assert_eq!((&kept["success"], &kept["answer"]), (&json!(true), &json!("one two")), "{kept}");
}

#[actix_web::test]
async fn a_second_signal_ends_at_once() {
    let fake = slow(None).await;
    let mut process = start(&fake.url, &temporary_folder(), "20");
    let _open = actix_web::rt::spawn(post(process.address, "/v1/chat/completions", KEY, STREAM));
    asked(&fake, 1).await;
    process.signal("TERM");
    sleep(Duration::from_millis(300)).await;
    process.signal("TERM");
    let (status, time) = process.ended().await;
    assert_eq!(status.code(), Some(130));
    assert!(time < Duration::from_secs(5), "{time:?}");
}

#[actix_web::test]
async fn a_connection_that_does_not_end_is_cut() {
    let fake = slow(None).await;
    let mut process = start(&fake.url, &temporary_folder(), "1");
    let mut stream = TcpStream::connect(process.address).await.expect("a connection");
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("it is taken");
    sleep(Duration::from_millis(200)).await;
    process.signal("TERM");
    let (status, time) = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.output());
    assert!(time < Duration::from_secs(5), "{time:?}");
}
