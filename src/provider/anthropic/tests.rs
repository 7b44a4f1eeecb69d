//! Messages as they are streamed, or whole: each block, cut anywhere, broken.

use std::collections::VecDeque;

use super::decoder::Events;
use crate::domain::answer::{Answer, Delta};
use crate::domain::chat::{ToolCall, Usage};
use crate::domain::error::Kind;
use crate::provider::decoding::{self, Fault, pieces};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(chunks: &[&[u8]]) -> (VecDeque<Delta>, Answer, Result<(), Kind>) {
    let (deltas, end) = decoding::read(&mut Events::new(1 << 20), chunks);
    let mut answer = Answer::default();
    deltas.iter().for_each(|delta| answer.apply(delta));
    let end = end.map_err(Fault::kind);
    (deltas, answer, end)
}

fn events(all: &[Value]) -> String {
    let event =
        |value: &Value| format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or("message"));
    all.iter().map(event).collect()
}

fn start() -> Value {
    let usage = json!({"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 1});
    json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "model": "claude", "content": [], "stop_reason": null, "usage": usage}})
}

fn block(index: usize, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn piece(index: usize, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn said(index: usize, text: &str) -> Value {
    piece(index, json!({"type": "text_delta", "text": text}))
}

fn written(index: usize, json: &str) -> Value {
    piece(index, json!({"type": "input_json_delta", "partial_json": json}))
}

fn ended(index: usize) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn end(reason: &str) -> [Value; 2] {
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    [
        json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}}),
        json!({"type": "message_stop"}),
    ]
}

/// A message with everything in it.
fn full() -> String {
    let tool = |kind: &str, id: &str, name: &str| json!({"type": kind, "id": id, "name": name, "input": {}});
    let all = [
        start(),
        block(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        json!({"type": "ping"}),
        piece(0, json!({"type": "thinking_delta", "thinking": "hm, "})),
        piece(0, json!({"type": "thinking_delta", "thinking": "嗯"})),
        piece(0, json!({"type": "signature_delta", "signature": "c2lnbmF0dXJl"})),
        ended(0),
        block(1, json!({"type": "redacted_thinking", "data": "c2VjcmV0"})),
        ended(1),
        block(2, json!({"type": "text", "text": ""})),
        said(2, "你好"),
        said(2, " \"quoted\"\n🙂"),
        said(2, "!"),
        ended(2),
        block(3, tool("server_tool_use", "srvtoolu_1", "web_search")),
        written(3, "{\"query\":\"x\"}"),
        ended(3),
        block(
            4,
            json!({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result", "title": "T"}]}),
        ),
        ended(4),
        block(5, json!({"type": "text", "text": "So: "})),
        piece(
            5,
            json!({"type": "citations_delta", "citation": {"type": "web_search_result_location", "cited_text": "C"}}),
        ),
        said(5, "done"),
        ended(5),
        block(6, tool("tool_use", "toolu_1", "weather")),
        written(6, ""),
        written(6, "{\"city\": "),
        written(6, "\"台北\"}"),
        ended(6),
        block(7, tool("tool_use", "toolu_2", "now")),
        ended(7),
    ];
    events(&all) + &events(&end("tool_use"))
}

const TEXT: &str = "你好 \"quoted\"\n🙂!So: done";

#[test]
fn each_block_becomes_what_it_is() {
    let (deltas, answer, end) = read(&[full().as_bytes()]);
    assert_eq!(end, Ok(()));
    assert_eq!((answer.text.as_str(), answer.reasoning.as_str()), (TEXT, "hm, 嗯"));
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
    };
    assert_eq!(
        answer.tool_calls,
        [call("toolu_1", "weather", "{\"city\": \"台北\"}"), call("toolu_2", "now", "{}")]
    );
    assert_eq!(
        (answer.names.response.as_deref(), answer.names.model.as_deref()),
        (Some("msg_1"), Some("claude"))
    );
    assert_eq!(answer.finish_reason.as_deref(), Some("tool_calls"));
    assert_eq!(answer.usage, Some(Usage::told(123, 7, None)));
    // As OpenAI sends them: who is called comes first and once, and one call after the other.
    let calls: Vec<_> = deltas.iter().flat_map(|delta| &delta.tool_calls).collect();
    let seen: Vec<_> =
        calls.iter().map(|piece| (piece.index, piece.id.is_some(), piece.name.is_some())).collect();
    let (first, later) = ((true, true), (false, false));
    let of = |index: usize, (id, name): (bool, bool)| (index, id, name);
    assert_eq!(seen, [of(0, first), of(0, later), of(0, later), of(1, first), of(1, later)]);
}

#[test]
fn reasons_to_stop_have_their_names_in_openais_words() {
    for (reason, name) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("of tomorrow", "stop"),
    ] {
        let text = events(&[start(), said(0, "x")]) + &events(&end(reason));
        assert_eq!(read(&[text.as_bytes()]).1.finish_reason.as_deref(), Some(name));
    }
}

#[test]
fn a_refusal_says_why() {
    let details = json!({"type": "refusal", "category": "bio", "explanation": "Not this."});
    let delta =
        json!({"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": details}});
    let stop = json!({"type": "message_stop"});
    let text = events(&[start(), delta.clone(), stop.clone()]);
    assert_eq!(read(&[text.as_bytes()]).1.text, "Not this.");
    let text = events(&[start(), said(0, "I will not."), delta, stop]);
    assert_eq!(read(&[text.as_bytes()]).1.text, "I will not.");
}

