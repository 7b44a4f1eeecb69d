//! Conversations: continued by their id, owned by a key, in order.

use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{KEY, OTHER_KEY, spawn_before, temporary_folder};
use crate::upstream::{Fake, Request, Step, chunked, response, send};

/// Answers with the number of messages that came.
fn counting(request: &Request) -> Vec<Step> {
    let count = request.json()["messages"].as_array().map_or(0, Vec::len);
    let body = json!({"choices": [{"message": {"content": format!("{count}")}, "finish_reason": "stop"}]})
        .to_string();
    vec![
        Step::Pause(Duration::from_millis(5)),
        Step::Send(response("200 OK", "application/json", &body).into()),
    ]
}

#[actix_web::test]
async fn the_history_is_sent_again_to_an_openai_upstream() {
    let fake = Fake::start(counting).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let first = app.chat(json!({"message": "one", "system": "S"})).await.json();
    app.chat(json!({"message": "two", "conversation_id": first["conversation_id"]})).await;
    let sent = fake.requests()[1].json()["messages"].clone();
    assert_eq!(
        sent,
        json!([{"role": "system", "content": "S"}, {"role": "user", "content": "one"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "two"}])
    );
}

#[actix_web::test]
async fn a_history_is_bounded_by_whole_pairs() {
    let fake = Fake::start(counting).await;
    let app = spawn_before(&fake.url, "openai", &[("HISTORY_MAX_MESSAGES", "4")]).await;
    let mut id = Value::Null;
    for number in 0..5 {
        id = app.chat(json!({"message": format!("q{number}"), "conversation_id": id})).await.json()["conversation_id"].clone();
    }
    let last = fake.requests().last().expect("requests").json()["messages"].clone();
    let texts: Vec<_> =
        last.as_array().expect("messages").iter().map(|message| message["content"].clone()).collect();
    assert_eq!(texts, ["q2", "5", "q3", "5", "q4"]);
}

#[actix_web::test]
async fn another_keys_conversation_is_as_missing_as_none() {
    let fake = Fake::start(counting).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let id = app.chat(json!({"message": "one"})).await.json()["conversation_id"].clone();
    let theirs =
        app.post("/api/chat", OTHER_KEY, &json!({"message": "two", "conversation_id": id}).to_string()).await;
    let missing =
        app.chat(json!({"message": "two", "conversation_id": "conv_00000000000000000000000000000000"})).await;
    assert_eq!((theirs.status.as_u16(), theirs.code().as_str()), (404, "conversation_not_found"));
    assert_eq!(theirs.json()["error"]["message"], missing.json()["error"]["message"]);
    assert_eq!(fake.requests().len(), 1);
}

#[actix_web::test]
async fn parallel_turns_of_one_conversation_are_answered_in_order() {
    let fake = Fake::start(counting).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let id = app.chat(json!({"message": "first"})).await.json()["conversation_id"].clone();
    let turns =
        (0..6).map(|number| app.chat(json!({"message": format!("q{number}"), "conversation_id": id})));
    let answers = futures_util::future::join_all(turns).await;
    let mut counts: Vec<u64> = answers
        .iter()
        .map(|answer| answer.json()["answer"].as_str().expect("a count").parse().expect("a number"))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [3, 5, 7, 9, 11, 13]);
}

