//! What is kept for each key, for the owner: counted, exported, deleted; and the store as one file.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, OTHER_KEY, TestApp, spawn, temporary_folder};
use crate::keys::as_owner;

/// What is kept for a key, by its name.
async fn kept_of(app: &TestApp, name: &str) -> Option<Value> {
    let kept = app.get_as_owner("/api/kept").await.json()["kept"].clone();
    kept.as_array().expect("a list").iter().find(|one| one["key"] == name).cloned()
}

#[actix_web::test]
async fn conversations_of_each_key_are_counted_exported_and_deleted() {
    let app = spawn(&[]).await;
    assert_eq!(kept_of(&app, "tests").await, None);
    for (message, conversation) in [("one", "a"), ("two", "a"), ("three", "b")] {
        let answer =
            app.chat(json!({"message": message, "conversation_id": conversation, "system": "S"})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    app.post("/api/chat", OTHER_KEY, r#"{"message":"another's words"}"#).await;
    let kept = kept_of(&app, "tests").await.expect("kept");
    assert_eq!(kept["conversations"], 2);
    assert!(kept["bytes"].as_u64().is_some_and(|bytes| bytes > 100), "{kept}");
    let path = format!("/api/kept/{}", kept["owner"].as_str().expect("an owner"));
    let export = app.get_as_owner(&path).await;
    assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        export.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<_> = lines.iter().map(|line| line["name"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["b", "a"]);
    let messages = lines[1]["messages"].as_array().expect("messages");
    assert_eq!(
        (messages.len(), &messages[2]["content"], &lines[1]["first_turn"]),
        (4, &json!("two"), &json!(1))
    );
    assert!(!export.text.contains("another's"), "{}", export.text);

    let deleted = as_owner(&app, "DELETE", &path, Value::Null).await.json();
    assert_eq!(deleted["deleted"], 2);
    assert_eq!(kept_of(&app, "tests").await, None);
    assert_eq!(kept_of(&app, "other").await.expect("kept")["conversations"], 1);
    let audit = app.get_as_owner("/api/audit").await.text;
    assert!(audit.contains("kept.export") && audit.contains("kept.delete"), "{audit}");
}

#[actix_web::test]
async fn a_conversation_of_many_turns_is_exported_whole() {
    let app = spawn(&[]).await;
    // More than a page of four MiB: each question is a third of one.
    let long = "x".repeat(1_400_000);
    for number in 0..4 {
        let message = format!("{number} {long}");
        let answer = app.chat(json!({"message": message, "conversation_id": "long"})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let owner = kept_of(&app, "tests").await.expect("kept")["owner"].as_str().expect("an owner").to_string();
    let export = app.get_as_owner(&format!("/api/kept/{owner}")).await.text;
    let mut lines: Vec<Value> =
        export.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() > 1, "several lines");
    lines.sort_by_key(|line| line["first_turn"].as_i64());
    let questions =
        lines.iter().flat_map(|line| line["messages"].as_array().expect("messages").iter().step_by(2));
    let numbers: Vec<_> =
        questions.map(|message| message["content"].as_str().expect("text")[..1].to_string()).collect();
    assert_eq!(numbers, ["0", "1", "2", "3"]);
}

#[actix_web::test]
async fn the_store_is_taken_as_one_file_that_can_be_put_back() {
    let folder = temporary_folder();
    let app = spawn(&[("DATA_DIR", &folder)]).await;
    assert_eq!(app.chat(json!({"message": "kept", "conversation_id": "a"})).await.status, 200);
    // The bytes themselves, which are no text.
    let client = awc::Client::builder().disable_timeout().finish();
    let request = client.get(app.url("/api/backup")).insert_header(("x-api-key", ADMIN_KEY));
    let mut response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let bytes = response.body().limit(64 << 20).await.expect("a whole body");
    let copy = format!("{folder}/copy.db");
    std::fs::write(&copy, &bytes).expect("written");
    let count = rusqlite::Connection::open(&copy).expect("a database");
    let count = count
        .query_row("SELECT COUNT(*) FROM conversations WHERE name = 'a'", (), |row| row.get::<_, i64>(0));
    assert_eq!(count.expect("a count"), 1);
    // The service's own copy goes once it was sent.
    let is_left = || {
        let files = std::fs::read_dir(&folder).expect("the folder").filter_map(Result::ok);
        files.map(|file| file.file_name()).any(|name| name.to_string_lossy().ends_with(".taken"))
    };
    let start = Instant::now();
    while is_left() {
        assert!(start.elapsed() < Duration::from_secs(5), "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The console has the words of the command that puts it back here.
    let page = app.get_as_owner("/console/part/maintain?lang=en").await.text.replace("&#x2f;", "/");
    assert!(page.contains(&format!("restore mirrorgate.db --force --data-dir {folder}</code>")), "{page}");
    assert!(page.contains(&format!("restore - --force --data-dir {folder} &lt; mirrorgate.db")), "{page}");
    let app = spawn(&[("DATABASE_URL", "memory:")]).await;
    let page = app.get_as_owner("/console/part/maintain?lang=en").await.text;
    assert!(page.contains("There is nothing to back up") && !page.contains("/api/backup"), "{page}");
    let refused = app.get_as_owner("/api/backup").await;
    assert_eq!(refused.status, 422, "{}", refused.text);
}
