//! Lines as they mean: both shapes, cut anywhere, and where an answer may end.

use super::*;
use crate::domain::answer;
use crate::domain::error::Kind;
use crate::provider::decoding::{self, pieces};
use proptest::prelude::*;

fn read(chunks: &[&[u8]]) -> Result<answer::Answer, Kind> {
    let (deltas, end) = decoding::read(&mut Answer::new(1 << 20), chunks);
    let mut answer = answer::Answer::default();
    deltas.iter().for_each(|delta| answer.apply(delta));
    match end {
        Ok(()) => Ok(answer),
        Err(fault) => Err(fault.kind()),
    }
}

const NEW: &str = concat!(
    "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\r\n",
    "{\"result\":{\"response\":{\"token\":\"hm\",\"isThinking\":true,\"responseId\":\"r1\"}}}\n",
    "broken {\n\n",
    "{\"unknown\":1}\n",
    "{\"result\":{\"response\":{\"token\":\"你好\",\"isThinking\":false,\"responseId\":\"r1\"}}}\n",
    "{\"result\":{\"response\":{\"token\":\" 🙂\",\"responseId\":\"r1\"}}}\n",
    "{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true,\"responseId\":\"r1\"}}}\n",
);
const WHOLE: &str = "{\"result\":{\"modelResponse\":{\"message\":\"你好 🙂!\",\"responseId\":\"r2\"}}}";

#[test]
fn both_shapes_are_understood_and_the_whole_message_wins() {
    let answer = read(&[NEW.as_bytes()]).expect("an answer");
    assert_eq!(answer.text, "你好 🙂");
    assert_eq!(
        (answer.names.conversation.as_deref(), answer.names.response.as_deref()),
        (Some("c1"), Some("r1"))
    );
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    let answer = read(&[NEW.as_bytes(), WHOLE.as_bytes()]).expect("an answer");
    assert_eq!((answer.text.as_str(), answer.names.response.as_deref()), ("你好 🙂!", Some("r2")));
    let direct = NEW.replace("{\"response\":{", "{").replace("}}}", "}}");
    assert_eq!(read(&[direct.as_bytes()]).expect("an answer").text, "你好 🙂");
}

#[test]
fn every_cut_before_the_stop_is_truncation() {
    let stop = NEW.find("\"isSoftStop\"").expect("a stop");
    let first = NEW.find('\n').expect("a line");
    for end in first..stop {
        assert_eq!(read(&[&NEW.as_bytes()[..end]]).expect_err("cut"), Kind::UpstreamTruncated, "at {end}");
    }
}

#[test]
fn bad_answers_are_named() {
    for (text, kind) in [
        ("\n \n", Kind::UpstreamEmpty),
        ("<!doctype html>\n<html>", Kind::UpstreamHtml),
        ("garbage\nmore", Kind::UpstreamInvalid),
        ("{\"hello\":1}\n", Kind::UpstreamInvalid),
        ("{\"error\":{\"message\":\"x\",\"code\":8}}\n", Kind::UpstreamError),
    ] {
        assert_eq!(read(&[text.as_bytes()]).expect_err(text), kind, "{text}");
    }
}

#[test]
fn only_the_usual_end_is_the_end_at_once() {
    let token = "{\"result\":{\"response\":{\"token\":\"a b\"}}}\n";
    let stop = "{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n";
    let message = |text: &str| {
        format!("{{\"result\":{{\"response\":{{\"modelResponse\":{{\"message\":\"{text}\"}}}}}}}}\n")
    };
    let partial = message("a b").replace("\"message\"", "\"partial\":true,\"message\"");
    let (same, empty, longer, cut) = (&*message("a b"), &*message(""), &*message("a b c"), &*message("a"));
    for (lines, progress) in [
        (&[token][..], Progress::Open),
        (&[token, stop], Progress::Settled),
        (&[token, stop, same], Progress::Done),
        (&[token, stop, longer], Progress::Done),
        (&[token, stop, cut], Progress::Done),
        (&[token, stop, token], Progress::Open),
        (&[token, stop, token, same], Progress::Settled),
        (&[token, same, stop], Progress::Done),
        (&[token, stop, empty], Progress::Settled),
        (&[token, stop, &partial], Progress::Settled),
        (&[token, same], Progress::Settled),
        (&[token, &partial], Progress::Open),
        (&[same], Progress::Settled),
        (&[same, token], Progress::Open),
        (&[empty, token], Progress::Open),
        (&[same, token, same], Progress::Settled),
        (&[same, stop, same], Progress::Done),
    ] {
        let mut answer = Answer::new(1 << 20);
        for line in lines {
            let fed = answer.feed(line.as_bytes(), &mut VecDeque::new());
            fed.unwrap_or_else(|_| panic!("{lines:?}"));
        }
        assert_eq!(answer.progress(), progress, "{lines:?}");
    }
}

