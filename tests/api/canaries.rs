//! Secrets and prompts are planted and then looked for in everything that leaves the process, with
//! the log at its most talkative useful level.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::helpers::{call, post};
use crate::running::Process;
use crate::upstream::{Fake, Step, chunk, response, send, stream_end, stream_head};

const UPSTREAM_KEY: &str = "canary/upstream+key=Zq81";
const COOKIE: &str = "canary-cookie-value-Yw72";
const NEW_COOKIE: &str = "canary-renewed-cookie-Rt19";
const HEADER: &str = "canary-header-value-Vb44";
const GATEWAY_KEY: &str = "canary/gateway+key=Xp63";
const ADMIN_KEY: &str = "canary/admin+key=Wn47";
const WRONG_KEY: &str = "canary/wrong+key=Ko95";
const PROMPT: &str = "canary prompt: wer bist du? +Jm50";
const SECRETS: &[&str] = &[UPSTREAM_KEY, COOKIE, NEW_COOKIE, HEADER, GATEWAY_KEY, ADMIN_KEY, WRONG_KEY];

/// A text in the forms in which it may be hidden.
fn forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_string(), json!(text).to_string().trim_matches('"').to_string()];
    forms.push(url::form_urlencoded::byte_serialize(text.as_bytes()).collect());
    let percent = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let encoded: String = text.bytes().map(percent).collect();
    forms.extend([encoded.to_ascii_lowercase(), encoded]);
    forms.push(text.bytes().map(|byte| format!("{byte:02x}")).collect());
    for shift in 0..3 {
        // Where it stands in what is encoded decides the form; the edges belong to the neighbours.
        let padded = [vec![b'x'; shift], text.as_bytes().to_vec()].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&padded);
            forms.push(encoded[if shift == 0 { 0 } else { 4 }..encoded.len() - 2].to_string());
        }
    }
    forms
}

fn absent(place: &str, text: &str, canaries: &[&str]) {
    for canary in canaries {
        for form in forms(canary) {
            if let Some(at) = text.find(&form) {
                let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
                panic!("{canary} stands as {form} in {place}: {}", &text[line..end]);
            }
        }
    }
}

