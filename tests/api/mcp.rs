//! The tools over MCP, message by message.

use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, OTHER_KEY, TestApp, call, spawn, spawn_before};
use crate::upstream::{Fake, Request, Step, chunk, response, send, stream_end, stream_head};

const COMPLETION: &str = r#"{"id":"r1","model":"real","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn answers(_: &Request) -> Vec<Step> {
    send(response("200 OK", "application/json", COMPLETION))
}

/// Sends a request and returns the message that answers it.
async fn rpc(app: &TestApp, method: &str, params: Value) -> Value {
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let answer = app.post("/mcp", KEY, &message.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &json!(7)));
    body
}

/// Calls a tool; its envelope, and whether the call failed.
async fn tool(app: &TestApp, name: &str, arguments: Value) -> (Value, bool) {
    let result = rpc(app, "tools/call", json!({"name": name, "arguments": arguments})).await["result"].take();
    let text = result["content"][0]["text"].as_str().expect("a text");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), result["structuredContent"]);
    (result["structuredContent"].clone(), result["isError"].as_bool().expect("whether it failed"))
}

async fn with_headers(app: &TestApp, headers: &[(&str, &str)]) -> Answer {
    let authorization = format!("Bearer {KEY}");
    let mut all = vec![("authorization", authorization.as_str()), ("content-type", "application/json")];
    all.extend_from_slice(headers);
    let ping = json!({"jsonrpc": "2.0", "id": "a", "method": "ping"}).to_string();
    app.call("POST", "/mcp", &all, Some(ping.into_bytes())).await
}

#[actix_web::test]
async fn a_client_gets_the_version_it_asks_for_or_one_it_knows() {
    let app = spawn(&[]).await;
    for (asked, spoken) in [
        ("2026-07-28", "2025-11-25"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2027-01-01", "2025-11-25"),
        ("1.0", "2025-06-18"),
    ] {
        let params = json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
        let result = rpc(&app, "initialize", params).await["result"].take();
        assert_eq!(result["protocolVersion"], spoken, "{asked}");
        assert_eq!(result["serverInfo"]["name"], "mirrorgate");
        assert!(result["capabilities"]["tools"].is_object());
    }
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    for path in ["/mcp", "/mcp/"] {
        let answer = app.post(path, KEY, &notification.to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (202, ""), "{path}");
    }
    assert_eq!(rpc(&app, "ping", json!({})).await["result"], json!({}));
}

/// Its transport was another one, and its messages are these.
#[actix_web::test]
async fn a_client_of_the_first_revision_is_served() {
    let app = spawn(&[]).await;
    let hello = json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
    let introduced = rpc(&app, "initialize", hello).await["result"].take();
    assert_eq!(introduced["protocolVersion"], "2024-11-05");
    // No header with the version was known then.
    let listed = rpc(&app, "tools/list", json!({})).await["result"].take();
    assert!(listed["tools"].as_array().is_some_and(|tools| tools.len() == 4), "{listed}");
    let (chat, failed) = tool(&app, "chat", json!({"message": "Hello"})).await;
    assert!(!failed && chat["answer"].as_str().is_some_and(|answer| !answer.is_empty()), "{chat}");
}

#[actix_web::test]
async fn the_tools_are_those_of_the_document() {
    for (settings, names) in [
        (vec![], vec!["chat", "ask", "list_models", "health"]),
        (vec![("LONG_ANSWERS", "true")], vec!["chat", "ask", "list_models", "health", "get_answer"]),
    ] {
        let app = spawn(&settings).await;
        let tools = rpc(&app, "tools/list", json!({})).await["result"]["tools"].take();
        let tools = tools.as_array().expect("a list");
        let mut listed: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().expect("a name")).collect();
        listed.sort_by_key(|name| names.iter().position(|known| known == name));
        assert_eq!(listed, names);
        let document = app.get("/openapi.json?for=dify").await.json();
        for tool in tools {
            let operations = document["paths"].as_object().expect("paths").values();
            let mut operations = operations.flat_map(|item| item.as_object().expect("an item").values());
            let operation = operations.find(|operation| operation["operationId"] == tool["name"]);
            let operation = operation.expect("every tool is an operation");
            assert_eq!(tool["description"], operation["description"]);
            // What answers in plain text has no object to describe.
            let schemas: &[&str] =
                if tool["name"] == "ask" { &["inputSchema"] } else { &["inputSchema", "outputSchema"] };
            for schema in schemas {
                assert_eq!(tool[schema]["type"], "object", "{tool}");
                let text = tool[schema].to_string();
                assert!(!text.contains("$ref") && !text.contains("nullable"), "{text}");
            }
        }
        let of = |name: &str| tools.iter().find(|tool| tool["name"] == name).expect("the tool");
        assert_eq!(of("chat")["inputSchema"]["required"], json!(["message"]));
        assert_eq!(of("health")["inputSchema"]["properties"], json!({}));
        let long = names.contains(&"get_answer");
        assert_eq!(of("chat")["inputSchema"]["properties"]["wait_seconds"].is_object(), long);
        if long {
            assert_eq!(of("get_answer")["inputSchema"]["required"], json!(["response_id"]));
        }
    }
}

