//! Tool calls in every order that upstreams send them in.

use super::*;

/// What goes on after each of these lists of pieces, and at the end: index, id, and arguments.
fn sent(chunks: &[Value]) -> Vec<Vec<(u64, Option<String>, String)>> {
    let (mut calls, mut mendings) = (ToolCalls::default(), Mendings::default());
    let of_delta = |delta: Delta| {
        let calls = delta.tool_calls.into_iter();
        calls.map(|call| (call.index as u64, call.id, call.arguments)).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for pieces in chunks {
        let at_once = calls.take(0, pieces.clone(), &Map::new(), &mut mendings).expect("pieces");
        let mut gone: Vec<_> =
            at_once.into_iter().flat_map(|piece| of_delta(calls.chunk(0, piece, true))).collect();
        gone.extend(calls.release(0, false, true).into_iter().flat_map(of_delta));
        all.push(gone);
    }
    all.push(calls.release(0, true, true).into_iter().flat_map(of_delta).collect());
    all
}

fn piece(index: Option<u64>, id: Option<&str>, arguments: &str) -> Value {
    let mut piece = json!({ "function": { "arguments": arguments } });
    if let Some(index) = index {
        piece["index"] = index.into();
    }
    if let Some(id) = id {
        piece["id"] = id.into();
        piece["function"]["name"] = "f".into();
    }
    piece
}

fn call(index: u64, id: &str, arguments: &str) -> (u64, Option<String>, String) {
    (index, Some(id).filter(|id| !id.is_empty()).map(String::from), arguments.into())
}

#[test]
fn pieces_in_openais_order_go_on_as_they_come() {
    let chunks = [
        json!([piece(Some(0), Some("a"), "")]),
        json!([piece(Some(0), None, "{\"x\":")]),
        json!([piece(Some(0), None, "\"}\\\"\"}")]),
        json!([piece(Some(1), Some("b"), "{}")]),
    ];
    let expected = [
        vec![call(0, "a", "")],
        vec![call(0, "", "{\"x\":")],
        vec![call(0, "", "\"}\\\"\"}")],
        vec![call(1, "b", "{}")],
        vec![],
    ];
    assert_eq!(sent(&chunks), expected);
}

#[test]
fn an_id_that_comes_again_goes_on_once() {
    let chunks = [json!([piece(Some(0), Some("a"), "{")]), json!([piece(Some(0), Some("a"), "}")])];
    assert_eq!(sent(&chunks), [vec![call(0, "a", "{")], vec![call(0, "", "}")], vec![]]);
}

#[test]
fn calls_that_are_written_at_once_go_on_one_after_the_other() {
    let chunks = [
        json!([piece(Some(0), Some("a"), "{\"x\":")]),
        json!([piece(Some(1), Some("b"), "{")]),
        json!([piece(Some(1), None, "}")]),
        json!([piece(Some(0), None, "1}")]),
    ];
    let expected =
        [vec![call(0, "a", "{\"x\":")], vec![], vec![], vec![call(0, "", "1}"), call(1, "b", "{}")], vec![]];
    assert_eq!(sent(&chunks), expected);
    // Some begin all calls before they write any.
    let chunks = [
        json!([piece(Some(0), Some("a"), "")]),
        json!([piece(Some(1), Some("b"), "")]),
        json!([piece(Some(0), None, "{}")]),
        json!([piece(Some(1), None, "{}")]),
    ];
    let expected =
        [vec![call(0, "a", "")], vec![], vec![call(0, "", "{}")], vec![call(1, "b", "{}")], vec![]];
    assert_eq!(sent(&chunks), expected);
}

#[test]
fn broken_calls_go_on_whole_as_soon_as_they_are_complete() {
    for (chunks, expected) in [
        // Several in one chunk.
        (
            vec![json!([piece(Some(0), Some("a"), "{}"), piece(Some(1), Some("b"), "{}")])],
            vec![vec![call(0, "a", "{}"), call(1, "b", "{}")], vec![]],
        ),
        // One index for all.
        (
            vec![json!([piece(Some(0), Some("a"), "{}")]), json!([piece(Some(0), Some("b"), "{}")])],
            vec![vec![call(0, "a", "{}")], vec![call(1, "b", "{}")], vec![]],
        ),
        // No index.
        (
            vec![
                json!([piece(None, Some("a"), "{")]),
                json!([piece(None, None, "}")]),
                json!([piece(None, Some("b"), "{}")]),
            ],
            vec![vec![], vec![call(0, "a", "{}")], vec![call(1, "b", "{}")], vec![]],
        ),
        // An object in place of its text, and a call that never becomes complete.
        (
            vec![
                json!([{ "index": 0, "id": "a", "function": { "name": "f", "arguments": { "x": 1 } } }]),
                json!([piece(Some(1), Some("b"), "")]),
            ],
            vec![vec![call(0, "a", "{\"x\":1}")], vec![call(1, "b", "")], vec![]],
        ),
    ] {
        assert_eq!(sent(&chunks), expected, "{chunks:?}");
    }
}

#[test]
fn a_call_without_an_id_gets_one_and_one_without_a_name_waits_for_it() {
    let without_id = json!([{ "index": 0, "function": { "name": "f", "arguments": "{}" } }]);
    let gone = sent(&[without_id]);
    assert!(gone[0][0].1.as_deref().is_some_and(|id| id.starts_with("call_")), "{gone:?}");
    let without_name = json!([{ "index": 0, "id": "a", "function": { "arguments": "" } }]);
    assert_eq!(sent(&[without_name, json!([piece(Some(0), None, "{}")])])[1], [call(0, "a", "{}")]);
}

/// What pieces come to, joined as OpenAI's own library does: id, name and arguments of each call.
fn joined(chunks: &[Value]) -> Vec<(String, String, String)> {
    let (mut calls, mut mendings) = (ToolCalls::default(), Mendings::default());
    let mut answer = crate::domain::answer::Answer::default();
    for pieces in chunks {
        let sent = calls.take(0, pieces.clone(), &Map::new(), &mut mendings).expect("pieces");
        sent.into_iter().for_each(|piece| answer.apply(&calls.chunk(0, piece, true)));
        calls.release(0, false, true).iter().for_each(|delta| answer.apply(delta));
    }
    calls.release(0, true, true).iter().for_each(|delta| answer.apply(delta));
    answer.tool_calls.into_iter().map(|call| (call.id, call.name, call.arguments)).collect()
}

#[test]
fn what_is_said_again_is_said_once() {
    let named = |name: &str, arguments: &str| json!({ "index": 0, "function": { "name": name, "arguments": arguments } });
    let whole = |id: &str, arguments: &str| json!({ "index": 0, "id": id, "function": { "name": "f", "arguments": arguments } });
    let once = vec![("a".to_string(), "f".to_string(), "{\"x\":[1]}".to_string())];
    for chunks in [
        // All of it once more at the end, with and without an id, and written otherwise.
        vec![whole("a", "{\"x\":"), piece(Some(0), None, "[1]}"), whole("a", "{\"x\":[1]}")],
        vec![whole("a", "{\"x\":[1]}"), named("f", "{\"x\":[1]}")],
        vec![whole("a", "{\"x\":[1]}"), whole("a", "{ \"x\": [1] }")],
        // All of it so far with each piece.
        vec![whole("a", "{\"x\""), whole("a", "{\"x\":[1"), whole("a", "{\"x\":[1]}")],
    ] {
        assert_eq!(
            joined(&chunks.iter().map(|piece| json!([piece])).collect::<Vec<_>>()),
            once,
            "{chunks:?}"
        );
    }
    // An id of its own with each piece, of which the first alone is named.
    let own = |id: &str, arguments: &str| json!([{ "index": 0, "id": id, "function": { "name": null, "arguments": arguments } }]);
    assert_eq!(joined(&[json!([whole("a", "")]), own("b", "{\"x\":"), own("c", "[1]}")]), once);
    // What begins like all that came may be more of it.
    let nested = [whole("a", "{\"x\":"), piece(Some(0), None, "{\"x\":1}}")].map(|piece| json!([piece]));
    assert_eq!(joined(&nested)[0].2, "{\"x\":{\"x\":1}}");
    // A name in pieces, and one that grows.
    for names in [["get_", "weather"], ["get_", "get_weather"], ["get_weather", "get_weather"]] {
        let first = json!({ "index": 0, "id": "a", "function": { "name": names[0], "arguments": "" } });
        let chunks = [first, named(names[1], ""), named("", "{}")].map(|piece| json!([piece]));
        assert_eq!(joined(&chunks), [("a".into(), "get_weather".into(), "{}".into())], "{names:?}");
    }
}

#[test]
fn calls_of_one_id_are_told_apart_and_other_forms_of_calls_are_read() {
    let call = |arguments: &str| json!({ "id": "a", "function": { "name": "f", "arguments": arguments } });
    for mut calls in [[call("{\"x\":1}"), call("{\"x\":2}")], [call("{\"x\":1}"), call("{\"x\":2}")]] {
        calls[1]["index"] = 1.into();
        let gone = joined(&[json!([calls[0]]), json!([calls[1]])]);
        assert_eq!((gone.len(), &*gone[0].0, &*gone[1].2), (2, "a", "{\"x\":2}"));
        assert_ne!(gone[0].0, gone[1].0);
        calls[1].as_object_mut().expect("an object").remove("index");
        assert_eq!(joined(&[json!([calls[0]]), json!([calls[1]])]).len(), 2);
    }
    for pieces in [
        json!({ "id": "a", "function": { "name": "f", "arguments": "{}" } }),
        json!({ "0": { "id": "a", "function": { "name": "f", "arguments": "{}" } } }),
        json!([null, { "id": "a", "name": "f", "arguments": {} }]),
        json!([{ "id": "a", "type": "function", "name": "f", "parameters": {} }]),
    ] {
        assert_eq!(
            joined(std::slice::from_ref(&pieces)),
            [("a".into(), "f".into(), "{}".into())],
            "{pieces}"
        );
        let whole = whole_calls(pieces.clone()).expect("calls");
        let expected =
            json!([{ "id": "a", "type": "function", "function": { "name": "f", "arguments": "{}" } }]);
        assert_eq!(whole, expected);
    }
    let roll = json!({ "index": 0, "function": { "name": "roll", "arguments": "{}" } });
    let bare = json!({ "function": { "name": "roll" } });
    for twice in [json!([roll, roll]), json!([bare, bare]), json!([call("{}"), call("{}")])] {
        assert_eq!(joined(std::slice::from_ref(&twice)).len(), 2, "{twice}");
        let whole = whole_calls(twice).expect("calls");
        assert_ne!(whole[0]["id"], whole[1]["id"]);
    }
    let custom = json!([{ "id": "a", "type": "custom", "custom": { "name": "f", "input": "x = {" } }]);
    assert_eq!(whole_calls(custom.clone()).ok(), Some(custom));
    for pieces in [json!("f()"), json!(["f()"]), json!(7)] {
        assert!(whole_calls(pieces.clone()).is_err(), "{pieces}");
    }
}

#[test]
fn more_calls_than_an_answer_may_have_are_not_kept() {
    let (mut calls, mut mendings) = (ToolCalls::default(), Mendings::default());
    let mut take = |pieces: Vec<Value>| calls.take(0, pieces.into(), &Map::new(), &mut mendings).map(drop);
    let mut take = |pieces| assert!(take(pieces).is_ok());
    take((0..MAX_CALLS).map(|index| json!({ "index": index })).collect());
    take(vec![json!({ "index": 0 }); 5]);
    take(vec![json!({ "id": "b", "index": 7000 }), json!({ "id": "c", "index": 7001 })]);
    assert!(calls.is_over_full());
    assert_eq!(calls.count, MAX_CALLS + 1);
}
