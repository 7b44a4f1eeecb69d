//! Several upstreams: who is asked, and who is asked next.

use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, KEY, TestApp, spawn, temporary_folder};
use crate::upstream::{Fake, Step, chunked, response, send};

/// An upstream that lists one model and says its own name.
async fn good(model: &'static str, name: &'static str) -> Fake {
    Fake::start(move |request| {
        if request.line.contains("/models") {
            let list = json!({"data": [{"id": model}, {"id": "both"}]});
            return send(response("200 OK", "application/json", &list.to_string()));
        }
        let answer =
            json!({"choices": [{"index": 0, "message": {"content": name}, "finish_reason": "stop"}]});
        send(response("200 OK", "application/json", &answer.to_string()))
    })
    .await
}

/// An upstream that lists the model `both` and answers questions with these bytes.
async fn failing(bytes: String) -> Fake {
    Fake::start(move |request| {
        if request.line.contains("/models") {
            return send(response("200 OK", "application/json", r#"{"data":[{"id":"both"}]}"#));
        }
        // A while, so that a connection which breaks had not been closed before.
        vec![Step::Pause(Duration::from_millis(50)), Step::Send(bytes.clone().into_bytes()), Step::Close]
    })
    .await
}

async fn spawn_over(urls: &[&str], more: &[(&str, &str)]) -> TestApp {
    let urls = urls.join(",");
    let mut settings = vec![("UPSTREAM_URL", urls.as_str())];
    settings.extend_from_slice(more);
    spawn(&settings).await
}

fn questions(fake: &Fake) -> usize {
    fake.requests().iter().filter(|request| !request.line.contains("/models")).count()
}

async fn completed(app: &TestApp, model: &str) -> (u16, Value, Option<String>) {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let answer = app.post("/v1/chat/completions", KEY, &body).await;
    let upstream = answer.header("x-upstream").map(String::from);
    (answer.status.as_u16(), answer.json(), upstream)
}

#[actix_web::test]
async fn the_models_of_all_are_listed_and_lead_to_those_who_offer_them() {
    let (a, b) = (good("a", "A").await, good("b", "B").await);
    let app = spawn_over(&[&a.url, &b.url], &[]).await;
    let models = app.get("/api/models").await.json();
    let ids: Vec<_> =
        models["models"].as_array().expect("models").iter().map(|model| model["id"].clone()).collect();
    assert_eq!(ids, ["a", "both", "b"]);
    for _ in 0..4 {
        let envelope = app.chat(json!({"message": "hi", "model": "b"})).await;
        assert_eq!(envelope.json()["answer"], "B");
        assert_eq!(
            (envelope.json()["upstream"].as_str(), envelope.header("x-upstream")),
            (Some(b.url.as_str()), Some(b.url.as_str()))
        );
        let (status, answer, upstream) = completed(&app, "a").await;
        assert_eq!(
            (status, answer["choices"][0]["message"]["content"].as_str(), upstream),
            (200, Some("A"), Some(a.url.clone()))
        );
    }
    for _ in 0..40 {
        completed(&app, "both").await;
    }
    assert!(questions(&a) > 4 && questions(&b) > 4, "both are asked: {} {}", questions(&a), questions(&b));
}

#[actix_web::test]
async fn a_question_that_was_not_answered_goes_to_the_next_upstream_once() {
    let limited = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n".to_string();
    let refused = response("401 Unauthorized", "application/json", "{}");
    for bytes in [limited, response("503 Oops", "text/plain", "oops"), refused] {
        let (bad, other) = (failing(bytes).await, good("x", "good").await);
        let app = spawn_over(&[&bad.url, &other.url], &[]).await;
        for _ in 0..12 {
            assert_eq!(app.chat(json!({"message": "hi", "model": "both"})).await.json()["answer"], "good");
            assert_eq!(completed(&app, "both").await.1["choices"][0]["message"]["content"], "good");
        }
        assert_eq!(questions(&other), 24);
        assert!(questions(&bad) > 0);
    }
    let other = good("x", "good").await;
    let app = spawn_over(&["http://127.0.0.1:9", &other.url], &[]).await;
    for _ in 0..12 {
        assert_eq!(app.chat(json!({"message": "hi", "model": "both"})).await.json()["answer"], "good");
    }
}

#[actix_web::test]
async fn what_may_have_been_worked_on_is_not_asked_again() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    for (bytes, code) in [
        (cut.to_string(), "upstream_truncated"),
        (String::new(), "upstream_disconnected"),
        (response("500 Oops", "text/plain", "oops"), "upstream_error"),
        (response("400 Bad Request", "application/json", r#"{"error":"bad"}"#), "upstream_rejected"),
    ] {
        let (bad, other) = (failing(bytes).await, good("x", "good").await);
        let app = spawn_over(&[&bad.url, &other.url], &[]).await;
        let mut failed = 0;
        for _ in 0..12 {
            let answer = app.chat(json!({"message": "hi", "model": "both"})).await;
            if answer.json()["success"] == false {
                assert_eq!(answer.code(), code);
                failed += 1;
            }
        }
        assert_eq!((questions(&bad), questions(&other)), (failed, 12 - failed));
        assert!(failed > 0);
    }
}

#[actix_web::test]
async fn one_that_keeps_failing_is_passed_over_and_all_failing_says_why() {
    let (bad, other) = (failing(response("503 Oops", "text/plain", "")).await, good("x", "good").await);
    let app = spawn_over(&[&bad.url, &other.url], &[]).await;
    for _ in 0..60 {
        assert_eq!(completed(&app, "both").await.0, 200);
    }
    assert_eq!(questions(&bad), 5, "five failures in a row are enough");
    let health = app.get("/api/health").await.json();
    assert!(
        health["upstream"].as_str().is_some_and(|text| text.contains(&format!("{} (ok)", bad.url))),
        "{health}"
    );
    let alone = spawn_over(&[&bad.url], &[]).await;
    for _ in 0..8 {
        assert_eq!(completed(&alone, "both").await.1["error"]["code"], "upstream_error");
    }
}

#[actix_web::test]
async fn a_part_of_the_upstreams_that_is_down_is_told() {
    let other = good("x", "good").await;
    let app = spawn_over(&["http://127.0.0.1:9", &other.url], &[]).await;
    let health = app.get("/api/health").await.json();
    assert_eq!((health["success"].clone(), health["status"].clone()), (json!(true), json!("degraded")));
    assert!(
        health["upstream"]
            .as_str()
            .is_some_and(|text| text.contains("http://127.0.0.1:9 (down, upstream_unreachable)"))
    );
}

#[actix_web::test]
async fn a_file_names_upstreams_of_both_protocols_and_conversations_stay_where_they_began() {
    let lines = "{\"result\":{\"conversation\":{\"conversationId\":\"c\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"chat\",\"responseId\":\"r\"}}}}\n";
    let web = Fake::start(move |_| send(chunked("application/x-ndjson", lines))).await;
    let api = good("a", "api").await;
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = format!("{folder}/upstreams.toml");
    let text = format!(
        "[[upstream]]\nname = \"api\"\nurl = \"{}\"\nkey = \"sk-api\"\n\n[[upstream]]\nname = \"web\"\nurl = \"{}\"\nprotocol = \"web-chat\"\ncookie = \"sso=1\"\nmodels = [\"w\"]\n",
        api.url, web.url
    );
    std::fs::write(&path, text).expect("a file");
    let app = spawn(&[("UPSTREAMS_FILE", &path)]).await;
    let first = app.chat(json!({"message": "hi", "model": "w"})).await.json();
    assert_eq!(
        (first["answer"].as_str(), first["upstream"].as_str()),
        (Some("chat"), Some("web")),
        "{first}"
    );
    let id = first["conversation_id"].as_str().expect("a conversation");
    app.chat(json!({"message": "more", "model": "w", "conversation_id": id})).await;
    assert!(web.requests()[1].line.contains("/c/responses"));
    assert_eq!(
        (web.requests()[0].header("cookie"), web.requests()[0].header("authorization")),
        (Some("sso=1"), None)
    );
    // The other upstream takes the conversation over with all that was said.
    let moved = app.chat(json!({"message": "and now", "model": "a", "conversation_id": id})).await.json();
    assert_eq!(moved["answer"], "api");
    let asked =
        api.requests().into_iter().rfind(|request| request.line.contains("completions")).expect("asked");
    assert_eq!(asked.json()["messages"].as_array().map(Vec::len), Some(5));
    assert_eq!(asked.header("authorization"), Some("Bearer sk-api"));
    assert_eq!(completed(&app, "w").await.1["choices"][0]["message"]["content"], "chat");
    assert_eq!(completed(&app, "a").await.1["choices"][0]["message"]["content"], "api");
    let unclear = app
        .call(
            "PUT",
            "/api/session",
            &[("x-api-key", ADMIN_KEY), ("content-type", "application/json")],
            Some(b"{\"api_key\":\"sk-2\"}".to_vec()),
        )
        .await;
    assert_eq!(unclear.code(), "invalid_request");
    let named = b"{\"api_key\":\"sk-2\",\"upstream\":\"api\"}".to_vec();
    let swapped = app
        .call(
            "PUT",
            "/api/session",
            &[("x-api-key", ADMIN_KEY), ("content-type", "application/json")],
            Some(named),
        )
        .await;
    assert_eq!(swapped.status.as_u16(), 200, "{}", swapped.text);
    completed(&app, "a").await;
    assert_eq!(
        api.requests()
            .last()
            .and_then(|request| request.header("authorization").map(String::from))
            .as_deref(),
        Some("Bearer sk-2")
    );
}
