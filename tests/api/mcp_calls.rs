//! Calls of tools over MCP while they run: progress, giving one up; and what their results are made of.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::helpers::{Answer, KEY, OTHER_KEY, TestApp, spawn, spawn_before};
use crate::upstream::{Fake, Step, chunk, response, send, stream_end, stream_head};

/// Begins to answer after a while.
async fn late(after: Duration) -> Fake {
    Fake::start(move |_| vec![Step::Pause(after), stream_head(), chunk("late", Some("stop")), stream_end()])
        .await
}

fn call(id: Value, meta: Value) -> Value {
    let params = json!({"name": "chat", "arguments": {"message": "x"}, "_meta": meta});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

async fn post(app: &TestApp, accept: &str, message: &Value) -> Answer {
    let authorization = format!("Bearer {KEY}");
    let headers =
        [("authorization", authorization.as_str()), ("content-type", "application/json"), ("accept", accept)];
    app.call("POST", "/mcp", &headers, Some(message.to_string().into_bytes())).await
}

const BOTH: &str = "application/json, text/event-stream";

#[actix_web::test]
async fn the_progress_of_a_late_answer_is_told_to_who_asks_for_it() {
    let fake = late(Duration::from_millis(1500)).await;
    let heartbeat = [("HEARTBEAT_AFTER_SECONDS", "5"), ("HEARTBEAT_SECONDS", "0.3")];
    let app = spawn_before(&fake.url, "openai", &heartbeat).await;
    for token in [json!("abc"), json!(12)] {
        let answer = post(&app, BOTH, &call(json!(1), json!({"progressToken": token}))).await;
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("x-accel-buffering"), Some("no"));
        let events = answer.text.strip_suffix("\n\n").expect("whole events").split("\n\n");
        let messages: Vec<Value> = events
            .map(|event| {
                let data = event.strip_prefix("data: ").expect("one line of data");
                serde_json::from_str(data).expect("JSON")
            })
            .collect();
        let (last, told) = messages.split_last().expect("an answer");
        assert!(told.len() >= 3, "{}", answer.text);
        let mut before = 0.0;
        for notification in told {
            assert_eq!(notification["method"], "notifications/progress");
            assert_eq!(notification["params"]["progressToken"], token);
            assert!(notification["params"]["message"].is_string() && notification.get("id").is_none());
            let progress = notification["params"]["progress"].as_f64().expect("a number");
            assert!(progress > before, "{}", answer.text);
            before = progress;
        }
        assert_eq!(
            (&last["id"], &last["result"]["structuredContent"]["answer"]),
            (&json!(1), &json!("late"))
        );
    }
}

#[actix_web::test]
async fn without_a_token_or_event_streams_and_in_time_the_answer_is_one_object() {
    let fake = late(Duration::from_millis(700)).await;
    let soon = [("HEARTBEAT_AFTER_SECONDS", "0.2"), ("HEARTBEAT_SECONDS", "0.2")];
    let later = [("HEARTBEAT_AFTER_SECONDS", "5"), ("HEARTBEAT_SECONDS", "5")];
    for (settings, accept, meta) in [
        (soon, BOTH, json!({})),
        (soon, "application/json", json!({"progressToken": 1})),
        (later, BOTH, json!({"progressToken": 1})),
    ] {
        let app = spawn_before(&fake.url, "openai", &settings).await;
        let answer = post(&app, accept, &call(json!(1), meta)).await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let was_announced = settings == soon;
        assert_eq!(answer.header("x-accel-buffering").is_some(), was_announced, "nginx holds nothing back");
        assert_eq!(answer.text.starts_with(' '), was_announced);
        assert_eq!(answer.json()["result"]["structuredContent"]["answer"], "late");
    }
}

