//! Every route of the full document before every kind of caller: who gets in, what the others are told, and
//! that nothing of another's is seen.
//!
//! The routes come from the document itself, so a new one without a row here fails.

use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, Answer, OTHER_KEY, TestApp, spawn};
use crate::keys::{new_key, until_ended};

/// To whom a route is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Open {
    /// To all.
    Public,
    /// To callers, within no limits.
    Free,
    /// To callers, as a question that counts to their limits.
    Asks,
    /// To callers, as a question whose refusal is a result, with 200.
    AsksInResult,
    /// To the owner.
    Owner,
}

use Open::{Asks, AsksInResult, Free, Owner, Public};

/// Each route with a body that is good for it.
fn rows() -> Vec<(&'static str, &'static str, Open, Value)> {
    let chat = json!({"model": "demo", "messages": [{"role": "user", "content": "hi"}]});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": {"message": "hi"}}});
    vec![
        ("POST", "/api/chat", Asks, json!({"message": "hi"})),
        ("POST", "/api/ask", Asks, json!({"message": "hi"})),
        ("GET", "/api/models", Free, Value::Null),
        ("GET", "/api/health", Free, Value::Null),
        ("GET", "/api/answers/{response_id}", Free, Value::Null),
        ("POST", "/v1/chat/completions", Asks, chat),
        ("GET", "/v1/models", Free, Value::Null),
        ("GET", "/v1/models/{id}", Free, Value::Null),
        ("POST", "/mcp", AsksInResult, call),
        ("GET", "/api/conversations", Free, Value::Null),
        ("GET", "/api/conversations/{id}", Free, Value::Null),
        ("DELETE", "/api/conversations/{id}", Free, Value::Null),
        ("DELETE", "/api/conversations", Free, Value::Null),
        ("GET", "/api/usage", Free, Value::Null),
        ("GET", "/api/usage/all", Owner, Value::Null),
        ("GET", "/api/calls", Owner, Value::Null),
        ("GET", "/api/calls/live", Owner, Value::Null),
        ("GET", "/api/statistics", Owner, Value::Null),
        ("PUT", "/api/session", Owner, json!({"api_key": "sk-1"})),
        ("GET", "/api/upstream", Owner, Value::Null),
        ("PUT", "/api/upstream", Owner, json!({"url": "nonsense"})),
        ("DELETE", "/api/upstream", Owner, Value::Null),
        ("POST", "/api/upstream/read", Owner, json!({"pasted": "curl"})),
        ("POST", "/api/upstream/test", Owner, json!({})),
        ("GET", "/api/keys", Owner, Value::Null),
        ("POST", "/api/keys", Owner, json!({"name": "made"})),
        ("PUT", "/api/keys/{name}", Owner, json!({})),
        ("POST", "/api/keys/{name}/rotate", Owner, Value::Null),
        ("DELETE", "/api/keys/{name}", Owner, Value::Null),
        ("GET", "/api/audit", Owner, Value::Null),
        ("GET", "/api/kept", Owner, Value::Null),
        ("GET", "/api/kept/{owner}", Owner, Value::Null),
        ("DELETE", "/api/kept/{owner}", Owner, Value::Null),
        ("GET", "/api/backup", Owner, Value::Null),
        ("POST", "/api/console/token", Owner, Value::Null),
        ("GET", "/api/doctor", Owner, Value::Null),
        ("GET", "/metrics", Owner, Value::Null),
        ("GET", "/", Public, Value::Null),
        ("GET", "/health", Public, Value::Null),
        ("GET", "/ready", Public, Value::Null),
        ("GET", "/openapi.json", Public, Value::Null),
        ("GET", "/openapi.yaml", Public, Value::Null),
        ("GET", "/openapi/full.json", Public, Value::Null),
        ("GET", "/.well-known/ai-plugin.json", Public, Value::Null),
        ("GET", "/dify/{file}", Public, Value::Null),
    ]
}

async fn ask(app: &TestApp, key: Option<&str>, method: &str, path: &str, body: &Value) -> Answer {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(key.map(|key| ("x-api-key", key)));
    let body = (!body.is_null()).then(|| body.to_string().into_bytes());
    app.call(method, path, &headers, body).await
}

