//! Random answers with random faults, over HTTP: all faces give the same words, and none says success
//! unless all of them and the end are there. The decoders alone are tried with far more of them.

use std::sync::{Arc, Mutex};

use actix_web::rt::System;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::helpers::{KEY, TestApp, spawn_before};
use crate::streams::{self, Protocol, Stream};
use crate::upstream::{Fake, Step};

/// What a face gave: the words that came, and whether it says that they are the answer.
type Given = (String, bool);

async fn chat(app: &TestApp) -> Given {
    let envelope = app.chat(json!({"message": "hi", "model": "m", "max_tokens": "9"})).await.json();
    (envelope["answer"].as_str().unwrap_or_default().into(), envelope["success"] == true)
}

async fn completion(app: &TestApp, stream: bool) -> Given {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": "m", "stream": stream, "max_tokens": 9, "messages": messages}).to_string();
    let answer = app.post("/v1/chat/completions", KEY, &body).await;
    if !stream || answer.status != 200 {
        let content = &answer.json()["choices"][0]["message"]["content"];
        return (content.as_str().unwrap_or_default().into(), answer.status == 200);
    }
    let mut events = answer.text.lines().filter_map(|line| line.strip_prefix("data: "));
    let words = events
        .clone()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_string());
    let words = words.collect();
    (words, events.next_back() == Some("[DONE]"))
}

fn chunked(stream: &Stream, protocol: Protocol, cuts: &[usize]) -> Vec<Step> {
    let media = if protocol == Protocol::WebChat { "application/x-ndjson" } else { "text/event-stream" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let bytes = stream.bytes(protocol);
    let mut steps = vec![Step::Send(head.into_bytes())];
    let mut from = 0;
    for to in cuts.iter().copied().filter(|to| *to < bytes.len()).chain([bytes.len()]) {
        let piece = &bytes[from.min(to)..to];
        if !piece.is_empty() {
            steps.push(Step::Send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()));
        }
        from = from.max(to);
    }
    steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
    steps
}

#[test]
fn all_faces_give_the_same_words_and_none_says_success_without_all_of_them() {
    let runtime = System::new();
    for (protocol, name) in
        [(Protocol::OpenAi, "openai"), (Protocol::Anthropic, "anthropic"), (Protocol::WebChat, "web-chat")]
    {
        let script = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&script);
        let (_fake, app) = runtime.block_on(async {
            let fake = Fake::start(move |_| said.lock().expect("a script").clone()).await;
            let app = spawn_before(&fake.url, name, &[("MODELS", "m")]).await;
            (fake, app)
        });
        let cuts = prop::collection::btree_set(0usize..400, 0..5);
        proptest!(ProptestConfig::with_cases(40), |(stream in streams::stream(), cuts in cuts)| {
            prop_assume!(!stream.words().trim().is_empty());
            let cuts: Vec<usize> = cuts.into_iter().collect();
            *script.lock().expect("a script") = chunked(&stream, protocol, &cuts);
            let given = runtime.block_on(async {
                [chat(&app).await, completion(&app, true).await, completion(&app, false).await]
            });
            let succeeds = !stream.fails(protocol);
            for (words, success) in &given {
                prop_assert_eq!(*success, succeeds, "{}: {:?}", name, given);
                if *success {
                    prop_assert_eq!(words, &stream.words(), "{}", name);
                }
            }
            if !succeeds {
                // A web chat may settle its words after a line that cannot be read, so it is read on.
                prop_assert!(given[0].0.starts_with(&stream.good_words()), "{}: the part of {:?}", name, given);
            }
        });
    }
}
