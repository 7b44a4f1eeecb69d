//! Completions on their way through: mended, cut anywhere, broken.

use super::decoder::Chunks;
use super::joined;
use super::whole::CHUNK;
use crate::domain::answer::Answer;
use crate::domain::error::Kind;
use crate::provider::decoding::{self, Fault, pieces};
use crate::telemetry::mending::Mendings;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The chunks as a caller of the same protocol gets them, what they mean, and how they end.
fn decoded(chunks: &[&[u8]]) -> (Vec<Value>, Answer, Result<(), Kind>) {
    let (deltas, end) = decoding::read(&mut Chunks::new(1, 1 << 20), chunks);
    let data = deltas.iter().map(|delta| {
        let wire = delta.wire.as_ref().expect("each has its bytes");
        assert!(!wire.contains(&b'\n'));
        serde_json::from_slice(wire).expect("a chunk is JSON")
    });
    let mut answer = Answer::default();
    deltas.iter().for_each(|delta| answer.apply(delta));
    let end = end.map_err(Fault::kind);
    (data.collect(), answer, end)
}

fn read(chunks: &[&[u8]]) -> (Vec<Value>, Result<(), Kind>) {
    let (data, _, end) = decoded(chunks);
    (data, end)
}

const STREAM: &str = "\u{feff}: hello\r\n\r\nevent: message\r\ndata: {\"id\":\"r\",\"x\":1.10,\r\ndata:  \"choices\":[{\"index\":0,\"delta\":{\"content\":\"你\"}}]}\r\n\r\n\
    data: {\"id\":\"r\"}\n\ndata: not json\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\"}}]}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"function\":{\"name\":\"g\"}}]}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"}\"}}]}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":null}],\"usage\":{\"total_tokens\":1}}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\ndata: [DONE]\n\n";

#[test]
fn chunks_are_mended_where_clients_stumble() {
    let (chunks, result) = read(&[STREAM.as_bytes()]);
    assert_eq!(result, Ok(()));
    assert_eq!(
        chunks[0],
        json!({"id": "r", "x": 1.10, "choices": [{"index": 0, "delta": {"content": "你", "role": "assistant"}}], "object": CHUNK})
    );
    assert_eq!(chunks[1], json!({"id": "r", "choices": [], "object": CHUNK}));
    let calls: Vec<&Value> =
        chunks[2..6].iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"]).collect();
    assert_eq!(
        *calls[0],
        json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}])
    );
    assert_eq!(*calls[1], json!([{"index": 0, "function": {"arguments": "{"}}]));
    assert_eq!(*calls[2], json!([{"index": 0, "function": {"arguments": "}"}}]));
    let id = calls[3][0]["id"].as_str();
    assert!(id.is_some_and(|id| id.starts_with("call_")) && calls[3][0]["index"] == 1, "{calls:?}");
    assert_eq!(chunks[6]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[7]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[7]["usage"], Value::Null);
    assert_eq!(chunks[8]["usage"]["prompt_tokens"], 3);
    assert_eq!(chunks.len(), 9);
}

