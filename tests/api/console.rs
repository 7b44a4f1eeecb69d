//! The console: its frames, its parts, and signing in.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, Answer, KEY, TestApp, spawn, spawn_before, temporary_folder};
use crate::keys::new_key;
use crate::layering;
use crate::upstream::{Fake, response, send};

/// The pages.
const PAGES: &[&str] = &["overview", "try", "keys", "connect", "maintain", "setup"];

/// A token, got with what is sent in a header.
async fn token_by(app: &TestApp, header: (&str, &str)) -> Answer {
    app.call("POST", "/api/console/token", &[header], None).await
}

async fn sign_in(app: &TestApp) -> String {
    let answer = token_by(app, ("x-api-key", ADMIN_KEY)).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()["token"].as_str().expect("a token").to_string()
}

async fn status(app: &TestApp, path: &str, header: (&str, &str)) -> (u16, String) {
    let answer = app.call("GET", path, &[header], None).await;
    let code = serde_json::from_str::<Value>(&answer.text).ok();
    let code = code.and_then(|body| body["error"]["code"].as_str().map(String::from));
    (answer.status.as_u16(), code.unwrap_or_default())
}

#[actix_web::test]
async fn the_admin_key_is_exchanged_for_a_token_that_opens_the_owners_doors() {
    let app = spawn(&[]).await;
    let token = sign_in(&app).await;
    let bearer = format!("Bearer {token}");
    for path in ["/api/keys", "/api/usage/all", "/api/audit", "/metrics", "/console/part/connect"] {
        assert_eq!(status(&app, path, ("authorization", &bearer)).await.0, 200, "{path}");
    }
    let own = app.call("GET", "/api/usage", &[("authorization", &bearer)], None).await;
    assert_eq!(own.json()["key"], "owner");
    let next = token_by(&app, ("authorization", &bearer)).await.json();
    assert!(next["expires_in"].as_u64().is_some_and(|seconds| (1790..=1800).contains(&seconds)), "{next}");
    let entries = app.get_as_owner("/api/audit").await.json()["entries"].clone();
    let signed_in = entries.as_array().expect("entries").iter();
    assert_eq!(signed_in.filter(|entry| entry["action"] == "console.sign_in").count(), 1, "{entries}");
}

#[actix_web::test]
async fn a_token_is_taken_as_a_bearer_and_in_no_other_place() {
    let app = spawn(&[]).await;
    let token = sign_in(&app).await;
    for header in [
        ("x-api-key", token.clone()),
        ("authorization", token.clone()),
        ("authorization", format!("Basic {token}")),
        ("authorization", format!("Bearer owner:{token}")),
    ] {
        let told = status(&app, "/api/keys", (header.0, &header.1)).await;
        assert_eq!(told, (401, "gateway_key_wrong".into()), "{header:?}");
    }
    let told = status(&app, &format!("/api/keys?key={token}"), ("accept", "*/*")).await;
    assert_eq!(told, (401, "gateway_key_wrong".into()));
}

#[actix_web::test]
async fn a_forged_token_and_one_of_another_admin_key_open_nothing() {
    let app = spawn(&[]).await;
    let other = spawn(&[("ADMIN_KEY", "an0ther-0wners-k3y-of-the-tests")]).await;
    let theirs = token_by(&other, ("x-api-key", "an0ther-0wners-k3y-of-the-tests")).await.json();
    let own = sign_in(&app).await;
    let (start, last) = own.split_at(own.len() - 1);
    let changed = format!("{start}{}", if last == "A" { "B" } else { "A" });
    for token in
        [theirs["token"].as_str().expect("a token"), &changed, "mgt_", "mgt_AAAAAAAAAAAAAAAAAAAAAAAA"]
    {
        let bearer = format!("Bearer {token}");
        let told = status(&app, "/api/keys", ("authorization", &bearer)).await;
        assert_eq!(told, (401, "gateway_key_wrong".into()), "{token}");
        assert_eq!(token_by(&app, ("authorization", &bearer)).await.status.as_u16(), 401, "{token}");
    }
}

#[actix_web::test]
async fn replicas_that_share_the_admin_key_take_each_others_tokens() {
    let (app, replica) = (spawn(&[]).await, spawn(&[]).await);
    let bearer = format!("Bearer {}", sign_in(&app).await);
    assert_eq!(status(&replica, "/api/keys", ("authorization", &bearer)).await.0, 200);
}

