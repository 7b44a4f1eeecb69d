//! `Idempotency-Key`: what is sent again is answered again, and paid once.

use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::helpers::{Answer, KEY, OTHER_KEY, TestApp, post, spawn_before, temporary_folder};
use crate::upstream::{Fake, Step, chunk, response, send, stream_end, stream_head};

const ASK: &str = r#"{"message": "hi"}"#;
const STREAM: &str = r#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#;

/// An upstream that takes its time between its two words.
async fn slow() -> Fake {
    Fake::start(|_| {
        let pause = Step::Pause(Duration::from_millis(400));
        vec![stream_head(), chunk("one", None), pause, chunk(" two", Some("stop")), stream_end()]
    })
    .await
}

async fn call(app: &TestApp, path: &str, name: &str, body: &str) -> Answer {
    call_with(app, KEY, path, name, body).await
}

async fn call_with(app: &TestApp, key: &str, path: &str, name: &str, body: &str) -> Answer {
    let headers = [("x-api-key", key), ("content-type", "application/json"), ("idempotency-key", name)];
    app.call("POST", path, &headers, Some(body.into())).await
}

#[actix_web::test]
async fn a_call_that_is_sent_again_is_answered_as_before_and_asked_once() {
    let fake = slow().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (path, body) in [("/api/chat", ASK), ("/v1/chat/completions", STREAM)] {
        let before = fake.requests().len();
        let (first, second) = tokio::join!(call(&app, path, "a", body), call(&app, path, "a", body));
        assert_eq!((first.status.as_u16(), first.text.contains("two")), (200, true), "{}", first.text);
        assert_eq!(first.text, second.text);
        let later = call(&app, path, "a", body).await;
        assert_eq!(
            (later.text.as_str(), later.header("idempotent-replayed")),
            (first.text.as_str(), Some("true"))
        );
        assert_eq!(later.header("content-type"), first.header("content-type"));
        assert_eq!(fake.requests().len(), before + 1, "{path}");
        // Another name, and another caller, is another call.
        call(&app, path, "b", body).await;
        call_with(&app, OTHER_KEY, path, "a", body).await;
        assert_eq!(fake.requests().len(), before + 3, "{path}");
    }
}

#[actix_web::test]
async fn a_caller_who_left_finds_its_answer() {
    let fake = slow().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (path, body) in [("/api/chat", ASK), ("/v1/chat/completions", STREAM)] {
        let before = fake.requests().len();
        let left = timeout(Duration::from_millis(150), call(&app, path, "left", body)).await;
        assert!(left.is_err(), "it was there too soon");
        let answer = call(&app, path, "left", body).await;
        assert!(answer.text.contains("two"), "{}", answer.text);
        assert_eq!(fake.requests().len(), before + 1, "{path}");
    }
}

#[actix_web::test]
async fn the_name_of_another_request_is_refused() {
    let fake = slow().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    call(&app, "/api/chat", "a", ASK).await;
    let other = call(&app, "/api/chat", "a", r#"{"message": "something else"}"#).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "invalid_request"));
    let long = call(&app, "/api/chat", &"x".repeat(300), ASK).await;
    assert_eq!((long.status.as_u16(), long.code().as_str()), (422, "invalid_request"));
    assert_eq!(fake.requests().len(), 1);
}

#[actix_web::test]
async fn a_failure_is_answered_again_only_if_it_may_have_been_paid() {
    for (status, asked) in [("500 Internal Server Error", 1), ("429 Too Many Requests", 2)] {
        let fake =
            Fake::start(move |_| send(response(status, "application/json", r#"{"error":{"message":"no"}}"#)));
        let fake = fake.await;
        let app = spawn_before(&fake.url, "openai", &[("DEFAULT_MODEL", "m"), ("MODELS", "m")]).await;
        let first = call(&app, "/api/chat", "a", ASK).await;
        let second = call(&app, "/api/chat", "a", ASK).await;
        assert_eq!((first.status.as_u16(), second.status.as_u16()), (424, 424));
        assert_eq!((fake.requests().len(), second.code()), (asked, first.code()), "{status}");
    }
}

#[actix_web::test]
async fn an_answer_outlives_the_process_that_got_it() {
    let fake = slow().await;
    let folder = temporary_folder();
    let settings = [("DATA_DIR", folder.as_str())];
    let first = spawn_before(&fake.url, "openai", &settings).await;
    let answer = call(&first, "/api/chat", "a", ASK).await;
    drop(first);
    let second = spawn_before(&fake.url, "openai", &settings).await;
    assert_eq!(call(&second, "/api/chat", "a", ASK).await.text, answer.text);
    assert_eq!(fake.requests().len(), 1);
    let once_more = json!({"message": "hi", "conversation_id": answer.json()["conversation_id"]}).to_string();
    assert_eq!(call(&second, "/api/chat", "b", &once_more).await.status.as_u16(), 200);
}

#[actix_web::test]
async fn an_answer_that_is_read_again_takes_memory_like_any_other() {
    let long = json!({"choices": [{"message": {"content": "x".repeat(20_000)}, "finish_reason": "stop"}]});
    let long = long.to_string();
    let fake = Fake::start(move |request| match request.body.contains("hang") {
        true => vec![stream_head(), chunk("one", None), Step::Hang],
        false => send(response("200 OK", "application/json", &long)),
    })
    .await;
    let settings =
        [("MAX_BODY_BYTES", "40000"), ("MAX_V1_BODY_BYTES", "40000"), ("MEMORY_BUDGET_BYTES", "100000")];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let path = "/v1/chat/completions";
    let body = STREAM.replace("true", "false");
    let first = call(&app, path, "a", &body).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let address = app.address;
    let hanging = STREAM.replace("hi", &format!("hang {}", "x".repeat(34_000)));
    let open = [(); 2].map(|()| {
        let hanging = hanging.clone();
        tokio::task::spawn_local(async move { post(address, path, OTHER_KEY, &hanging).await })
    });
    while fake.requests().len() < 3 {
        sleep(Duration::from_millis(10)).await;
    }
    let refused = call(&app, path, "a", &body).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "overloaded"), "{}", refused.text);
    open.iter().for_each(tokio::task::JoinHandle::abort);
    fake.left().await;
    let again = call(&app, path, "a", &body).await;
    assert_eq!((again.text == first.text, again.header("idempotent-replayed")), (true, Some("true")));
    assert_eq!(fake.requests().len(), 3);
}