#[actix_web::test]
async fn a_client_that_closes_the_event_stream_has_given_the_call_up() {
    let fake = late(Duration::from_secs(60)).await;
    let app = spawn_before(&fake.url, "openai", &[("HEARTBEAT_SECONDS", "0.2")]).await;
    let body = call(json!(1), json!({"progressToken": 1})).to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nAccept: {BOTH}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(app.address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("notifications/progress") {
        assert_ne!(stream.read_buf(&mut read).await.expect("an event"), 0, "the stream goes on");
    }
    drop(stream);
    actix_web::rt::time::timeout(Duration::from_secs(5), fake.left()).await.expect("the upstream is left");
}

/// Tells the service that a request was given up.
async fn give_up(app: &TestApp, key: &str, id: Value) {
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": id, "reason": "the user does not wait"}});
    let answer = app.post("/mcp", key, &notification.to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (202, ""));
}

/// Waits until the upstream was asked so many times.
async fn asked(fake: &Fake, times: usize) {
    while fake.requests().len() < times {
        actix_web::rt::time::sleep(Duration::from_millis(10)).await;
    }
}

#[actix_web::test]
async fn a_call_that_is_given_up_leaves_the_upstream() {
    let fake =
        Fake::start(|_| vec![stream_head(), chunk("begun", None), Step::Pause(Duration::from_secs(60))])
            .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (times, id) in [(1, json!("a")), (2, json!(7))] {
        let message = call(id.clone(), json!({}));
        let cancel = async {
            asked(&fake, times).await;
            // Neither another's key nor another id reaches it.
            give_up(&app, OTHER_KEY, id.clone()).await;
            give_up(&app, KEY, json!("another")).await;
            give_up(&app, KEY, id.clone()).await;
            fake.left().await;
        };
        let work = futures_util::future::join(post(&app, BOTH, &message), cancel);
        let (answer, ()) =
            actix_web::rt::time::timeout(Duration::from_secs(10), work).await.expect("it ends");
        let body = answer.json();
        assert_eq!((&body["id"], &body["error"]["data"]["code"]), (&id, &json!("call_given_up")), "{body}");
    }
}

#[actix_web::test]
async fn of_calls_with_one_id_none_is_given_up() {
    let fake = late(Duration::from_millis(800)).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let message = call(json!(1), json!({}));
    let cancel = async {
        asked(&fake, 2).await;
        give_up(&app, KEY, json!(1)).await;
    };
    let calls = futures_util::future::join(post(&app, BOTH, &message), post(&app, BOTH, &message));
    let ((first, second), ()) = futures_util::future::join(calls, cancel).await;
    for answer in [first, second] {
        assert_eq!(answer.json()["result"]["structuredContent"]["answer"], "late", "{}", answer.text);
    }
    // What has ended is given up in vain.
    give_up(&app, KEY, json!(1)).await;
}

#[actix_web::test]
async fn results_say_what_they_cost_where_dify_counts_it() {
    let completion = r#"{"id":"r1","model":"real","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
    let fake = Fake::start(|_| send(response("200 OK", "application/json", completion))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "estimated": false});
    for (tool, expected) in
        [("chat", json!({"usage": usage})), ("ask", json!({"usage": usage})), ("health", Value::Null)]
    {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": {"message": "x"}}});
        let result = post(&app, BOTH, &message).await.json()["result"].take();
        assert_eq!(result["_meta"], expected, "{tool}: {result}");
    }
}

/// Every place in a schema, with its path.
fn places(schema: &Value, path: String, found: &mut Vec<(String, Value)>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            places(property, format!("{path}.{name}"), found);
        }
    }
    if schema["items"].is_object() {
        places(&schema["items"], format!("{path}[]"), found);
    }
    found.push((path, schema["type"].clone()));
}

#[actix_web::test]
async fn schemas_have_plain_types_and_results_no_nulls() {
    let app = spawn(&[("LONG_ANSWERS", "true")]).await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let tools = post(&app, BOTH, &list).await.json()["result"]["tools"].take();
    for tool in tools.as_array().expect("tools") {
        let mut found = Vec::new();
        for schema in ["inputSchema", "outputSchema"] {
            if tool[schema].is_object() {
                places(&tool[schema], schema.into(), &mut found);
            }
        }
        for (path, kind) in found {
            assert!(kind.is_string(), "{}: {path}: {kind}", tool["name"]);
        }
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool["name"], "arguments": {"message": "Hello"}}});
        let result = post(&app, BOTH, &message).await.json()["result"].take();
        let Some(object) = result.get("structuredContent") else { continue };
        assert!(!object.to_string().contains(":null"), "{object}");
        for required in tool["outputSchema"]["required"].as_array().expect("required members") {
            assert!(object.get(required.as_str().expect("a name")).is_some(), "{required} in {object}");
        }
    }
}

#[actix_web::test]
async fn there_is_no_authorization_server_to_be_found() {
    let app = spawn(&[]).await;
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/mcp",
        "/.well-known/openid-configuration",
        "/mcp/.well-known/openid-configuration",
    ] {
        let answer = app.call("GET", path, &[], None).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
        assert_eq!(answer.code(), "not_found");
        assert_eq!(answer.header("www-authenticate"), None);
    }
}
