//! How answers come over HTTP: interim ones before them, ends by the connection's own, and heads that do
//! not end. Each is tried on every face, since the mirror decides it and not the caller.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::faces::{Face, Failed, good, good_body};
use crate::helpers::{KEY, spawn_before};
use crate::upstream::{Fake, Request, Step, send};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

const PROTOCOLS: [&str; 3] = ["openai", "web-chat", "anthropic"];

/// Models are set, so that nobody asks for them.
const SETTINGS: &[(&str, &str)] = &[("MODELS", "m"), ("FIRST_BYTE_TIMEOUT_SECONDS", "0.5")];

/// An answer that ends with its connection; `whole`, or after its words and before what says that it ends.
fn unframed(protocol: &str, request: &Request, whole: bool) -> Vec<Step> {
    let (media, body) = good_body(protocol, request, "Hello");
    let end = match media {
        _ if whole => body.len(),
        "application/json" => body.len() - 1,
        _ => {
            body.find("Hello").and_then(|at| Some(at + body[at..].find('\n')? + 1)).expect("a line of words")
        }
    };
    let (first, second) = body[..end].split_at(end / 2);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\n\r\n");
    let pause = Step::Pause(Duration::from_millis(5));
    vec![Step::Send((head + first).into()), pause, Step::Send(second.into()), Step::Close]
}

#[actix_web::test]
async fn interim_answers_are_left_out_and_the_connection_is_kept() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    const GO_ON: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    for protocol in PROTOCOLS {
        let fake = Fake::start(move |request| {
            let pause = Step::Pause(Duration::from_millis(5));
            let answer = [GO_ON, &good(protocol, request, "Hello")].concat();
            vec![Step::Send(HINTS.into()), pause, Step::Send(answer.into())]
        })
        .await;
        let app = spawn_before(&fake.url, protocol, SETTINGS).await;
        for face in Face::before(protocol).repeat(4) {
            assert_eq!(face.ask(&app, "hi").await, Ok("Hello".into()), "{protocol} {face:?}");
        }
        // Each of the service's workers has connections of its own.
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let opened = fake.requests().iter().filter(|request| request.earlier == 0).count();
        assert!(opened <= workers, "{protocol}: {opened} connections");
    }
}

#[actix_web::test]
async fn an_answer_that_ends_with_its_connection_is_complete_by_its_own_end_alone() {
    for protocol in PROTOCOLS {
        for whole in [true, false] {
            let fake = Fake::start(move |request| unframed(protocol, request, whole)).await;
            let app = spawn_before(&fake.url, protocol, SETTINGS).await;
            for face in Face::before(protocol) {
                let given = face.ask(&app, "hi").await;
                // Whole completions and what is relayed have no place for a part.
                let part = if [Face::Completion, Face::Relayed].contains(face) { "" } else { "Hello" };
                let cut = Failed { code: "upstream_truncated".into(), part: part.into() };
                let right = if whole { Ok("Hello".into()) } else { Err(cut) };
                assert_eq!(given, right, "{protocol} {face:?}");
            }
        }
    }
}

/// A text as it comes compressed, flushed after its half as a server that streams does.
fn compressed(coding: &str, text: &[u8]) -> Vec<u8> {
    let (first, second) = text.split_at(text.len() / 2);
    let level = Compression::default();
    let written = if coding == "gzip" {
        let mut encoder = GzEncoder::new(Vec::new(), level);
        encoder
            .write_all(first)
            .and_then(|()| encoder.flush())
            .and_then(|()| encoder.write_all(second))
            .and_then(|()| encoder.finish())
    } else {
        let mut encoder = ZlibEncoder::new(Vec::new(), level);
        encoder
            .write_all(first)
            .and_then(|()| encoder.flush())
            .and_then(|()| encoder.write_all(second))
            .and_then(|()| encoder.finish())
    };
    written.expect("writing to memory")
}

/// An answer in this coding, with a pause after so many of its bytes.
fn coded(status: &str, media: &str, coding: &str, body: &[u8], half: usize) -> Vec<Step> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (first, second) = body.split_at(half.min(body.len()));
    let pause = Step::Pause(Duration::from_millis(2));
    vec![Step::Send(head.into()), Step::Send(first.into()), pause, Step::Send(second.into())]
}

#[actix_web::test]
async fn answers_that_are_compressed_though_nobody_asked_for_it_are_read() {
    for protocol in PROTOCOLS {
        for coding in ["gzip", "deflate"] {
            let fake = Fake::start(move |request| {
                let (media, body) = good_body(protocol, request, "Hello");
                coded("200 OK", media, coding, &compressed(coding, body.as_bytes()), 15)
            })
            .await;
            let app = spawn_before(&fake.url, protocol, SETTINGS).await;
            for face in Face::before(protocol) {
                assert_eq!(face.ask(&app, "hi").await, Ok("Hello".into()), "{protocol} {face:?} {coding}");
            }
        }
    }
}

