//! The doctor, run as a person runs it, against services and mirrors in every state.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::certificate::TlsServer;
use crate::helpers::{ADMIN_KEY, KEY, spawn, spawn_before, temporary_folder};
use crate::upstream::{Fake, Request, Step, response, send};

/// What the doctor prints, and its exit code.
struct Report {
    json: Value,
    code: Option<i32>,
    progress: String,
}

impl Report {
    /// The worst finding of a check.
    fn finding(&self, check: &str) -> &Value {
        let findings = self.json["findings"].as_array().expect("findings");
        let mut of_check: Vec<_> = findings.iter().filter(|finding| finding["check"] == check).collect();
        let order = ["broken", "warning", "ok"];
        of_check.sort_by_key(|finding| order.iter().position(|status| finding["status"] == *status));
        of_check.first().copied().unwrap_or(&Value::Null)
    }

    /// Asserts one finding by its level and words in what was seen or advised.
    fn has(&self, check: &str, status: &str, words: &str) {
        let finding = self.finding(check);
        assert_eq!(finding["status"], status, "{check}: {:#}", self.json);
        assert!(finding.to_string().contains(words), "{check} lacks `{words}`: {finding:#}");
        assert_eq!(finding["advice"].is_null(), status == "ok", "{finding:#}");
    }

    fn lacks(&self, check: &str) {
        assert!(self.finding(check).is_null(), "{check}: {:#}", self.json);
    }
}