/// An upstream that quotes whatever it is sent.
async fn quoting() -> Fake {
    Fake::start(|request| {
        let quoted = format!("{UPSTREAM_KEY} {COOKIE} {HEADER} {PROMPT}");
        let error = json!({"error": {"message": quoted, "code": "x"}}).to_string();
        let is = |word: &str| request.body.contains(word);
        if is("case-forms") {
            let quoted = [UPSTREAM_KEY, COOKIE, HEADER].map(|secret| forms(secret).join(" ")).join(" ");
            let error = json!({"error": {"message": quoted, "code": quoted, "param": [quoted]}}).to_string();
            send(response("400 Bad Request", "application/json", &error))
        } else if is("case-401") {
            send(response("401 Unauthorized", "application/json", &error))
        } else if is("case-500") {
            send(response("500 Oops", "application/json", &error))
        } else if is("case-400") {
            send(response("400 Bad Request", "application/json", &error))
        } else if is("case-html") {
            send(response("200 OK", "text/html", &format!("<html>{quoted}</html>")))
        } else if is("case-redirect") {
            let to =
                format!("HTTP/1.1 302 Found\r\nLocation: /login?next={COOKIE}\r\nContent-Length: 0\r\n\r\n");
            send(to)
        } else if is("case-garbage") {
            send(response("200 OK", "application/json", &quoted))
        } else if is("case-broken") {
            vec![stream_head(), chunk("one", None), Step::Close]
        } else if is("case-close") {
            vec![Step::Close]
        } else if request.line.starts_with("GET") {
            send(response("200 OK", "application/json", r#"{"data":[{"id":"m"}]}"#))
        } else {
            let mut steps = vec![stream_head(), chunk("fine", Some("stop")), stream_end()];
            if let Step::Send(head) = &mut steps[0] {
                let cookie = format!("Set-Cookie: renewed={NEW_COOKIE}; Path=/\r\n\r\n");
                head.truncate(head.len() - 2);
                head.extend_from_slice(cookie.as_bytes());
            }
            steps
        }
    })
    .await
}

#[actix_web::test]
async fn no_secret_and_no_prompt_leaves_the_process() {
    let fake = quoting().await;
    let process = Process::start(&[
        ("UPSTREAM_URL", &fake.url),
        ("UPSTREAM_API_KEY", UPSTREAM_KEY),
        ("UPSTREAM_COOKIE", &format!("session={COOKIE}")),
        ("UPSTREAM_HEADERS", &format!("X-Mine: {HEADER}")),
        ("GATEWAY_API_KEYS", &format!("tests:{GATEWAY_KEY}")),
        ("ADMIN_KEY", ADMIN_KEY),
        ("DEFAULT_MODEL", "m"),
        ("RUST_LOG", "debug"),
        ("LOG_FORMAT", "text"),
    ]);
    let address = process.address;
    let mut answers = Vec::new();
    let cases = ["good", "case-401", "case-500", "case-400", "case-html", "case-redirect", "case-garbage"];
    for case in cases.into_iter().chain(["case-broken", "case-close", "case-forms"]) {
        let said = format!("{PROMPT} {case}");
        let body = json!({"message": said}).to_string();
        answers.push(post(address, "/api/chat", GATEWAY_KEY, &body).await);
        let call = json!({"name": "chat", "arguments": {"message": said}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}).to_string();
        answers.push(post(address, "/mcp", GATEWAY_KEY, &message).await);
        for stream in [true, false] {
            let messages = json!([{"role": "user", "content": said}]);
            let body = json!({"model": "m", "stream": stream, "messages": messages}).to_string();
            answers.push(post(address, "/v1/chat/completions", GATEWAY_KEY, &body).await);
        }
        answers.push(post(address, "/v1/embeddings", GATEWAY_KEY, &json!({"input": said}).to_string()).await);
    }
    assert_eq!(answers[0].status, 200, "{}", answers[0].text);
    // Misfit requests, wrong keys, and keys in all the places in which they may stand.
    let headers =
        [("authorization", format!("Basic {}", STANDARD_NO_PAD.encode(format!("u:{GATEWAY_KEY}"))))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    answers.push(call(address, "GET", "/api/models", &headers, None).await);
    let query = format!("/api/models?key={}", "canary%2Fgateway%2Bkey%3DXp63");
    answers.push(call(address, "GET", &query, &[], None).await);
    answers.push(call(address, "GET", "/api/models", &[("x-api-key", WRONG_KEY)], None).await);
    answers.push(post(address, "/api/chat", WRONG_KEY, "{}").await);
    answers.push(call(address, "GET", "/api/health", &[("x-api-key", GATEWAY_KEY)], None).await);
    let session = json!({"cookie": format!("session={COOKIE}")}).to_string();
    let put = [("x-api-key", ADMIN_KEY), ("content-type", "application/json")];
    answers.push(call(address, "PUT", "/api/session", &put, Some(session.into_bytes())).await);
    let mut documents = Vec::new();
    for path in [
        "/",
        "/openapi.json",
        "/openapi.yaml",
        "/openapi/full.json",
        "/.well-known/ai-plugin.json",
        "/dify/",
        "/dify/chatflow.yml",
    ] {
        documents.push((path, call(address, "GET", path, &[], None).await));
    }
    documents.push(("/metrics", call(address, "GET", "/metrics", &[("x-api-key", ADMIN_KEY)], None).await));
    // Its caller may be told what it sent; the log may not.
    for body in [
        json!({"message": [PROMPT]}).to_string(),
        json!({"message": "x", "temperature": PROMPT}).to_string(),
        format!("{{\"message\": \"{PROMPT}"),
    ] {
        let status = post(address, "/api/chat", GATEWAY_KEY, &body).await.status.as_u16();
        assert!(matches!(status, 400 | 422), "{status}");
    }

    for answer in &answers {
        let headers = format!("{:?}", answer.headers);
        absent("an answer", &answer.text, SECRETS);
        absent("an answer's headers", &headers, SECRETS);
    }
    let all: Vec<&str> = SECRETS.iter().copied().chain([PROMPT]).collect();
    for (path, document) in &documents {
        assert_eq!(document.status, 200, "{path}");
        absent(path, &document.text, &all);
    }
    let log = process.output();
    assert!(log.contains("DEBUG") && log.contains("upstream_auth_expired"), "{log}");
    absent("the log", &log, &all);
}

#[test]
fn a_hidden_canary_is_found() {
    let hidden = STANDARD_NO_PAD.encode(format!("user:{GATEWAY_KEY}!"));
    assert!(forms(GATEWAY_KEY).iter().any(|form| hidden.contains(form.as_str())));
    let hidden: String = url::form_urlencoded::byte_serialize(PROMPT.as_bytes()).collect();
    assert!(forms(PROMPT).contains(&hidden));
}