#[actix_web::test]
async fn a_failed_turn_leaves_nothing_behind() {
    let fake = Fake::start(|request| match request.body.contains("fail") {
        true => send(response("500 Oops", "application/json", "{}")),
        false => counting(request),
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let id = app.chat(json!({"message": "one"})).await.json()["conversation_id"].clone();
    let failed = app.chat(json!({"message": "fail", "conversation_id": id})).await;
    assert_eq!(failed.json()["conversation_id"], id, "what is known stays");
    let next = app.chat(json!({"message": "two", "conversation_id": id})).await.json();
    assert_eq!(next["answer"], "3");
}

fn web_chat(request: &Request) -> Vec<Step> {
    let (prefix, suffix) = if request.line.contains("/new ") {
        ("{\"result\":{\"response\":", "}}")
    } else {
        ("{\"result\":", "}")
    };
    let number = if request.line.contains("/new ") { 1 } else { 2 };
    let conversation =
        if number == 1 { "{\"result\":{\"conversation\":{\"conversationId\":\"c/1\"}}}\n" } else { "" };
    let lines = format!(
        "{conversation}{prefix}{{\"token\":\"Hi\",\"responseId\":\"r{number}\"}}{suffix}\n{prefix}{{\"modelResponse\":{{\"message\":\"Hi!\",\"responseId\":\"r{number}\"}}}}{suffix}\n"
    );
    let answer = chunked("application/x-ndjson", &lines);
    send(answer.replacen("\r\n", "\r\nSet-Cookie: sso=renewed; Path=/\r\n", 1))
}

#[actix_web::test]
async fn a_web_chat_goes_on_where_the_upstream_left_off() {
    let fake = Fake::start(web_chat).await;
    let app = spawn_before(&fake.url, "web-chat", &[("UPSTREAM_COOKIE", "sso=old")]).await;
    let first = app.chat(json!({"message": "one", "system": "S"})).await.json();
    let second = app
        .chat(json!({"message": "two", "system": "S", "conversation_id": first["conversation_id"]}))
        .await
        .json();
    assert_eq!((&second["answer"], &second["conversation_id"]), (&json!("Hi!"), &first["conversation_id"]));
    app.chat(json!({"message": "three", "system": "T", "conversation_id": first["conversation_id"]})).await;
    let requests = fake.requests();
    assert_eq!(requests[1].line, "POST /rest/app-chat/conversations/c%2F1/responses HTTP/1.1");
    assert_eq!(
        requests[1].json(),
        json!({"modelMode": "auto", "message": "two", "modelName": "m", "parentResponseId": "r1"})
    );
    assert_eq!(requests[1].header("cookie"), Some("sso=renewed"), "a renewed cookie is adopted");
    assert_eq!(requests[2].json()["message"], "T\n\nthree", "new instructions are told");
    assert_eq!(requests[2].json()["parentResponseId"], "r2");
}

#[actix_web::test]
async fn a_conversation_that_the_upstream_forgot_is_named() {
    let fake = Fake::start(|request| match request.line.contains("/new ") {
        true => web_chat(request),
        false => send(response(
            "404 Not Found",
            "application/json",
            r#"{"error":{"code":5,"message":"not found"}}"#,
        )),
    })
    .await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let id = app.chat(json!({"message": "one"})).await.json()["conversation_id"].clone();
    let answer = app.chat(json!({"message": "two", "conversation_id": id})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (424, "upstream_conversation_lost"));
    assert!(answer.text.contains("conversation_id"));
}

#[actix_web::test]
async fn a_conversation_outlives_the_process_and_is_read_back_and_deleted() {
    let fake = Fake::start(counting).await;
    let folder = temporary_folder();
    let app = spawn_before(&fake.url, "openai", &[("DATA_DIR", &folder)]).await;
    let id = app.chat(json!({"message": "one", "system": "S"})).await.json()["conversation_id"].clone();
    drop(app);
    let app = spawn_before(&fake.url, "openai", &[("DATA_DIR", &folder)]).await;
    let again = app.chat(json!({"message": "two", "conversation_id": id})).await.json();
    assert_eq!(again["answer"], "4");
    let path = format!("/api/conversations/{}", id.as_str().expect("an id"));
    let read = app.get(&path).await.json();
    assert_eq!((&read["success"], &read["system"]), (&json!(true), &json!("S")));
    let texts: Vec<_> =
        read["messages"].as_array().expect("messages").iter().map(|message| &message["content"]).collect();
    assert_eq!(texts, ["one", "2", "two", "4"]);
    let theirs = [("authorization", format!("Bearer {OTHER_KEY}"))];
    let theirs = theirs.each_ref().map(|(name, value)| (*name, value.as_str()));
    for method in ["GET", "DELETE"] {
        assert_eq!(app.call(method, &path, &theirs, None).await.code(), "conversation_not_found");
    }
    let mine = [("authorization", format!("Bearer {KEY}"))];
    let mine = mine.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(app.call("DELETE", &path, &mine, None).await.json()["success"], true);
    assert_eq!(app.get(&path).await.code(), "conversation_not_found");
    let answer = app.call("PUT", &path, &mine, None).await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some("GET, HEAD, DELETE")));
}

