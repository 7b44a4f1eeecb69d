//! The tool that answers in plain text.

use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, TestApp, raw, spawn, spawn_before};
use crate::upstream::{Fake, Request, Step, chunk, chunked, response, send, stream_head};

const TEXT: &str = "text/plain; charset=utf-8";

/// Says how many messages came, over two lines.
fn counting(request: &Request) -> Vec<Step> {
    let count = request.json()["messages"].as_array().map_or(0, Vec::len);
    let choice = json!({"message": {"content": format!("{count}\n你好")}, "finish_reason": "stop"});
    send(response("200 OK", "application/json", &json!({"choices": [choice]}).to_string()))
}

async fn ask(app: &TestApp, body: Value) -> Answer {
    app.post("/api/ask", KEY, &body.to_string()).await
}

/// What the service sends for this question, to the last byte.
async fn bytes(app: &TestApp, message: &str) -> String {
    let body = json!({"message": message}).to_string();
    let request = format!(
        "POST /api/ask HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(app.address, request.as_bytes()).await
}

#[actix_web::test]
async fn the_answer_comes_alone_and_a_name_continues_the_conversation() {
    let fake = Fake::start(counting).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let mut answers = Vec::new();
    for body in [
        json!({"message": "one"}),
        json!({"message": "two", "conversation": "客戶 7"}),
        json!({"message": "three", "conversation": " 客戶 7 ", "model": "ignored"}),
        json!({"message": "four", "conversation_id": "客戶 7"}),
        json!({"message": "five", "conversation": "None"}),
    ] {
        let answer = ask(&app, body).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some(TEXT)));
        answers.push(answer.text);
    }
    assert_eq!(answers, ["1\n你好", "1\n你好", "3\n你好", "5\n你好", "1\n你好"]);
    let chat = app.chat(json!({"message": "six", "conversation_id": "客戶 7"})).await.json();
    assert_eq!(chat["answer"], "7\n你好", "both tools have the same conversations");
}

