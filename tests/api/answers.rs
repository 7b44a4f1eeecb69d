//! Answers that take longer than their callers wait.

use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{OTHER_KEY, TestApp, spawn_before, temporary_folder};
use crate::upstream::{Fake, Step, chunk, stream_head};

/// An upstream that says one word, pauses, and says the rest or breaks off.
async fn slow(pause: Duration, breaks: bool) -> Fake {
    Fake::start(move |_| {
        let mut steps = vec![stream_head(), chunk("one", None), Step::Pause(pause)];
        match breaks {
            true => steps.push(Step::Close),
            false => steps.extend([chunk(" two", Some("stop")), Step::Send(b"0\r\n\r\n".to_vec())]),
        }
        steps
    })
    .await
}

/// Reads an answer until it is not running any more.
async fn finished(app: &TestApp, id: &str) -> Value {
    for _ in 0..100 {
        let answer = app.get(&format!("/api/answers/{id}")).await;
        if answer.code() != "still_running" {
            return answer.json();
        }
        assert_eq!(answer.status.as_u16(), 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the answer never ends");
}

#[actix_web::test]
async fn an_answer_goes_on_when_its_caller_waits_no_longer() {
    let fake = slow(Duration::from_millis(1500), false).await;
    let app = spawn_before(&fake.url, "openai", &[("LONG_ANSWERS", "true")]).await;
    let told = app.chat(json!({"message": "hi", "wait_seconds": "0.3"})).await;
    let envelope = told.json();
    assert_eq!((told.status.as_u16(), told.code().as_str()), (200, "still_running"), "{envelope}");
    assert_eq!((envelope["success"].clone(), envelope["answer"].clone()), (json!(false), json!("one")));
    let id = envelope["response_id"].as_str().expect("an id").to_string();
    let other = app.call("GET", &format!("/api/answers/{id}"), &[("x-api-key", OTHER_KEY)], None).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (404, "answer_not_found"));
    let answer = finished(&app, &id).await;
    assert_eq!(
        (answer["success"].clone(), answer["answer"].clone()),
        (json!(true), json!("one two")),
        "{answer}"
    );
    assert_eq!(
        (answer["response_id"].as_str(), answer["finish_reason"].as_str()),
        (Some(id.as_str()), Some("stop"))
    );
    assert_eq!(fake.requests().len(), 1, "it is asked once");
    // The turn is kept like any other.
    let conversation = answer["conversation_id"].as_str().expect("a conversation");
    let kept = app.get(&format!("/api/conversations/{conversation}")).await.json();
    assert_eq!(kept["messages"][1]["content"], "one two");
}

#[actix_web::test]
async fn the_deadline_of_a_request_ends_the_wait_and_not_the_answer() {
    let fake = slow(Duration::from_millis(1500), false).await;
    let settings = [("REQUEST_TIMEOUT_SECONDS", "0.2"), ("LONG_ANSWERS", "true")];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let told = app.chat(json!({"message": "hi"})).await.json();
    assert_eq!(told["error"]["code"], "still_running");
    assert_eq!(finished(&app, told["response_id"].as_str().expect("an id")).await["answer"], "one two");
}

#[actix_web::test]
async fn an_answer_that_fails_later_tells_why_and_what_came() {
    let fake = slow(Duration::from_millis(300), true).await;
    let app = spawn_before(&fake.url, "openai", &[("LONG_ANSWERS", "true")]).await;
    let told = app.chat(json!({"message": "hi", "wait_seconds": 0})).await.json();
    let answer = finished(&app, told["response_id"].as_str().expect("an id")).await;
    assert_eq!(
        (answer["error"]["code"].as_str(), answer["answer"].as_str()),
        (Some("upstream_truncated"), Some("one"))
    );
    assert!(answer["error"]["hint"].is_string());
}

#[actix_web::test]
async fn an_answer_that_a_restart_cut_short_is_told_as_interrupted() {
    let fake = slow(Duration::from_secs(30), false).await;
    let folder = temporary_folder();
    let settings = [("DATA_DIR", folder.as_str()), ("LONG_ANSWERS", "true")];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let told = app.chat(json!({"message": "hi", "wait_seconds": "0.2"})).await.json();
    let path = format!("/api/answers/{}", told["response_id"].as_str().expect("an id"));
    assert_eq!(app.get(&path).await.code(), "still_running");
    drop(app);
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let answer = app.get(&path).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (424, "answer_interrupted"));
    assert_eq!(answer.json()["answer"], "one");
}

#[actix_web::test]
async fn without_long_answers_nobody_is_told_to_come_back() {
    let fake = slow(Duration::from_secs(5), false).await;
    let beats = [("HEARTBEAT_AFTER_SECONDS", "0.1"), ("HEARTBEAT_SECONDS", "0.1")];
    for (beats, status) in [(&[][..], 424), (&beats, 200)] {
        let settings = [&[("REQUEST_TIMEOUT_SECONDS", "0.5")][..], beats].concat();
        let app = spawn_before(&fake.url, "openai", &settings).await;
        for body in
            [json!({"message": "hi", "conversation": "n"}), json!({"message": "hi", "wait_seconds": "0.3"})]
        {
            let told = app.chat(body).await;
            let envelope = told.json();
            assert_eq!(
                (told.status.as_u16(), told.code().as_str()),
                (status, "upstream_deadline"),
                "{envelope}"
            );
            assert_eq!((&envelope["success"], &envelope["answer"]), (&json!(false), &json!("one")));
            assert!(!told.text.contains("get_answer") && !told.text.contains("/api/answers"), "{envelope}");
        }
        // The question is given up, and what had come of it is kept.
        tokio::time::timeout(Duration::from_secs(3), fake.left()).await.expect("the upstream is left");
        let kept = app.get("/api/conversations/n").await.json();
        assert_eq!(kept["messages"][1], json!({"role": "assistant", "content": "one", "partial": true}));
    }
}

#[actix_web::test]
async fn unknown_answers_and_odd_waits_are_refused() {
    let fake = slow(Duration::ZERO, false).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for id in ["resp_00000000000000000000000000000000", "x", "%20"] {
        let answer = app.get(&format!("/api/answers/{id}")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "answer_not_found"), "{id}");
    }
    let answer = app.chat(json!({"message": "hi", "wait_seconds": "-1"})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "invalid_request"));
    assert!(fake.requests().is_empty());
}

#[actix_web::test]
async fn importers_learn_of_long_answers_where_they_are_offered() {
    let fake = slow(Duration::ZERO, false).await;
    for (offered, names) in [
        ("false", vec!["chat", "list_models", "health"]),
        ("true", vec!["chat", "list_models", "health", "get_answer"]),
    ] {
        let app = spawn_before(&fake.url, "openai", &[("LONG_ANSWERS", offered)]).await;
        let document = app.get("/openapi.json").await.json();
        let operations = document["paths"].as_object().expect("paths").values();
        let ids: Vec<_> = operations
            .flat_map(|item| item.as_object().expect("methods").values())
            .map(|operation| operation["operationId"].as_str().expect("an id"))
            .collect();
        assert_eq!(ids, names);
        let properties = &document["paths"]["/api/chat"]["post"]["requestBody"]["content"]["application/json"]
            ["schema"]["properties"];
        assert_eq!(properties.get("wait_seconds").is_some(), offered == "true");
        assert!(app.get("/openapi/full.json").await.text.contains("get_answer"));
    }
}
