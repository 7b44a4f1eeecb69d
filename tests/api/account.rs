//! What of the upstream's account a caller reaches through `/v1`.

use serde_json::json;

use crate::helpers::{ADMIN_KEY, Answer, KEY, OTHER_KEY, TestApp, spawn_before};
use crate::keys::new_key;
use crate::upstream::{Fake, Request, response, send};

/// A mirror that keeps answers and files.
async fn account() -> Fake {
    Fake::start(|request: &Request| {
        let json = |text: &str| send(response("200 OK", "application/json", text));
        if request.line.starts_with("POST /v1/responses ") && request.json()["stream"] == true {
            let created = json!({"type": "response.created", "response": {"id": "resp_stream", "object": "response"}});
            let done = json!({"type": "response.completed", "response": {"id": "resp_stream", "object": "response"}});
            let item = json!({"type": "response.output_item.added", "item": {"id": "msg_stream", "type": "message"}});
            let events = format!("event: response.created\ndata: {created}\n\nevent: response.output_item.added\ndata: {item}\n\nevent: response.completed\ndata: {done}\n\n");
            return send(response("200 OK", "text/event-stream", &events));
        }
        if request.line.starts_with("POST /v1/responses ") {
            return json(r#"{"id": "resp_whole", "object": "response", "output": [{"id": "msg_whole", "type": "message"}]}"#);
        }
        if request.line.contains("/content") {
            return send(response("200 OK", "image/svg+xml", "<svg onload='alert(1)'/>"));
        }
        if request.line.contains("/several") {
            return send(response("200 OK", "application/json;a, text/html", "{\"a\": \"<script>\"}"));
        }
        if request.line.contains("/speech") {
            return send(response("200 OK", "audio/mpeg", "sound"));
        }
        json(r#"{"object": "list", "data": []}"#)
    })
    .await
}

async fn get(app: &TestApp, key: &str, path: &str) -> Answer {
    app.call("GET", path, &[("x-api-key", key)], None).await
}

fn is_refused(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (403, &json!("not_allowed")),
        "{what}"
    );
}

#[actix_web::test]
async fn what_the_account_keeps_is_the_owners() {
    let fake = account().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (method, path) in [
        ("GET", "/v1/files"),
        ("GET", "/v1/%66iles"),
        ("GET", "/v1/v1/files"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/organization/admin_api_keys"),
        ("POST", "/v1/batches"),
        ("DELETE", "/v1/models/ft:a"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
    ] {
        let headers = [("x-api-key", KEY), ("content-type", "application/json")];
        let body = (method == "POST").then(|| b"{}".to_vec());
        let answer = app.call(method, path, &headers, body).await;
        assert!(matches!(answer.status.as_u16(), 403 | 405), "{method} {path}: {}", answer.text);
    }
    // What an address's reader, or a server behind it, leaves out must not make another path.
    for path in [
        "/v1/images/../files",
        "/v1/images/%2e%2e%2ffiles",
        "/v1/images/.%0d./files",
        "/v1/images/%09../files",
        "/v1/audio/..%0a/files",
        "/v1/audio/..;/files",
        "/v1/audio/..;a=b/files",
        "/v1/audio/..%20/files",
        "/v1/audio/x%00",
    ] {
        let answer = app.call("GET", path, &[("x-api-key", KEY)], None).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
    }
    assert_eq!(fake.requests().len(), 0);
    assert_eq!(get(&app, ADMIN_KEY, "/v1/files").await.status, 200);
    let key = new_key(&app, "files", json!({"paths": ["files"]})).await;
    assert_eq!(get(&app, &key, "/v1/files/file-1").await.status, 200);
    is_refused(&get(&app, &key, "/v1/batches").await, "another path");
    assert_eq!(app.post("/v1/embeddings", KEY, r#"{"model": "m", "input": "x"}"#).await.status, 200);
}

#[actix_web::test]
async fn an_answer_that_the_upstream_keeps_is_read_and_gone_on_with_by_its_maker_alone() {
    let fake = account().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (body, id, part) in [
        (json!({"model": "m", "input": "x"}), "resp_whole", "msg_whole"),
        (json!({"model": "m", "input": "x", "stream": true}), "resp_stream", "msg_stream"),
    ] {
        let path = format!("/v1/responses/{id}");
        assert_eq!(get(&app, KEY, &path).await.status, 404, "nobody has made it");
        let made = app.post("/v1/responses", KEY, &body.to_string()).await;
        assert!(made.text.contains(id), "{}", made.text);
        assert_eq!(get(&app, KEY, &path).await.status, 200);
        assert_eq!(get(&app, KEY, &format!("{path}/input_items")).await.status, 200);
        assert_eq!(get(&app, ADMIN_KEY, &path).await.status, 200);
        let asked = fake.requests().len();
        assert_eq!(get(&app, OTHER_KEY, &path).await.status, 404);
        let on = json!({"model": "m", "input": "y", "previous_response_id": id}).to_string();
        assert_eq!(app.post("/v1/responses", OTHER_KEY, &on).await.status, 404);
        let part = json!({"model": "m", "input": [{"type": "item_reference", "id": part}]}).to_string();
        assert_eq!(app.post("/v1/responses", OTHER_KEY, &part).await.status, 404);
        assert_eq!(fake.requests().len(), asked);
        assert_eq!(app.post("/v1/responses", KEY, &on).await.status, 200);
        assert_eq!(app.post("/v1/responses", KEY, &part).await.status, 200);
    }
}

#[actix_web::test]
async fn ids_inside_a_body_need_the_path_of_what_they_name() {
    let fake = account().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let file = json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]});
    is_refused(&app.post("/v1/chat/completions", KEY, &file.to_string()).await, "a file in a chat");
    let escaped = file.to_string().replace("file_id", "file\\u005fid");
    is_refused(&app.post("/v1/chat/completions", KEY, &escaped).await, "the same with an escape");
    for body in [
        json!({"model": "m", "input": "x", "conversation": "conv_1"}),
        json!({"model": "m", "input": "x", "prompt": {"id": "pmpt_1"}}),
        json!({"model": "m", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
    ] {
        is_refused(&app.post("/v1/responses", KEY, &body.to_string()).await, &body.to_string());
    }
    let form = b"--x\r\nContent-Disposition: form-data; name=\"image[file_id]\"\r\n\r\nfile-1\r\n--x--\r\n";
    let headers = [("x-api-key", KEY), ("content-type", "multipart/form-data; boundary=x")];
    is_refused(&app.call("POST", "/v1/images/edits", &headers, Some(form.to_vec())).await, "a form");
    let list = b"--x\r\nContent-Disposition: form-data; name=\"images\"\r\n\r\n[\n{\"file_id\":\"file-1\"}]\r\n--x--\r\n";
    is_refused(&app.call("POST", "/v1/images/edits", &headers, Some(list.to_vec())).await, "JSON over lines");
    let id =
        b"--x\r\nContent-Disposition: form-data; name=\"previous_response_id\"\r\n\r\n\nresp_1\r\n--x--\r\n";
    assert_eq!(app.call("POST", "/v1/responses", &headers, Some(id.to_vec())).await.status, 404);
    let undeclared = br#"{"model":"m","input":"x","previous_response_id":"resp_1"}"#;
    assert_eq!(app.call("POST", "/v1/responses", &headers, Some(undeclared.to_vec())).await.status, 400);
    // What some upstream may read, and this service does not, goes to none.
    let utf16: Vec<u8> = file.to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (media, body) in [
        ("application/json", &br#"{"temperature":NaN,"previous_response_id":"resp_1"}"#[..]),
        ("application/json", &utf16),
        ("application/json; charset=utf-7", br#"{"a":"+AGY-"}"#),
    ] {
        let headers = [("x-api-key", KEY), ("content-type", media)];
        let answer = app.call("POST", "/v1/responses", &headers, Some(body.to_vec())).await;
        assert!(matches!(answer.status.as_u16(), 400 | 415), "{media}: {}", answer.text);
    }
    for body in [
        r#"{"previous_response_id":1,"previous_response_id":"resp_1"}"#,
        r#"{"x":"\ud800","Previous_Response_Id":"resp_1"}"#,
        r#"{"input":[{"id":"msg_1","role":null}]}"#,
    ] {
        assert_eq!(app.post("/v1/responses", KEY, body).await.status, 404, "{body}");
    }
    assert_eq!(fake.requests().len(), 0);
}

#[actix_web::test]
async fn what_a_key_has_made_it_reads_and_deletes_without_a_question() {
    let fake = account().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let key = new_key(&app, "narrow", json!({"rpm": 1, "tokens_per_day": 1000, "models": ["m"]})).await;
    let ask = async |body: serde_json::Value| app.post("/v1/responses", &key, &body.to_string()).await;
    let background = ask(json!({"model": "m", "input": "x", "background": true})).await;
    is_refused(&background, "nobody knows what it costs");
    let tool = json!({"model": "m", "input": "x", "tools": [{"type": "image_generation", "model": "dear"}]});
    is_refused(&ask(tool).await, "a tool's model");
    let unnamed = ask(json!({"input": "x"})).await;
    is_refused(&unnamed, "no model");
    assert!(unnamed.text.contains("name one of these in `model`: m"), "{}", unnamed.text);
    assert_eq!(fake.requests().len(), 0);
    assert_eq!(ask(json!({"model": "m", "input": "x"})).await.status, 200);
    assert_eq!(ask(json!({"model": "m", "input": "x"})).await.status, 429);
    let used = || async { get(&app, &key, "/api/usage").await.json()["usage"].clone() };
    let before = used().await;
    let path = "/v1/responses/resp_whole";
    for method in ["GET", "HEAD", "DELETE"] {
        assert_eq!(app.call(method, path, &[("x-api-key", &key)], None).await.status, 200, "{method}");
        assert_eq!(app.call(method, path, &[("x-api-key", OTHER_KEY)], None).await.status, 404, "{method}");
    }
    assert_eq!(used().await, before);
    for (method, path, allow) in [
        ("GET", "/v1/embeddings", "POST"),
        ("GET", "/v1/responses", "POST"),
        ("PATCH", "/v1/files", "GET, POST, DELETE"),
    ] {
        let answer = app.call(method, path, &[("x-api-key", &key)], None).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
}

#[actix_web::test]
async fn what_the_owner_changes_in_the_account_stands_in_the_audit_trail() {
    let fake = account().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    get(&app, ADMIN_KEY, "/v1/files").await;
    app.post("/v1/embeddings", ADMIN_KEY, r#"{"model": "m", "input": "x"}"#).await;
    app.call("DELETE", "/v1/files/file-1", &[("x-api-key", ADMIN_KEY)], None).await;
    let entries = get(&app, ADMIN_KEY, "/api/audit").await.json()["entries"].clone();
    assert_eq!(entries.as_array().map(Vec::len), Some(1), "{entries}");
    assert_eq!(
        (&entries[0]["action"], &entries[0]["target"]),
        (&json!("account.change"), &json!("DELETE files/file-1"))
    );
}

#[actix_web::test]
async fn a_callers_name_of_a_call_is_its_own_before_the_upstream_too() {
    let fake = account().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for key in [KEY, OTHER_KEY, KEY] {
        let headers = [("x-api-key", key), ("content-type", "application/json"), ("idempotency-key", "same")];
        app.call("POST", "/v1/embeddings", &headers, Some(br#"{"model":"m","input":"x"}"#.to_vec())).await;
    }
    let seen = fake.requests();
    let names: Vec<_> = seen.iter().filter_map(|request| request.header("idempotency-key")).collect();
    assert_eq!(names.len(), 3);
    assert!(names[0] == names[2] && names[0] != names[1], "{names:?}");
}

#[actix_web::test]
async fn what_a_browser_would_run_is_a_download() {
    let fake = account().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let picture = get(&app, ADMIN_KEY, "/v1/files/file-1/content").await;
    assert_eq!(picture.header("content-disposition"), Some("attachment"));
    assert_eq!(picture.header("content-security-policy"), Some("default-src 'none'; sandbox"));
    // Of several types a browser takes the last.
    let several = get(&app, KEY, "/v1/audio/several").await;
    assert_eq!(several.header("content-type"), Some("application/json;a"));
    assert_eq!(several.header("content-security-policy"), Some("default-src 'none'; sandbox"));
    let sound = app.post("/v1/audio/speech", KEY, r#"{"model": "m", "input": "x"}"#).await;
    assert_eq!((sound.header("content-disposition"), sound.text.as_str()), (None, "sound"));
}