#[actix_web::test]
async fn a_partial_answer_is_kept_as_partial() {
    let fake = Fake::start(|request| {
        match request.json()["messages"]
            .as_array()
            .and_then(|messages| messages.last())
            .is_some_and(|message| message["content"] == "break")
        {
            true => send(chunked(
                "text/event-stream",
                "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n",
            )),
            false => counting(request),
        }
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let failed = app.chat(json!({"message": "break"})).await;
    assert_eq!((failed.code().as_str(), &failed.json()["answer"]), ("upstream_truncated", &json!("half")));
    let id = failed.json()["conversation_id"].as_str().expect("an id").to_string();
    let read = app.get(&format!("/api/conversations/{id}")).await.json();
    assert_eq!(read["messages"][1], json!({"role": "assistant", "content": "half", "partial": true}));
    let next = app.chat(json!({"message": "go on", "conversation_id": id})).await.json();
    assert_eq!(next["answer"], "3");
}

#[actix_web::test]
async fn no_question_is_asked_whose_turn_cannot_be_kept() {
    let fake = Fake::start(|request| match request.line.starts_with("GET") {
        true => send(response("200 OK", "application/json", "{\"data\":[]}")),
        false => counting(request),
    })
    .await;
    let folder = temporary_folder();
    let app = spawn_before(&fake.url, "openai", &[("DATA_DIR", &folder)]).await;
    let id = app.chat(json!({"message": "one"})).await.json()["conversation_id"].clone();
    let (file, aside) = (format!("{folder}/mirrorgate.db"), format!("{folder}/aside.db"));
    std::fs::rename(&file, &aside).expect("the store's file");
    for body in [json!({"message": "two"}), json!({"message": "two", "conversation_id": id})] {
        let answer = app.chat(body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (424, "storage_unavailable"),
            "{}",
            answer.text
        );
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(fake.requests().len(), 1);
    assert_eq!(
        (app.get("/health").await.status.as_u16(), app.get("/ready").await.status.as_u16()),
        (200, 503)
    );
    let health = app.get("/api/health").await;
    assert_eq!((health.status.as_u16(), fake.requests().len()), (200, 2), "what needs no store goes on");
    std::fs::rename(&aside, &file).expect("the store's file");
    let answer = app.chat(json!({"message": "two", "conversation_id": id})).await;
    assert_eq!(
        (answer.status.as_u16(), app.get("/ready").await.status.as_u16()),
        (200, 200),
        "{}",
        answer.text
    );
}

#[actix_web::test]
async fn another_file_in_the_stores_place_is_opened_anew() {
    let fake = Fake::start(counting).await;
    let folder = temporary_folder();
    let app = spawn_before(&fake.url, "openai", &[("DATA_DIR", &folder)]).await;
    let id = app.chat(json!({"message": "one"})).await.json()["conversation_id"].clone();
    for file in ["mirrorgate.db", "mirrorgate.db-wal", "mirrorgate.db-shm"] {
        let _ = std::fs::remove_file(format!("{folder}/{file}"));
    }
    std::fs::write(format!("{folder}/mirrorgate.db"), "").expect("an empty store");
    assert_eq!(
        app.chat(json!({"message": "two", "conversation_id": id})).await.code(),
        "conversation_not_found"
    );
    assert_eq!(app.chat(json!({"message": "two"})).await.status, 200);
}

#[actix_web::test]
async fn a_keys_conversations_are_listed_read_by_pages_and_deleted_together() {
    let fake = Fake::start(counting).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let mut id = Value::Null;
    for number in 0..3 {
        let asked = json!({"message": format!("q{number}"), "conversation_id": id});
        id = app.chat(asked).await.json()["conversation_id"].clone();
    }
    app.chat(json!({"message": "another"})).await;
    let list = app.get("/api/conversations?limit=1").await.json();
    let rest =
        app.get(&format!("/api/conversations?after={}", list["next_after"].as_str().expect("more"))).await;
    let rest = rest.json();
    assert_eq!(
        (rest["conversations"][0]["conversation_id"].clone(), rest["conversations"][0]["turns"].clone()),
        (id.clone(), json!(3))
    );
    assert_eq!(rest["next_after"], Value::Null);
    let path = format!("/api/conversations/{}", id.as_str().expect("an id"));
    let page = app.get(&format!("{path}?limit=2&before=")).await.json();
    let told = |page: &Value| {
        page["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|message| message["content"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&page), ["q1", "3", "q2", "5"]);
    let first = app.get(&format!("{path}?before={}", page["next_before"])).await.json();
    assert_eq!((told(&first), first["next_before"].clone()), (vec![json!("q0"), json!("1")], Value::Null));
    for query in ["limit=many", "before=x"] {
        let refused = app.get(&format!("{path}?{query}")).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "invalid_request"));
    }
    let theirs = app.call("DELETE", "/api/conversations", &[("x-api-key", OTHER_KEY)], None).await.json();
    assert_eq!(theirs["deleted"], 0);
    let gone = app.call("DELETE", "/api/conversations", &[("x-api-key", KEY)], None).await.json();
    assert_eq!(gone["deleted"], 2);
    assert_eq!(app.get(&path).await.status.as_u16(), 404);
}
