//! The last calls, as the owner sees them: what is told of each, and that no text is.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::helpers::{ADMIN_KEY, KEY, OTHER_KEY, TestApp, post, raw, spawn_before, temporary_folder};
use crate::running::Process;
use crate::upstream::{Fake, Step, chunk, response, send, stream_end, stream_head};

/// What no list of calls may show.
const SAID: &str = "what-nobody-else-may-read";

/// An upstream that answers, fails, or hangs after a first word, as its question says.
async fn fake() -> Fake {
    Fake::start(|request| {
        if request.line.starts_with("GET") {
            return send(response("200 OK", "application/json", r#"{"data":[{"id":"m"}]}"#));
        }
        if request.body.contains("too often") {
            let limited = response(
                "429 Too Many",
                "application/json",
                r#"{"error":{"message":"what-nobody-else-may-read"}}"#,
            );
            return send(limited.replacen("Content-Type", "Retry-After: 28\r\nContent-Type", 1));
        }
        if request.body.contains("hang") {
            return vec![stream_head(), chunk(SAID, None), Step::Hang];
        }
        vec![stream_head(), chunk(SAID, None), chunk(" more", Some("stop")), stream_end()]
    })
    .await
}

async fn calls(app: &TestApp, query: &str) -> Vec<Value> {
    let answer = app.get_as_owner(&format!("/api/calls{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(!answer.text.contains(SAID), "{}", answer.text);
    answer.json()["calls"].as_array().expect("calls").clone()
}

/// The calls, once there are so many that are as they should be.
async fn until(app: &TestApp, query: &str, count: usize) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let found = calls(app, query).await;
        if found.len() == count {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{found:#?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[actix_web::test]
async fn a_call_is_told_in_names_and_numbers() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let body = json!({"message": format!("hi {SAID}")}).to_string();
    let answer = app.post("/api/chat", KEY, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    app.post(
        "/v1/chat/completions",
        OTHER_KEY,
        r#"{"model": "n", "messages": [{"role": "user", "content": "too often"}]}"#,
    )
    .await;
    app.get("/api/models").await;
    let found = until(&app, "", 3).await;
    let facts = |call: &Value| {
        let names = ["state", "key", "operation", "path", "model", "status", "upstream_status", "code"];
        names.map(|name| call[name].clone()).to_vec()
    };
    let [models, limited, chat] = found.as_slice() else { panic!("{found:#?}") };
    let of_models = json!(["answered", "tests", "list_models", "/api/models", null, 200, null, null]);
    assert_eq!(json!(facts(models)), of_models);
    let path = "/v1/chat/completions";
    let of_limited =
        json!(["failed", "other", "chat_completions", path, "n", 429, 429, "upstream_rate_limited"]);
    assert_eq!(json!(facts(limited)), of_limited);
    assert_eq!(limited["retry_after_seconds"], 28);
    assert!(limited["message"].is_string() && limited["hint"].is_string(), "{limited}");
    assert_eq!(json!(facts(chat)), json!(["answered", "tests", "chat", "/api/chat", "m", 200, 200, null]));
    assert_eq!(
        (chat["upstream"].as_str(), chat["received_bytes"].as_u64()),
        (Some(fake.url.as_str()), Some(body.len() as u64))
    );
    assert_eq!(chat["sent_bytes"].as_u64(), Some(answer.text.len() as u64));
    assert_eq!(chat["request_id"].as_str(), answer.header("x-request-id"));
    let usage = &answer.json()["usage"];
    for name in ["prompt_tokens", "completion_tokens", "estimated"] {
        assert_eq!(chat[name], usage[name], "{name}: {chat}");
    }
    assert!(chat["first_token_ms"].as_u64() <= chat["total_ms"].as_u64(), "{chat}");
    assert!(chat["first_token_ms"].is_u64() && models["first_token_ms"].is_null(), "{chat}");
}

#[actix_web::test]
async fn calls_are_found_by_key_model_and_result_and_read_by_pages() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (key, message, model) in
        [(KEY, "one", "a"), (OTHER_KEY, "too often", "a"), (KEY, "three", "b"), (KEY, "four", "b")]
    {
        app.post("/api/chat", key, &json!({"message": message, "model": model}).to_string()).await;
    }
    until(&app, "", 4).await;
    for (query, count) in [
        ("?key=tests", 3),
        ("?key=tests&model=b", 2),
        ("?result=failed", 1),
        ("?result=upstream_rate_limited", 1),
        ("?result=answered", 3),
        ("?result=stopped", 0),
        ("?key=&model=&result=", 4),
    ] {
        assert_eq!(calls(&app, query).await.len(), count, "{query}");
    }
    let ids =
        |calls: &[Value]| calls.iter().map(|call| call["id"].as_u64().expect("an id")).collect::<Vec<_>>();
    let all = ids(&calls(&app, "").await);
    assert!(all.is_sorted_by(|one, other| one > other), "{all:?}");
    let page = ids(&calls(&app, &format!("?limit=2&before={}", all[0])).await);
    assert_eq!(page, all[1..3]);
    let answer = app.get_as_owner("/api/calls?before=x").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "invalid_request"));
}

#[actix_web::test]
async fn who_has_no_key_is_told_where_there_is_something_and_noise_is_not() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let wrong = [("x-api-key", "wrong-key-wrong-key"), ("content-type", "application/json")];
    app.call("POST", "/api/chat", &wrong, Some(b"{}".to_vec())).await;
    app.call("GET", "/wp-login.php", &[], None).await;
    app.call("GET", "/health", &[], None).await;
    app.get_as_owner("/api/keys").await;
    app.get("/no/such/path").await;
    let found = until(&app, "", 2).await;
    let facts = |call: &Value| (call["key"].clone(), call["path"].clone(), call["code"].clone());
    assert_eq!(facts(&found[0]), (json!("tests"), json!("/no/such/path"), json!("not_found")));
    assert_eq!(facts(&found[1]), (Value::Null, json!("/api/chat"), json!("gateway_key_wrong")));
}

#[actix_web::test]
async fn a_call_over_mcp_has_the_name_of_its_tool_and_its_failure() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let call = |message: &str| json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": {"message": message}}});
    app.post("/mcp", KEY, &call("hi").to_string()).await;
    app.post("/mcp", KEY, &call("too often").to_string()).await;
    let found = until(&app, "", 2).await;
    let facts = |call: &Value| (call["operation"].clone(), call["path"].clone(), call["state"].clone());
    assert_eq!(facts(&found[0]), (json!("chat"), json!("/mcp"), json!("failed")));
    assert_eq!(facts(&found[1]), (json!("chat"), json!("/mcp"), json!("answered")));
}

#[actix_web::test]
async fn a_call_is_seen_while_it_runs_and_when_its_caller_leaves() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let body = r#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hang"}]}"#;
    let mut stream = TcpStream::connect(app.address).await.expect("a connection");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut some = [0; 4096];
    timeout(Duration::from_secs(5), stream.read(&mut some)).await.expect("in time").expect("read");
    let running = until(&app, "?result=running", 1).await.remove(0);
    assert_eq!(
        (&running["key"], &running["model"], &running["status"]),
        (&json!("tests"), &json!("m"), &Value::Null)
    );
    assert_eq!(
        (&running["operation"], &running["path"]),
        (&json!("chat_completions"), &json!("/v1/chat/completions"))
    );
    drop(stream);
    let stopped = until(&app, "?result=stopped", 1).await.remove(0);
    assert_eq!(
        (&stopped["id"], &stopped["status"], &stopped["code"]),
        (&running["id"], &json!(499), &Value::Null)
    );
    assert!(stopped["first_token_ms"].is_u64(), "{stopped}");
}