#[test]
fn a_chunk_that_differs_in_its_words_alone_goes_on_and_any_other_is_looked_at() {
    let chunk = |words: &str| {
        format!(
            "data: {{\"object\":\"{CHUNK}\",\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"{words}\"}}}}]}}\n\n"
        )
    };
    let end =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let words = ["a", "你好 🙂", "", "\\\"", "\\n", "b", "\"},\"x\":{\"y\":\"", "c\\u0041"];
    let text: String = words.iter().map(|words| chunk(words)).collect();
    let (chunks, result) = read(&[(text.clone() + end).as_bytes()]);
    assert_eq!(result, Ok(()));
    let said: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["content"]).collect();
    assert_eq!(said[..6], ["a", "你好 🙂", "", "\"", "\n", "b"]);
    assert_eq!(
        (said[6], &chunks[6]["choices"][0]["x"]["y"], said[7]),
        (&json!(""), &json!(""), &json!("cA"))
    );
    for broken in ["\u{1}", "\t", "\\", "\""] {
        assert_eq!(read(&[(text.clone() + &chunk(broken) + end).as_bytes()]).1, Err(Kind::UpstreamInvalid));
    }
    // After the end of its choice, one of the same mould is told why it ended.
    let (chunks, _) = read(&[(text + end.trim_end_matches("data: [DONE]\n\n") + &chunk("late")).as_bytes()]);
    assert_eq!(chunks.last().expect("a chunk")["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_whole_completion_is_one_chunk_and_one_for_each_of_its_tool_calls() {
    let whole = r#"{"id":"r","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
    let (chunks, result) = read(&[whole.as_bytes()]);
    assert_eq!(result, Ok(()));
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    assert_eq!(chunks[0]["choices"][0]["delta"]["content"], "hi");
    assert_eq!(chunks.len(), 1);
    let calls = whole.replace("\"hi\"", r#""hi","tool_calls":[{"id":"a"},{"id":"b"}]"#);
    let (chunks, _) = read(&[calls.as_bytes()]);
    let said: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    assert_eq!((&said[0]["delta"]["content"], &said[0]["finish_reason"]), (&json!("hi"), &Value::Null));
    for (index, id) in [(0, "a"), (1, "b")] {
        let call = &said[index + 1]["delta"]["tool_calls"];
        assert_eq!((&call[0]["id"], &call[0]["index"], &call[1]), (&json!(id), &json!(index), &Value::Null));
    }
    assert_eq!((&said[3]["delta"], &said[3]["finish_reason"], said.len()), (&json!({}), &json!("stop"), 4));
    assert_eq!(read(&[&whole.as_bytes()[..40]]).1, Err(Kind::UpstreamTruncated));
}

#[test]
fn what_small_mirrors_leave_out_is_filled_in() {
    let (chunks, result) = read(&[b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":null}]}\n\ndata: [DONE]\n\n"]);
    assert_eq!(result, Ok(()));
    assert_eq!(chunks[0]["choices"][0], json!({"delta": {"content": "a", "role": "assistant"}, "index": 0}));
    assert_eq!(chunks[1]["choices"][0]["delta"], json!({}));
    assert_eq!(chunks[2]["choices"][0], json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
    let good = "{\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}";
    for broken in ["{\"choices\":[{", "{\"id\":\"\u{fffd}"] {
        let text = format!("data: {good}\n\ndata: {broken}\n\ndata: [DONE]\n\n");
        assert_eq!(read(&[text.as_bytes()]).1, Err(Kind::UpstreamInvalid));
    }
    let mut bytes = format!("data: {good}\n\n").into_bytes();
    bytes.extend(b"data: {\"id\":\"\xff\",\"choices\":[]}\n\n");
    assert_eq!(read(&[&bytes]).1, Err(Kind::UpstreamInvalid));
}

#[test]
fn a_stream_that_was_not_asked_for_is_joined() {
    let chunk = joined::joined(STREAM.as_bytes(), 1, &mut Mendings::default())
        .unwrap_or_else(|_| panic!("a completion"));
    let whole: Value = serde_json::from_slice(chunk.wire.as_ref().expect("bytes")).expect("JSON");
    assert_eq!((whole["object"].as_str(), whole["id"].as_str()), (Some("chat.completion"), Some("r")));
    let message = &whole["choices"][0]["message"];
    assert_eq!(
        (message["content"].as_str(), message["tool_calls"].as_array().map(Vec::len)),
        (Some("你"), Some(2))
    );
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunk.usage().map(|usage| usage.prompt_tokens), Some(3));
}

#[test]
fn every_cut_before_the_finish_is_truncation() {
    let finish = STREAM.find("\"finish_reason\"").expect("a finish");
    let first = STREAM.find("}]}").expect("a chunk") + 3;
    for end in first..finish {
        assert_eq!(read(&[&STREAM.as_bytes()[..end]]).1, Err(Kind::UpstreamTruncated), "at {end}");
    }
}

#[test]
fn bad_streams_are_named() {
    for (text, kind) in [
        ("data: {\"error\":{\"message\":\"x\"}}\n\n", Kind::UpstreamError),
        ("data: {\"error\":\"x\",\"choices\":[]}\n\n", Kind::UpstreamError),
        ("<html>", Kind::UpstreamHtml),
        (" ", Kind::UpstreamEmpty),
        ("data: [DONE]\n\n", Kind::UpstreamEmpty),
        ("{\"result\":{}}", Kind::UpstreamInvalid),
        ("{\"choices\":[]}", Kind::UpstreamEmpty),
        ("garbage\n\n", Kind::UpstreamInvalid),
    ] {
        assert_eq!(read(&[text.as_bytes()]).1, Err(kind), "{text}");
    }
}

#[test]
fn a_stream_and_a_whole_answer_mean_the_same() {
    let stream = "data: {\"id\":\"r1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        data: {\"id\":\"r1\",\"choices\":[{\"delta\":{\"content\":\"你好 🙂\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\ndata: [DONE]\n\n";
    let (_, streamed, end) = decoded(&[stream.as_bytes()]);
    assert_eq!((end, streamed.text.as_str(), streamed.reasoning.as_str()), (Ok(()), "你好 🙂", "hm"));
    assert_eq!(streamed.names.response.as_deref(), Some("r1"));
    let whole = r#"{"id":"r1","model":"m","choices":[{"message":{"content":"你好 🙂","reasoning_content":"hm","tool_calls":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    assert_eq!(decoded(&[whole.as_bytes()]).1, streamed);
    let parts = whole.replace("\"你好 🙂\"", r#"[{"type":"text","text":"你好"},{"text":" 🙂"}]"#);
    assert_eq!(decoded(&[parts.as_bytes()]).1, streamed);
}

#[test]
fn a_chunk_of_the_same_template_means_what_it_says() {
    let chunk = |key: &str, words: &str| {
        format!(
            "data: {{\"object\":\"{CHUNK}\",\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"{key}\":\"{words}\"}}}}]}}\n\n"
        )
    };
    let said = [
        ("reasoning_content", "h"),
        ("reasoning_content", "m"),
        ("content", "a"),
        ("content", "\\n"),
        ("content", "é"),
    ];
    let text: String = said.iter().map(|(key, words)| chunk(key, words)).collect();
    let (_, answer, end) = decoded(&[(text + "data: [DONE]\n\n").as_bytes()]);
    assert_eq!((end, answer.text.as_str(), answer.reasoning.as_str()), (Ok(()), "a\né", "hm"));
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..1200, 0..10)) {
        let id = |chunks: Vec<Value>| {
            // The id of a call that the upstream did not name is random.
            let text = Value::from(chunks).to_string();
            let at = text.find("call_").expect("an id of ours");
            text.replace(&text[at..at + 37], "")
        };
        let (cut, whole) = (read(&pieces(STREAM.as_bytes(), cuts)), read(&[STREAM.as_bytes()]));
        prop_assert_eq!(cut.1, whole.1);
        prop_assert_eq!(id(cut.0), id(whole.0));
    }
}

#[test]
fn what_an_answer_cost_is_read_where_groq_and_moonshot_tell_it() {
    let usage = r#"{"prompt_tokens":"3","completion_tokens":2.0,"total_tokens":5}"#;
    let last = r#""index":0,"delta":{},"finish_reason":"stop""#;
    for told in [
        format!(r#"{{"object":"{CHUNK}","choices":[{{{last}}}],"x_groq":{{"id":"r","usage":{usage}}}}}"#),
        format!(r#"{{"object":"{CHUNK}","choices":[{{{last},"usage":{usage}}}]}}"#),
        format!(r#"{{"object":"{CHUNK}","choices":[{{{last},"usage":{usage}}}],"usage":null}}"#),
    ] {
        let stream = format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"Hi\"}}}}]}}\n\ndata: {told}\n\ndata: [DONE]\n\n"
        );
        let (chunks, answer, end) = decoded(&[stream.as_bytes()]);
        assert_eq!(end, Ok(()), "{told}");
        let expected = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        assert_eq!(chunks.last().map(|chunk| &chunk["usage"]), Some(&expected), "{told}");
        assert_eq!(answer.usage.map(|usage| usage.total_tokens), Some(5), "{told}");
    }
}

#[test]
fn spoken_words_are_the_answer_where_there_are_no_others() {
    let piece = |delta: Value| {
        let chunk = json!({"object": CHUNK, "choices": [{"index": 0, "delta": delta}]});
        format!("data: {chunk}\n\n")
    };
    let stream = piece(json!({"role": "assistant", "audio": {"id": "a", "transcript": "Hel"}}))
        + &piece(json!({"audio": {"transcript": "lo"}}))
        + "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let (_, answer, end) = decoded(&[stream.as_bytes()]);
    assert_eq!((answer.text.as_str(), end), ("Hello", Ok(())));
}
