//! The upstream's session: kept, sealed, swapped, followed by replicas, told when it ends.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::json;

use crate::helpers::{ADMIN_KEY, TestApp, spawn, spawn_before, temporary_folder};
use crate::upstream::{Fake, Request, Step, chunked, response, send};

const LINES: &str = "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\",\"responseId\":\"r1\"}}}}\n";

/// A web chat that accepts `sso=good` and whatever it renewed that to.
fn guarded(request: &Request) -> Vec<Step> {
    let cookie = request.header("cookie").unwrap_or_default();
    if !cookie.contains("sso=good") && !cookie.contains("sso=renewed") {
        return send(response("401 Unauthorized", "application/json", "{}"));
    }
    if request.line.starts_with("GET") {
        return send(response("200 OK", "application/json", "{}"));
    }
    send(chunked("application/x-ndjson", LINES).replacen(
        "\r\n",
        "\r\nSet-Cookie: sso=renewed-secret; Path=/\r\n",
        1,
    ))
}

async fn ask(app: &TestApp) -> String {
    app.chat(json!({"message": "Hello"})).await.code()
}

async fn swap(app: &TestApp, body: serde_json::Value) -> crate::helpers::Answer {
    let headers =
        [("authorization", format!("Bearer {ADMIN_KEY}")), ("content-type", "application/json".to_string())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    app.call("PUT", "/api/session", &headers, Some(body.to_string().into_bytes())).await
}

/// Waits until the condition holds, for as long as replicas may take to follow.
async fn within_five_seconds(mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(5), "it takes too long");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn file_holds(folder: &str, text: &str) -> bool {
    let files = std::fs::read_dir(folder).expect("the folder").filter_map(Result::ok);
    files
        .filter_map(|file| std::fs::read(file.path()).ok())
        .any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[actix_web::test]
async fn a_renewed_cookie_outlives_the_process_until_the_setting_changes() {
    let fake = Fake::start(guarded).await;
    let folder = temporary_folder();
    let settings =
        |cookie: &'static str| [("DATA_DIR", folder.clone()), ("UPSTREAM_COOKIE", cookie.to_string())];
    let start = async |cookie: &'static str| {
        let settings = settings(cookie);
        let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
        spawn_before(&fake.url, "web-chat", &settings).await
    };
    let app = start("sso=good").await;
    assert_eq!(ask(&app).await, "");
    within_five_seconds(async || file_holds(&folder, "renewed-secret")).await;
    drop(app);
    let app = start("sso=good").await;
    assert_eq!(ask(&app).await, "");
    assert_eq!(fake.requests().last().expect("a request").header("cookie"), Some("sso=renewed-secret"));
    drop(app);
    let app = start("sso=other").await;
    assert_eq!(ask(&app).await, "upstream_auth_expired");
}

#[actix_web::test]
async fn with_a_secret_key_no_cookie_is_kept_in_clear() {
    let fake = Fake::start(guarded).await;
    let folder = temporary_folder();
    let settings = [
        ("DATA_DIR", folder.as_str()),
        ("UPSTREAM_COOKIE", "sso=good"),
        ("SECRET_KEY", "0123456789abcdefghijklmnopqrstuvwxyz"),
    ];
    let app = spawn_before(&fake.url, "web-chat", &settings).await;
    assert_eq!(ask(&app).await, "");
    within_five_seconds(async || file_holds(&folder, "chacha20poly1305:")).await;
    drop(app);
    // Three letters alone stand in sealed bytes by chance.
    for clear in ["renewed-secret", "sso=", "\"sso\""] {
        assert!(!file_holds(&folder, clear), "{clear}");
    }
    let app = spawn_before(&fake.url, "web-chat", &settings).await;
    assert_eq!(ask(&app).await, "");
    assert_eq!(fake.requests().last().expect("a request").header("cookie"), Some("sso=renewed-secret"));
}

#[actix_web::test]
async fn credentials_are_swapped_once_the_upstream_accepts_them_and_replicas_follow() {
    let fake = Fake::start(guarded).await;
    let folder = temporary_folder();
    let settings = [("DATA_DIR", folder.as_str()), ("UPSTREAM_COOKIE", "sso=old")];
    let app = spawn_before(&fake.url, "web-chat", &settings).await;
    let replica = spawn_before(&fake.url, "web-chat", &settings).await;
    assert_eq!(ask(&app).await, "upstream_auth_expired");
    assert_eq!(ask(&replica).await, "upstream_auth_expired");
    assert_eq!(app.get("/api/health").await.json()["session"], "expired");

    let refused = swap(&app, json!({"cookie": "sso=bad"})).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (424, "upstream_auth_expired"));
    assert_eq!(fake.requests().last().expect("a request").header("cookie"), Some("sso=bad"), "it was tried");
    for (body, status) in
        [(json!({}), 422), (json!({"cookie": "nonsense"}), 422), (json!({"cookie": "a=b\r\nX: y"}), 422)]
    {
        assert_eq!(swap(&app, body).await.status, status);
    }
    let accepted = swap(&app, json!({"cookie": "Cookie: sso=good"})).await;
    assert_eq!(accepted.json(), json!({"success": true, "session": "ok", "error": null}));
    assert_eq!(ask(&app).await, "");
    within_five_seconds(async || ask(&replica).await.is_empty()).await;
    assert_eq!(replica.get("/api/health").await.json()["session"], "ok");
}