/// Lines that a template of another could be taken for, or not.
const LINES: [&str; 12] = [
    r#"{"result":{"token":"a","responseId":"r1"}}"#,
    r#"{"result":{"token":"é b","responseId":"r1"}}"#,
    r#"{"result":{"token":"\u00e9\"","responseId":"r1"}}"#,
    r#"{"result":{"token":"\ud800","responseId":"r1"}}"#,
    r#"{"result":{"token":"","responseId":"r1"}}"#,
    r#"{"result":{"token":null,"responseId":"r1"}}"#,
    r#"{"result":{"token":7,"responseId":"r1"}}"#,
    r#"{"result":{"token":"c","responseId":"r2"}}"#,
    r#"{"result":{"token":"d","isThinking":true,"responseId":"r2"}}"#,
    r#"{"result":{"response":{"token":"e","isThinking":false}}}"#,
    r#"{"result":{"response":{"token":"f"},"token":"g"}}"#,
    r#"{"result":{"response":{"token":"h","isSoftStop":true}}}"#,
];

proptest! {
    #[test]
    fn a_line_means_the_same_after_any_other(lines in prop::collection::vec(0..LINES.len(), 1..20)) {
        let text = |blanks: fn(usize) -> usize| -> String {
            let line = |(number, line): (usize, &usize)| format!("{{{}{}\n", " ".repeat(blanks(number)), &LINES[*line][1..]);
            lines.iter().enumerate().map(line).collect()
        };
        // No line has the template of another where each has its own number of blanks.
        prop_assert_eq!(read(&[text(|_| 0).as_bytes()]), read(&[text(|number| number).as_bytes()]));
    }

    #[test]
    fn messages_that_say_again_what_was_said_change_no_words_on_any_face(
        steps in prop::collection::vec((0usize..4, "[ab ]{1,3}"), 1..12),
    ) {
        let line = |part: serde_json::Value| format!("{}\n", json!({ "result": { "response": part } }));
        let (mut lines, mut said, mut own) = (String::new(), String::new(), String::new());
        for (step, words) in &steps {
            let message = match step {
                1 => said.clone(),
                2 => std::mem::take(&mut own),
                3 => said[..said.len() / 2].into(),
                _ => {
                    said += words;
                    own += words;
                    lines += &line(json!({ "token": words }));
                    continue;
                }
            };
            own.clear();
            lines += &line(json!({ "modelResponse": { "message": message } }));
        }
        lines += &line(json!({ "token": "", "isSoftStop": true }));
        let (deltas, _) = decoding::read(&mut Answer::new(1 << 20), &[lines.as_bytes()]);
        let (mut whole, mut streamed) = (answer::Answer::default(), String::new());
        for delta in &deltas {
            whole.apply(delta);
            let new = if delta.settled { delta.text.strip_prefix(&streamed) } else { Some(&*delta.text) };
            streamed += new.unwrap_or_default();
        }
        prop_assert_eq!((&whole.text, &streamed), (&said, &said), "{}", lines);
    }

    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..NEW.len(), 0..12)) {
        let bytes = NEW.as_bytes();
        prop_assert_eq!(read(&pieces(bytes, cuts)), read(&[bytes]));
    }
}