/// Runs `mirrorgate doctor --json` with these arguments and settings alone.
async fn doctor(arguments: &[&str], settings: &[(&str, &str)]) -> Report {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut variables: HashMap<String, String> =
        settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    variables.entry("DATA_DIR".into()).or_insert_with(|| folder.clone());
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
    let run = move || {
        std::process::Command::new(env!("CARGO_BIN_EXE_mirrorgate"))
            .args(["doctor", "--json"])
            .args(&arguments)
            .env_clear()
            .envs(&variables)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()
            .expect("the doctor runs")
    };
    let output = tokio::task::spawn_blocking(run).await.expect("the doctor ends");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Report {
        json: serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
        code: output.status.code(),
        progress: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn good_api(request: &Request) -> Vec<Step> {
    match request.header("authorization") {
        Some("Bearer sk-good-key-of-the-mirror") => {
            send(response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}"))
        }
        _ => send(response("401 Unauthorized", "application/json", "{\"error\":{\"message\":\"bad key\"}}")),
    }
}

#[actix_web::test]
async fn a_fresh_start_is_sound_but_for_what_a_person_must_do() {
    let report = doctor(&[], &[]).await;
    assert_eq!((report.code, &report.json["status"]), (Some(0), &json!("warning")), "{:#}", report.json);
    report.has("configuration", "ok", "understood");
    report.has("upstream", "warning", "UPSTREAM_URL");
    report.has("store", "ok", "mirrorgate.db");
    report.has("public.address", "warning", "http://127.0.0.1:8080");
    report.has("dify.private", "warning", "SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=host.docker.internal");
    report.has("document.rules", "ok", "all rules");
    for check in ["replay.bearer", "replay.basic", "replay.custom", "replay.header", "replay.query"] {
        report.has(check, "ok", "");
    }
    report.has("replay.chat", "ok", "answers");
    report.has("replay.ping", "ok", "ping is answered");
    assert!(report.progress.contains("checking store"), "{}", report.progress);
}

#[actix_web::test]
async fn a_healthy_service_is_found_healthy_and_no_secret_is_shown() {
    let fake = Fake::start(good_api).await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-good-key-of-the-mirror")]).await;
    let report = doctor(&["--url", &app.url(""), "--key", ADMIN_KEY], &[]).await;
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    report.has("service.ready", "ok", "takes requests");
    report.has("upstream.dns", "ok", "127.0.0.1");
    report.has("upstream.tcp", "ok", "connects");
    report.has("upstream.login", "ok", "the key is accepted: without it the same request is refused");
    report.has("upstream.models", "ok", "`m`");
    report.has("session", "ok", "");
    report.has("store", "ok", "mirrorgate.db");
    report.has("document.fetch", "ok", "comes in");
    report.has("document.server", "ok", &app.url(""));
    report.has("public.cors", "ok", "");
    report.has("replay.header", "ok", "X-API-Key");
    // The owner's key is not taken from an address, and nothing was asked that costs tokens.
    report.lacks("replay.query");
    report.lacks("replay.chat");
    assert!(fake.requests().iter().all(|request| request.line.starts_with("GET ")));
    let checks: Vec<_> = report.json["findings"].as_array().expect("findings").iter().collect();
    let once = |check: &str| checks.iter().filter(|finding| finding["check"] == check).count();
    assert_eq!((once("document.fetch"), once("replay.bearer")), (1, 1), "{:#}", report.json);
    let all = format!("{}{}", report.json, report.progress);
    assert!(!all.contains("sk-good-key") && !all.contains(ADMIN_KEY), "{all}");
}

#[actix_web::test]
async fn a_service_elsewhere_tells_each_as_much_as_he_may_know() {
    let fake = Fake::start(|request| match request.line.starts_with("GET") {
        true => send(response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}")),
        false => send(response("401 Unauthorized", "application/json", "{}")),
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[("UPSTREAM_API_KEY", "sk-of-long-ago")]).await;
    // The mirror that is configured here is not the service's.
    let here = [("UPSTREAM_URL", "http://127.0.0.1:1"), ("UPSTREAM_API_KEY", "sk-of-here"), ("PORT", "x")];
    let before = doctor(&["--url", &app.url(""), "--key", KEY], &here).await;
    assert_eq!(before.code, Some(0), "{:#}", before.json);
    before.has("service.doctor", "warning", "--key ADMIN_KEY");
    before.has("service.health", "ok", "its mirror is ok, the login unknown");
    before.has("replay.query", "ok", "?key=");
    for check in ["upstream.dns", "session", "store", "configuration"] {
        before.lacks(check);
    }
    assert_eq!(app.chat(json!({"message": "Hello"})).await.code(), "upstream_auth_expired");
    for (arguments, check, words) in [
        (&["--url", &app.url("")][..], "service.health", "did not accept the login when it was last asked"),
        (
            &["--url", &app.url(""), "--key", KEY],
            "service.health",
            "its mirror is degraded, the login expired",
        ),
        (&["--url", &app.url(""), "--key", ADMIN_KEY], "session", "does not accept the login any more"),
    ] {
        let report = doctor(arguments, &here).await;
        assert_eq!(report.code, Some(1), "{:#}", report.json);
        report.has(check, "broken", words);
        report.has("service.ready", "ok", "");
    }
}

#[actix_web::test]
async fn a_list_that_anyone_is_given_says_nothing_of_the_key() {
    let fake =
        Fake::start(|_| send(response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}"))).await;
    let settings = [("UPSTREAM_URL", fake.url.as_str()), ("UPSTREAM_API_KEY", "sk-whatever-it-may-be")];
    let report = doctor(&[], &settings).await;
    report.has("upstream.login", "ok", "gives the same without it; only a question (--deep)");
}

#[actix_web::test]
async fn a_dead_mirror_and_an_unknown_host_are_told_apart() {
    let report = doctor(&[], &[("UPSTREAM_URL", "http://127.0.0.1:1"), ("DEFAULT_MODEL", "m")]).await;
    assert_eq!(report.code, Some(1));
    report.has("upstream.tcp", "broken", "nothing listens");
    report.lacks("upstream.probe");
    report.has("replay.bearer", "broken", "upstream_unreachable");
    let report = doctor(&[], &[("UPSTREAM_URL", "https://no-such-host.invalid")]).await;
    report.has("upstream.dns", "broken", "no-such-host.invalid");
    report.lacks("upstream.tcp");
}

#[actix_web::test]
async fn an_expired_cookie_a_login_page_and_a_redirect_are_told_apart() {
    let cases: [(&str, String, &str, &str); 4] = [
        ("web-chat", response("401 Unauthorized", "application/json", "{}"), "upstream.login", "upstream_auth_expired"),
        ("web-chat", response("200 OK", "text/html", "<html>Log in</html>"), "upstream.login", "web page"),
        (
            "web-chat",
            "HTTP/1.1 302 Found\r\nLocation: /login?next=secret\r\nContent-Length: 0\r\n\r\n".into(),
            "upstream.login",
            "login page",
        ),
        (
            "openai",
            "HTTP/1.1 301 Moved Permanently\r\nLocation: https://www.example.com/v1?token=secret\r\nContent-Length: 0\r\n\r\n".into(),
            "upstream.redirect",
            "https://www.example.com/v1",
        ),
    ];
    for (protocol, answer, check, words) in cases {
        let fake = Fake::start(move |_| send(answer.clone())).await;
        let settings = [
            ("UPSTREAM_URL", fake.url.as_str()),
            ("UPSTREAM_PROTOCOL", protocol),
            ("UPSTREAM_COOKIE", "sso=a-cookie-of-long-ago"),
            ("MODELS", "m"),
        ];
        let report = doctor(&[], &settings).await;
        assert_eq!(report.code, Some(1));
        report.has(check, "broken", words);
        if protocol == "web-chat" {
            report.has("session", "broken", "session set");
        }
        let text = report.json.to_string();
        assert!(!text.contains("secret") && !text.contains("long-ago"), "{text}");
    }
}

#[actix_web::test]
async fn a_wrong_key_is_one_finding_and_a_missing_one_a_hint() {
    let app = spawn(&[]).await;
    let report = doctor(&["--url", &app.url(""), "--key", "wrong-key-wrong-key"], &[]).await;
    assert_eq!(report.code, Some(1));
    report.has("replay.bearer", "broken", "gateway_key_wrong");
    report.lacks("replay.basic");
    let report = doctor(&["--url", &app.url("/openapi.json")], &[]).await;
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    report.has("replay.bearer", "warning", "--key");
}

#[actix_web::test]
async fn addresses_that_dify_cannot_use_are_named_with_what_to_do() {
    for (url, status, words) in [
        ("http://127.0.0.1:1", "broken", "serve --tunnel"),
        ("http://192.0.2.7", "warning", "not encrypted"),
        ("https://127.0.0.1:8443", "broken", "this machine"),
        ("http://10.255.255.1:8080", "warning", "private network"),
    ] {
        let report = doctor(&[], &[("PUBLIC_URL", url), ("MODELS", "m")]).await;
        report.has("public.address", status, words);
        if url.contains("10.255") {
            report.has("dify.private", "warning", "`SSRF_PROXY_ALLOW_PRIVATE_IPS=10.255.255.1`");
        }
        assert_eq!(report.code, Some(1), "nobody answers there");
    }
}

#[actix_web::test]
async fn a_name_that_only_containers_know_is_not_asked_for_here() {
    let url = "http://host.docker.internal:8080";
    let report = doctor(&[], &[("PUBLIC_URL", url)]).await;
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    report.has("public.address", "warning", url);
    report.has("dify.private", "warning", "SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=host.docker.internal");
    report.has("document.server", "ok", url);
}

#[actix_web::test]
async fn a_document_behind_a_redirect_a_page_or_another_address_is_told() {
    let document = |server: &str| {
        mirrorgate::api::documents(false).at(mirrorgate::http::documents::Document::Tools, server).to_string()
    };
    let bad = document("/").replace("\"openapi\":\"3.0.3\"", "\"openapi\":\"3.1.0\"");
    let redirect = "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://www.example.com/openapi.json?k=secret\r\nContent-Length: 0\r\n\r\n";
    let cases = [
        (redirect.to_string(), "public.redirect", "broken", "https://www.example.com/openapi.json"),
        (response("200 OK", "text/html", "<html>"), "document.fetch", "broken", "browser"),
        (response("403 Forbidden", "text/html", "no"), "document.fetch", "broken", "HTTP 403"),
        (response("200 OK", "application/json", &bad), "document.rules", "broken", "not absolute"),
        (
            response("200 OK", "application/json", &document("https://gate.example.com")),
            "document.server",
            "warning",
            "https://gate.example.com",
        ),
    ];
    for (answer, check, status, words) in cases {
        let fake = Fake::start(move |_| send(answer.clone())).await;
        let report = doctor(&["--url", &fake.url, "--key", KEY], &[]).await;
        report.has(check, status, words);
        report.has("replay.bearer", "broken", "");
        assert!(!report.json.to_string().contains("secret"));
        let request = &fake.requests()[0];
        assert_eq!(request.line, "GET /openapi.json HTTP/1.1");
        assert!(request.header("user-agent").expect("an agent").starts_with("Mozilla/5.0"));
    }
}

#[actix_web::test]
async fn a_self_signed_certificate_is_told_on_both_sides() {
    let server = TlsServer::start();
    let report = doctor(&[], &[("UPSTREAM_URL", &server.url)]).await;
    report.has("upstream.tls", "broken", "self-signed");
    let report = doctor(&["--url", &server.url], &[]).await;
    assert_eq!(report.code, Some(1));
    report.has("service.ready", "broken", "");
    report.has("public.certificate", "broken", "self-signed");
    report.lacks("document.fetch");
    let plain = Fake::start(|_| vec![Step::Close]).await;
    let report = doctor(&[], &[("UPSTREAM_URL", &plain.url.replace("http:", "https:"))]).await;
    report.has("upstream.tls", "broken", "TLS");
}

#[actix_web::test]
async fn a_slow_mirror_does_not_hold_the_doctor_up() {
    let fake = Fake::start(|_| vec![Step::Hang]).await;
    let start = Instant::now();
    let report = doctor(&[], &[("UPSTREAM_URL", &fake.url)]).await;
    report.has("upstream.probe", "broken", "no answer within 5 seconds");
    report.has("replay.bearer", "broken", "5 seconds");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[actix_web::test]
async fn a_clock_that_is_wrong_is_seen_in_the_mirrors_answers() {
    let answer = response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}");
    let answer = answer.replacen("\r\n", "\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n", 1);
    let fake = Fake::start(move |_| send(answer.clone())).await;
    let report = doctor(&[], &[("UPSTREAM_URL", &fake.url)]).await;
    report.has("clock", "broken", "NTP");
}

#[actix_web::test]
async fn mistakes_in_the_configuration_are_findings_and_the_rest_is_examined() {
    let fake = Fake::start(good_api).await;
    let report = doctor(
        &[],
        &[
            ("PORT", "eighty"),
            ("GATEWAY_API_KEYS", "short-secret"),
            ("MIRRORGATE_X", "1"),
            ("UPSTREAM_URL", &fake.url),
            ("UPSTREAM_API_KEY", "sk-good-key-of-the-mirror"),
        ],
    )
    .await;
    assert_eq!(report.code, Some(1));
    for setting in ["PORT", "GATEWAY_API_KEYS", "MIRRORGATE_X"] {
        assert!(report.json.to_string().contains(setting), "{setting}");
    }
    report.has("upstream.login", "ok", "accepted");
    report.has("start", "ok", "");
    assert!(!report.json.to_string().contains("short-secret"));
    let report = doctor(&[], &[("UPSTREAM_URL", "nonsense"), ("UPSTREAM_COOKIE", "a=b")]).await;
    report.has("configuration", "broken", "UPSTREAM_URL");
    assert_eq!(report.json["findings"].as_array().map(Vec::len), Some(1), "{:#}", report.json);
}

#[actix_web::test]
async fn with_deep_one_question_is_timed_and_the_calls_that_cost_are_replayed() {
    let answer = "data: {\"choices\":[{\"delta\":{\"content\":\"pong\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let fake = Fake::start(move |request| match request.line.starts_with("POST") {
        true => send(response("200 OK", "text/event-stream", answer)),
        false => send(response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}")),
    })
    .await;
    let report = doctor(&["--deep"], &[("UPSTREAM_URL", &fake.url)]).await;
    report.has("upstream.question", "ok", "first token after");
    report.has("replay.chat", "ok", "answers");
    report.has("replay.ping", "ok", "ping is answered");
}

#[actix_web::test]
async fn a_service_elsewhere_is_asked_no_question_without_deep_though_the_demo_is_at_home() {
    let fake =
        Fake::start(|_| send(response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}"))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let report = doctor(&["--url", &app.url(""), "--key", KEY], &[]).await;
    report.has("replay.bearer", "ok", "1 model");
    report.lacks("replay.chat");
    report.lacks("replay.ping");
    assert!(fake.requests().iter().all(|request| request.line.starts_with("GET ")));
    let owner = app.get_as_owner("/api/doctor").await;
    assert!(owner.status == 200 && !owner.text.contains("replay.chat"), "{}", owner.text);
    assert!(fake.requests().iter().all(|request| request.line.starts_with("GET ")));
}

#[actix_web::test]
async fn of_several_mirrors_each_is_examined() {
    let fake = Fake::start(good_api).await;
    let urls = format!("{},http://127.0.0.1:1", fake.url);
    let settings = [("UPSTREAM_URL", urls.as_str()), ("UPSTREAM_API_KEY", "sk-good-key-of-the-mirror")];
    let report = doctor(&[], &settings).await;
    assert_eq!(report.code, Some(1));
    report.has("upstream.tcp", "broken", "http://127.0.0.1:1: ");
    report.has("upstream.login", "ok", &fake.url);
    report.has("replay.bearer", "ok", "model");
}

#[actix_web::test]
async fn a_cookie_that_the_mirror_renews_while_it_is_examined_is_kept() {
    let fake = Fake::start(|request| {
        let cookie = request.header("cookie").unwrap_or_default().to_string();
        let number: u32 = cookie.trim_start_matches("sso=").parse().unwrap_or_default();
        let answer = response("200 OK", "application/json", "{\"data\":[{\"id\":\"m\"}]}");
        send(answer.replacen("\r\n", &format!("\r\nSet-Cookie: sso={}; Path=/\r\n", number + 1), 1))
    })
    .await;
    let folder = temporary_folder();
    let settings =
        [("UPSTREAM_URL", fake.url.as_str()), ("UPSTREAM_COOKIE", "sso=100"), ("DATA_DIR", &folder)];
    for _ in 0..2 {
        let report = doctor(&[], &settings).await;
        report.has("upstream.probe", "ok", "");
        report.has("replay.query", "ok", "");
    }
    let cookies: Vec<u32> = fake
        .requests()
        .iter()
        .filter_map(|request| request.header("cookie")?.trim_start_matches("sso=").parse().ok())
        .collect();
    let (first, last) = (cookies.first().expect("cookies"), cookies.last().expect("cookies"));
    assert_eq!(*first, 100);
    assert!(cookies.iter().filter(|number| **number == 100).count() == 1 && *last > 102, "{cookies:?}");
}

#[actix_web::test]
async fn the_owner_reads_the_findings_over_http_and_others_do_not() {
    let app = spawn(&[]).await;
    let answer = app.get_as_owner("/api/doctor").await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!((&body["success"], &body["status"]), (&json!(true), &json!("warning")), "{body:#}");
    let finding = |check: &str| {
        let findings = body["findings"].as_array().expect("findings");
        findings.iter().find(|finding| finding["check"] == check).cloned().unwrap_or_default()
    };
    assert_eq!(finding("replay.header")["status"], "ok", "{body:#}");
    assert_eq!(finding("replay.query"), Value::Null, "the owner's key is not taken from an address");
    assert_eq!(finding("document.rules")["status"], "ok");
    assert_eq!(finding("public.address")["status"], "warning");
    assert!(!answer.text.contains(KEY));
    assert_eq!(app.call("GET", "/api/doctor", &[], None).await.code(), "gateway_key_missing");
    // A caller does not choose what is fetched.
    let fake = Fake::start(|_| vec![Step::Close]).await;
    let host = fake.url.trim_start_matches("http://");
    let headers = [("x-api-key", ADMIN_KEY), ("x-forwarded-host", host)];
    assert_eq!(app.call("GET", "/api/doctor", &headers, None).await.status, 200);
    assert_eq!(fake.requests().len(), 0);
}
