//! Keys over HTTP: what each may, and how much.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, Answer, KEY, TestApp, call, spawn, spawn_before};
use crate::upstream::{Fake, Request, Step, chunk, response, send, stream_end, stream_head};

/// Calls as the owner, with JSON.
pub async fn as_owner(app: &TestApp, method: &str, path: &str, body: Value) -> Answer {
    let headers = [("x-api-key", ADMIN_KEY), ("content-type", "application/json")];
    let body = (!body.is_null()).then(|| body.to_string().into_bytes());
    app.call(method, path, &headers, body).await
}

/// Makes a key with these limits and gives its text.
pub async fn new_key(app: &TestApp, name: &str, mut limits: Value) -> String {
    limits["name"] = name.into();
    let made = as_owner(app, "POST", "/api/keys", limits).await;
    assert_eq!(made.status, 200, "{}", made.text);
    made.json()["key"].as_str().expect("a key").to_string()
}

/// Waits until a key has ended.
pub async fn until_ended(app: &TestApp, key: &str) {
    let start = Instant::now();
    while app.call("GET", "/api/usage", &[("x-api-key", key)], None).await.status != 401 {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ask(app: &TestApp, key: &str) -> Answer {
    app.post("/api/chat", key, r#"{"message": "hi"}"#).await
}

async fn complete(app: &TestApp, key: &str, model: &str) -> Answer {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    app.post("/v1/chat/completions", key, &body.to_string()).await
}

/// An OpenAI-style mirror with two models, whose answers cost ten tokens.
async fn mirror() -> Fake {
    Fake::start(|request: &Request| {
        if request.line.starts_with("GET /v1/models") {
            let models = r#"{"data": [{"id": "a"}, {"id": "b"}]}"#;
            return send(response("200 OK", "application/json", models));
        }
        if request.line.contains("completions") && request.json()["stream"] != true {
            let answer = json!({"id": "c", "object": "chat.completion", "model": "a", "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}});
            return send(response("200 OK", "application/json", &answer.to_string()));
        }
        if request.line.contains("completions") {
            let usage = json!({"choices": [], "usage": {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}});
            let usage = Step::Send(format!("data: {usage}\n\n").into_bytes());
            return vec![stream_head(), chunk("ok", Some("stop")), usage, stream_end()];
        }
        send(response("200 OK", "application/json", r#"{"ok": true}"#))
    })
    .await
}

#[actix_web::test]
async fn a_key_is_made_listed_limited_replaced_and_revoked() {
    let app = spawn(&[]).await;
    let key = new_key(&app, "dify", json!({"expires": "30d", "rpm": 60, "storage": "1MiB"})).await;
    assert!(key.starts_with("mg_") && key.len() > 40);
    let first = ask(&app, &key).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(first.header("x-mirrorgate-limit-requests"), Some("60"));
    assert_eq!(first.header("x-mirrorgate-limit-remaining-requests"), Some("59"));
    let id = first.json()["conversation_id"].as_str().expect("an id").to_string();

    let listed = as_owner(&app, "GET", "/api/keys", Value::Null).await;
    assert!(!listed.text.contains(&key), "{}", listed.text);
    let listed = &listed.json()["keys"][0];
    assert_eq!(
        (&listed["name"], &listed["rpm"], &listed["storage_bytes"]),
        (&json!("dify"), &json!(60), &json!(1 << 20))
    );
    let month =
        listed["expires_at"].as_i64().expect("an end") - listed["created_at"].as_i64().expect("a time");
    assert!((month - 30 * 86_400_000).abs() < 60_000);
    assert!(listed["last_used_at"].is_i64(), "{listed}");

    assert_eq!(as_owner(&app, "PUT", "/api/keys/dify", json!({})).await.status, 200);
    assert_eq!(ask(&app, &key).await.header("x-mirrorgate-limit-requests"), None);

    let rotated = as_owner(&app, "POST", "/api/keys/dify/rotate", Value::Null).await.json();
    let next = rotated["key"].as_str().expect("a key");
    assert_eq!(ask(&app, &key).await.code(), "gateway_key_wrong");
    let read = |key: String| {
        let path = format!("/api/conversations/{id}");
        let address = app.address;
        async move { call(address, "GET", &path, &[("x-api-key", &key)], None).await.status.as_u16() }
    };
    assert_eq!(read(next.to_string()).await, 200, "a rotated key keeps its conversations");

    assert_eq!(as_owner(&app, "DELETE", "/api/keys/dify", Value::Null).await.status, 200);
    assert_eq!(ask(&app, next).await.code(), "gateway_key_wrong");
    let again = new_key(&app, "dify", json!({})).await;
    assert_eq!(read(again).await, 404, "a new key of an old name owns nothing of the old one's");

    let audit = as_owner(&app, "GET", "/api/audit", Value::Null).await;
    let entries = audit.json()["entries"].clone();
    let actions: Vec<_> =
        entries.as_array().expect("entries").iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["key.new", "key.revoke", "key.rotate", "key.set", "key.new"]);
    assert_eq!(
        (&entries[0]["actor"], &entries[0]["target"], &entries[0]["address"]),
        (&json!("owner"), &json!("dify"), &json!("127.0.0.1"))
    );
    assert!(!audit.text.contains(next) && !audit.text.contains(ADMIN_KEY));
}

#[actix_web::test]
async fn what_is_no_good_limit_is_said_and_makes_no_key() {
    let app = spawn(&[]).await;
    for body in [
        json!({"name": "owner"}),
        json!({"name": "with space"}),
        json!({}),
        json!({"name": "a", "expires": "soon"}),
        json!({"name": "a", "storage": "much"}),
        json!({"name": ".."}),
        json!({"name": "a", "models": []}),
        json!({"name": "a", "models": [" "]}),
        json!({"name": "a", "models": ["b,c"]}),
        json!({"name": "a", "paths": ["../files"]}),
        json!({"name": "a", "rpm": -1}),
        json!({"name": "a", "requests": 5}),
    ] {
        let answer = as_owner(&app, "POST", "/api/keys", body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (422, "invalid_request"),
            "{body}: {}",
            answer.text
        );
    }
    assert_eq!(as_owner(&app, "GET", "/api/keys", Value::Null).await.json()["keys"], json!([]));
    for (method, path) in
        [("PUT", "/api/keys/no"), ("DELETE", "/api/keys/no"), ("POST", "/api/keys/no/rotate")]
    {
        let body = if method == "PUT" { json!({}) } else { Value::Null };
        assert_eq!(as_owner(&app, method, path, body).await.code(), "not_found", "{method} {path}");
    }
    new_key(&app, "a", json!({})).await;
    let twice = as_owner(&app, "POST", "/api/keys", json!({"name": "a"})).await;
    assert!(twice.text.contains("already"), "{}", twice.text);
    let configured = as_owner(&app, "POST", "/api/keys", json!({"name": "tests"})).await;
    assert!(configured.text.contains("already"), "{}", configured.text);
}

#[actix_web::test]
async fn a_key_opens_nothing_after_its_end() {
    let app = spawn(&[]).await;
    let key = new_key(&app, "short", json!({"expires": "1s"})).await;
    assert_eq!(ask(&app, &key).await.status, 200);
    until_ended(&app, &key).await;
    let answer = ask(&app, &key).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "gateway_key_expired"));
    assert_eq!(complete(&app, &key, "m").await.status, 401);
}

#[actix_web::test]
async fn questions_over_a_limit_are_refused_in_each_faces_own_way() {
    let fake = mirror().await;
    let app = spawn_before(&fake.url, "openai", &[("DEFAULT_MODEL", "a")]).await;
    let key = new_key(&app, "few", json!({"rpm": 2})).await;
    assert_eq!(complete(&app, &key, "a").await.header("x-mirrorgate-limit-remaining-requests"), Some("1"));
    assert_eq!(ask(&app, &key).await.status, 200);
    let asked = fake.requests().len();
    let tool = ask(&app, &key).await;
    assert_eq!((tool.status.as_u16(), tool.code().as_str()), (424, "key_limit_reached"));
    assert!(tool.json()["error"]["message"].to_string().contains("2 questions a minute"), "{}", tool.text);
    let seconds: u64 = tool.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((30..=66).contains(&seconds), "{seconds}");
    let v1 = complete(&app, &key, "a").await;
    assert_eq!((v1.status.as_u16(), &v1.json()["error"]["code"]), (429, &json!("key_limit_reached")));
    assert_eq!(v1.header("x-mirrorgate-limit-remaining-requests"), Some("0"));
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": {"message": "hi"}}});
    let mcp = app.post("/mcp", &key, &message.to_string()).await;
    assert_eq!(mcp.json()["result"]["isError"], true, "{}", mcp.text);
    assert_eq!(app.post("/v1/embeddings", &key, r#"{"model": "a", "input": "x"}"#).await.status, 429);
    assert_eq!(fake.requests().len(), asked, "what is refused is not asked");
    // What asks nothing is not counted, and others are as free as before.
    let usage = app.call("GET", "/api/usage", &[("x-api-key", &key)], None).await.json();
    let state = &usage["limits"][0];
    assert_eq!(
        (&state["name"], &state["limit"], &state["remaining"]),
        (&json!("requests"), &json!(2), &json!(0)),
        "{usage}"
    );
    assert_eq!(ask(&app, KEY).await.status, 200);
}

#[actix_web::test]
async fn tokens_of_a_day_are_counted_over_all_faces_and_survive_a_restart() {
    let fake = mirror().await;
    let folder = crate::helpers::temporary_folder();
    let more = [("DEFAULT_MODEL", "a"), ("DATA_DIR", folder.as_str())];
    let app = spawn_before(&fake.url, "openai", &more).await;
    let key = new_key(&app, "thrifty", json!({"tokens_per_day": 25, "tokens_per_month": 1000})).await;
    for remaining in ["25", "15", "5"] {
        let answer = complete(&app, &key, "a").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.header("x-mirrorgate-limit-remaining-tokens-day"), Some(remaining));
    }
    let refused = ask(&app, &key).await;
    assert_eq!(refused.code(), "key_limit_reached");
    assert!(refused.json()["error"]["message"].to_string().contains("25 tokens a day"), "{}", refused.text);
    // Before the usage is told, all of it is in the store; another process on that knows of it.
    app.call("GET", "/api/usage", &[("x-api-key", &key)], None).await;
    let next = spawn_before(&fake.url, "openai", &more).await;
    assert_eq!(ask(&next, &key).await.code(), "key_limit_reached");
    let all = as_owner(&app, "GET", "/api/usage/all?days=1", Value::Null).await.json();
    let used = &all["usage"][0];
    assert_eq!(
        (&used["key"], &used["model"], &used["requests"], &used["prompt_tokens"]),
        (&json!("thrifty"), &json!("a"), &json!(3), &json!(18)),
        "{all}"
    );
}

#[actix_web::test]
async fn a_key_that_has_filled_its_space_reads_and_deletes_and_keeps_nothing_new() {
    let app = spawn(&[("KEY_STORAGE_BYTES", "2000")]).await;
    let key = new_key(&app, "full", json!({"storage": "100"})).await;
    let body = json!({"message": "x".repeat(200)}).to_string();
    assert_eq!(app.post("/api/chat", &key, &body).await.status, 200);
    let full = app.post("/api/chat", &key, &body).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (424, "key_storage_full"), "{}", full.text);
    assert!(full.json()["error"]["hint"].to_string().contains("DELETE /api/conversations"), "{}", full.text);
    // What keeps nothing goes on, others go on within the usual limit, and the owner has none.
    assert_eq!(complete(&app, &key, "demo").await.status, 200);
    let mut kept = 0;
    while app.post("/api/chat", KEY, &body).await.status == 200 {
        kept += 1;
        assert!(kept < 20);
    }
    assert!(kept >= 4, "{kept}");
    assert_eq!(app.post("/api/chat", ADMIN_KEY, &body).await.status, 200);
    assert_eq!(app.call("DELETE", "/api/conversations", &[("x-api-key", &key)], None).await.status, 200);
    assert_eq!(app.post("/api/chat", &key, &body).await.status, 200);
}

/// A mirror that begins its answers and never ends them.
async fn endless() -> Fake {
    Fake::start(|request: &Request| {
        if request.line.starts_with("GET") {
            return send(response("200 OK", "application/json", r#"{"data": [{"id": "a"}]}"#));
        }
        vec![stream_head(), chunk("begun", None), Step::Hang]
    })
    .await
}

#[actix_web::test]
async fn so_many_questions_at_once_as_the_key_may() {
    let fake = endless().await;
    let app = spawn_before(&fake.url, "openai", &[("DEFAULT_MODEL", "a")]).await;
    let key = new_key(&app, "two", json!({"parallel": 2})).await;
    let begun: Vec<_> = (0..2).map(|_| actix_web::rt::spawn(stream(app.address, key.clone()))).collect();
    posted(&fake, 2).await;
    let refused = complete(&app, &key, "a").await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]["code"]),
        (429, &json!("key_limit_reached"))
    );
    begun.iter().for_each(actix_web::rt::task::JoinHandle::abort);
    // Whoever leaves makes room.
    let start = Instant::now();
    while tokio::time::timeout(Duration::from_millis(300), complete(&app, &key, "a")).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the mirror was asked so many questions.
async fn posted(fake: &Fake, count: usize) {
    while fake.requests().iter().filter(|request| request.line.starts_with("POST")).count() < count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn stream(address: std::net::SocketAddr, key: String) -> Answer {
    let body = json!({"model": "a", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let headers = [("x-api-key", key.as_str()), ("content-type", "application/json")];
    call(address, "POST", "/v1/chat/completions", &headers, Some(body.to_string().into_bytes())).await
}

#[actix_web::test]
async fn revoking_a_key_ends_its_running_answers() {
    let fake = endless().await;
    let app = spawn_before(&fake.url, "openai", &[("DEFAULT_MODEL", "a")]).await;
    let key = new_key(&app, "gone", json!({})).await;
    let streams: Vec<_> = (0..2).map(|_| actix_web::rt::spawn(stream(app.address, key.clone()))).collect();
    let address = app.address;
    let question = actix_web::rt::spawn(async move {
        crate::helpers::post(address, "/api/chat", &key, r#"{"message": "hi"}"#).await
    });
    posted(&fake, 3).await;
    let start = Instant::now();
    assert_eq!(as_owner(&app, "DELETE", "/api/keys/gone", Value::Null).await.status, 200);
    for stream in streams {
        let answer = stream.await.expect("it ends");
        assert!(answer.text.contains("revoked") && !answer.text.contains("[DONE]"), "{}", answer.text);
    }
    let answer = question.await.expect("it ends");
    assert!(answer.text.contains("revoked") && answer.json()["success"] == false, "{}", answer.text);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[actix_web::test]
async fn a_key_with_models_asks_those_alone_on_every_face() {
    let fake = mirror().await;
    let app = spawn_before(&fake.url, "openai", &[("DEFAULT_MODEL", "a")]).await;
    let key = new_key(&app, "b-only", json!({"models": ["b"]})).await;
    assert_eq!(complete(&app, &key, "b").await.status, 200);
    let refused = complete(&app, &key, "a").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["code"]), (403, &json!("not_allowed")));
    assert!(refused.text.contains("name one of: b"), "{}", refused.text);
    assert_eq!(app.post("/api/chat", &key, r#"{"message": "hi", "model": "a"}"#).await.code(), "not_allowed");
    assert_eq!(ask(&app, &key).await.status, 200, "without a name the key's own model is asked");
    assert_eq!(fake.requests().last().expect("asked").json()["model"], "b");
    let said = r#""messages": [{"role": "user", "content": "hi"}]"#;
    for head in ["", r#""model": null,"#, r#""model": " ","#] {
        assert_eq!(app.post("/v1/chat/completions", &key, &format!("{{{head}{said}}}")).await.status, 200);
        assert_eq!(fake.requests().last().expect("asked").json()["model"], "b", "{head}");
    }
    for head in [r#""model": "b", "Model": "a","#, r#""model": "b", "models": ["a"],"#, r#""MODEL": "a","#] {
        let refused = app.post("/v1/chat/completions", &key, &format!("{{{head}{said}}}")).await;
        assert_eq!(refused.status, 403, "{head}: {}", refused.text);
    }
    for (body, status) in [
        (r#"{"model": "b", "input": "x", "Model": "a"}"#, 403),
        (r#"{"model": "b", "input": "x"}"#, 200),
        (r#"{"model": "a", "input": "x"}"#, 403),
        (r#"{"input": "x"}"#, 403),
    ] {
        assert_eq!(app.post("/v1/embeddings", &key, body).await.status.as_u16(), status, "{body}");
    }
    let form = |model: &str| {
        format!("--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--x--\r\n")
    };
    for (body, status) in [
        (form("b"), 200),
        (form("a"), 403),
        (form("b") + &form("a"), 403),
        (form("b") + &form("a").replace('"', ""), 403),
    ] {
        let headers = [("x-api-key", key.as_str()), ("content-type", "multipart/form-data; boundary=x")];
        let answer =
            app.call("POST", "/v1/audio/transcriptions", &headers, Some(body.clone().into_bytes())).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
    }
    let models = app.call("GET", "/api/models", &[("x-api-key", &key)], None).await.json();
    assert_eq!(
        (&models["models"][0]["id"], models["models"].as_array().map(Vec::len), &models["default_model"]),
        (&json!("b"), Some(1), &json!("b"))
    );
    let models = app.call("GET", "/v1/models", &[("x-api-key", &key)], None).await.json();
    assert_eq!(models["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(app.call("GET", "/v1/models/a", &[("x-api-key", &key)], None).await.status, 403);
}
