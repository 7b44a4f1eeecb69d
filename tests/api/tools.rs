//! The tool operations as Dify calls them.

use serde_json::{Value, json};

use crate::helpers::{KEY, spawn, spawn_before};
use crate::upstream::{Fake, chunked, response, send};

const COMPLETION: &str = r#"{"id":"r1","model":"real","choices":[{"message":{"content":"Hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn json_answer(body: &'static str) -> impl Fn(&crate::upstream::Request) -> Vec<crate::upstream::Step> {
    move |_| send(response("200 OK", "application/json", body))
}

#[actix_web::test]
async fn chat_sends_what_was_asked_and_returns_the_envelope() {
    let fake = Fake::start(json_answer(COMPLETION)).await;
    let headers = "X-Trace: {uuid}\nUser-Agent: Mozilla/5.0 (mine)";
    let app = spawn_before(
        &format!("{}/v1/chat/completions", fake.url),
        "openai",
        &[
            ("UPSTREAM_API_KEY", "Bearer sk-1"),
            ("UPSTREAM_COOKIE", "a=b; c=d"),
            ("UPSTREAM_HEADERS", headers),
        ],
    )
    .await;
    let answer = app.chat(json!({"message": "Hello", "system": "Be brief", "temperature": "0.7", "max_tokens": "12.0", "model": "", "conversation_id": null, "unknown": {"x": 1}})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    let id = body["conversation_id"].as_str().expect("an id").to_string();
    assert_eq!(
        body,
        json!({"success": true, "answer": "Hi", "conversation_id": id, "response_id": "r1", "model": "real", "finish_reason": "length",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "estimated": false}, "error": null})
    );
    let request = &fake.requests()[0];
    assert_eq!(request.line, "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer sk-1"));
    assert_eq!(request.header("user-agent"), Some("Mozilla/5.0 (mine)"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("x-trace").map(str::len), Some(36));
    assert!(request.header("cookie").is_some_and(|line| line.contains("a=b") && line.contains("c=d")));
    let sent = request.json();
    assert_eq!(
        sent["messages"],
        json!([{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}])
    );
    assert_eq!(
        (&sent["model"], &sent["temperature"], &sent["max_tokens"]),
        (&json!("m"), &json!(0.7), &json!(12))
    );
}

