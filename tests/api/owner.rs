//! What the owner alone may do, and the keys that a start makes.

use serde_json::json;

use crate::helpers::{ADMIN_KEY, KEY, spawn};

/// What only the owner's key opens.
const DOORS: &[(&str, &str, &str)] =
    &[("PUT", "/api/session", r#"{"api_key": "sk-1"}"#), ("GET", "/api/doctor", ""), ("GET", "/metrics", "")];

#[actix_web::test]
async fn a_caller_is_told_what_is_the_owners() {
    let app = spawn(&[]).await;
    for (method, path, body) in DOORS {
        // The router reads an encoded letter as the letter, and so must whoever guards it.
        let encoded = format!("{}%{:x}", &path[..path.len() - 1], path.as_bytes()[path.len() - 1]);
        for path in [*path, &encoded] {
            let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
            let headers = [("x-api-key", KEY), ("content-type", "application/json")];
            let answer = app.call(method, path, &headers, body).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "owner_only"), "{path}");
            assert!(answer.json()["error"]["hint"].to_string().contains("ADMIN_KEY"), "{}", answer.text);
        }
    }
}

#[actix_web::test]
async fn the_owner_may_also_call_but_not_by_the_address() {
    let app = spawn(&[]).await;
    let answer = app.post("/api/chat", ADMIN_KEY, &json!({"message": "hi"}).to_string()).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    assert_eq!(app.get_as_owner("/api/usage").await.json()["key"], "owner");
    let answer = app.call("GET", &format!("/api/models?key={ADMIN_KEY}"), &[], None).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "gateway_key_wrong"));
    // What the owner keeps is not a caller's.
    let kept = app.get_as_owner("/api/conversations").await.json();
    assert_eq!(kept["conversations"].as_array().map(Vec::len), Some(1), "{kept}");
    assert_eq!(app.get("/api/conversations").await.json()["conversations"], json!([]));
}

#[actix_web::test]
async fn without_an_admin_key_the_owners_doors_say_how_to_open_them() {
    let app = spawn(&[("DATABASE_URL", "memory:"), ("ADMIN_KEY", "")]).await;
    let answer = app.get("/api/doctor").await;
    assert_eq!(answer.code(), "owner_only");
    assert!(answer.json()["error"]["hint"].to_string().contains("set `ADMIN_KEY`"), "{}", answer.text);
}