#[actix_web::test]
async fn a_new_admin_key_ends_what_the_old_one_signed_in() {
    let folder = temporary_folder();
    let app = spawn(&[("ADMIN_KEY", ""), ("DATA_DIR", &folder)]).await;
    // The start made an admin key and showed it; another is made here, to have its text.
    let mut rotate = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    rotate.args(["key", "rotate", "owner"]).env_clear().env("DATA_DIR", &folder).current_dir(&folder);
    let first = String::from_utf8(rotate.output().expect("it runs").stdout).expect("UTF-8");
    let start = Instant::now();
    let signed_in = loop {
        let answer = token_by(&app, ("x-api-key", first.trim())).await;
        if answer.status == 200 || start.elapsed() > Duration::from_secs(10) {
            break answer;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let token = signed_in.json()["token"].as_str().map(String::from);
    let bearer = format!("Bearer {}", token.expect("a token"));
    assert_eq!(status(&app, "/api/keys", ("authorization", &bearer)).await.0, 200);
    let rotated = app.call("POST", "/api/keys/owner/rotate", &[("authorization", &bearer)], None).await;
    assert_eq!(rotated.status.as_u16(), 200, "{}", rotated.text);
    let told = status(&app, "/api/keys", ("authorization", &bearer)).await;
    assert_eq!(told, (401, "gateway_key_wrong".into()));
}

#[actix_web::test]
async fn callers_get_no_token_and_no_part() {
    let app = spawn(&[]).await;
    let caller = new_key(&app, "caller", json!({})).await;
    for (header, expected) in [
        (("x-api-key", caller.as_str()), (403, "owner_only")),
        (("x-api-key", KEY), (403, "owner_only")),
        (("accept", "*/*"), (401, "gateway_key_missing")),
    ] {
        let told = token_by(&app, header).await;
        assert_eq!((told.status.as_u16(), told.code().as_str()), expected);
        for page in PAGES.iter().chain(&["state", "advice"]) {
            let told = status(&app, &format!("/console/part/{page}"), header).await;
            assert_eq!((told.0, told.1.as_str()), expected, "{page}");
        }
    }
}

#[actix_web::test]
async fn frames_are_open_to_all_and_say_nothing_that_a_key_protects() {
    let settings =
        [("UPSTREAM_URL", "http://127.0.0.1:1/secret-path"), ("UPSTREAM_API_KEY", "sk-canary-1234")];
    let app = spawn(&settings).await;
    let frames = PAGES.iter().map(|page| format!("/console/{page}")).chain(["/console".into()]);
    for path in frames {
        for (lang, words) in [("en", "Sign in to the console"), ("zh-Hant", "登入主控台")] {
            let page = app.call("GET", &format!("{path}?lang={lang}"), &[], None).await;
            assert_eq!(page.status.as_u16(), 200, "{path}");
            assert!(page.text.contains(&format!("lang=\"{lang}\"")) && page.text.contains(words), "{path}");
            let policy = page.header("content-security-policy").unwrap_or_default();
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
            assert!(!page.text.contains("style=") && !page.text.contains("secret-path"), "{path}");
            assert!(!page.text.contains("canary") && !page.text.contains("mgt_"), "{path}");
        }
    }
    assert_eq!(status(&app, "/console/nothing", ("accept", "*/*")).await.0, 404);
    let slashed = app.call("GET", "/console/", &[], None).await;
    assert_eq!((slashed.status.as_u16(), slashed.header("location")), (308, Some("../console")));
    for (prefers, is_asked) in [("zh-CN,zh;q=0.9", true), ("zh-TW,zh;q=0.9", false)] {
        let page = app.call("GET", "/console", &[("accept-language", prefers)], None).await;
        assert_eq!(page.text.contains("没有简体中文版"), is_asked, "{prefers}");
    }
}

#[actix_web::test]
async fn the_frames_files_are_there_under_a_name_that_changes_with_them() {
    let app = spawn(&[]).await;
    let page = app.call("GET", "/console", &[], None).await.text.replace("&#x2f;", "/");
    let files: Vec<_> = page.split('"').filter(|text| text.starts_with("/assets/console/")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let answer = app.call("GET", file, &[], None).await;
        assert_eq!(answer.status.as_u16(), 200, "{file}");
        assert!(answer.header("cache-control").is_some_and(|kept| kept.contains("immutable")), "{file}");
        let name = file.rsplit('/').next().expect("a name");
        let older = app.call("GET", &format!("/assets/console/0123456789abcdef/{name}"), &[], None).await;
        assert_eq!((older.status.as_u16(), older.header("cache-control")), (200, Some("no-store")));
    }
}

#[actix_web::test]
async fn without_keys_the_console_is_open_and_gives_no_token() {
    let app = spawn(&[("GATEWAY_AUTH", "none"), ("GATEWAY_API_KEYS", ""), ("ADMIN_KEY", "")]).await;
    let frame = app.call("GET", "/console", &[], None).await;
    assert!(frame.text.contains("data-open") && !frame.text.contains("sign-in-form"));
    assert_eq!(app.call("GET", "/console/part/connect", &[], None).await.status.as_u16(), 200);
    assert_eq!(token_by(&app, ("accept", "*/*")).await.code(), "invalid_request");
}

#[actix_web::test]
async fn the_page_of_connections_has_this_services_addresses_in_both_languages() {
    let app = spawn(&[("PUBLIC_URL", "https://gate.example.com")]).await;
    for (query, menu, not) in [
        ("lang=en", "Swagger API as Tool", "Create Custom Tool"),
        ("lang=en&dify=older", "Create Custom Tool", "Integrations"),
        ("lang=zh-Hant", "Swagger API 作為工具", "自定義"),
        ("lang=zh-Hant&dify=older", "建立自定義工具", "集成"),
    ] {
        let part = app.get_as_owner(&format!("/console/part/connect?{query}")).await.text;
        assert!(part.contains(menu) && !part.contains(not), "{query}: {part}");
        let plain = part.replace("<wbr>", "").replace("&#x2f;", "/");
        let app_file = if query.contains("zh") { "/dify/chatflow.zh-Hant.yml" } else { "/dify/chatflow.yml" };
        for path in ["/openapi.json?for=dify", app_file, "/mcp", "/v1"] {
            assert!(
                plain.contains(&format!("<code>https://gate.example.com{path}</code>")),
                "{query}: {path}"
            );
        }
    }
}

#[actix_web::test]
async fn the_page_of_keys_shows_what_each_may_and_has_used() {
    let app = spawn(&[("GATEWAY_API_KEYS", &format!("ci:{KEY}"))]).await;
    let limits = json!({"tokens_per_day": 1, "rpm": 60, "models": ["demo"], "expires": "3d"});
    let limited = new_key(&app, "limited", limits).await;
    new_key(&app, "free", json!({})).await;
    for key in [limited.as_str(), KEY] {
        let answer = app.post("/api/chat", key, r#"{"message": "hi"}"#).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    }
    let part = app.get_as_owner("/console/part/keys?lang=en").await.text;
    let rows: Vec<_> = part.split("<div class=\"key\"").skip(1).collect();
    let row = |name: &str| {
        let is_its = |row: &&&str| row.starts_with(&format!(" data-name=\"{name}\""));
        *rows.iter().find(is_its).unwrap_or_else(|| panic!("{name}: {part}"))
    };
    for words in
        ["At its limit", "1 of 1<", "1 of 60<", "only demo", "used just now", "Today’s tokens are used."]
    {
        assert!(row("limited").contains(words), "{words}: {}", row("limited"));
    }
    assert!(row("free").contains("not used yet") && row("free").contains("0, no limit"), "{}", row("free"));
    let locked = row("ci");
    assert!(
        locked.contains("Locked") && !locked.contains("data-do") && !locked.contains("0, no limit"),
        "{locked}"
    );
    let chinese = app.get_as_owner("/console/part/keys?lang=zh-Hant").await.text;
    assert!(chinese.contains("已達上限") && chinese.contains("今天的 token 已用完。"), "{chinese}");
    assert!(!part.contains(&limited) && !part.contains(KEY));
}

#[actix_web::test]
async fn the_page_to_try_on_offers_the_models_and_opens_without_them() {
    let app =
        spawn(&[("UPSTREAM_URL", "http://127.0.0.1:1"), ("MODELS", "a,b"), ("DEFAULT_MODEL", "b")]).await;
    let part = app.get_as_owner("/console/part/try?lang=en").await.text;
    assert!(part.contains("<option>a</option><option selected>b</option>"), "{part}");
    let silent = spawn(&[("UPSTREAM_URL", "http://127.0.0.1:1")]).await;
    let part = silent.get_as_owner("/console/part/try?lang=zh-Hant").await.text;
    assert!(part.contains("鏡像站沒有列出它的模型。") && part.contains("請確認鏡像站正在運作"), "{part}");
}

#[actix_web::test]
async fn what_to_do_about_an_error_is_said_in_the_readers_language() {
    let refusal = r#"{"error": {"message": "sign in", "code": "of_its_own"}}"#;
    let fake = Fake::start(|_| send(response("401 Unauthorized", "application/json", refusal))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let body = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
    let failed = app.post("/v1/chat/completions", KEY, body).await;
    let id = failed.header("x-request-id").expect("an id");
    for (lang, words) in
        [("en", "The mirror does not accept the login any more"), ("zh-Hant", "鏡像站不再接受目前的登入")]
    {
        for query in ["code=upstream_auth_expired", &format!("code=of_its_own&request_id={id}")] {
            let told = app.get_as_owner(&format!("/console/part/advice?{query}&lang={lang}")).await.json();
            assert_eq!(told["code"], "upstream_auth_expired", "{query}");
            assert_eq!(told["what"], words, "{query}");
            assert!(told["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{told}");
        }
    }
    let told = app.get_as_owner("/console/part/advice?code=none").await.json();
    assert_eq!(told, json!({"code": "none", "what": null, "hint": null}));
}

/// Whatever is noted in the audit trail is said in words on the page, in both languages.
#[test]
fn each_deed_has_its_words() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let texts = ["en", "zh-Hant"].map(|language| {
        let path = source.join(format!("api/console/messages.maintain.{language}.json"));
        std::fs::read_to_string(path).expect("the messages")
    });
    let mut found = 0;
    for file in layering::files(&source) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let actions = text.split("note(").skip(1).filter_map(|piece| piece.split('"').nth(1));
        let is_action = |text: &&str| {
            text.contains('.') && text.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c))
        };
        for action in actions.filter(is_action) {
            found += 1;
            let word = format!("\"deed_{}\"", action.replace('.', "_"));
            assert!(texts.iter().all(|text| text.contains(&word)), "no words for {action}");
        }
    }
    assert!(found >= 10, "the places are found: {found}");
}