#[actix_web::test]
async fn answers_are_spaced_as_python_writes_them() {
    let body = r#"{"choices":[{"message":{"content":"a,b:\"c\" 你好\n{}[]"},"finish_reason":"stop"}]}"#;
    let fake = Fake::start(json_answer(body)).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let answer = app.chat(json!({"message": "Hello"})).await;
    assert!(
        answer
            .text
            .starts_with(r#"{"success": true, "answer": "a,b:\"c\" 你好\n{}[]", "conversation_id": "conv_"#),
        "{}",
        answer.text
    );
    assert!(answer.text.contains(r#""estimated": true}, "error": null}"#), "{}", answer.text);
}

#[actix_web::test]
async fn a_model_is_found_when_none_is_named() {
    let fake = Fake::start(|request| {
        let body = if request.line.contains("/models") {
            r#"{"data":[{"id":"first","owned_by":"me"},{"id":"second"}]}"#
        } else {
            COMPLETION
        };
        send(response("200 OK", "application/json", body))
    })
    .await;
    let app = spawn(&[("UPSTREAM_URL", &fake.url)]).await;
    let models = app.get("/api/models").await;
    assert_eq!(
        models.json(),
        json!({"success": true, "models": [{"id": "first", "owned_by": "me"}, {"id": "second", "owned_by": "upstream"}], "default_model": "first", "error": null})
    );
    app.chat(json!({"message": "Hello"})).await;
    app.chat(json!({"message": "Hello", "model": "second"})).await;
    let asked: Vec<Value> = fake
        .requests()
        .iter()
        .filter(|request| request.line.starts_with("POST"))
        .map(|request| request.json()["model"].clone())
        .collect();
    assert_eq!(asked, ["first", "second"]);
}

#[actix_web::test]
async fn an_upstream_without_a_list_of_models_chooses_itself() {
    let fake = Fake::start(|request| {
        if request.line.contains("/models") {
            return send(response("404 Not Found", "text/plain", "no"));
        }
        send(response("200 OK", "application/json", COMPLETION))
    })
    .await;
    let app = spawn(&[("UPSTREAM_URL", &fake.url)]).await;
    assert_eq!(app.chat(json!({"message": "Hello"})).await.status, 200);
    assert!(
        fake.requests()
            .iter()
            .any(|request| request.line.starts_with("POST") && request.json().get("model").is_none())
    );
}

#[actix_web::test]
async fn an_upstream_that_refuses_to_stream_is_asked_again_without() {
    let fake = Fake::start(|request| {
        if request.json().get("stream").is_some() {
            return send(response(
                "400 Bad Request",
                "application/json",
                r#"{"error":{"message":"Unknown field: stream_options"}}"#,
            ));
        }
        send(response("200 OK", "application/json", COMPLETION))
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    assert_eq!(app.chat(json!({"message": "Hello"})).await.json()["answer"], "Hi");
}

#[actix_web::test]
async fn misfit_requests_are_told_apart_by_status() {
    let fake = Fake::start(json_answer(COMPLETION)).await;
    let app = spawn_before(&fake.url, "openai", &[("MAX_BODY_BYTES", "2000")]).await;
    let long = json!({"message": "x".repeat(3000)}).to_string();
    let named = json!({"message": "x", "conversation_id": "x".repeat(201)}).to_string();
    for (body, status, code) in [
        ("", 400, "invalid_json"),
        ("{", 400, "invalid_json"),
        ("{\"message\": \"a\" \"b\"}", 400, "invalid_json"),
        ("[]", 422, "invalid_request"),
        ("{}", 422, "invalid_request"),
        ("{\"message\": \"\"}", 422, "invalid_request"),
        ("{\"message\": 5}", 422, "invalid_request"),
        ("[\"hello\", null, null, null, null, null]", 422, "invalid_request"),
        ("{\"message\": \"x\"} trailing", 400, "invalid_json"),
        ("{\"message\": \"x\", \"temperature\": \"hot\"}", 422, "invalid_request"),
        ("{\"message\": \"x\", \"conversation_id\": \"conv_nonsense\"}", 404, "conversation_not_found"),
        (named.as_str(), 422, "invalid_request"),
        (long.as_str(), 413, "body_too_large"),
    ] {
        let answer = app.post("/api/chat", KEY, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{body}: {}",
            answer.text
        );
        assert!(answer.header("x-request-id").is_some());
    }
    let key = format!("Bearer {KEY}");
    for media in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1"] {
        let headers = [("authorization", key.as_str()), ("content-type", media)];
        let answer = app.call("POST", "/api/chat", &headers, Some(b"{\"message\": \"x\"}".to_vec())).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (415, "unsupported_media_type"),
            "{media}"
        );
    }
    let answer = app.get("/api/chat").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str(), answer.header("allow")),
        (405, "method_not_allowed", Some("POST"))
    );
    let answer = app.get("/api/nothing").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"));
    assert_eq!(fake.requests().len(), 0, "none of these reaches the upstream");
}

#[actix_web::test]
async fn health_tells_ok_degraded_and_down_without_spending_tokens() {
    for (status, body, expected, session) in [
        ("200 OK", r#"{"data":[]}"#, "ok", "ok"),
        ("401 Unauthorized", "{}", "degraded", "expired"),
        ("500 Oops", "{}", "down", "unknown"),
    ] {
        let fake = Fake::start(move |_| send(response(status, "application/json", body))).await;
        let app = spawn_before(&fake.url, "openai", &[]).await;
        let answer = app.get("/api/health").await;
        let health = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &health["status"], &health["session"]),
            (200, &json!(expected), &json!(session)),
            "{}",
            answer.text
        );
        assert_eq!(health["success"], json!(expected == "ok"));
        assert_eq!(health["error"].is_null(), expected == "ok");
        assert_eq!(health["upstream"], json!(fake.url));
        assert!(fake.requests().iter().all(|request| request.line.starts_with("GET")));
    }
}