#[actix_web::test]
async fn each_route_is_open_to_those_alone_to_whom_it_should_be() {
    const SAID: &str = "what-nobody-else-may-read";
    let app = spawn(&[]).await;
    let document = app.get("/openapi/full.json").await.json();
    let mut routes: Vec<(String, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods = item.as_object().expect("operations").keys();
        routes.extend(methods.map(|method| (method.to_ascii_uppercase(), path.clone())));
    }
    let rows = rows();
    let rowed: Vec<_> =
        rows.iter().map(|(method, path, ..)| (method.to_string(), path.to_string())).collect();
    let missing: Vec<_> = routes.iter().filter(|route| !rowed.contains(route)).collect();
    let gone: Vec<_> = rowed.iter().filter(|route| !routes.contains(route)).collect();
    assert!(missing.is_empty() && gone.is_empty(), "no row: {missing:?}; no route: {gone:?}");

    let caller = new_key(&app, "caller", json!({})).await;
    let expired = new_key(&app, "expired", json!({"expires": "1s"})).await;
    let mut over = Vec::new();
    for limits in [json!({"rpm": 1}), json!({"tokens_per_day": 1}), json!({"tokens_per_month": 1})] {
        let name = limits.as_object().and_then(|limits| limits.keys().next().cloned()).expect("a limit");
        let key = new_key(&app, &name, limits).await;
        let first = ask(&app, Some(&key), "POST", "/api/chat", &json!({"message": "hi"})).await;
        assert_eq!(first.status, 200, "{}", first.text);
        over.push(key);
    }
    over.push(new_key(&app, "parallel", json!({"parallel": 0})).await);
    let kept = ask(&app, Some(&caller), "POST", "/api/chat", &json!({"message": SAID})).await.json();
    let id = kept["conversation_id"].as_str().expect("a conversation").to_string();
    until_ended(&app, &expired).await;

    for (method, path, open, body) in &rows {
        let path = path.replace("{id}", if path.contains("models") { "demo" } else { &id });
        let path = path
            .replace("{name}", "no-such-key")
            .replace("{owner}", "nobody")
            .replace("{response_id}", "resp_0")
            .replace("/live", "/live?seconds=0")
            .replace("{file}", "chatflow.yml");
        let status = |answer: &Answer| answer.status.as_u16();
        let what = format!("{method} {path}");
        let of = async |key: Option<&str>| ask(&app, key, method, &path, body).await;
        let (none, wrong, ended) =
            (of(None).await, of(Some("wrong-key-wrong-key")).await, of(Some(&expired)).await);
        let (other, owner) = (of(Some(OTHER_KEY)).await, of(Some(ADMIN_KEY)).await);
        for answer in [&none, &wrong, &ended, &other] {
            assert!(!answer.text.contains(SAID), "{what}: {}", answer.text);
        }
        match open {
            Public => {
                let all = [&none, &wrong, &ended, &other, &owner];
                assert!(all.iter().all(|answer| status(answer) == 200), "{what}");
            }
            _ => {
                assert!([&none, &wrong, &ended].iter().all(|answer| status(answer) == 401), "{what}");
                assert!(!matches!(status(&owner), 401 | 403), "{what}: {}", owner.text);
                let expected = if *open == Owner { status(&other) == 403 } else { status(&other) != 403 };
                assert!(expected && status(&other) != 401, "{what}: {}", other.text);
            }
        }
        for key in &over {
            let answer = of(Some(key)).await;
            assert!(!answer.text.contains(SAID), "{what}: {}", answer.text);
            match open {
                Asks => {
                    let refused = if path.starts_with("/v1/") { 429 } else { 424 };
                    assert_eq!(status(&answer), refused, "{what}: {}", answer.text);
                    let is_told = answer.text.contains("nothing of that is left");
                    assert!(is_told, "{what}: {}", answer.text);
                }
                AsksInResult => {
                    assert_eq!(answer.json()["result"]["isError"], true, "{what}: {}", answer.text);
                    assert!(answer.text.contains("key_limit_reached"), "{what}: {}", answer.text);
                }
                _ => assert!(!answer.text.contains("key_limit_reached"), "{what}: {}", answer.text),
            }
        }
        if *open == Free && path.contains(&id) {
            assert_eq!(status(&other), 404, "{what}");
        }
    }
    // None of all that has touched what is the caller's.
    let kept = ask(&app, Some(&caller), "GET", &format!("/api/conversations/{id}"), &Value::Null).await;
    assert!(kept.text.contains(SAID), "{}", kept.text);
}
