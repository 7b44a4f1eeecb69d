//! The upstream that the owner sets while the service runs: read out of what a browser copies, tried, kept in the
//! store, followed by workers and replicas, locked by the environment.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, Answer, KEY, TestApp, call, spawn, spawn_before, temporary_folder};
use crate::keys::as_owner;
use crate::running::Process;
use crate::upstream::{Fake, Request, Step, chunk, chunked, response, send, stream_end, stream_head};

const SECRET: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// A mirror of the OpenAI protocol that takes one key and says its own name.
async fn mirror(name: &'static str) -> Fake {
    Fake::start(move |request| {
        if request.header("authorization") != Some("Bearer sk-good-key-of-the-tests") {
            let refusal = json!({"error": {"message": "no such key", "code": "invalid_api_key"}});
            return send(response("401 Unauthorized", "application/json", &refusal.to_string()));
        }
        if request.line.contains("/models") {
            return send(response("200 OK", "application/json", r#"{"data":[{"id":"m-1"},{"id":"m-2"}]}"#));
        }
        vec![stream_head(), chunk(name, Some("stop")), stream_end()]
    })
    .await
}

fn with_key(url: &str) -> Value {
    json!({"url": url, "api_key": "sk-good-key-of-the-tests"})
}

async fn set(app: &TestApp, body: Value) -> Answer {
    as_owner(app, "PUT", "/api/upstream", body).await
}

async fn shown(app: &TestApp) -> Value {
    app.get_as_owner("/api/upstream").await.json()
}

/// What the upstream answers, or the code of its failure.
async fn told(app: &TestApp) -> String {
    let answer = app.chat(json!({"message": "Hello"})).await.json();
    let code = answer["error"]["code"].as_str();
    code.or(answer["answer"].as_str()).unwrap_or_default().to_string()
}

/// Waits until the condition holds, for as long as replicas may take to follow.
async fn within_five_seconds(mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(5), "it takes too long");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The lines of a trial.
async fn tried(app: &TestApp, body: Value) -> Vec<Value> {
    let answer = as_owner(app, "POST", "/api/upstream/test", body).await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"), "{}", answer.text);
    answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[actix_web::test]
async fn an_upstream_is_set_without_a_restart_and_is_there_after_one() {
    let (first, second) = (mirror("First").await, mirror("Second").await);
    let folder = temporary_folder();
    let app = spawn(&[("DATA_DIR", &folder)]).await;
    assert!(told(&app).await.contains("demo"));
    assert_eq!(shown(&app).await["source"], "demo");

    let answer = set(&app, with_key(&first.url)).await.json();
    assert_eq!((&answer["source"], &answer["upstreams"][0]["name"]), (&json!("store"), &json!(first.url)));
    // Each connection may come to another worker.
    for _ in 0..20 {
        assert_eq!(told(&app).await, "First");
    }
    assert_eq!(app.get("/api/models").await.json()["default_model"], "m-1");
    assert_eq!(app.get("/api/health").await.json()["upstream"], json!(first.url));
    let since = async |app: &TestApp| {
        let page = app.get_as_owner("/console/part/maintain?lang=en").await.text;
        page.split_once("In use since</dt><dd>").map(|(_, since)| since[..40].to_string())
    };
    let used = since(&app).await.filter(|since| since.starts_with("<time data-at="));
    assert!(used.is_some(), "{:?}", since(&app).await);
    // Another setting makes it no other login.
    assert_eq!(set(&app, json!({"default_model": "m-1"})).await.status, 200);
    assert_eq!(since(&app).await, used);

    // A new key and address: what was known of the first one is known no more.
    assert_eq!(set(&app, with_key(&second.url)).await.status, 200);
    assert_eq!(told(&app).await, "Second");
    drop(app);
    let app = spawn(&[("DATA_DIR", &folder)]).await;
    assert_eq!(told(&app).await, "Second");
    let removed = as_owner(&app, "DELETE", "/api/upstream", Value::Null).await;
    assert_eq!(removed.json()["source"], "demo");
    assert!(told(&app).await.contains("demo"));
    assert_eq!(as_owner(&app, "DELETE", "/api/upstream", Value::Null).await.status, 404);
    let audit = app.get_as_owner("/api/audit").await;
    assert!(audit.text.contains("upstream.set") && audit.text.contains("upstream.remove"), "{}", audit.text);
    assert!(!audit.text.contains("sk-good"), "{}", audit.text);
}

#[actix_web::test]
async fn replicas_follow_and_the_environment_of_another_holds_there() {
    let (kept, own) = (mirror("Kept").await, mirror("Own").await);
    let folder = temporary_folder();
    let app = spawn(&[("DATA_DIR", &folder)]).await;
    let replica = spawn(&[("DATA_DIR", &folder)]).await;
    let settings = [("DATA_DIR", folder.as_str()), ("UPSTREAM_API_KEY", "sk-good-key-of-the-tests")];
    let locked = spawn_before(&own.url, "openai", &settings).await;
    assert_eq!(set(&app, with_key(&kept.url)).await.status, 200);
    within_five_seconds(async || told(&replica).await == "Kept").await;
    assert_eq!(as_owner(&replica, "DELETE", "/api/upstream", Value::Null).await.status, 200);
    within_five_seconds(async || told(&app).await.contains("demo")).await;
    assert_eq!(told(&locked).await, "Own");
}

#[actix_web::test]
async fn where_the_environment_names_the_upstream_it_holds_and_says_so() {
    let fake = mirror("Own").await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-good-key-of-the-tests")]).await;
    let before = shown(&app).await;
    assert_eq!(before["source"], "environment");
    let locked = json!(["UPSTREAM_URL", "UPSTREAM_PROTOCOL", "UPSTREAM_API_KEY", "DEFAULT_MODEL"]);
    assert_eq!(before["locked"], locked);
    assert_eq!(before["upstreams"][0]["api_key"], "…ests");
    let other = mirror("Other").await;
    let refused = set(&app, with_key(&other.url)).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text.contains("UPSTREAM_URL, UPSTREAM_PROTOCOL"), "{}", refused.text);
    assert!(other.requests().is_empty());
    assert_eq!(as_owner(&app, "DELETE", "/api/upstream", Value::Null).await.status, 422);
    assert_eq!(told(&app).await, "Own");
    // One variable of the group locks all of it.
    let app = spawn(&[("DEFAULT_MODEL", "demo")]).await;
    assert_eq!(set(&app, with_key(&other.url)).await.status, 422);
}

#[actix_web::test]
async fn answers_under_way_end_on_the_upstream_that_they_began_with() {
    let slow = Fake::start(|request| {
        if request.line.contains("/models") {
            return send(response("200 OK", "application/json", r#"{"data":[{"id":"m"}]}"#));
        }
        let (pause, end) = (Step::Pause(Duration::from_millis(1500)), chunk("end", Some("stop")));
        vec![stream_head(), chunk("be", None), pause, end, stream_end()]
    })
    .await;
    let fast = mirror("Fast").await;
    let app = spawn(&[]).await;
    assert_eq!(set(&app, json!({"url": slow.url, "test": false})).await.status, 200);
    let asked = async {
        let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        app.post("/v1/chat/completions", KEY, &body.to_string()).await
    };
    let changed = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let mut body = with_key(&fast.url);
        body["test"] = false.into();
        assert_eq!(set(&app, body).await.status, 200);
        assert_eq!(told(&app).await, "Fast");
    };
    let start = Instant::now();
    let (answer, ()) = tokio::join!(asked, changed);
    assert!(start.elapsed() >= Duration::from_millis(1400), "it was under way");
    assert!(answer.text.contains("end") && answer.text.contains("[DONE]"), "{}", answer.text);
}

#[actix_web::test]
async fn a_long_trial_before_an_upstream_is_kept_is_announced_by_blanks() {
    let (pause, head) = (Step::Pause(Duration::from_millis(700)), stream_head());
    let slow = Fake::start(move |request| match request.line.contains("/models") {
        true => send(response("200 OK", "application/json", r#"{"data":[{"id":"m"}]}"#)),
        false => vec![pause.clone(), head.clone(), chunk("pong", Some("stop")), stream_end()],
    })
    .await;
    let app = spawn(&[("HEARTBEAT_AFTER_SECONDS", "0.2"), ("HEARTBEAT_SECONDS", "0.1")]).await;
    // A trial that is followed has them before the line of a long step, which is JSON all the same.
    let trial = as_owner(&app, "POST", "/api/upstream/test", json!({"url": slow.url})).await;
    let mut lines = trial.text.lines();
    let long = lines.find(|line| line.starts_with("   ")).expect("a line after blanks");
    let step: Value = serde_json::from_str(long).expect("JSON");
    assert_eq!((&step["step"], &step["status"]), (&json!("question"), &json!("ok")), "{}", trial.text);
    let answer = set(&app, json!({"url": slow.url})).await;
    assert!(answer.text.starts_with("   "), "{}", answer.text);
    assert_eq!(answer.json()["source"], "store");

    // Then a failure is a 200 as well, and what was kept before stays.
    let failing = Fake::start(|_| {
        vec![
            Step::Pause(Duration::from_millis(700)),
            Step::Send(response("500 Oh", "text/plain", "no").into()),
        ]
    })
    .await;
    let answer = set(&app, json!({"url": failing.url})).await;
    assert!(answer.text.starts_with("   "), "{}", answer.text);
    let said = answer.json();
    assert_eq!((answer.status.as_u16(), &said["success"]), (200, &json!(false)));
    assert!(said["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{said}");
    assert_eq!(shown(&app).await["upstreams"][0]["name"], json!(slow.url));
}

#[actix_web::test]
async fn credentials_stay_with_the_address_that_they_were_given_for() {
    let (first, second) = (mirror("First").await, mirror("Second").await);
    let app = spawn(&[]).await;
    assert_eq!(set(&app, with_key(&first.url)).await.status, 200);
    // What is left out stays as it is.
    assert_eq!(set(&app, json!({"default_model": "m-2"})).await.status, 200);
    assert_eq!(told(&app).await, "First");
    assert!(first.requests().last().expect("a request").body.contains("m-2"));
    // Another port is another address.
    let refused = set(&app, json!({"url": second.url})).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (424, "upstream_auth_expired"));
    assert!(second.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(told(&app).await, "First", "the one before goes on");
    // An empty text takes a key away.
    let refused = set(&app, json!({"api_key": ""})).await;
    assert_eq!(refused.code(), "upstream_auth_expired");
}

#[actix_web::test]
async fn a_trial_goes_step_by_step_to_the_first_failure() {
    let fake = mirror("pong").await;
    let app = spawn(&[("SECRET_KEY", SECRET)]).await;
    let lines = tried(&app, with_key(&fake.url)).await;
    let of = |status: &str| {
        let lines = lines.iter().filter(|line| line["status"] == status);
        lines.map(|line| line["step"].as_str().expect("a step").to_string()).collect::<Vec<_>>()
    };
    let all = ["reach", "sign_in", "models", "question", "conversation", "keep"];
    assert_eq!((of("running"), of("ok")), (all.map(String::from).to_vec(), all.map(String::from).to_vec()));
    assert_eq!(lines.last(), Some(&json!({"passed": true})));
    assert_eq!((&lines[5]["code"], &lines[5]["values"]["count"]), (&json!("listed"), &json!("2")));
    assert_eq!(lines[11]["code"], "kept_sealed");
    let mut questions = fake.requests().into_iter().filter(|request| request.line.starts_with("POST"));
    let last = questions.next_back().expect("a question").json();
    assert_eq!(last["messages"].as_array().expect("messages").len(), 3, "one conversation: {last}");
    assert_eq!(shown(&app).await["source"], "demo", "nothing is kept");

    let lines = tried(&app, json!({"url": fake.url, "api_key": "sk-wrong-key-of-the-tests"})).await;
    let failed = &lines[lines.len() - 2];
    assert_eq!((&failed["step"], &failed["status"]), (&json!("sign_in"), &json!("broken")));
    assert_eq!(failed["code"], "upstream_auth_expired");
    assert!(failed["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
    assert_eq!(lines.last(), Some(&json!({"passed": false})));
    assert!(!format!("{lines:?}").contains("sk-wrong"), "{lines:?}");

    let nowhere = tried(&app, json!({"url": "http://127.0.0.1:9"})).await;
    assert_eq!((&nowhere[1]["step"], &nowhere[1]["code"]), (&json!("reach"), &json!("tcp")));
    assert_eq!(as_owner(&app, "POST", "/api/upstream/test", json!({})).await.status, 422);
    assert_eq!(set(&app, with_key(&fake.url)).await.status, 200);
    assert_eq!(tried(&app, json!({})).await.last(), Some(&json!({"passed": true})), "that which answers");
}

/// A web chat that renews its cookie with each answer and accepts only the newest.
fn renewing(request: &Request) -> Vec<Step> {
    let cookie = request.header("cookie").unwrap_or_default();
    if request.line.starts_with("GET") {
        return send(response("200 OK", "application/json", "{}"));
    }
    let number: usize = cookie.split("sso=").nth(1).and_then(|text| text.parse().ok()).unwrap_or(99);
    let renewed = format!("\r\nSet-Cookie: sso={}; Path=/\r\n", number + 1);
    let lines = "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\",\"responseId\":\"r1\"}}}}\n";
    send(chunked("application/x-ndjson", lines).replacen("\r\n", &renewed, 1))
}

#[actix_web::test]
async fn what_a_browser_copies_is_read_tried_and_kept_with_what_the_mirror_renewed_meanwhile() {
    let fake = Fake::start(renewing).await;
    let app = spawn(&[]).await;
    let pasted = format!(
        "curl '{}/rest/app-chat/conversations/new' \\\n -H 'accept: */*' \\\n -b 'sso=1' \\\n -H 'user-agent: Mozilla/5.0' \\\n --data-raw '{{\"temporary\":true,\"modelName\":\"m-4\",\"message\":\"my own words\"}}'",
        fake.url
    );
    let read = as_owner(&app, "POST", "/api/upstream/read", json!({"pasted": pasted})).await;
    let (text, read) = (read.text.clone(), read.json());
    assert_eq!((&read["form"], &read["upstream"]["protocol"]), (&json!("bash"), &json!("web-chat")));
    assert_eq!(read["upstream"]["cookies"], json!([{"name": "sso", "value": "…"}]));
    assert_eq!(read["upstream"]["switches"], json!(["temporary"]));
    let codes: Vec<_> =
        read["left_out"].as_array().expect("notes").iter().map(|note| &note["code"]).collect();
    for code in ["connection", "question", "model", "lists_no_models"] {
        assert!(codes.contains(&&json!(code)), "{code}: {codes:?}");
    }
    assert!(!text.contains("my own words") && !text.contains("sso=1"), "{text}");
    let values = json!({"pasted": pasted, "values": true});
    let values = as_owner(&app, "POST", "/api/upstream/read", values).await.json();
    let settings = values["settings"].as_array().expect("settings");
    assert!(settings.contains(&json!({"name": "UPSTREAM_COOKIE", "value": "sso=1"})), "{settings:?}");

    assert_eq!(tried(&app, json!({"pasted": pasted})).await.last(), Some(&json!({"passed": true})));
    assert_eq!(set(&app, json!({"pasted": pasted, "test": false})).await.status, 200);
    assert_eq!(told(&app).await, "Hi");
    let posts: Vec<_> =
        fake.requests().into_iter().filter(|request| request.line.starts_with("POST")).collect();
    let cookies: Vec<_> = posts.iter().filter_map(|request| request.header("cookie")).collect();
    assert_eq!(cookies, ["sso=1", "sso=2", "sso=3"]);
    assert!(posts[1].line.contains("/c1/responses"), "{}", posts[1].line);
    assert_eq!(posts[2].header("user-agent"), Some("Mozilla/5.0"));

    let read =
        as_owner(&app, "POST", "/api/upstream/read", json!({"pasted": "curl 'https://m"})).await.json();
    assert_eq!((&read["mistake"]["code"], &read["upstream"]), (&json!("unclosed"), &Value::Null));
    // A Cookie line is enough for the address that is known already.
    assert_eq!(set(&app, json!({"pasted": "Cookie: sso=7", "test": false})).await.status, 200);
    assert_eq!(told(&app).await, "Hi");
    let last = fake.requests().into_iter().rfind(|request| request.line.starts_with("POST"));
    let last = last.expect("a question");
    assert_eq!((last.header("cookie"), last.header("user-agent")), (Some("sso=7"), Some("Mozilla/5.0")));
}

fn file_holds(folder: &str, text: &str) -> bool {
    let files = std::fs::read_dir(folder).expect("the folder").filter_map(Result::ok);
    let mut contents = files.filter_map(|file| std::fs::read(file.path()).ok());
    contents.any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[actix_web::test]
async fn what_was_sealed_under_another_secret_key_ends_the_start_with_a_clear_word() {
    let fake = mirror("Sealed").await;
    let folder = temporary_folder();
    let app = spawn(&[("DATA_DIR", &folder), ("SECRET_KEY", SECRET)]).await;
    assert_eq!(set(&app, with_key(&fake.url)).await.status, 200);
    drop(app);
    assert!(!file_holds(&folder, "sk-good"));
    for (key, why) in
        [(None, "SECRET_KEY is not set"), (Some("another-secret-key-0123456789abcdef"), "is not the one")]
    {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
        command.env_clear().env("DATA_DIR", &folder).env("PORT", "0").current_dir(&folder);
        command.env("GATEWAY_API_KEYS", KEY).envs(key.map(|key| ("SECRET_KEY", key)));
        let output = command.output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains(why) && text.contains("set SECRET_KEY as it was"), "{text}");
    }
    let app = spawn(&[("DATA_DIR", &folder), ("SECRET_KEY", SECRET)]).await;
    assert_eq!(told(&app).await, "Sealed");
}

#[actix_web::test]
async fn processes_on_one_postgresql_follow() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else { return };
    let fake = mirror("Kept").await;
    let settings = [
        ("DATABASE_URL", server.as_str()),
        ("GATEWAY_API_KEYS", KEY),
        ("ADMIN_KEY", ADMIN_KEY),
        ("SECRET_KEY", SECRET),
    ];
    let (one, other) = (Process::start(&settings), Process::start(&settings));
    let headers = [("x-api-key", ADMIN_KEY), ("content-type", "application/json")];
    let body = with_key(&fake.url).to_string().into_bytes();
    let kept = call(one.address, "PUT", "/api/upstream", &headers, Some(body)).await;
    assert_eq!(kept.status, 200, "{}", kept.text);
    let told = async |process: &Process| {
        let body = Some(json!({"message": "Hello"}).to_string().into_bytes());
        let headers = [("x-api-key", KEY), ("content-type", "application/json")];
        call(process.address, "POST", "/api/chat", &headers, body).await.json()["answer"].clone()
    };
    assert_eq!(told(&one).await, "Kept");
    within_five_seconds(async || told(&other).await == "Kept").await;
    let removed = call(other.address, "DELETE", "/api/upstream", &headers, None).await;
    assert_eq!(removed.status, 200, "{}", removed.text);
    within_five_seconds(async || told(&one).await.as_str().is_some_and(|text| text.contains("demo"))).await;
}

/// Runs `mirrorgate setup` beside a service, with this on its standard input.
async fn from_terminal(folder: &str, arguments: &[&str], input: String) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    command.env_clear().env("DATA_DIR", folder).current_dir(folder).arg("setup").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let work = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("the program runs");
        // A program that has seen enough may close it.
        let _ = child.stdin.take().expect("an input").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    });
    work.await.expect("it ends")
}

#[actix_web::test]
async fn the_terminal_sets_it_as_well_and_a_running_service_follows() {
    let fake = mirror("pong").await;
    let folder = temporary_folder();
    let app = spawn(&[("DATA_DIR", &folder)]).await;
    let key = "sk-good-key-of-the-tests";
    let (code, text) = from_terminal(&folder, &["--url", &fake.url, "--key", "-"], "sk-wrong".into()).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("sign in") && text.contains("upstream_auth_expired"), "{text}");
    let (code, text) = from_terminal(&folder, &["--url", &fake.url, "--key", "-"], key.into()).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("in the same conversation") && !text.contains(key), "{text}");
    within_five_seconds(async || told(&app).await == "pong").await;
    let questions = fake.requests().len();
    let pasted = format!(
        "curl {}/v1/chat/completions -H 'Authorization: Bearer {key}' -d '{{\"model\":\"m-2\",\"messages\":[]}}'",
        fake.url
    );
    let (code, text) = from_terminal(&folder, &["--untested"], pasted).await;
    assert_eq!((code, fake.requests().len()), (Some(0), questions), "{text}");
    within_five_seconds(async || {
        told(&app).await;
        fake.requests().last().expect("a request").body.contains("m-2")
    })
    .await;
    let (code, text) = from_terminal(&folder, &["--remove"], String::new()).await;
    assert_eq!(code, Some(0), "{text}");
    within_five_seconds(async || told(&app).await.contains("demo")).await;
    let (code, text) = from_terminal(&folder, &["--model", "m"], String::new()).await;
    assert!(code == Some(1) && text.contains("UPSTREAM_URL: is not given"), "{text}");
}

#[actix_web::test]
async fn the_pages_lead_to_it_while_the_demo_answers_and_show_what_is_locked() {
    let fake = mirror("Own").await;
    let app = spawn(&[]).await;
    let first = app.get("/console").await;
    assert!(first.text.contains("data-page=\"setup\""), "{}", first.text);
    for (lang, word) in [("en", "Connect your mirror"), ("zh-Hant", "連接你的鏡像站")] {
        for query in ["", "kind=web-chat", "kind=cookie", "kind=openai", "kind=anthropic"] {
            let page = app.get_as_owner(&format!("/console/part/setup?lang={lang}&{query}")).await;
            assert!(page.status == 200 && page.text.contains(word), "{query}: {}", page.text);
        }
        let page = app.get_as_owner(&format!("/console/part/maintain?lang={lang}")).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let doctor = app.get_as_owner(&format!("/console/part/doctor?lang={lang}")).await;
        let found = if lang == "en" { "The built-in demo answers" } else { "內建的示範程式" };
        assert!(doctor.text.contains(found), "{}", doctor.text);
    }
    assert_eq!(set(&app, with_key(&fake.url)).await.status, 200);
    let first = app.get("/console").await;
    assert!(!first.text.contains("data-page=\"setup\""), "{}", first.text);
    let maintain = app.get_as_owner("/console/part/maintain?audit=all").await;
    assert!(maintain.text.contains("set the mirror"), "{}", maintain.text);

    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-good-key-of-the-tests")]).await;
    let page = app.get_as_owner("/console/part/setup?kind=openai").await.text;
    let host = fake.url.trim_start_matches("http://");
    assert!(page.contains("UPSTREAM_API_KEY") && page.contains(host), "{page}");
    assert!(!page.contains("<form") && !page.contains("sk-good"), "{page}");
}