#[actix_web::test]
async fn a_web_chat_is_asked_in_its_own_words() {
    let lines = "{\"result\":{\"conversation\":{\"conversationId\":\"c/1\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\",\"responseId\":\"r1\",\"model\":\"real\"}}}}\n";
    let fake = Fake::start(move |_| send(chunked("application/x-ndjson", lines))).await;
    let app = spawn_before(
        &fake.url,
        "web-chat",
        &[
            ("UPSTREAM_COOKIE", "sso=1"),
            ("UPSTREAM_BODY", r#"{"temporary": true, "modelMode": "fast", "message": "never"}"#),
        ],
    )
    .await;
    let answer = app.chat(json!({"message": "Hello", "system": "Be brief"})).await.json();
    assert_eq!(
        (&answer["answer"], &answer["model"], &answer["response_id"]),
        (&json!("Hi"), &json!("real"), &json!("r1"))
    );
    assert_eq!(answer["usage"]["estimated"], true);
    let request = &fake.requests()[0];
    assert_eq!(request.line, "POST /rest/app-chat/conversations/new HTTP/1.1");
    assert_eq!(request.header("cookie"), Some("sso=1"));
    assert_eq!(
        request.json(),
        json!({"modelMode": "fast", "temporary": true, "message": "Be brief\n\nHello", "modelName": "m"})
    );
}

#[actix_web::test]
async fn a_web_chat_lists_the_models_that_are_configured() {
    let fake = Fake::start(|_| Vec::new()).await;
    let app =
        spawn(&[("UPSTREAM_URL", &fake.url), ("UPSTREAM_PROTOCOL", "web-chat"), ("MODELS", "a, b")]).await;
    let models = app.get("/api/models").await.json();
    assert_eq!((&models["models"][1]["id"], &models["default_model"]), (&json!("b"), &json!("a")));
    let unknown = app.chat(json!({"message": "x", "model": "c"})).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.code().as_str(), fake.requests().len()),
        (422, "model_not_found", 0)
    );
    let app = spawn(&[("UPSTREAM_URL", &fake.url), ("UPSTREAM_PROTOCOL", "web-chat")]).await;
    let answer = app.get("/api/models").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (424, "models_unknown"));
    assert!(answer.text.contains("`MODELS`"));
}

#[actix_web::test]
async fn the_demo_answers_when_no_upstream_is_set() {
    let app = spawn(&[]).await;
    let answer = app.chat(json!({"message": "Hello 你好"})).await;
    let body = answer.json();
    let text = body["answer"].as_str().expect("an answer");
    assert!(text.contains("demo") && text.contains("UPSTREAM_URL") && text.contains("Hello 你好"), "{text}");
    let again =
        app.chat(json!({"message": "And now?", "conversation_id": body["conversation_id"]})).await.json();
    assert!(
        again["answer"]
            .as_str()
            .is_some_and(|text| text.contains("question 2") && text.contains("Hello 你好")),
        "{again}"
    );
    let upstream = app.get("/api/health").await.json()["upstream"].to_string();
    assert!(upstream.contains("demo") && upstream.contains("UPSTREAM_URL"), "{upstream}");
    assert_eq!(app.get("/api/models").await.json()["default_model"], "demo");
    assert_eq!(app.chat(json!({"message": "x", "model": "other"})).await.code(), "model_not_found");
}

#[actix_web::test]
async fn a_late_answer_is_announced_by_blanks_and_a_late_failure_is_a_200() {
    use crate::upstream::Step;
    use std::time::Duration;
    for (body, success) in [(COMPLETION, true), ("garbage", false)] {
        let fake = Fake::start(move |_| {
            vec![
                Step::Pause(Duration::from_millis(700)),
                Step::Send(response("200 OK", "application/json", body).into()),
            ]
        })
        .await;
        let settings = [("HEARTBEAT_AFTER_SECONDS", "0.2"), ("HEARTBEAT_SECONDS", "0.1")];
        let app = spawn_before(&fake.url, "openai", &settings).await;
        let answer = app.chat(json!({"message": "Hello"})).await;
        let blanks = answer.text.len() - answer.text.trim_start().len();
        assert!((3..=6).contains(&blanks), "{blanks} blanks: {}", answer.text);
        assert_eq!((answer.status.as_u16(), answer.json()["success"].as_bool()), (200, Some(success)));
        assert_eq!(answer.json()["error"].is_null(), success);
        let app = spawn_before(&fake.url, "openai", &[("HEARTBEAT_AFTER_SECONDS", "0")]).await;
        let answer = app.chat(json!({"message": "Hello"})).await;
        assert_eq!((answer.status.as_u16() == 200, answer.text.starts_with('{')), (success, true));
    }
}