#[actix_web::test]
async fn calls_are_told_as_they_come_until_the_stream_is_over() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    app.chat(json!({"message": "before"})).await;
    until(&app, "", 1).await;
    let address = app.address;
    let ask = format!(
        "GET /api/calls/live?seconds=1&key=tests HTTP/1.1\r\nHost: x\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n"
    );
    let following = actix_web::rt::spawn(async move { raw(address, ask.as_bytes()).await });
    sleep(Duration::from_millis(200)).await;
    app.chat(json!({"message": "now"})).await;
    app.post("/api/chat", OTHER_KEY, r#"{"message": "another's"}"#).await;
    let text = following.await.expect("a stream");
    assert!(text.contains("text/event-stream") && text.contains("event: call\n"), "{text}");
    assert!(text.ends_with("0\r\n\r\n"), "it has not ended: {text}");
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = events.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    let last = events.last().expect("an event");
    assert_eq!((&last["state"], &last["key"], &last["id"]), (&json!("answered"), &json!("tests"), &json!(2)));
    assert!(events.iter().all(|call| call["id"] == 2), "{text}");
    assert!(!text.contains(SAID));
}

#[actix_web::test]
async fn who_follows_the_calls_does_not_hold_up_the_end() {
    let fake = fake().await;
    let mut process = Process::start(&[
        ("UPSTREAM_URL", &fake.url),
        ("GATEWAY_API_KEYS", &format!("tests:{KEY}")),
        ("ADMIN_KEY", ADMIN_KEY),
        ("DATA_DIR", &temporary_folder()),
    ]);
    let address = process.address;
    let ask = format!("GET /api/calls/live HTTP/1.1\r\nHost: x\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(ask.as_bytes()).await.expect("sent");
    post(address, "/api/chat", KEY, r#"{"model": "m", "message": "hi"}"#).await;
    let mut some = [0; 4096];
    timeout(Duration::from_secs(5), stream.read(&mut some)).await.expect("in time").expect("read");
    process.signal("TERM");
    let (status, time) = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.output());
    assert!(time < Duration::from_secs(4), "{time:?}");
}
