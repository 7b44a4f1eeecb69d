//! The OpenAI-compatible face before a web chat.

use serde_json::{Value, json};

use crate::helpers::{KEY, OTHER_KEY, spawn_before};
use crate::upstream::{Fake, chunked, response, send};

const NDJSON: &str = "application/x-ndjson";

/// A web chat that numbers its conversations and answers, thinks, and tells its last message.
async fn web_chat() -> Fake {
    Fake::start(|request| {
        if request.line.contains("/conversations/lost/") {
            return send(response("404 Not Found", "application/json", "{}"));
        }
        let asked = request.json()["message"].as_str().unwrap_or_default().to_string();
        let conversation = if asked.contains("lose") { "lost" } else { "c1" };
        let id = format!("r{}", request.earlier + 1);
        let token = |part: Value| json!({"result": {"response": part}}).to_string();
        let lines = [
            json!({"result": {"conversation": {"conversationId": conversation}}}).to_string(),
            token(json!({"token": "hm", "isThinking": true, "responseId": id})),
            token(json!({"token": "ans", "responseId": id})),
            token(json!({"modelResponse": {"message": "answer", "responseId": id}})),
        ];
        send(chunked(NDJSON, &(lines.join("\n") + "\n")))
    })
    .await
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[actix_web::test]
async fn a_history_that_is_known_goes_on_where_it_ended() {
    let fake = web_chat().await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let mut messages = vec![said("system", "S"), said("user", "one")];
    let ask = async |messages: &Vec<Value>, key: &str| {
        let body = json!({"messages": messages}).to_string();
        app.post("/v1/chat/completions", key, &body).await
    };
    let answer = ask(&messages, KEY).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "content": "answer", "reasoning_content": "hm"})
    );
    assert_eq!(
        (choice["finish_reason"].as_str(), answer["usage"]["estimated"].as_bool()),
        (Some("stop"), Some(true))
    );
    assert_eq!((answer["object"].as_str(), answer["model"].as_str()), (Some("chat.completion"), Some("m")));
    // Callers trim what they send back.
    messages.extend([said("assistant", " answer\n"), said("user", "two")]);
    ask(&messages, KEY).await;
    let second = &fake.requests()[1];
    assert!(second.line.contains("/conversations/c1/responses"), "{}", second.line);
    assert_eq!(
        (second.json()["message"].as_str(), second.json()["parentResponseId"].is_string()),
        (Some("two"), true)
    );
    // Neither another key's history nor one that was changed is known.
    ask(&messages, OTHER_KEY).await;
    messages[1] = said("user", "another");
    ask(&messages, KEY).await;
    for request in &fake.requests()[2..] {
        assert!(request.line.contains("/conversations/new"), "{}", request.line);
    }
    let laid_out = fake.requests()[3].json()["message"].as_str().expect("a text").to_string();
    assert!(
        laid_out.starts_with("S\n\n")
            && laid_out.ends_with("User: another\n\nAssistant:  answer\n\n\nUser: two"),
        "{laid_out:?}"
    );
}

#[actix_web::test]
async fn a_conversation_that_the_upstream_lost_begins_anew() {
    let fake = web_chat().await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let mut messages = vec![said("user", "lose me")];
    app.post("/v1/chat/completions", KEY, &json!({"messages": messages}).to_string()).await;
    messages.extend([said("assistant", "answer"), said("user", "two")]);
    let answer = app.post("/v1/chat/completions", KEY, &json!({"messages": messages}).to_string()).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    let lines: Vec<_> = fake.requests().iter().map(|request| request.line.clone()).collect();
    assert!(lines[1].contains("/lost/responses") && lines[2].contains("/new"), "{lines:?}");
}

#[actix_web::test]
async fn a_stream_begins_with_the_first_token_and_ends_with_done() {
    let fake = web_chat().await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let mut messages = vec![said("user", "one")];
    let body = json!({"stream": true, "stream_options": {"include_usage": true}, "messages": messages});
    let answer = app.post("/v1/chat/completions", KEY, &body.to_string()).await;
    let events: Vec<&str> =
        answer.text.trim_end().split("\n\n").map(|event| &event["data: ".len()..]).collect();
    let chunk = |index: usize| serde_json::from_str::<Value>(events[index]).expect("JSON");
    assert_eq!(chunk(0)["choices"][0]["delta"], json!({"role": "assistant", "reasoning_content": "hm"}));
    assert_eq!(chunk(1)["choices"][0]["delta"], json!({"content": "ans"}));
    assert_eq!(chunk(2)["choices"][0]["delta"], json!({"content": "wer"}));
    assert_eq!(chunk(3)["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        (chunk(4)["choices"].clone(), chunk(4)["usage"]["estimated"].clone()),
        (json!([]), json!(true))
    );
    assert_eq!(events[5], "[DONE]");
    messages.extend([said("assistant", "answer"), said("user", "two")]);
    app.post("/v1/chat/completions", KEY, &json!({"messages": messages}).to_string()).await;
    assert!(fake.requests()[1].line.contains("/responses"));
}

#[actix_web::test]
async fn a_web_chat_has_no_other_endpoints() {
    let fake = web_chat().await;
    let app = spawn_before(&fake.url, "web-chat", &[("MODELS", "m,n/o")]).await;
    let answer = app.post("/v1/embeddings", KEY, "{}").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"));
    assert_eq!(app.get("/v1/models/n/o").await.json()["id"], "n/o");
    assert_eq!(app.get("/v1/models").await.json()["data"][1]["object"], "model");
    assert!(fake.requests().is_empty());
}

#[actix_web::test]
async fn hints_that_a_web_chat_does_not_take_are_named() {
    let fake = web_chat().await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let ignored = Some("temperature, top_p, max_tokens, seed, presence_penalty");
    for stream in [false, true] {
        let body = json!({"messages": [said("user", "one")], "stream": stream, "temperature": 0.2, "top_p": 1, "max_tokens": 9, "seed": 1, "presence_penalty": 0, "frequency_penalty": null});
        let answer = app.post("/v1/chat/completions", KEY, &body.to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ignored-parameters")), (200, ignored));
    }
    let tool = app.post("/api/chat", KEY, r#"{"message": "one", "temperature": "0.5"}"#).await;
    assert_eq!(tool.header("x-ignored-parameters"), Some("temperature"));
    let plain = app.post("/api/chat", KEY, r#"{"message": "one", "temperature": ""}"#).await;
    assert_eq!(plain.header("x-ignored-parameters"), None);
}