#[actix_web::test]
async fn every_listed_tool_can_be_called() {
    let app = spawn(&[("LONG_ANSWERS", "true")]).await;
    let listed = rpc(&app, "tools/list", json!({})).await["result"]["tools"].take();
    let names: Vec<_> = listed.as_array().expect("tools").iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, ["chat", "ask", "list_models", "health", "get_answer"]);
    for name in names {
        // Without arguments some fail, but as tools do.
        let result = rpc(&app, "tools/call", json!({"name": name, "arguments": {}})).await["result"].take();
        let failed = result["isError"].as_bool().expect("whether it failed");
        match result.get("structuredContent") {
            Some(envelope) => assert_eq!(envelope["success"].as_bool(), Some(!failed), "{name}"),
            None => assert!(failed && name == "ask", "{result}"),
        }
    }
}

#[actix_web::test]
async fn a_tool_returns_what_its_operation_returns_and_keeps_the_conversation() {
    let fake = Fake::start(answers).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let (first, failed) =
        tool(&app, "chat", json!({"message": "Hello", "temperature": "0.5", "model": ""})).await;
    assert!(!failed && first["success"] == true, "{first}");
    assert_eq!((&first["answer"], &first["usage"]["total_tokens"]), (&json!("Hi"), &json!(5)));
    let id = &first["conversation_id"];
    let (second, failed) = tool(&app, "chat", json!({"message": "And now?", "conversation_id": id})).await;
    assert!(!failed && second["conversation_id"] == *id, "{second}");
    assert_eq!(fake.requests()[1].json()["messages"].as_array().map(Vec::len), Some(3));

    // The same conversation is there for the other faces, and for no other key.
    let over_http = app.chat(json!({"message": "Again", "conversation_id": id})).await;
    assert_eq!(over_http.status, 200, "{}", over_http.text);
    let foreign = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "chat", "arguments": {"message": "x", "conversation_id": id}}});
    let foreign = app.post("/mcp", OTHER_KEY, &foreign.to_string()).await.json();
    assert_eq!(foreign["result"]["structuredContent"]["error"]["code"], "conversation_not_found");
    assert_eq!(foreign["result"]["isError"], true);
}

#[actix_web::test]
async fn models_and_health_are_told_as_over_http() {
    let app = spawn(&[]).await;
    let (models, failed) = tool(&app, "list_models", json!({})).await;
    // What is null over HTTP is left out here.
    let mut over_http = app.get("/api/models").await.json();
    assert_eq!(over_http.as_object_mut().expect("an object").remove("error"), Some(Value::Null));
    assert_eq!((models, failed), (over_http, false));
    let (health, failed) = tool(&app, "health", json!({})).await;
    assert_eq!((&health["status"], failed), (&json!("ok"), false));
    // Arguments may be left out where there is nothing to say.
    let bare = rpc(&app, "tools/call", json!({"name": "health"})).await;
    assert_eq!(bare["result"]["isError"], false, "{bare}");
}

