//! MCP of 2026-07-28: each request stands for itself, and its headers agree with its body.

use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, TestApp, spawn};

const VERSION: &str = "2026-07-28";

/// What each request says of its client.
fn meta(version: &str) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// Sends a request with these headers beside the key and the media type.
async fn send(app: &TestApp, method: &str, params: Value, headers: &[(&str, &str)]) -> Answer {
    let authorization = format!("Bearer {KEY}");
    let mut all = vec![
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    all.extend_from_slice(headers);
    let message = json!({"jsonrpc": "2.0", "id": "q-1", "method": method, "params": params});
    app.call("POST", "/mcp", &all, Some(message.to_string().into_bytes())).await
}

/// A request as the revision wants it, and its result.
async fn result(app: &TestApp, method: &str, mut params: Value) -> Value {
    let name = params["name"].as_str().unwrap_or_default().to_string();
    params["_meta"] = meta(VERSION);
    let headers = [("mcp-protocol-version", VERSION), ("mcp-method", method), ("mcp-name", &name)];
    let answer = send(app, method, params, &headers).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["id"], "q-1");
    assert_eq!(body["result"]["resultType"], "complete", "{body}");
    assert_eq!(body["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "mirrorgate");
    body["result"].clone()
}

/// Status, code and data of a refusal, which has the request's id.
fn refusal(answer: &Answer) -> (u16, i64, Value) {
    let body = answer.json();
    assert_eq!(body["id"], "q-1", "{body}");
    assert!(body["error"]["data"]["hint"].is_string(), "{body}");
    let code = body["error"]["code"].as_i64().expect("a code");
    (answer.status.as_u16(), code, body["error"]["data"].clone())
}

#[actix_web::test]
async fn a_client_discovers_lists_and_calls_without_introducing_itself() {
    let app = spawn(&[]).await;
    let discovered = result(&app, "server/discover", json!({})).await;
    assert_eq!(discovered["supportedVersions"][0], VERSION);
    assert_eq!(discovered["supportedVersions"].as_array().map(Vec::len), Some(5));
    assert_eq!(discovered["capabilities"], json!({"tools": {}}));
    let listed = result(&app, "tools/list", json!({})).await;
    for kept in [&discovered, &listed] {
        assert!(kept["ttlMs"].as_u64().is_some_and(|ttl| ttl > 0), "{kept}");
        assert_eq!(kept["cacheScope"], "public");
    }
    for tool in listed["tools"].as_array().expect("tools") {
        let called = result(&app, "tools/call", json!({"name": tool["name"], "arguments": {}})).await;
        assert!(called["isError"].is_boolean() && called.get("ttlMs").is_none(), "{called}");
    }
    let called = result(&app, "tools/call", json!({"name": "chat", "arguments": {"message": "Hello"}})).await;
    assert_eq!(called["structuredContent"]["success"], true);
    assert!(called["_meta"]["usage"]["total_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{called}");
}

#[actix_web::test]
async fn a_client_of_an_older_revision_is_told_nothing_of_it() {
    let app = spawn(&[]).await;
    for headers in [vec![], vec![("mcp-protocol-version", "2025-11-25")]] {
        let answer = send(&app, "server/discover", json!({}), &headers).await;
        let (status, code, _) = refusal(&answer);
        assert_eq!((status, code), (200, -32601));
        let body = send(&app, "tools/list", json!({}), &headers).await.json();
        for new in ["resultType", "ttlMs", "cacheScope", "_meta"] {
            assert_eq!(body["result"].get(new), None, "{new}");
        }
    }
}

#[actix_web::test]
async fn methods_that_the_revision_does_not_have_are_not_found() {
    let app = spawn(&[]).await;
    for method in ["initialize", "ping", "logging/setLevel", "prompts/list", "unknown/method"] {
        let headers = [("mcp-protocol-version", VERSION), ("mcp-method", method)];
        let answer = send(&app, method, json!({"_meta": meta(VERSION)}), &headers).await;
        let (status, code, _) = refusal(&answer);
        assert_eq!((status, code), (404, -32601), "{method}");
    }
}

#[actix_web::test]
async fn a_request_says_all_that_is_required_of_it() {
    let app = spawn(&[]).await;
    let without = |key: &str| {
        let mut meta = meta(VERSION);
        meta.as_object_mut().expect("an object").remove(&format!("io.modelcontextprotocol/{key}"));
        json!({"_meta": meta})
    };
    let headers = [("mcp-protocol-version", VERSION), ("mcp-method", "tools/list")];
    for params in [json!({}), json!({"_meta": 1}), without("protocolVersion"), without("clientCapabilities")]
    {
        let answer = send(&app, "tools/list", params.clone(), &headers).await;
        let (status, code, _) = refusal(&answer);
        assert_eq!((status, code), (400, -32602), "{params}");
    }
    let answer = send(&app, "tools/list", without("clientInfo"), &headers).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let headers = [("mcp-protocol-version", VERSION), ("mcp-method", "tools/call"), ("mcp-name", "none")];
    let answer = send(&app, "tools/call", json!({"name": "none", "_meta": meta(VERSION)}), &headers).await;
    let (status, code, _) = refusal(&answer);
    assert_eq!((status, code), (400, -32602));
}

#[actix_web::test]
async fn the_headers_agree_with_the_body() {
    let app = spawn(&[]).await;
    let version = ("mcp-protocol-version", VERSION);
    let method = ("mcp-method", "tools/call");
    for (headers, good) in [
        (vec![version, method, ("mcp-name", "health")], true),
        (vec![version, method, ("mcp-name", "=?base64?aGVhbHRo?=")], true),
        (vec![version, method, ("mcp-name", "=?base64?Y2hhdA==?=")], false),
        (vec![version, method, ("mcp-name", "chat")], false),
        (vec![version, method], false),
        (vec![version, ("mcp-name", "health")], false),
        (vec![version, ("mcp-method", "TOOLS/CALL"), ("mcp-name", "health")], false),
        (vec![method, ("mcp-name", "health")], false),
        (vec![("mcp-protocol-version", "2025-11-25"), method, ("mcp-name", "health")], false),
    ] {
        let params = json!({"name": "health", "arguments": {}, "_meta": meta(VERSION)});
        let answer = send(&app, "tools/call", params, &headers).await;
        if good {
            assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text);
        } else {
            let (status, code, _) = refusal(&answer);
            assert_eq!((status, code), (400, -32020), "{headers:?}");
        }
    }
}

#[actix_web::test]
async fn a_version_that_is_not_spoken_is_told_with_those_that_are() {
    let app = spawn(&[]).await;
    let headers = [("mcp-protocol-version", "2031-01-01"), ("mcp-method", "tools/list")];
    for params in [json!({"_meta": meta("2031-01-01")}), json!({})] {
        let (status, code, data) = refusal(&send(&app, "tools/list", params, &headers).await);
        assert_eq!((status, code), (400, -32022));
        assert_eq!(data["requested"], "2031-01-01");
        let all = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
        assert_eq!(data["supported"], json!(all));
    }
}