#[test]
fn a_whole_message_is_understood() {
    let content = json!([
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "你"},
        {"type": "text", "text": "好"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}},
        {"type": "of tomorrow", "text": "!"},
    ]);
    let whole = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": content,
        "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 5}});
    let bytes = whole.to_string();
    let (_, answer, end) = read(&[bytes.as_bytes()]);
    assert_eq!((end, answer.text.as_str(), answer.reasoning.as_str()), (Ok(()), "你好!", "hm"));
    assert_eq!(answer.tool_calls[0].arguments, "{\"x\":1}");
    assert_eq!(answer.usage, Some(Usage::told(3, 5, None)));
    assert_eq!(answer.finish_reason.as_deref(), Some("tool_calls"));
    for end in 1..bytes.len() {
        assert_eq!(read(&[&bytes.as_bytes()[..end]]).2, Err(Kind::UpstreamTruncated), "at {end}");
    }
}

#[test]
fn what_mirrors_do_otherwise_is_understood() {
    // Blocks that are all of one index, a call without an id, arguments at its beginning.
    let call = |input: Value| block(0, json!({"type": "tool_use", "name": "f", "input": input}));
    let all = [start(), call(json!({"x": 1})), call(json!({})), written(0, "{}"), ended(0)];
    let text = events(&all) + &events(&end("tool_use"));
    let calls = read(&[text.as_bytes()]).1.tool_calls;
    let arguments: Vec<_> = calls.iter().map(|call| call.arguments.as_str()).collect();
    assert_eq!(arguments, ["{\"x\":1}", "{}"]);
    assert!(calls.iter().all(|call| call.id.starts_with("call_")));
    // No cost of the question, so none at all; and no names of events.
    let begun = json!({"type": "message_start", "message": {"id": "", "model": ""}});
    let text = events(&[begun, said(0, "x")]) + &events(&end("end_turn"));
    let text = text.lines().filter(|line| !line.starts_with("event:")).collect::<Vec<_>>().join("\r\n");
    let (_, answer, end) = read(&[text.as_bytes()]);
    assert_eq!((end, answer.text.as_str(), answer.usage, answer.names.response), (Ok(()), "x", None, None));
}

#[test]
fn what_nobody_knows_is_skipped_and_its_words_are_not_lost() {
    let unknown = [
        start(),
        json!({"type": "of tomorrow", "x": [1]}),
        block(0, json!({"type": "of tomorrow"})),
        piece(0, json!({"type": "text_delta", "text": "a"})),
        piece(0, json!({"type": "of tomorrow", "text": "b"})),
        said(9, "c"),
    ];
    let text = ": hello\n\ndata: garbage\n\n".to_string() + &events(&unknown) + &events(&end("end_turn"));
    let (_, answer, end) = read(&[text.as_bytes()]);
    assert_eq!((end, answer.text.as_str()), (Ok(()), "abc"));
}

