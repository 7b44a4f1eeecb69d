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
        let pieces = pieces.as_array().expect("pieces").clone();
        let at_once = calls.take(0, pieces, &Map::new(), &mut mendings);
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

#[test]
fn more_calls_than_an_answer_may_have_are_not_kept() {
    let (mut calls, mut mendings) = (ToolCalls::default(), Mendings::default());
    let mut take = |pieces| calls.take(0, pieces, &Map::new(), &mut mendings);
    take((0..MAX_CALLS).map(|index| json!({ "index": index })).collect());
    take(vec![json!({ "index": 0 }); 5]);
    take(vec![json!({ "id": "b", "index": 7000 }), json!({ "id": "c", "index": 7001 })]);
    assert!(calls.is_over_full());
    assert_eq!(calls.count, MAX_CALLS + 1);
}