#[actix_web::test]
async fn a_tools_failure_is_a_result_with_its_hint() {
    let fake = Fake::start(|_| send(response("401 Unauthorized", "application/json", "{}"))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let (envelope, failed) = tool(&app, "chat", json!({"message": "Hello"})).await;
    assert!(failed && envelope["success"] == false);
    assert_eq!(envelope["error"]["code"], "upstream_auth_expired");
    assert!(envelope["error"]["hint"].as_str().is_some_and(|hint| hint.contains("UPSTREAM_API_KEY")));
    for (name, arguments, code) in [
        ("chat", json!({}), "invalid_request"),
        ("chat", json!({"message": " "}), "invalid_request"),
        ("chat", json!({"message": "x", "temperature": "warm"}), "invalid_request"),
        ("get_answer", json!({}), "invalid_request"),
        ("get_answer", json!({"response_id": "resp_none"}), "answer_not_found"),
        ("health", json!({}), "upstream_auth_expired"),
    ] {
        let (envelope, failed) = tool(&app, name, arguments.clone()).await;
        assert!(failed, "{name} {arguments}");
        assert_eq!(envelope["error"]["code"], code, "{name} {arguments}: {envelope}");
    }
    assert_eq!(fake.requests().iter().filter(|request| request.line.starts_with("POST")).count(), 1);
}

#[actix_web::test]
async fn what_is_no_request_of_ours_is_refused_in_the_words_of_json_rpc() {
    let app = spawn(&[]).await;
    // The newer SDK asks for this first, and goes on when it is told so.
    for (method, params, code) in [
        ("server/discover", json!({}), -32601),
        ("resources/list", json!({}), -32601),
        ("tools/call", json!({"name": "none", "arguments": {}}), -32602),
        ("tools/call", json!({"arguments": {}}), -32602),
    ] {
        let body = rpc(&app, method, params).await;
        assert_eq!(body["error"]["code"], code, "{method}: {body}");
        assert!(body["error"]["data"]["hint"].is_string());
    }
    for (body, status, code) in [
        ("{", 400, -32700),
        ("", 400, -32700),
        ("[]", 400, -32600),
        (r#"{"id": 1, "method": "ping"}"#, 400, -32600),
        (r#"{"jsonrpc": "1.0", "id": 1, "method": "ping"}"#, 400, -32600),
        (r#"{"jsonrpc": "2.0", "id": {}, "method": "ping"}"#, 400, -32600),
        (r#"{"jsonrpc": "2.0", "id": null, "method": "ping"}"#, 400, -32600),
        (r#"{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}"#, 400, -32600),
        (r#"{"jsonrpc": "2.0", "id": 1, "result": {}}"#, 400, -32600),
    ] {
        let answer = app.post("/mcp", KEY, body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        let json = answer.json();
        assert_eq!((json.get("id"), &json["error"]["code"]), (None, &json!(code)), "{body}");
        assert_eq!(json["error"]["data"]["request_id"].as_str(), answer.header("x-request-id"));
    }
}

#[actix_web::test]
async fn the_key_the_method_and_the_size_are_checked_as_elsewhere() {
    let app = spawn(&[("MAX_BODY_BYTES", "1024"), ("RATE_LIMIT_PER_MINUTE", "3")]).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    let none =
        call(app.address, "POST", "/mcp", &[("content-type", "application/json")], Some(ping.clone().into()))
            .await;
    assert_eq!(none.status, 401);
    assert_eq!(none.json()["error"]["data"]["code"], "gateway_key_missing");
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    let get = app.get("/mcp").await;
    assert_eq!((get.status.as_u16(), get.header("allow")), (405, Some("POST")));
    assert_eq!(get.json()["error"]["code"], -32000);
    let large = app.post("/mcp", KEY, &format!("{ping}{}", " ".repeat(1024))).await;
    assert_eq!(large.status, 413);
    assert_eq!(large.json()["error"]["data"]["code"], "body_too_large");
    assert_eq!(app.post("/mcp", KEY, &ping).await.status, 200);
    let limited = app.post("/mcp", KEY, &ping).await;
    assert_eq!(limited.json()["error"]["data"]["code"], "rate_limited");
    assert!(limited.header("retry-after").is_some());
}

#[actix_web::test]
async fn foreign_pages_and_names_are_refused() {
    let ours =
        [("PUBLIC_URL", "https://mg.example.com"), ("CORS_ALLOWED_ORIGINS", "https://page.example.org")];
    let app = spawn(&ours).await;
    for (name, value, status) in [
        ("origin", "https://mg.example.com", 200),
        ("origin", "https://page.example.org", 200),
        ("origin", "https://evil.example.net", 403),
        ("origin", "http://mg.example.com", 403),
        ("origin", "null", 403),
        ("host", "mg.example.com", 200),
        ("host", "page.example.org", 200),
        ("host", "localhost:8080", 200),
        ("host", "[::1]:8080", 200),
        ("host", "mirrorgate:8080", 200),
        ("host", "host.docker.internal", 200),
        ("host", "evil.example.net", 403),
        ("host", "mg.example.com.evil.net", 403),
    ] {
        let answer = with_headers(&app, &[(name, value)]).await;
        assert_eq!(answer.status, status, "{name}: {value}: {}", answer.text);
        if status == 403 {
            assert_eq!(answer.json()["error"]["data"]["code"], "origin_not_allowed");
        }
    }
    // Without a key, a name that leads here by a trick is all that an attacker needs.
    let open = spawn(&[("GATEWAY_AUTH", "none"), ("GATEWAY_API_KEYS", "")]).await;
    let tricked = [("host", "evil.example.net"), ("origin", "http://evil.example.net")];
    assert_eq!(with_headers(&open, &tricked).await.status, 403);
    assert_eq!(with_headers(&open, &[]).await.status, 200);
    // Behind a tunnel whose name nobody told us, the key is what counts.
    let tunnelled = spawn(&[]).await;
    assert_eq!(with_headers(&tunnelled, &[("host", "some.tunnel.example.com")]).await.status, 200);
}

#[actix_web::test]
async fn a_version_that_is_not_spoken_is_refused_where_it_matters() {
    let app = spawn(&[]).await;
    for (version, status) in [("2025-06-18", 200), ("2024-11-05", 200), ("2031-01-01", 400), ("", 400)] {
        let answer = with_headers(&app, &[("mcp-protocol-version", version)]).await;
        assert_eq!(answer.status, status, "{version}: {}", answer.text);
    }
}

#[actix_web::test]
async fn a_late_answer_is_announced_by_blanks() {
    let fake = Fake::start(|_| {
        let wait = Step::Pause(std::time::Duration::from_millis(1500));
        vec![wait, stream_head(), chunk("late", Some("stop")), stream_end()]
    })
    .await;
    let heartbeat = [("HEARTBEAT_AFTER_SECONDS", "0.3"), ("HEARTBEAT_SECONDS", "0.2")];
    let app = spawn_before(&fake.url, "openai", &heartbeat).await;
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": {"message": "x"}}});
    let answer = app.post("/mcp", KEY, &message.to_string()).await;
    assert!(answer.text.starts_with("  "), "{}", answer.text);
    assert_eq!(answer.json()["result"]["structuredContent"]["answer"], "late");
}
