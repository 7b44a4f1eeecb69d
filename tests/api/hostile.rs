//! What a hostile caller sends: the framework refuses most of it, and these hold it to that.

use crate::helpers::{ADMIN_KEY, KEY, TestApp, raw, spawn, spawn_before};
use crate::upstream::{Fake, response, send};

/// The status of the first answer to these bytes.
async fn status(app: &TestApp, bytes: &str) -> u16 {
    let answer = raw(app.address, bytes.as_bytes()).await;
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default()
}

#[actix_web::test]
async fn trace_is_no_method_of_any_path() {
    let app = spawn(&[]).await;
    let headers = [("x-api-key", ADMIN_KEY), ("cookie", "a=b")];
    let files = app.call("TRACE", "/docs/", &headers, None).await;
    assert_eq!(files.code(), "not_found", "files are no operations");
    assert!(!files.text.contains(ADMIN_KEY) && !files.text.contains("a=b"));
    for path in
        ["/", "/api/chat", "/v1/chat/completions", "/v1/other", "/health", "/metrics", "/openapi.json"]
    {
        let answer = app.call("TRACE", path, &headers, None).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (405, "method_not_allowed"), "{path}");
        assert!(!answer.text.contains(ADMIN_KEY) && !answer.text.contains("a=b"));
    }
}

#[actix_web::test]
async fn forms_of_foreign_pages_are_no_requests() {
    let app = spawn(&[]).await;
    for media in [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/plain;application/json",
    ] {
        for (method, path) in
            [("POST", "/api/chat"), ("POST", "/v1/chat/completions"), ("PUT", "/api/session")]
        {
            let headers = [("x-api-key", ADMIN_KEY), ("content-type", media)];
            let body = br#"{"message": "x", "messages": []}"#.to_vec();
            let answer = app.call(method, path, &headers, Some(body)).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (415, "unsupported_media_type"),
                "{method} {path} {media}"
            );
        }
    }
}

#[actix_web::test]
async fn what_goes_through_is_declared_as_json_or_as_a_form_with_files() {
    let fake = Fake::start(|_| send(response("200 OK", "application/json", "{}"))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (media, status) in [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/problem+json", 200),
        ("multipart/form-data; boundary=x", 200),
        ("text/plain", 415),
        ("text/plain;application/json", 415),
        ("text/plain; charset=+json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("audio/wav", 415),
        ("+json", 415),
        ("", 415),
    ] {
        for method in ["POST", "DELETE"] {
            let headers = [("x-api-key", ADMIN_KEY), ("content-type", media)];
            let body = if media.starts_with("multipart") { "--x--\r\n" } else { "{}" };
            let answer = app.call(method, "/v1/embeddings", &headers, Some(body.into())).await;
            assert_eq!(answer.status, status, "{method} {media}: {}", answer.text);
            if status == 415 {
                assert_eq!(answer.code(), "unsupported_media_type");
                assert!(answer.text.contains("multipart/form-data"), "{}", answer.text);
            }
        }
    }
    assert_eq!(fake.requests().len(), 8);
    // A page can send bytes that are declared as nothing at all; a body that is empty is no matter.
    let head =
        format!("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nX-API-Key: {ADMIN_KEY}\r\nConnection: close\r\n");
    assert_eq!(status(&app, &format!("{head}Content-Length: 2\r\n\r\n{{}}")).await, 415);
    assert_eq!(
        status(&app, &format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")).await,
        415
    );
    assert_eq!(status(&app, &format!("{head}Content-Length: 0\r\n\r\n")).await, 200);
}

#[actix_web::test]
async fn files_outside_of_the_program_are_out_of_reach() {
    let app = spawn(&[]).await;
    for folder in ["/assets", "/docs"] {
        for rest in [
            "/../Cargo.toml",
            "/../../../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/..%2f..%2fetc%2fpasswd",
            "/..%5c..%5cetc%5cpasswd",
            "//etc/passwd",
            "/%00",
            "/home.css/../../Cargo.toml",
        ] {
            let request = format!("GET {folder}{rest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let answer = raw(app.address, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{folder}{rest}: {answer}");
            assert!(!answer.contains("root:") && !answer.contains("[package]"));
        }
    }
}

#[actix_web::test]
async fn no_header_of_a_caller_moves_the_address_in_the_documents() {
    let app = spawn(&[("PUBLIC_URL", "https://mine.example.com")]).await;
    let headers = [
        ("host", "evil.example.com"),
        ("x-forwarded-host", "evil.example.com"),
        ("x-forwarded-proto", "ftp"),
        ("forwarded", "host=evil.example.com;proto=https"),
        ("x-original-host", "evil.example.com"),
    ];
    for path in [
        "/openapi.json",
        "/openapi.yaml",
        "/openapi/full.json",
        "/.well-known/ai-plugin.json",
        "/",
        "/dify/",
        "/dify/chatflow.yml",
    ] {
        let answer = app.call("GET", path, &headers, None).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text.contains("evil.example.com"), "{path}: {}", answer.text);
    }
}

#[actix_web::test]
async fn requests_that_two_readers_could_cut_apart_differently_are_refused() {
    let app = spawn(&[]).await;
    let start = format!(
        "POST /api/chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    );
    for rest in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        "Content-Length: +5\r\n\r\nabcde",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 5, 6\r\n\r\nabcdef",
        "Content-Length: 0x5\r\n\r\nabcde",
        "Content-Length : 5\r\n\r\nabcde",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        "X-Bad\0Name: 1\r\n\r\n",
        "X Bad: 1\r\n\r\n",
        "No colon\r\n\r\n",
    ] {
        assert_eq!(status(&app, &format!("{start}{rest}")).await, 400, "{rest:?}");
    }
    for request in
        ["GET / HTTP/9.9\r\nHost: x\r\n\r\n", "nonsense\r\n\r\n", "G\0T / HTTP/1.1\r\nHost: x\r\n\r\n"]
    {
        assert_eq!(status(&app, request).await, 400, "{request:?}");
    }
    assert_eq!(app.get("/health").await.status, 200);
}

#[actix_web::test]
async fn a_flood_of_headers_is_refused() {
    let app = spawn(&[]).await;
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "y".repeat(200_000));
    for headers in [many, long] {
        let request = format!("GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        assert_eq!(status(&app, &request).await, 431, "{} bytes", headers.len());
    }
}
