//! What a web chat does not know is done for it, or refused with advice.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::helpers::{KEY, TestApp, spawn_before};
use crate::upstream::{Fake, Step, send};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";

fn line(value: Value) -> Step {
    let line = format!("{value}\n");
    Step::Send(format!("{:x}\r\n{line}\r\n", line.len()).into_bytes())
}

/// A web chat that says these tokens, and ends or hangs.
async fn saying(tokens: &'static [&'static str], ends: bool) -> Fake {
    Fake::start(move |_| {
        let mut steps = send(HEAD);
        steps.push(line(json!({"result": {"conversation": {"conversationId": "c1"}}})));
        let said = |token: &&str| line(json!({"result": {"response": {"token": token, "responseId": "r1"}}}));
        steps.extend(tokens.iter().map(said));
        let whole = json!({"message": tokens.concat(), "responseId": "r1"});
        match ends {
            true => steps.extend([
                line(json!({"result": {"response": {"modelResponse": whole}}})),
                Step::Send(b"0\r\n\r\n".to_vec()),
            ]),
            false => steps.push(Step::Hang),
        }
        steps
    })
    .await
}

async fn complete(app: &TestApp, body: Value) -> crate::helpers::Answer {
    app.post("/v1/chat/completions", KEY, &body.to_string()).await
}

fn question(stop: &Value, stream: bool) -> Value {
    json!({"stream": stream, "stop": stop, "messages": [{"role": "user", "content": "hi"}]})
}

/// The words of a stream, and why it ended.
fn streamed(text: &str) -> (String, String) {
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let chunks = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let chunks: Vec<Value> = chunks.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    let words = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    let reasons = chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str());
    (words.collect(), reasons.collect())
}

#[actix_web::test]
async fn an_answer_ends_before_a_stop_text_and_its_question_is_given_up() {
    let fake = saying(&["Thought: look", " it up\nObs", "erv", "ation: none", " and more"], false).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    for stop in [json!("\nObservation"), json!(["nothing", "", "\nObservation:"])] {
        let whole = timeout(Duration::from_secs(5), complete(&app, question(&stop, false))).await;
        let whole = whole.expect("it does not wait for the rest").json();
        let choice = &whole["choices"][0];
        assert_eq!(choice["message"]["content"], "Thought: look it up", "{whole}");
        assert_eq!((&choice["finish_reason"], &whole["usage"]["estimated"]), (&json!("stop"), &json!(true)));
        timeout(Duration::from_secs(3), fake.left()).await.expect("the connection is closed");
        let stream = complete(&app, question(&stop, true)).await;
        assert_eq!(streamed(&stream.text), ("Thought: look it up".into(), "stop".into()), "{}", stream.text);
        timeout(Duration::from_secs(3), fake.left()).await.expect("the connection is closed");
    }
    // What the mirror said beyond is not gone on with: all is sent again.
    let more = json!({"stop": "\nObservation", "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Thought: look it up"},
        {"role": "user", "content": "Observation: 42"},
    ]});
    complete(&app, more).await;
    let last = fake.requests().pop().expect("a request");
    assert!(last.line.contains("/conversations/new"), "{}", last.line);
}

#[actix_web::test]
async fn an_answer_without_the_stop_text_is_whole() {
    let fake = saying(&["a\nObs", "cure"], true).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let stop = json!(["\nObservation"]);
    let whole = complete(&app, question(&stop, false)).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "a\nObscure");
    let stream = complete(&app, question(&stop, true)).await;
    assert_eq!(streamed(&stream.text), ("a\nObscure".into(), "stop".into()), "{}", stream.text);
}

#[actix_web::test]
async fn an_answer_may_begin_with_its_stop_text() {
    let fake = saying(&["Observation"], false).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let whole = complete(&app, question(&json!("Observation"), false)).await;
    assert_eq!(whole.status.as_u16(), 200, "{}", whole.text);
    assert_eq!(whole.json()["choices"][0]["message"]["content"], "");
}

#[actix_web::test]
async fn what_changes_the_form_of_an_answer_is_refused_with_advice() {
    let fake = saying(&["x"], true).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    for (name, value) in [
        ("response_format", json!({"type": "json_object"})),
        ("response_format", json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {}}})),
        ("logprobs", json!(true)),
        ("n", json!(2)),
        ("stop", json!(["1", "2", "3", "4", "5"])),
    ] {
        let mut body = question(&Value::Null, false);
        body[name] = value;
        let refused = complete(&app, body).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (400, "unsupported_parameter"),
            "{name}"
        );
        let error = refused.json()["error"].clone();
        assert_eq!((&error["param"], &error["type"]), (&json!(name), &json!("invalid_request_error")));
        assert!(error["message"].as_str().is_some_and(|message| message.contains(name)), "{error}");
    }
    assert!(fake.requests().is_empty());
    let mut text = question(&Value::Null, false);
    text["response_format"] = json!({"type": "text"});
    text["logprobs"] = json!(false);
    text["temperature"] = json!(0.1);
    assert_eq!(complete(&app, text).await.status.as_u16(), 200);
}