#[test]
fn bad_answers_are_named() {
    let begun = events(&[start(), said(0, "x")]);
    let failure =
        events(&[json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})]);
    let broken = begun.clone() + "data: {\"type\":\"content_block_delta\",\n\n";
    let mut no_text = begun.clone().into_bytes();
    no_text.extend(
        b"data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"\xff\"}}\n\n",
    );
    for (bytes, kind) in [
        (b"\n \n".to_vec(), Kind::UpstreamEmpty),
        (b"<!doctype html>".to_vec(), Kind::UpstreamHtml),
        (b"garbage\nmore\n".to_vec(), Kind::UpstreamInvalid),
        (b"data: {\"choices\":[]}\n\ndata: [DONE]\n\n".to_vec(), Kind::UpstreamInvalid),
        (b"{\"hello\":1}".to_vec(), Kind::UpstreamInvalid),
        (b"{\"type\":\"error\",\"error\":{\"message\":\"x\"}}".to_vec(), Kind::UpstreamError),
        (b"{\"type\":\"message\",\"content\":[{".to_vec(), Kind::UpstreamTruncated),
        ((begun.clone() + &failure).into_bytes(), Kind::UpstreamError),
        (failure.into_bytes(), Kind::UpstreamError),
        (broken.into_bytes(), Kind::UpstreamInvalid),
        (no_text, Kind::UpstreamInvalid),
        (begun.into_bytes(), Kind::UpstreamTruncated),
    ] {
        assert_eq!(read(&[&bytes]).2, Err(kind), "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn every_cut_before_the_reason_to_stop_is_truncation() {
    let text = full();
    let (first, stop) =
        (text.find('{').expect("an event"), text.find("\n\nevent: message_stop").expect("an end"));
    for end in first..stop {
        let (_, answer, outcome) = read(&[&text.as_bytes()[..end]]);
        assert_eq!(outcome, Err(Kind::UpstreamTruncated), "at {end}");
        assert!(TEXT.starts_with(&answer.text), "at {end}");
    }
    for end in stop..text.len() {
        let (_, answer, outcome) = read(&[&text.as_bytes()[..end]]);
        assert_eq!(
            (outcome, answer.text.as_str(), answer.usage),
            (Ok(()), TEXT, Some(Usage::told(123, 7, None)))
        );
        assert_eq!(answer.tool_calls.len(), 2, "at {end}");
    }
}

#[test]
fn words_after_the_reason_to_stop_count_and_may_not_break_off() {
    let [delta, stop] = end("end_turn");
    let begun = events(&[start(), said(0, "a"), delta.clone()]);
    let more = begun.clone() + &events(&[said(0, "b")]);
    assert_eq!(read(&[more.as_bytes()]).1.text, "ab");
    for (last, outcome) in [
        (events(&[stop]), Ok(())),
        ("data: {\"type\":\"message_st".into(), Ok(())),
        ("data: {\"type\":\"content_block_delta\",\"delta\":{\"te".into(), Err(Kind::UpstreamTruncated)),
    ] {
        assert_eq!(read(&[(begun.clone() + &last).as_bytes()]).2, outcome, "{last}");
    }
    let broken_off = more + "data: {\"ty";
    assert_eq!(read(&[broken_off.as_bytes()]).2, Err(Kind::UpstreamTruncated));
}

#[test]
fn words_in_any_form_are_read_or_the_call_fails() {
    let of = |events_before_the_end: &[Value]| {
        let text = events(events_before_the_end) + &events(&end("end_turn"));
        let (_, answer, end) = read(&[text.as_bytes()]);
        end.map(|()| (answer.text, answer.reasoning))
    };
    let parts = json!([{"type": "text", "text": "x"}, {"type": "thinking", "thinking": "hm"}]);
    let text = |text: Value| piece(0, json!({"type": "text_delta", "text": text}));
    for (event, answer, reasoning) in [
        (text(json!(["x"])), "x", ""),
        (text(parts.clone()), "x", "hm"),
        (text(json!({"value": "x"})), "x", ""),
        (text(json!(7)), "7", ""),
        (text(Value::Null), "", ""),
        (piece(0, json!({"type": "thinking_delta", "thinking": [{"type": "text", "text": "hm"}]})), "", "hm"),
        (piece(0, json!({"type": "thinking_delta", "text": "hm"})), "", "hm"),
        (piece(0, json!({"type": "text_delta", "content": "x"})), "x", ""),
        (piece(0, json!({"text": "x"})), "x", ""),
        (piece(0, json!("x")), "x", ""),
        (piece(0, json!({"type": "signature_delta", "signature": "s"})), "", ""),
        (json!({"delta": {"text": "x"}}), "x", ""),
        (json!({"type": "new", "delta": {"type": "text_delta", "text": "x"}}), "x", ""),
        (json!({"type": "content_block_delta", "text": "x"}), "x", ""),
        (json!({"content_block": {"type": "text", "text": "x"}}), "x", ""),
        (block(0, json!({"type": "text", "text": parts})), "x", "hm"),
        (json!({"message": {"content": "x"}}), "x", ""),
        (json!({"type": "message_delta", "delta": {"text": "x"}}), "x", ""),
        (json!({"type": "new", "x": [1]}), "", ""),
    ] {
        assert_eq!(of(std::slice::from_ref(&event)), Ok((answer.into(), reasoning.into())), "{event}");
    }
    for event in [
        piece(0, json!({"type": "new", "said": "x"})),
        text(json!({"said": "x"})),
        text(json!(true)),
        block(0, json!({"type": "new", "said": "x"})),
        written(9, "{}"),
        json!({"type": "new", "text": "x"}),
        json!({"choices": [{"delta": {"content": "x"}}]}),
        json!({"type": "completion", "completion": "x"}),
    ] {
        assert_eq!(of(&[start(), said(0, "a"), event.clone()]), Err(Kind::UpstreamInvalid), "{event}");
    }
}

#[test]
fn a_whole_message_has_its_content_in_any_form() {
    let of = |content: Value| {
        let whole = json!({"type": "message", "content": content, "stop_reason": "end_turn"}).to_string();
        let (_, answer, end) = read(&[whole.as_bytes()]);
        let event = format!("data: {whole}\n\n");
        assert_eq!(read(&[event.as_bytes()]).1, answer, "in an event");
        end.map(|()| answer.text)
    };
    for (content, text) in [
        (json!("x"), "x"),
        (json!(["x", {"type": "text", "text": "y"}]), "xy"),
        (json!({"type": "text", "text": "x"}), "x"),
        (json!([{"type": "text", "text": ["x", 7]}]), "x7"),
        (Value::Null, ""),
    ] {
        assert_eq!(of(content.clone()), Ok(text.into()), "{content}");
    }
    for content in [json!(true), json!([{"type": "new", "said": "x"}])] {
        assert_eq!(of(content.clone()), Err(Kind::UpstreamInvalid), "{content}");
    }
}

#[test]
fn input_of_a_tool_may_be_text_and_its_pieces_objects() {
    let call = |input: Value| block(1, json!({"type": "tool_use", "id": "t", "name": "f", "input": input}));
    let unnamed = json!({"content_block": {"id": "t", "name": "f", "input": {"x": 1}}, "index": "1"});
    let of_piece = |json: Value| piece(1, json!({"type": "input_json_delta", "partial_json": json}));
    for (all, arguments) in [
        (vec![call(json!("{\"x\":1}"))], "{\"x\":1}"),
        (vec![call(json!(""))], "{}"),
        (vec![call(Value::Null)], "{}"),
        (vec![unnamed], "{\"x\":1}"),
        (vec![call(json!({})), of_piece(json!({"x": 1}))], "{\"x\":1}"),
        (vec![call(json!({})), json!({"index": 1, "delta": {"partial_json": "{\"x\":1}"}})], "{\"x\":1}"),
    ] {
        let text = events(&all) + &events(&end("tool_use"));
        let (_, answer, end) = read(&[text.as_bytes()]);
        assert_eq!((end, answer.tool_calls[0].arguments.as_str()), (Ok(()), arguments), "{all:?}");
    }
}

#[test]
fn an_event_means_the_same_after_any_other() {
    let said = |text: &str| {
        format!(
            "data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
        )
    };
    let words = ["a", "你好", "", "\\\"", "b\\n", "c", "\",\"x\":\"", "d"];
    let text = events(&[start()]) + &words.map(said).concat() + &events(&end("end_turn"));
    let (_, answer, end) = read(&[text.as_bytes()]);
    assert_eq!((end, answer.text.as_str()), (Ok(()), "a你好\"b\nc d".replace(' ', "").as_str()));
    for broken in ["\u{1}", "\\", "\""] {
        let text = events(&[start()]) + &said("a") + &said(broken) + &said("b");
        assert_eq!(read(&[text.as_bytes()]).2, Err(Kind::UpstreamInvalid));
    }
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..4000, 0..12)) {
        let text = full();
        prop_assert_eq!(read(&pieces(text.as_bytes(), cuts)), read(&[text.as_bytes()]));
    }
}

#[test]
fn reasons_of_other_providers_and_a_cost_that_was_estimated_first_are_told_rightly() {
    let begun = json!({"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 1000}}});
    for (reason, finish) in [
        ("end_turn", "stop"),
        ("length", "length"),
        ("max_output_tokens", "length"),
        ("content_filtered", "content_filter"),
        ("guardrail_intervened", "content_filter"),
    ] {
        let cost = json!({"input_tokens": 10, "cache_read_input_tokens": 990, "output_tokens": "5"});
        let end = json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": cost});
        let all = [begun.clone(), said(0, "Hello"), end, json!({"type": "message_stop"})];
        let (_, answer, result) = read(&[events(&all).as_bytes()]);
        assert_eq!((result, answer.finish_reason.as_deref()), (Ok(()), Some(finish)), "{reason}");
        let usage = answer.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens));
        assert_eq!(usage, Some((1000, 5)), "{reason}");
    }
}
