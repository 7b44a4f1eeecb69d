//! The overview of the console, and the commands that show the same in a terminal.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::helpers::{ADMIN_KEY, KEY, OTHER_KEY, TestApp, post, spawn_before, temporary_folder};
use crate::running::Process;
use crate::upstream::{Fake, chunk, response, send, stream_end, stream_head};

async fn fake() -> Fake {
    Fake::start(|request| {
        if request.line.starts_with("GET") {
            return send(response("200 OK", "application/json", r#"{"data":[{"id":"m"}]}"#));
        }
        if request.body.contains("too often") {
            return send(response("429 Too Many", "application/json", r#"{"error":{"message":"slow"}}"#));
        }
        vec![stream_head(), chunk("what-was-answered", None), chunk(" more", Some("stop")), stream_end()]
    })
    .await
}

/// A part of the page, once so many calls are known.
async fn part(app: &TestApp, path: &str, known: usize) -> String {
    let start = Instant::now();
    while app.get_as_owner("/api/calls").await.json()["known"] != known {
        assert!(start.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(20)).await;
    }
    let answer = app.get_as_owner(&format!("/console/part/overview{path}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(!answer.text.contains("what-was"), "{}", answer.text);
    answer.text
}

fn in_order(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("no `{word}` in its place: {text}"));
        rest = &rest[at + word.len()..];
    }
}

#[actix_web::test]
async fn an_empty_page_says_what_to_do() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let text = part(&app, "", 0).await;
    in_order(&text, &["Overview", "/console/try", "Last calls", "/console/connect"]);
    assert!(!text.contains("id=\"plots\"") && !text.contains("<table"), "{text}");
    in_order(&part(&app, "?lang=zh-Hant", 0).await, &["總覽", "還沒有任何呼叫", "最近的呼叫"]);
}

#[actix_web::test]
async fn what_was_asked_stands_in_plots_a_table_and_a_list() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (key, message) in [(KEY, "hi"), (KEY, "hi"), (OTHER_KEY, "too often")] {
        app.post("/api/chat", key, &json!({"message": format!("{message} what-was-asked")}).to_string())
            .await;
    }
    let text = part(&app, "", 3).await;
    in_order(&text, &["data-unit=\"count\"", ">3 <small>in the last 24 hours", "tests <b>2", "other <b>1"]);
    in_order(&text, &["Failed", ">1 <small>33.3% of all calls", "Slow down <b>1"]);
    in_order(&text, &["Tokens", "estimated", "Questions <b>", "Answers <b>"]);
    in_order(&text, &["As a table", "Last calls", "Slow down</span>", "Answered</span>", "3 of the last 3"]);
    let values = text.split("data-values=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("values");
    let values: Vec<Vec<u64>> = serde_json::from_str(values).expect("numbers");
    assert_eq!(
        values.iter().map(|part| (part.len(), part.iter().sum())).collect::<Vec<_>>(),
        [(24, 2), (24, 1)]
    );
    in_order(&part(&app, "?range=hour&by=code", 3).await, &["Answered <b>2", "Slow down <b>1"]);
    let failed = part(&app, "/calls?result=failed", 3).await;
    assert_eq!(failed.matches("data-call").count(), 1, "{failed}");
    in_order(&failed, &["other", "Slow down</span>", "1 of the last 3"]);
    in_order(&part(&app, "/calls?key=nobody", 3).await, &["No call fits", "href=\"?\""]);
}

#[actix_web::test]
async fn an_open_row_says_what_happened_and_what_to_do_in_either_language() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    app.post("/api/chat", KEY, r#"{"message": "too often"}"#).await;
    app.post("/api/chat", KEY, r#"{"message": "hi"}"#).await;
    let english = part(&app, "/calls?call=1&key=tests", 2).await;
    in_order(
        &english,
        &["aria-expanded=\"false\"", "aria-expanded=\"true\"", "The mirror asked to slow down", "What to do"],
    );
    in_order(&english, &["/console/keys", "upstream_rate_limited", "429 from the mirror, 424 to the caller"]);
    assert!(english.contains("href=\"?key=tests\""), "closing it leads back: {english}");
    let chinese = part(&app, "/calls?call=1&lang=zh-Hant", 2).await;
    in_order(&chinese, &["鏡像站要求放慢速度", "處理方式", "upstream_rate_limited", "呼叫端收到 424"]);
    // A request's own page: its call alone, open, and the way to all others.
    let id = english.rsplit_once("Request id</dt><dd><code>").and_then(|(_, id)| id.split_once('<'));
    let one = part(&app, &format!("/calls?request={}", id.expect("an id").0), 2).await;
    in_order(
        &one,
        &[
            "aria-expanded=\"true\"",
            "upstream_rate_limited",
            "1 of the last 2",
            "href=\"?\"",
            "Show all calls",
        ],
    );
    assert!(!one.contains("aria-expanded=\"false\""), "{one}");
    in_order(&part(&app, "/calls?request=unknown", 2).await, &["knows no such call", "href=\"?\""]);
    let page = part(&app, "", 2).await;
    in_order(&page, &["Last failure", "?call=1\"", "Slow down</a>"]);
}

#[actix_web::test]
async fn what_needs_its_reader_stands_above_the_page() {
    let refusing =
        Fake::start(|_| send(response("401 No", "application/json", r#"{"error":{"message":"no"}}"#))).await;
    let app = spawn_before(&refusing.url, "openai", &[]).await;
    app.post("/api/chat", KEY, r#"{"message": "hi"}"#).await;
    in_order(&part(&app, "", 1).await, &["note bad", "The session has ended", "/console/maintain#session"]);
    in_order(&part(&app, "?lang=zh-Hant", 1).await, &["note bad", "登入已失效", "更新登入"]);
}

/// A command of the program, with these settings.
fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    command.args(arguments).env_clear().envs(settings.iter().copied()).current_dir(std::env::temp_dir());
    command.output().expect("it runs")
}

#[actix_web::test]
async fn commands_show_calls_and_usage_in_a_terminal() {
    let (fake, folder) = (fake().await, temporary_folder());
    let keys = format!("tests:{KEY}");
    let mut settings = vec![
        ("UPSTREAM_URL", fake.url.as_str()),
        ("DEFAULT_MODEL", "m"),
        ("GATEWAY_API_KEYS", &keys),
        ("ADMIN_KEY", ADMIN_KEY),
        ("DATA_DIR", &folder),
    ];
    let mut process = Process::start(&settings);
    let (address, port) = (process.address, process.address.port().to_string());
    for message in ["hi", "too often"] {
        post(address, "/api/chat", KEY, &json!({"message": message}).to_string()).await;
    }
    settings.push(("PORT", &port));
    let run = async |arguments: &'static [&'static str]| {
        let owned: Vec<(String, String)> =
            settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let run = move || {
            let settings: Vec<_> =
                owned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            command(arguments, &settings)
        };
        let output = tokio::task::spawn_blocking(run).await.expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, told, _) = run(&["calls"]).await;
    let lines: Vec<_> = told.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{told}");
    assert!(lines[0].contains("answered") && lines[1].contains("upstream_rate_limited"), "{told}");
    let (_, failed, _) = run(&["calls", "--json", "--result", "failed"]).await;
    let failed: Vec<Value> = failed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((&failed[0]["key"], &failed[0]["model"]), (&json!("tests"), &json!("m")));
    let (code, _, wrong) = run(&["calls", "--key", KEY]).await;
    assert!(code == Some(1) && wrong.contains("owner_only") && wrong.contains("hint"), "{wrong}");
    let (code, _, nobody) = run(&["calls", "--url", "http://127.0.0.1:9"]).await;
    assert!(code == Some(1) && nobody.contains("does not answer"), "{nobody}");

    process.signal("TERM");
    process.ended().await;
    let (code, told, _) = run(&["usage"]).await;
    assert!(code == Some(0) && told.contains("tests") && told.contains("1 requests"), "{told}");
    let (_, told, _) = run(&["usage", "--json", "--days", "1"]).await;
    let row: Value = serde_json::from_str(told.trim()).expect("one row of JSON");
    assert_eq!((&row["key"], &row["model"], &row["requests"]), (&json!("tests"), &json!("m"), &json!(1)));
}

#[actix_web::test]
async fn calls_are_followed_in_a_terminal() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let mut following = crate::process::Process::start(
        &["calls", "--follow", "--json", "--url", &app.url("")],
        &[("ADMIN_KEY", ADMIN_KEY)],
    );
    let address = app.address;
    let asking = actix_web::rt::spawn(async move {
        // The list is empty at first, so whatever is told came later.
        sleep(Duration::from_millis(500)).await;
        post(address, "/api/chat", KEY, r#"{"message": "hi"}"#).await
    });
    let lines = tokio::task::spawn_blocking(move || {
        let lines = following.lines_until("{");
        following.kill();
        lines
    });
    let lines = lines.await.expect("lines");
    assert_eq!(asking.await.expect("an answer").status, 200);
    let call: Value = serde_json::from_str(lines.last().expect("a line")).expect("JSON");
    assert_eq!((&call["state"], &call["path"]), (&json!("answered"), &json!("/api/chat")));
}
