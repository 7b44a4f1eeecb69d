//! Every line that is logged for a request carries its id: that of the provider, of the store on its
//! own thread, and of what goes on after the handler has returned.

use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, call, temporary_folder};
use crate::running::Process;
use crate::upstream::{Fake, Request, Step, chunk, response, send, stream_head};

/// A piece of a stream that is not of the protocol.
fn garbage() -> Step {
    let event = "data: sometext\n\n";
    Step::Send(format!("{:x}\r\n{event}\r\n", event.len()).into_bytes())
}

fn script(request: &Request) -> Vec<Step> {
    if request.body.contains("no stream") && request.body.contains(r#""stream":true"#) {
        let error = json!({"error": {"message": "`stream` is not supported", "param": "stream"}});
        return send(response("400 Bad Request", "application/json", &error.to_string()));
    }
    if request.body.contains("no stream") {
        let answer = json!({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]});
        return send(response("200 OK", "application/json", &answer.to_string()));
    }
    // What was skipped is told where nothing but the end of the body ends the stream.
    let end = Step::Send(b"0\r\n\r\n".to_vec());
    vec![stream_head(), chunk("one", None), garbage(), chunk("two", Some("stop")), end]
}

/// A service that logs in this format, and the file of its store.
fn start(fake: &Fake, format: &str) -> (Process, String) {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let process = Process::start(&[
        ("UPSTREAM_URL", &fake.url),
        ("DEFAULT_MODEL", "m"),
        ("GATEWAY_API_KEYS", &format!("tests:{KEY}")),
        ("DATA_DIR", &folder),
        ("LOG_FORMAT", format),
        ("RUST_LOG", "info"),
    ]);
    (process, format!("{folder}/mirrorgate.db"))
}

async fn post(process: &Process, path: &str, id: &str, body: Value) -> Answer {
    let key = format!("Bearer {KEY}");
    let headers =
        [("authorization", key.as_str()), ("content-type", "application/json"), ("x-request-id", id)];
    let answer = call(process.address, "POST", path, &headers, Some(body.to_string().into_bytes())).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-request-id")), (200, Some(id)), "{}", answer.text);
    answer
}

/// The first line with these words, and that of the access log for this request, once they are there.
async fn lines(process: &Process, words: &str, id: &str) -> (String, String) {
    for _ in 0..200 {
        let output = process.output();
        let line = |is: &dyn Fn(&&str) -> bool| output.lines().find(is).map(String::from);
        let told = line(&|line| line.contains(words));
        let access = line(&|line| line.contains("operation") && line.contains(id));
        if let Some(found) = told.zip(access) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody says `{words}` for {id}: {}", process.output());
}

#[actix_web::test]
async fn lines_of_the_provider_and_the_store_carry_the_id_that_the_caller_got() {
    let fake = Fake::start(script).await;
    let (process, file) = start(&fake, "json");
    let stream = json!({"stream": true, "messages": [{"role": "user", "content": "x"}]});
    let (refuses, skips) =
        ("the upstream refused a parameter", "parts of the upstream's answer that are not");
    for (id, path, body, words) in [
        ("of-the-provider", "/api/chat", json!({"message": "no stream"}), refuses),
        // A stream is written after its handler has returned.
        ("of-a-stream", "/v1/chat/completions", stream, skips),
        ("of-the-store", "/api/chat", json!({"message": "no stream"}), "the store's file was replaced"),
    ] {
        if id == "of-the-store" {
            let copy = format!("{file}.copy");
            std::fs::copy(&file, &copy).expect("a copy");
            for end in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{file}{end}"));
            }
            std::fs::rename(&copy, &file).expect("another file");
        }
        post(&process, path, id, body).await;
        let (told, access) = lines(&process, words, id).await;
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!((&told["request_id"], &told["level"]), (&json!(id), &json!("warn")), "{told}");
        assert_eq!(access.matches("request_id").count(), 1, "{access}");
        if words == refuses || words == skips {
            let mending = told["mending"].as_str();
            assert!(told["upstream"].is_string() && mending.is_some() && told["times"] == 1, "{told}");
        }
    }
}

#[actix_web::test]
async fn lines_of_text_carry_it_too_and_once() {
    let fake = Fake::start(script).await;
    let (process, _) = start(&fake, "text");
    let stream = json!({"stream": true, "messages": [{"role": "user", "content": "x"}]});
    post(&process, "/v1/chat/completions", "of-a-text", stream).await;
    let (told, access) = lines(&process, "parts of the upstream's answer that are not", "of-a-text").await;
    for line in [told, access] {
        assert_eq!(line.matches(" request_id=of-a-text").count(), 1, "{line}");
        assert_eq!(line.matches("request_id").count(), 1, "{line}");
    }
}
