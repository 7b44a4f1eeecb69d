//! A gateway without keys, `GATEWAY_AUTH=none`: for programs of this machine alone.

use std::process::Command;

use serde_json::{Value, json};

use crate::helpers::{ADMIN_KEY, Answer, TestApp, call, raw, spawn, spawn_before, temporary_folder};
use crate::upstream::{Fake, chunk, response, send, stream_end, stream_head};

/// What can be asked of a service: every face, public paths, preflights, and what is not there.
const REQUESTS: [(&str, &str, &str); 22] = [
    ("GET", "/", ""),
    ("GET", "/health", ""),
    ("HEAD", "/health", ""),
    ("GET", "/ready", ""),
    ("GET", "/openapi.json", ""),
    ("GET", "/docs/", ""),
    ("GET", "/assets/home.css", ""),
    ("GET", "/metrics", ""),
    ("GET", "/nothing", ""),
    ("GET", "/api/models", ""),
    ("GET", "/api/health", ""),
    ("POST", "/api/chat", r#"{"message": "x"}"#),
    ("OPTIONS", "/api/chat", ""),
    ("PUT", "/api/session", r#"{"api_key": "sk-of-an-attacker"}"#),
    ("DELETE", "/api/conversations/x", ""),
    ("GET", "/v1/models", ""),
    ("POST", "/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "x"}]}"#),
    ("POST", "/chat/completions", r#"{"messages": [{"role": "user", "content": "x"}]}"#),
    ("POST", "/v1/embeddings", "{}"),
    ("OPTIONS", "/v1/embeddings", ""),
    ("DELETE", "/v1/files/x", ""),
    ("POST", "/mcp", r#"{"jsonrpc": "2.0", "id": 1, "method": "ping"}"#),
];

/// An origin that the service of these tests is told to let in.
const LISTED: &str = "https://page.example.org";

async fn good() -> Fake {
    Fake::start(|request| match request.line.split(' ').nth(1).expect("a path") {
        "/v1/chat/completions" => vec![stream_head(), chunk("hello", Some("stop")), stream_end()],
        "/v1/models" => send(response("200 OK", "application/json", r#"{"data": [{"id": "m"}]}"#)),
        _ => send(response("200 OK", "application/json", "{}")),
    })
    .await
}

async fn open(fake: &Fake) -> TestApp {
    let settings = [
        ("GATEWAY_AUTH", "none"),
        ("GATEWAY_API_KEYS", ""),
        ("CORS_ALLOWED_ORIGINS", LISTED),
        ("HOSTS_ALLOWED", "gateway.home.arpa, 192.0.2.7"),
    ];
    spawn_before(&fake.url, "openai", &settings).await
}

/// Asks one of [`REQUESTS`].
async fn ask(app: &TestApp, request: (&str, &str, &str), headers: &[(&str, &str)]) -> Answer {
    let (method, path, body) = request;
    let mut headers = headers.to_vec();
    headers.push(("content-type", "application/json"));
    let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
    call(app.address, method, path, &headers, body).await
}

/// That a request was refused in the form of its face, and that no page may read even that.
fn is_refused(answer: &Answer, (method, path, _): (&str, &str, &str), why: &str) {
    assert_eq!(answer.status, 403, "{method} {path} {why}: {}", answer.text);
    assert_eq!(answer.header("access-control-allow-origin"), None, "{method} {path} {why}");
    if method == "HEAD" {
        return;
    }
    let body = answer.json();
    let mut error = &body["error"];
    if path == "/mcp" {
        assert_eq!(body["jsonrpc"], "2.0");
        error = &error["data"];
    } else if path.starts_with("/v1/") || path == "/chat/completions" {
        assert!(error["type"].is_string(), "{body}");
    } else {
        assert_eq!(body["success"], false, "{body}");
    }
    assert_eq!(error["code"], "origin_not_allowed", "{method} {path} {why}");
    let hint = error["hint"].as_str().expect("a hint");
    let cure = if why.contains("origin") { "CORS_ALLOWED_ORIGINS" } else { "HOSTS_ALLOWED" };
    assert!(hint.contains(cure), "{method} {path} {why}: {hint}");
}

#[actix_web::test]
async fn it_answers_by_no_foreign_name() {
    let fake = good().await;
    let app = open(&fake).await;
    let rebound = format!("evil.example:{}", app.address.port());
    for request in REQUESTS {
        for host in [
            "evil.example",
            &rebound,
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "mirrorgate",
            "host.docker.internal",
            "0.0.0.0",
            "192.168.1.5",
            "[::ffff:10.0.0.1]",
            "gateway.home.arpa.evil.example",
        ] {
            is_refused(&ask(&app, request, &[("host", host)]).await, request, &format!("host {host}"));
        }
        let forwarded = [("host", "localhost"), ("x-forwarded-host", "localhost, evil.example")];
        is_refused(&ask(&app, request, &forwarded).await, request, "forwarded host");
    }
    assert_eq!(fake.requests().len(), 0);
    for head in [
        "GET /api/models HTTP/1.0\r\n",
        "GET http://evil.example/api/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n",
        "GET /api/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n",
    ] {
        let answer = raw(app.address, format!("{head}\r\n").as_bytes()).await;
        assert!(answer.contains(" 403 ") || answer.contains(" 400 "), "{head}: {answer}");
    }
    assert_eq!(fake.requests().len(), 0);
}

#[actix_web::test]
async fn it_answers_no_foreign_page() {
    let fake = good().await;
    let app = open(&fake).await;
    let port = app.address.port();
    let origins = [
        "null".to_string(),
        String::new(),
        "https://evil.example".into(),
        format!("http://evil.example:{port}"),
        format!("http://127.0.0.1:{}", port ^ 1),
        "http://localhost".into(),
        format!("http://localhost:{port}.evil.example"),
        format!("http://gateway.home.arpa:{port}"),
        format!("http://localhost:{port}, https://evil.example"),
        format!("chrome-extension://localhost:{port}"),
        format!("{LISTED}.evil.example"),
        "http://page.example.org".into(),
    ];
    for request in REQUESTS {
        for origin in &origins {
            let headers = [("origin", origin.as_str()), ("access-control-request-method", "POST")];
            is_refused(&ask(&app, request, &headers).await, request, &format!("origin {origin}"));
        }
    }
    // The simple requests, before which no browser asks.
    for media in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        for path in ["/api/chat", "/v1/chat/completions", "/v1/embeddings", "/mcp"] {
            let headers = [("origin", "https://evil.example"), ("content-type", media)];
            let answer = app.call("POST", path, &headers, Some(b"{}".to_vec())).await;
            is_refused(&answer, ("POST", path, ""), "origin of a form");
        }
    }
    // Without an origin, as images are fetched.
    for site in ["cross-site", "same-site"] {
        for path in ["/api/models", "/v1/models", "/api/health", "/metrics"] {
            let answer = app.call("GET", path, &[("sec-fetch-site", site)], None).await;
            is_refused(&answer, ("GET", path, ""), "origin of an image");
        }
    }
    assert_eq!(fake.requests().len(), 0);
    // A link to a page or a document may stand anywhere.
    for path in ["/", "/docs/", "/openapi.json"] {
        assert_eq!(
            app.call("GET", path, &[("sec-fetch-site", "cross-site")], None).await.status,
            200,
            "{path}"
        );
    }
}

#[actix_web::test]
async fn it_answers_programs_and_its_own_pages_by_its_own_names() {
    let fake = good().await;
    let app = open(&fake).await;
    let port = app.address.port();
    let own = [
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        format!("http://[::1]:{port}"),
        format!("http://a.localhost:{port}"),
        LISTED.to_string(),
    ];
    let names = [
        "localhost",
        "LOCALHOST:1",
        "a.localhost:8080",
        "127.8.8.8:9",
        "[::1]:8080",
        "gateway.home.arpa:8080",
        "192.0.2.7",
    ];
    let missing = ["/nothing", "/api/conversations/x"];
    for request in REQUESTS.into_iter().filter(|(method, ..)| *method != "OPTIONS") {
        let (method, path, _) = request;
        let status = if missing.contains(&path) { 404 } else { 200 };
        for name in names {
            let answer = ask(&app, request, &[("host", name)]).await;
            assert_eq!(answer.status, status, "{method} {path} {name}: {}", answer.text);
        }
        for origin in &own {
            let answer = ask(&app, request, &[("origin", origin), ("sec-fetch-site", "cross-site")]).await;
            assert_eq!(answer.status, status, "{method} {path} {origin}: {}", answer.text);
            let readable = answer.header("access-control-allow-origin");
            assert_eq!(readable, (origin == LISTED).then_some(LISTED), "{method} {path} {origin}");
        }
        for site in ["none", "same-origin"] {
            assert_eq!(ask(&app, request, &[("sec-fetch-site", site)]).await.status, status, "{path}");
        }
    }
    let preflight = [("origin", LISTED), ("access-control-request-method", "PUT")];
    let answer = app.call("OPTIONS", "/api/session", &preflight, None).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, Some(LISTED)));
}

#[actix_web::test]
async fn any_origin_is_none_without_keys() {
    for setting in ["", "*"] {
        let settings =
            [("GATEWAY_AUTH", "none"), ("GATEWAY_API_KEYS", ""), ("CORS_ALLOWED_ORIGINS", setting)];
        let app = spawn(&settings).await;
        let headers = [("origin", "https://cloud.dify.ai"), ("access-control-request-method", "POST")];
        for request in REQUESTS {
            is_refused(&ask(&app, request, &headers).await, request, "origin");
        }
    }
}

#[actix_web::test]
async fn a_loopback_public_url_is_an_own_origin() {
    let settings =
        [("GATEWAY_AUTH", "none"), ("GATEWAY_API_KEYS", ""), ("PUBLIC_URL", "http://localhost:9000")];
    let app = spawn(&settings).await;
    let headers = [("host", "localhost:9000"), ("origin", "http://localhost:9000")];
    assert_eq!(ask(&app, ("POST", "/api/chat", r#"{"message": "x"}"#), &headers).await.status, 200);
}

#[actix_web::test]
async fn with_keys_names_and_pages_are_as_free_as_before() {
    let fake = good().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let headers = [("x-api-key", ADMIN_KEY), ("host", "evil.example"), ("origin", "https://evil.example")];
    for request in REQUESTS.into_iter().filter(|(method, path, _)| *method != "OPTIONS" && *path != "/mcp") {
        let answer = ask(&app, request, &headers).await;
        assert_ne!(answer.status, 403, "{request:?}: {}", answer.text);
    }
}

#[actix_web::test]
async fn the_doctor_finds_the_document_of_a_service_that_no_foreign_page_may_read() {
    let fake = good().await;
    let app = open(&fake).await;
    let report: Value = app.call("GET", "/api/doctor", &[], None).await.json();
    let status = |check: &str| {
        let findings = report["findings"].as_array().expect("findings").iter();
        findings
            .filter(|finding| finding["check"] == check)
            .map(|finding| &finding["status"])
            .collect::<Vec<_>>()
    };
    assert_eq!(status("document.fetch"), [&json!("ok")], "{report}");
    assert_eq!(status("public.cors"), [&json!("warning")], "{report}");
    assert_eq!(status("replay.bearer"), [&json!("ok")], "{report}");
}

/// The exit code and the words of a start with these arguments and settings.
fn refused(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    command.args(arguments).env_clear().env("DATA_DIR", &folder).current_dir(&folder);
    command.envs([("PORT", "0"), ("GATEWAY_AUTH", "none")]).envs(settings.iter().copied());
    let output = command.output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn it_does_not_start_where_others_can_come() {
    for (arguments, settings, named) in [
        (&[][..], &[("HOST", "0.0.0.0")][..], "GATEWAY_AUTH: "),
        (&[], &[("HOST", "::")], "GATEWAY_AUTH: "),
        (&[], &[("HOST", "192.0.2.1")], "GATEWAY_AUTH: "),
        (&[], &[("PUBLIC_URL", "https://a.example.com")], "PUBLIC_URL: "),
        (&[], &[("PUBLIC_URL", "http://192.168.1.5:8080")], "PUBLIC_URL: "),
        (&[], &[("PUBLIC_URL", "http://localhost.a.example.com")], "PUBLIC_URL: "),
        (&[], &[("PUBLIC_URL", "http://host.docker.internal:8080")], "PUBLIC_URL: "),
        (&[], &[("TRUST_PROXY_HEADERS", "true")], "TRUST_PROXY_HEADERS: "),
        (&[], &[("HOST", "127.0.0.1"), ("RENDER", "true")], "Render"),
        (&[], &[("HOST", "127.0.0.1"), ("RAILWAY_PUBLIC_DOMAIN", "a.example.com")], "Railway"),
        (&[], &[("HOST", "127.0.0.1"), ("K_SERVICE", "a")], "Cloud Run"),
        (&["serve", "--tunnel"], &[], "--tunnel: "),
        (&["serve", "--tunnel", "ngrok"], &[], "--tunnel: "),
        (&["serve", "--trust-proxy-headers", "yes"], &[], "TRUST_PROXY_HEADERS: "),
    ] {
        let (code, text) = refused(arguments, settings);
        assert_eq!(code, Some(78), "{arguments:?} {settings:?}: {text}");
        assert!(text.contains(named) && text.contains("1 problem in"), "{arguments:?} {settings:?}: {text}");
        assert!(text.contains("hint: set GATEWAY_API_KEYS and remove GATEWAY_AUTH"), "{text}");
    }
}

#[test]
fn all_that_lets_others_in_is_told_at_once() {
    let settings = [
        ("HOST", "0.0.0.0"),
        ("PUBLIC_URL", "https://a.example.com"),
        ("TRUST_PROXY_HEADERS", "true"),
        ("RENDER", "true"),
        ("RENDER_EXTERNAL_URL", "https://b.example.com"),
    ];
    let (code, text) = refused(&["serve", "--tunnel"], &settings);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("5 problems"), "{text}");
    for advice in ["HOST=127.0.0.1", "remove PUBLIC_URL", "remove TRUST_PROXY_HEADERS", "without --tunnel"] {
        assert!(text.contains(advice), "{advice}: {text}");
    }
    // A value that is not understood besides is an ordinary mistake.
    let (code, text) = refused(&["serve", "--tunnel"], &[("LOG_FORMAT", "xml")]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--tunnel: ") && text.contains("LOG_FORMAT: "), "{text}");
}