#[actix_web::test]
async fn a_key_is_swapped_as_well() {
    let fake = Fake::start(|request| match request.header("authorization") {
        Some("Bearer sk-new") => send(response("200 OK", "application/json", "{\"data\":[]}")),
        _ => send(response("401 Unauthorized", "application/json", "{}")),
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-old")]).await;
    assert_eq!(swap(&app, json!({"api_key": "sk-wrong"})).await.code(), "upstream_auth_expired");
    assert_eq!(swap(&app, json!({"api_key": "Bearer sk-new"})).await.status, 200);
    assert_eq!(app.get("/api/models").await.status, 200);
}

#[actix_web::test]
async fn refusals_are_told_apart_from_an_expired_session() {
    for (status, body, expected) in [
        ("401 Unauthorized", "{}", "expired"),
        ("403 Forbidden", "{\"error\":{\"message\":\"upgrade your plan\"}}", "refused"),
        ("429 Too Many Requests", "{}", "refused"),
    ] {
        let fake = Fake::start(move |_| send(response(status, "application/json", body))).await;
        let app = spawn_before(&fake.url, "web-chat", &[("UPSTREAM_COOKIE", "sso=1")]).await;
        let health = app.get("/api/health").await.json();
        assert_eq!(
            (&health["session"], &health["status"]),
            (&json!(expected), &json!("degraded")),
            "{health}"
        );
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: sso=2; Max-Age=3600; Path=/\r\nContent-Length: 2\r\n\r\n{}";
    let fake = Fake::start(move |_| send(head)).await;
    let app = spawn_before(&fake.url, "web-chat", &[("UPSTREAM_COOKIE", "sso=1")]).await;
    let health = app.get("/api/health").await.json();
    assert_eq!((&health["session"], &health["status"]), (&json!("expiring"), &json!("ok")), "{health}");
}

#[actix_web::test]
async fn one_address_is_told_when_the_session_expires() {
    let fake = Fake::start(guarded).await;
    let hook = Fake::start(|_| send("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let address = format!("{}/hook?token=1", hook.url);
    let app = spawn(&[
        ("UPSTREAM_URL", &fake.url),
        ("UPSTREAM_PROTOCOL", "web-chat"),
        ("UPSTREAM_COOKIE", "sso=bad-cookie"),
        ("SESSION_WEBHOOK_URL", &address),
    ])
    .await;
    assert_eq!(ask(&app).await, "upstream_auth_expired");
    assert_eq!(ask(&app).await, "upstream_auth_expired");
    within_five_seconds(async || !hook.requests().is_empty()).await;
    let requests = hook.requests();
    assert_eq!(requests[0].line, "POST /hook?token=1 HTTP/1.1");
    assert_eq!((requests[0].json()["event"].as_str(), requests.len()), (Some("session_expired"), 1));
    assert!(!requests[0].body.contains("bad-cookie"));
}

/// An upstream that gives what costs nothing to anyone, and answers questions with this.
async fn open_to_strangers(question: String) -> Fake {
    Fake::start(move |request| match request.line.starts_with("GET") {
        true => send(response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}")),
        false => send(question.clone()),
    })
    .await
}

const LOGINS: [(&str, &str, &str); 3] = [
    ("web-chat", "UPSTREAM_COOKIE", "sso=1"),
    ("openai", "UPSTREAM_API_KEY", "sk-1"),
    ("anthropic", "UPSTREAM_API_KEY", "sk-1"),
];

#[actix_web::test]
async fn no_health_is_good_after_a_question_that_failed_for_the_login() {
    for (protocol, setting, login) in LOGINS {
        let fake = open_to_strangers(response("401 Unauthorized", "application/json", "{}")).await;
        let app = spawn_before(&fake.url, protocol, &[(setting, login)]).await;
        let health = app.get("/api/health").await.json();
        assert_eq!((&health["session"], &health["status"]), (&json!("unknown"), &json!("ok")), "{health}");
        assert_eq!(app.get("/health").await.json(), json!({"status": "ok"}));
        assert_eq!(ask(&app).await, "upstream_auth_expired", "{protocol}");
        for _ in 0..2 {
            // What the upstream gives to anyone does not hide it.
            app.get("/api/models").await;
            let health = app.get("/api/health").await.json();
            assert_eq!(
                (&health["session"], &health["status"]),
                (&json!("expired"), &json!("degraded")),
                "{protocol}: {health}"
            );
            assert_eq!(health["error"]["code"], "upstream_auth_expired");
        }
        let live = app.get("/health").await;
        assert_eq!((live.status.as_u16(), live.json()), (200, json!({"status": "degraded"})));
        let home = app.call("GET", "/", &[("accept", "application/json")], None).await.json();
        assert_eq!(home["status"], "degraded");
    }
}

#[actix_web::test]
async fn an_expired_login_is_good_again_once_what_strangers_are_refused_is_given_to_it() {
    let good = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_good = std::sync::Arc::clone(&good);
    let fake = Fake::start(move |request| {
        let is_known = request.header("authorization") == Some("Bearer sk-1");
        match is_known && is_good.load(std::sync::atomic::Ordering::SeqCst) {
            true => send(response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}")),
            false => send(response("401 Unauthorized", "application/json", "{}")),
        }
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-1")]).await;
    for (now, session, status) in [(true, "ok", "ok"), (false, "expired", "degraded"), (true, "ok", "ok")] {
        good.store(now, std::sync::atomic::Ordering::SeqCst);
        let health = app.get("/api/health").await.json();
        assert_eq!((&health["session"], &health["status"]), (&json!(session), &json!(status)), "{health}");
    }
}

#[actix_web::test]
async fn the_console_tells_since_when_a_login_is_in_use_and_when_it_ends() {
    let ending = response("200 OK", "application/json", "{}").replacen(
        "\r\n",
        "\r\nSet-Cookie: sso=renewed; Max-Age=180000; Path=/\r\n",
        1,
    );
    let fake = Fake::start(move |_| send(ending.clone())).await;
    let folder = temporary_folder();
    let settings = [("DATA_DIR", folder.as_str()), ("UPSTREAM_COOKIE", "sso=old")];
    let app = spawn_before(&fake.url, "web-chat", &settings).await;
    let told = async |app: &TestApp| {
        let maintain = app.get_as_owner("/console/part/maintain?lang=en").await.text;
        (maintain, app.get_as_owner("/console/part/overview?lang=en").await.text)
    };
    let (maintain, overview) = told(&app).await;
    assert!(maintain.contains("not known: it began with the settings"), "{maintain}");
    assert!(!overview.contains(", new"), "{overview}");

    assert_eq!(swap(&app, json!({"cookie": "sso=new"})).await.status, 200);
    within_five_seconds(async || told(&app).await.0.contains("in 2 days")).await;
    within_five_seconds(async || file_holds(&folder, "\"since\":{")).await;
    drop(app);
    // It is known after a restart as well.
    let app = spawn_before(&fake.url, "web-chat", &settings).await;
    let (maintain, overview) = told(&app).await;
    assert!(maintain.contains("</time> <span class=\"muted\">(new)</span>"), "{maintain}");
    assert!(overview.contains(", new, ends in 2 days"), "{overview}");
}

#[actix_web::test]
async fn the_command_line_says_what_it_saw_of_a_new_login() {
    let guarded = Fake::start(guarded).await;
    let open = open_to_strangers(response("200 OK", "application/json", "{}")).await;
    for (fake, words) in [
        (&guarded, "accepts it: without it the same request is refused"),
        (&open, "only a question shows whether it is accepted"),
    ] {
        let folder = temporary_folder();
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
        command.env_clear().current_dir(&folder).args(["session", "set", "--cookie", "sso=good"]);
        command.envs([("DATA_DIR", folder.as_str()), ("UPSTREAM_URL", &fake.url)]);
        command.envs([("UPSTREAM_PROTOCOL", "web-chat"), ("UPSTREAM_COOKIE", "sso=one")]);
        let output = actix_web::web::block(move || command.output().expect("it runs")).await;
        let output = output.expect("a thread");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(words), "{text} {output:?}");
    }
}

/// A web chat that knows logins by their cookie, and renews `sso=X` to `sso=X-renewed`.
fn renewing(request: &Request) -> Vec<Step> {
    let cookie = request.header("cookie").unwrap_or_default();
    let login = cookie.trim_end_matches("-renewed");
    if !["sso=one", "sso=two"].contains(&login) {
        return send(response("401 Unauthorized", "application/json", "{}"));
    }
    let renewed = format!("\r\nSet-Cookie: {login}-renewed; Path=/\r\n");
    send(chunked("application/x-ndjson", LINES).replacen("\r\n", &renewed, 1))
}

/// A file of upstreams, each with its name, address and cookie; the name is that of its model as well,
/// and one without a name has the model `unnamed`.
fn upstreams_file(blocks: &[(Option<&str>, &str, &str)]) -> String {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let block = |(name, url, cookie): &(Option<&str>, &str, &str)| {
        let line = name.map(|name| format!("name = \"{name}\"\n")).unwrap_or_default();
        let model = name.unwrap_or("unnamed");
        format!(
            "[[upstream]]\n{line}url = \"{url}\"\nprotocol = \"web-chat\"\ncookie = \"{cookie}\"\nmodels = [\"{model}\"]\n\n"
        )
    };
    let path = format!("{folder}/upstreams.toml");
    std::fs::write(&path, blocks.iter().map(block).collect::<String>()).expect("a file");
    path
}

fn database(folder: &str) -> Connection {
    Connection::open(format!("{folder}/mirrorgate.db")).expect("the store's file")
}

/// What the kept sessions are called.
fn kept_names(folder: &str) -> Vec<String> {
    let database = database(folder);
    let mut query = database.prepare("SELECT name FROM upstream_sessions ORDER BY name").expect("the table");
    let names = query.query_map((), |row| row.get(0)).expect("names");
    names.collect::<Result<_, _>>().expect("names")
}

/// The service behind one upstream with the login `sso=one`.
async fn spawn_single(fake: &Fake, folder: &str) -> TestApp {
    spawn_before(&fake.url, "web-chat", &[("DATA_DIR", folder), ("UPSTREAM_COOKIE", "sso=one")]).await
}

/// A store as version 0.1 left it behind one upstream whose cookie was renewed.
async fn old_store(fake: &Fake) -> String {
    let folder = temporary_folder();
    let app = spawn_single(fake, &folder).await;
    assert_eq!(ask(&app).await, "");
    within_five_seconds(async || kept_names(&folder) == [fake.url.as_str()]).await;
    drop(app);
    database(&folder).execute("UPDATE upstream_sessions SET name = 'default'", ()).expect("the old name");
    folder
}

async fn ask_model(app: &TestApp, model: &str) -> String {
    app.chat(json!({"message": "Hello", "model": model})).await.code()
}

fn last_cookie(fake: &Fake) -> Option<String> {
    fake.requests().last().and_then(|request| request.header("cookie").map(String::from))
}

#[actix_web::test]
async fn a_login_kept_under_the_old_name_stays_and_is_not_lost_beside_a_second_upstream() {
    let (fake, other) = (Fake::start(renewing).await, Fake::start(renewing).await);
    let folder = old_store(&fake).await;
    let app = spawn_single(&fake, &folder).await;
    assert_eq!(ask(&app).await, "");
    assert_eq!(last_cookie(&fake).as_deref(), Some("sso=one-renewed"));
    assert_eq!(kept_names(&folder), [fake.url.as_str()]);
    drop(app);

    let old = old_store(&fake).await;
    let both = upstreams_file(&[(Some("other"), &other.url, "sso=two"), (None, &fake.url, "sso=one")]);
    for folder in [folder, old] {
        let app = spawn(&[("UPSTREAMS_FILE", &both), ("DATA_DIR", &folder)]).await;
        assert_eq!((ask_model(&app, "other").await, ask_model(&app, "unnamed").await), Default::default());
        assert_eq!(last_cookie(&fake).as_deref(), Some("sso=one-renewed"));
        assert_eq!(last_cookie(&other).as_deref(), Some("sso=two"));
        within_five_seconds(async || kept_names(&folder) == [fake.url.as_str(), "other"]).await;
    }
}

#[actix_web::test]
async fn a_login_of_other_settings_is_not_taken_over() {
    let (fake, other) = (Fake::start(renewing).await, Fake::start(renewing).await);
    let folder = old_store(&fake).await;
    let app = spawn_single(&other, &folder).await;
    assert_eq!(ask(&app).await, "");
    assert_eq!(last_cookie(&other).as_deref(), Some("sso=one"), "it is bound to its address");
    within_five_seconds(async || kept_names(&folder) == ["default", other.url.as_str()]).await;
}

#[actix_web::test]
async fn the_command_line_gives_a_login_under_the_same_name() {
    let fake = Fake::start(renewing).await;
    let folder = old_store(&fake).await;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    command.env_clear().current_dir(&folder).args(["session", "set", "--cookie", "sso=two"]);
    command.envs([("DATA_DIR", folder.as_str()), ("UPSTREAM_URL", &fake.url)]);
    command.envs([("UPSTREAM_PROTOCOL", "web-chat"), ("UPSTREAM_COOKIE", "sso=one")]);
    let run = actix_web::web::block(move || command.output().expect("the program runs")).await;
    let output = run.expect("a thread");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(kept_names(&folder), [fake.url.as_str()]);
    let app = spawn_single(&fake, &folder).await;
    assert_eq!(ask(&app).await, "");
    assert_eq!(last_cookie(&fake).as_deref(), Some("sso=two-renewed"));
}

#[actix_web::test]
async fn two_names_for_one_address_have_a_login_each() {
    let fake = Fake::start(renewing).await;
    let folder = temporary_folder();
    let file = upstreams_file(&[(Some("one"), &fake.url, "sso=one"), (Some("two"), &fake.url, "sso=two")]);
    for sent in [["sso=one", "sso=two"], ["sso=one-renewed", "sso=two-renewed"]] {
        let app = spawn(&[("UPSTREAMS_FILE", &file), ("DATA_DIR", &folder)]).await;
        for (model, cookie) in ["one", "two"].into_iter().zip(sent) {
            assert_eq!(ask_model(&app, model).await, "");
            assert_eq!(last_cookie(&fake).as_deref(), Some(cookie));
        }
        within_five_seconds(async || kept_names(&folder) == ["one", "two"]).await;
    }
}

#[actix_web::test]
async fn a_session_is_swapped_by_what_a_browser_copies_of_the_same_mirror_alone() {
    let fake = Fake::start(guarded).await;
    let app = spawn_before(&fake.url, "web-chat", &[("UPSTREAM_COOKIE", "sso=old")]).await;
    let copied = |url: &str, cookie: &str| {
        let body = "{\"message\":\"x\",\"modelName\":\"m\"}";
        json!({"pasted": format!("curl '{url}/rest/app-chat/conversations/new' -b '{cookie}' --data-raw '{body}'")})
    };
    let other = swap(&app, copied("https://other.example.com", "sso=good")).await;
    assert_eq!(other.status, 422);
    assert!(other.text.contains("another mirror"), "{}", other.text);
    assert!(fake.requests().is_empty(), "the login went nowhere");
    assert_eq!(swap(&app, copied(&fake.url, "sso=bad")).await.code(), "upstream_auth_expired");
    assert_eq!(swap(&app, copied(&fake.url, "sso=good")).await.status, 200);
    assert_eq!(ask(&app).await, "");
    assert_eq!(swap(&app, json!({"pasted": "Cookie: sso=good"})).await.status, 200);
    assert_eq!(swap(&app, json!({"pasted": "curl 'https://m"})).await.status, 422);
}
