//! `/api/chat?shape=wrapper`, for workflows that were built on somebody's FastAPI wrapper.

use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{KEY, TestApp, spawn, spawn_before};
use crate::upstream::{Fake, Step, chunked, response, send};

const PATH: &str = "/api/chat?shape=wrapper";

async fn ask(app: &TestApp, body: Value) -> Value {
    let answer = app.post(PATH, KEY, &body.to_string()).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

#[actix_web::test]
async fn an_answer_has_the_shape_and_goes_on_as_the_wrappers_do() {
    let lines = "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\",\"responseId\":\"r1\"}}}}\n";
    let fake = Fake::start(move |_| send(chunked("application/x-ndjson", lines))).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let asked = json!({"message": "one", "conversation_id": null, "parent_response_id": null});
    let first = ask(&app, asked).await;
    let id = first["data"]["conversation_id"].as_str().expect("an id");
    let data = json!({"response": "Hi", "conversation_id": id, "response_id": "r1"});
    assert_eq!(first, json!({"success": true, "data": data, "error": null}));
    ask(&app, json!({"message": "two", "conversation_id": id, "parent_response_id": "r1"})).await;
    assert!(fake.requests()[1].line.contains("/conversations/c1/responses"));
    assert_eq!(fake.requests()[1].json()["parentResponseId"], "r1");
    // An id of the wrapper's own names a conversation that begins here.
    let kept = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let other = ask(&app, json!({"message": "three", "conversation_id": kept})).await;
    assert_eq!(other["data"]["conversation_id"], kept);
}

#[actix_web::test]
async fn a_failure_is_200_and_says_so_but_a_wrong_key_is_401() {
    let half = "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n";
    let fake = Fake::start(move |request| match request.body.contains("break") {
        true => send(chunked("text/event-stream", half)),
        false => send(response("401 Unauthorized", "application/json", "{}")),
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[("MAX_BODY_BYTES", "2000")]).await;
    for (body, part, words) in [
        (json!({"message": "hi"}), "", "UPSTREAM_API_KEY"),
        (json!({"message": "break"}), "half", "ended before it was complete; "),
        (json!({"message": ""}), "", "`message` is empty; "),
        (json!({"message": "x".repeat(3000)}), "", "MAX_BODY_BYTES"),
        (json!({"message": 5}), "", "`message` is not understood"),
        (json!({"message": "x", "conversation_id": "conv_1"}), "", "no such conversation"),
    ] {
        let failed = ask(&app, body).await;
        assert_eq!(
            (&failed["success"], &failed["data"]["response"]),
            (&json!(false), &json!(part)),
            "{failed}"
        );
        assert!(failed["error"].as_str().is_some_and(|error| error.contains(words)), "{failed}");
    }
    let wrong = app.post(PATH, "wrong", r#"{"message": "hi"}"#).await;
    assert_eq!((wrong.status.as_u16(), wrong.code().as_str()), (401, "gateway_key_wrong"));
    let unknown = app.post("/api/chat?shape=other", KEY, r#"{"message": "hi"}"#).await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (422, "invalid_request"));
    let plain = app.post("/api/chat?shape=", KEY, r#"{"message": "hi"}"#).await;
    assert_eq!(plain.status.as_u16(), 424);
}

#[actix_web::test]
async fn a_late_answer_has_the_shape_too_and_importers_are_not_told_of_it() {
    let fake = Fake::start(|_| {
        let late = vec![Step::Pause(Duration::from_millis(400))];
        [late, send(response("200 OK", "application/json", "garbage"))].concat()
    })
    .await;
    let beats = [("HEARTBEAT_AFTER_SECONDS", "0.1"), ("HEARTBEAT_SECONDS", "0.1")];
    let app = spawn_before(&fake.url, "openai", &beats).await;
    let late = app.post(PATH, KEY, r#"{"message": "hi"}"#).await;
    assert!(late.text.starts_with("  ") && late.json()["error"].is_string(), "{}", late.text);
    let app = spawn(&[]).await;
    for (document, told) in
        [("/openapi.json", false), ("/openapi.json?for=dify", false), ("/openapi/full.json", true)]
    {
        let operation = app.get(document).await.json()["paths"]["/api/chat"]["post"].clone();
        assert_eq!(operation.get("parameters").is_some(), told, "{document}");
    }
}