#[actix_web::test]
async fn compressed_answers_are_bounded_by_what_they_become_and_cut_ones_are_told() {
    let error = r#"{"error":{"message":"boom ctx"}}"#;
    let huge = compressed("gzip", format!("{{\"data\":\"{}\"}}", "x".repeat(8 << 20)).as_bytes());
    assert!(huge.len() < 20_000, "{} bytes", huge.len());
    let cut = compressed("gzip", br#"{"data":[{"text":"Hello"}"#);
    let json = "application/json";
    for (script, status, words) in [
        (coded("200 OK", json, "gzip", &huge, 10), 502, "upstream_too_large"),
        (coded("200 OK", json, "gzip", &cut, 10), 502, "upstream_truncated"),
        (coded("200 OK", json, "br", b"xxxx", 4), 502, "br"),
        (coded("200 OK", json, "gzip", b"{\"data\":[]}", 4), 502, "upstream_encoding"),
        (coded("400 Bad Request", json, "gzip", &compressed("gzip", error.as_bytes()), 10), 400, "boom ctx"),
        (coded("400 Bad Request", json, "br", b"xxxx", 4), 400, "compressed, which was not asked for: br"),
        // Bytes that say nothing of their own end are whole only with the end of their coding.
        (coded("200 OK", "audio/mpeg", "gzip", &compressed("gzip", b"sound"), 10), 200, "sound"),
    ] {
        let fake = Fake::start(move |_| script.clone()).await;
        let more = [("MAX_ANSWER_BYTES", "1000000")];
        let app = spawn_before(&fake.url, "openai", &[SETTINGS, &more].concat()).await;
        let answer = app.post("/v1/audio/speech", KEY, "{}").await;
        assert!(
            answer.status == status && answer.text.contains(words),
            "{words}: {} {}",
            answer.status,
            answer.text
        );
    }
}

#[actix_web::test]
async fn an_error_that_ends_with_its_connection_keeps_its_words() {
    let fake = Fake::start(|_| {
        let error = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\r\n{\"error\":{\"message\":\"boom ctx\"}}";
        vec![Step::Send(error.into()), Step::Close]
    })
    .await;
    let app = spawn_before(&fake.url, "openai", SETTINGS).await;
    let answer = app.post("/v1/embeddings", KEY, "{}").await;
    assert!(answer.status == 400 && answer.text.contains("boom ctx"), "{}", answer.text);
}

#[actix_web::test]
async fn bytes_without_an_end_of_their_own_are_whole_by_their_framing_alone() {
    let chunk = "5\r\nsound\r\n";
    let head = |rest: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n{rest}");
    let coded = head("Transfer-Encoding: chunked\r\n\r\n");
    for (wire, whole) in [
        (head("\r\nsound"), true),
        (format!("{coded}{chunk}0\r\n\r\n"), true),
        (format!("{coded}{chunk}"), false),
        (head("Content-Length: 9\r\n\r\nsound"), false),
    ] {
        let sent = wire.clone();
        let fake = Fake::start(move |_| vec![Step::Send(sent.clone().into()), Step::Close]).await;
        let app = spawn_before(&fake.url, "openai", SETTINGS).await;
        let request = format!(
            "POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = crate::helpers::raw(app.address, request.as_bytes()).await;
        assert!(answer.contains("sound"), "{wire:?}: {answer}");
        assert_eq!(answer.ends_with("\r\n0\r\n\r\n"), whole, "{wire:?}: {answer}");
    }
}

#[actix_web::test]
async fn heads_that_do_not_end_are_bounded_in_time_and_size() {
    let slow = |bytes: &str| -> Vec<Step> {
        let byte = |byte| [Step::Send(vec![byte]), Step::Pause(Duration::from_millis(20))];
        bytes.bytes().flat_map(byte).collect()
    };
    let head = "HTTP/1.1 200 OK\r\nServer: a-name-that-takes-longer-than-it-may\r\n";
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let endless = |start: &str, more: String| vec![Step::Send(start.into()), Step::Endless(more.into())];
    for (name, script, code) in [
        ("a slow head", slow(head), "upstream_timeout"),
        ("slow interim answers", slow(&hints.repeat(3)), "upstream_timeout"),
        ("an interim answer alone", [send(hints), vec![Step::Hang]].concat(), "upstream_timeout"),
        ("an endless line", endless(head, "x".repeat(1000)), "upstream_too_large"),
        ("endless fields", endless(head, "X: y\r\n".repeat(50)), "upstream_too_large"),
        ("interim answers without end", endless("", hints.repeat(50)), "upstream_informational"),
        ("no HTTP", [send("SSH-2.0-OpenSSH_9.2\r\n"), vec![Step::Hang]].concat(), "upstream_invalid"),
    ] {
        for protocol in PROTOCOLS {
            let script = script.clone();
            let fake = Fake::start(move |_| script.clone()).await;
            let app = spawn_before(&fake.url, protocol, SETTINGS).await;
            let begun = Instant::now();
            let failed = Face::Chat.ask(&app, "hi").await;
            assert_eq!(failed, Err(Failed { code: code.into(), part: String::new() }), "{name}, {protocol}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{name}, {protocol}: {:?}", begun.elapsed());
            assert_eq!(fake.requests().len(), 1, "{name}, {protocol}: it is asked once");
        }
    }
}

#[actix_web::test]
async fn a_slow_head_that_ends_in_time_is_read() {
    let fake = Fake::start(|request| {
        let answer = good("openai", request, "Hello");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let byte = |byte| [Step::Send(vec![byte]), Step::Pause(Duration::from_millis(1))];
        let bytes = format!("HTTP/1.1 103 Early Hints\r\n\r\n{head}\r\n\r\n");
        bytes.bytes().flat_map(byte).chain([Step::Send(body.into())]).collect()
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[("MODELS", "m")]).await;
    for face in Face::ALL {
        assert_eq!(face.ask(&app, "hi").await, Ok("Hello".into()), "{face:?}");
    }
}