#[actix_web::test]
async fn a_failure_is_its_status_with_one_line_that_says_what_to_do() {
    let fake = Fake::start(|_| send(response("401 Unauthorized", "application/json", "{}"))).await;
    let app = spawn_before(&fake.url, "openai", &[("MAX_BODY_BYTES", "2000")]).await;
    let good = format!("Bearer {KEY}");
    let long = json!({"message": "x".repeat(3000)}).to_string();
    let json = "application/json";
    for (method, key, media, body, status, words) in [
        ("POST", good.as_str(), json, r#"{"message":"x"}"#, 424, "UPSTREAM_API_KEY"),
        ("POST", &good, json, r#"{"message":" "}"#, 422, "`message` is empty; send"),
        ("POST", &good, json, r#"{"message":"x","conversation":"conv_1"}"#, 404, "no such conversation"),
        ("POST", &good, json, "{", 400, "not JSON"),
        ("POST", &good, json, &long, 413, "MAX_BODY_BYTES"),
        ("POST", &good, "text/plain", "x", 415, "Content-Type: application/json"),
        ("POST", "Bearer wrong", json, r#"{"message":"x"}"#, 401, "GATEWAY_API_KEYS"),
        ("GET", &good, json, "", 405, "use POST"),
    ] {
        let headers = [("authorization", key), ("content-type", media)];
        let answer = app.call(method, "/api/ask", &headers, Some(body.into())).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
        assert_eq!(answer.header("content-type"), Some(TEXT));
        assert!(answer.text.contains(words) && answer.text.contains("; "), "{}", answer.text);
        assert!(!answer.text.contains('\n') && !answer.text.starts_with('{'), "{}", answer.text);
        assert!(answer.header("x-request-id").is_some());
    }
    assert_eq!(fake.requests().len(), 1);
}

#[actix_web::test]
async fn after_blanks_an_answer_is_whole_and_a_failure_breaks_the_connection() {
    let fake = Fake::start(|request| {
        let mut steps = vec![Step::Pause(Duration::from_millis(500))];
        match request.body.contains("fail") {
            true => steps.extend(send(response("500 Oops", "application/json", "{}"))),
            false => steps.extend(counting(request)),
        }
        steps
    })
    .await;
    let beats = [("HEARTBEAT_AFTER_SECONDS", "0.2"), ("HEARTBEAT_SECONDS", "0.1")];
    let app = spawn_before(&fake.url, "openai", &beats).await;
    let good = bytes(&app, "hi").await;
    assert!(good.starts_with("HTTP/1.1 200") && good.contains(TEXT), "{good}");
    assert!(good.contains("\r\n1\r\n\n\r\n") && good.ends_with("\r\n1\n你好\r\n0\r\n\r\n"), "{good:?}");
    let failed = bytes(&app, "fail").await;
    let (head, body) = failed.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("chunked"), "{head}");
    assert!(body.starts_with("1\r\n\n\r\n"), "{body:?}");
    // Without the last chunk a client knows that the answer is not whole: RFC 9112, section 8.
    assert!(!body.contains("0\r\n\r\n") && !body.contains("upstream"), "{body:?}");
}

#[actix_web::test]
async fn nobody_is_told_to_come_back_for_plain_text() {
    let fake = Fake::start(|_| {
        vec![stream_head(), chunk("part", None), Step::Pause(Duration::from_secs(5)), Step::Close]
    })
    .await;
    let settings = [("REQUEST_TIMEOUT_SECONDS", "0.3"), ("LONG_ANSWERS", "true")];
    let app = spawn_before(&fake.url, "openai", &settings).await;
    let answer = ask(&app, json!({"message": "hi"})).await;
    assert_eq!(answer.status.as_u16(), 424, "{}", answer.text);
    assert!(answer.text.contains("REQUEST_TIMEOUT_SECONDS") && !answer.text.contains("part"));
}

#[actix_web::test]
async fn importers_that_take_json_alone_are_not_told_of_it() {
    let app = spawn(&[]).await;
    let path = |document: &Value| document["paths"]["/api/ask"].clone();
    for (url, told) in
        [("/openapi.json", false), ("/openapi.json?for=coze", false), ("/openapi.json?for=Dify", true)]
    {
        assert_eq!(path(&app.get(url).await.json()).is_object(), told, "{url}");
    }
    assert!(app.get("/openapi.yaml?for=dify").await.text.contains("/api/ask"));
    let full = app.get("/openapi/full.json").await.json();
    for document in [app.get("/openapi.json?for=dify").await.json(), full] {
        let operation = &path(&document)["post"];
        for response in ["200", "default"] {
            let content = operation["responses"][response]["content"].as_object().expect("content");
            assert_eq!(content.keys().collect::<Vec<_>>(), ["text/plain"]);
        }
    }
}

#[actix_web::test]
async fn over_mcp_it_gives_its_text_and_no_object() {
    let fake = Fake::start(|request| match request.body.contains("fail") {
        true => send(response("401 Unauthorized", "application/json", "{}")),
        false => counting(request),
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let rpc = async |method: &str, params: Value| {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        app.post("/mcp", KEY, &message.to_string()).await.json()["result"].clone()
    };
    let tools = rpc("tools/list", json!({})).await;
    let tool = tools["tools"].as_array().expect("tools").iter().find(|tool| tool["name"] == "ask");
    let tool = tool.expect("it is listed");
    assert_eq!(tool["inputSchema"]["required"], json!(["message"]));
    assert_eq!(tool.get("outputSchema"), None);
    let call = |message: &str| {
        rpc("tools/call", json!({"name": "ask", "arguments": {"message": message, "conversation": "c"}}))
    };
    call("one").await;
    let result = call("two").await;
    assert_eq!(result["content"], json!([{"type": "text", "text": "3\n你好"}]));
    assert_eq!((&result["isError"], result.get("structuredContent")), (&json!(false), None));
    let failed = call("fail").await;
    let text = failed["content"][0]["text"].as_str().expect("a text");
    assert!(failed["isError"] == true && text.contains("UPSTREAM_API_KEY"), "{failed}");
}

#[actix_web::test]
async fn a_web_chat_answers_in_plain_text_too() {
    let lines = "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\",\"responseId\":\"r1\"}}}}\n";
    let fake = Fake::start(move |_| send(chunked("application/x-ndjson", lines))).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    for _ in 0..2 {
        assert_eq!(ask(&app, json!({"message": "Hello", "conversation": "n"})).await.text, "Hi");
    }
    assert!(fake.requests()[1].line.contains("/conversations/c1/responses"));
}
