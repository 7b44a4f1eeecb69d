//! Conversations that their callers name.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, OTHER_KEY, TestApp, spawn_before, temporary_folder};
use crate::upstream::{Fake, Request, Step, response, send};

/// Says which words came so far.
fn repeating(request: &Request) -> Vec<Step> {
    let messages = request.json()["messages"].as_array().cloned().unwrap_or_default();
    let asked = messages.iter().filter(|message| message["role"] == "user");
    let words: Vec<_> = asked.map(|message| message["content"].as_str().unwrap_or_default()).collect();
    let choice = json!({"message": {"content": words.join("+")}, "finish_reason": "stop"});
    send(response("200 OK", "application/json", &json!({"choices": [choice]}).to_string()))
}

async fn ask(app: &TestApp, key: &str, message: &str, conversation: &str) -> Value {
    let body = json!({"message": message, "conversation_id": conversation});
    app.post("/api/chat", key, &body.to_string()).await.json()
}

async fn call(app: &TestApp, method: &str, path: &str, key: &str) -> Answer {
    app.call(method, path, &[("x-api-key", key)], None).await
}

#[actix_web::test]
async fn the_first_use_of_a_name_begins_a_conversation_of_its_key() {
    let fake = Fake::start(repeating).await;
    let folder = temporary_folder();
    let app = spawn_before(&fake.url, "openai", &[("DATA_DIR", &folder)]).await;
    let first = ask(&app, KEY, "a", " sys-1/客戶 ").await;
    assert_eq!((&first["answer"], &first["conversation_id"]), (&json!("a"), &json!("sys-1/客戶")));
    assert_eq!(ask(&app, OTHER_KEY, "x", "sys-1/客戶").await["answer"], "x", "another key's is another");
    drop(app);
    let app = spawn_before(&fake.url, "openai", &[("DATA_DIR", &folder)]).await;
    let alias = app.chat(json!({"message": "b", "conversation": "sys-1/客戶"})).await.json();
    assert_eq!(alias["answer"], "a+b");
    let arguments = json!({"message": "c", "conversation_id": "sys-1/客戶"});
    let params = json!({"name": "chat", "arguments": arguments});
    let rpc = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let over_mcp = app.post("/mcp", KEY, &rpc.to_string()).await.json();
    assert_eq!(over_mcp["result"]["structuredContent"]["answer"], "a+b+c");

    // It is listed with its name, and either finds it.
    let listed = app.get("/api/conversations").await.json()["conversations"][0].clone();
    assert_eq!((&listed["name"], &listed["turns"]), (&json!("sys-1/客戶"), &json!(3)));
    let id = listed["conversation_id"].as_str().expect("an id");
    assert_eq!(ask(&app, KEY, "d", id).await["answer"], "a+b+c+d");
    for path in [format!("/api/conversations/{id}"), "/api/conversations/sys-1%2F%E5%AE%A2%E6%88%B6".into()] {
        let read = app.get(&path).await.json();
        assert_eq!(
            (&read["name"], &read["messages"][6]["content"]),
            (&json!("sys-1/客戶"), &json!("d")),
            "{path}"
        );
    }
    let path = "/api/conversations/sys-1%2F%E5%AE%A2%E6%88%B6";
    assert_eq!(call(&app, "DELETE", path, KEY).await.json()["success"], true);
    assert_eq!(app.get(path).await.code(), "conversation_not_found");
    assert_eq!(call(&app, "GET", path, OTHER_KEY).await.status.as_u16(), 200);
    assert_eq!(ask(&app, KEY, "e", "sys-1/客戶").await["answer"], "e", "after that it begins anew");
}

#[actix_web::test]
async fn an_unknown_id_begins_nothing_and_words_for_nothing_are_no_names() {
    let fake = Fake::start(repeating).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for id in ["conv_00000000000000000000000000000000", "conv_mine"] {
        assert_eq!(ask(&app, KEY, "x", id).await["error"]["code"], "conversation_not_found", "{id}");
    }
    assert!(fake.requests().is_empty());
    for absent in ["None", "null", "N/A", "new", "undefined", " "] {
        let first = ask(&app, KEY, "a", absent).await;
        assert!(first["conversation_id"].as_str().is_some_and(|id| id.starts_with("conv_")), "{first}");
        assert_eq!(ask(&app, KEY, "b", absent).await["answer"], "b", "{absent}");
    }
    let missing = app.get("/api/conversations/no%20such%20name").await;
    assert_eq!((missing.status.as_u16(), missing.code().as_str()), (404, "conversation_not_found"));
}

#[actix_web::test]
async fn many_named_dialogues_at_once_keep_apart() {
    let fake = Fake::start(repeating).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let dialogue = async |number: usize| {
        let (key, name) =
            (if number.is_multiple_of(2) { KEY } else { OTHER_KEY }, format!("d{}", number / 2));
        let mut said = Vec::new();
        for turn in 0..4 {
            said.push(format!("{number}.{turn}"));
            let answer = ask(&app, key, &said[turn], &name).await;
            assert_eq!(answer["answer"], said.join("+"), "{answer}");
        }
    };
    join_all((0..8).map(dialogue)).await;
    // First uses of one name at the same time are turns of one conversation.
    join_all((0..6).map(|_| ask(&app, KEY, "x", "shared"))).await;
    assert_eq!(ask(&app, KEY, "y", "shared").await["answer"], "x+x+x+x+x+x+y");
}

#[actix_web::test]
async fn a_name_whose_first_question_failed_can_be_used_again() {
    let fake = Fake::start(|request| match request.body.contains("fail") {
        true => send(response("500 Oops", "application/json", "{}")),
        false => repeating(request),
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let failed = ask(&app, KEY, "fail", "n").await;
    assert_eq!((&failed["success"], &failed["conversation_id"]), (&json!(false), &json!("n")));
    assert_eq!(ask(&app, KEY, "a", "n").await["answer"], "a");
}
