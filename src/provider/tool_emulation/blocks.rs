//! The blocks that stand for calls: how they are written, and how they are found in what a model says.
//!
//! Models keep to a form more or less, so several are read: a fence or a tag around it, one call or a list
//! of them, OpenAI's own shape, arguments as an object or as its text. Where a block ends is told by its
//! JSON, and not by the next fence, which may stand in an argument.

use serde_json::{Deserializer, Value};

use crate::domain::chat::ToolCall;

/// How a block may begin; the first is how we write it.
pub const MARKS: [&str; 2] = ["```tool_call", "<tool_call>"];

/// How it ends.
const ENDS: [&str; 2] = ["```", "</tool_call>"];

/// A call as a block.
pub fn written(call: &ToolCall) -> String {
    let arguments = serde_json::from_str::<Value>(&call.arguments);
    let arguments = arguments.unwrap_or_else(|_| Value::String(call.arguments.clone()));
    let name = Value::from(call.name.as_str());
    format!("{}\n{{\"name\": {name}, \"arguments\": {arguments}}}\n{}", MARKS[0], ENDS[0])
}

/// What a model said, told apart.
#[derive(Debug, Default)]
pub struct Split {
    /// All that is no call.
    pub words: String,
    /// The calls, without ids.
    pub calls: Vec<ToolCall>,
    /// How many blocks could not be read.
    pub unreadable: u32,
}

/// Tells the calls of these tools from the words.
pub fn split(said: &str, names: &[String]) -> Split {
    let mut split = Split::default();
    let mut rest = said;
    while let Some((start, mark)) = first_mark(rest) {
        let (before, block) = rest.split_at(start);
        split.words.push_str(before);
        match calls(&block[mark.len()..], names) {
            Some((calls, after)) => {
                split.calls.extend(calls);
                rest = after;
            }
            None => {
                split.unreadable += 1;
                split.words.push_str(mark);
                rest = &block[mark.len()..];
            }
        }
    }
    split.words.push_str(rest);
    split
}

fn first_mark(said: &str) -> Option<(usize, &'static str)> {
    MARKS.iter().filter_map(|mark| Some((said.find(mark)?, *mark))).min()
}

/// The calls at the beginning of a block, and what comes after it.
fn calls<'a>(block: &'a str, names: &[String]) -> Option<(Vec<ToolCall>, &'a str)> {
    // Some write the mark in the plural.
    let mut rest = block.strip_prefix('s').unwrap_or(block).trim_start();
    let mut calls = Vec::new();
    while rest.starts_with(['{', '[']) {
        let mut values = Deserializer::from_str(rest).into_iter::<Value>();
        calls.extend(calls_of(values.next()?.ok()?)?);
        rest = rest[values.byte_offset()..].trim_start_matches([' ', '\t', '\r', '\n', ',']);
    }
    let known = |call: &ToolCall| names.contains(&call.name);
    if calls.is_empty() || !calls.iter().all(known) {
        return None;
    }
    Some((calls, ENDS.iter().find_map(|end| rest.strip_prefix(end)).unwrap_or(rest)))
}

/// The calls that a value stands for.
fn calls_of(value: Value) -> Option<Vec<ToolCall>> {
    match value {
        Value::Array(values) => {
            values.into_iter().map(calls_of).collect::<Option<Vec<_>>>().map(|all| all.concat())
        }
        Value::Object(mut object) => {
            if let Some(inner) = object.remove("tool_calls").or_else(|| object.remove("function")) {
                return calls_of(inner);
            }
            let Some(Value::String(name)) = object.remove("name") else { return None };
            let given =
                ["arguments", "parameters", "args", "input"].iter().find_map(|key| object.remove(*key));
            let arguments = match given {
                Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
                Some(Value::Null) | None => Value::Object(serde_json::Map::new()),
                Some(arguments) => arguments,
            };
            let arguments = arguments.is_object().then(|| arguments.to_string())?;
            Some(vec![ToolCall { id: String::new(), name, arguments }])
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(said: &str) -> (String, Vec<(String, String)>, u32) {
        let Split { words, calls, unreadable } = split(said, &["f".into(), "g".into()]);
        (words, calls.into_iter().map(|call| (call.name, call.arguments)).collect(), unreadable)
    }

    #[test]
    fn calls_are_read_in_every_form_that_models_use() {
        for said in [
            "```tool_call\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n```",
            "```tool_calls\n[{\"name\":\"f\",\"arguments\":{\"x\":1}}]```",
            "<tool_call>\n{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}\n</tool_call>",
            "```tool_call\n{\"function\": {\"name\": \"f\", \"parameters\": {\"x\": 1}}, \"type\": \"function\"}\n```",
            "```tool_call\n{\"tool_calls\": [{\"name\": \"f\", \"input\": {\"x\": 1}}]}",
        ] {
            let (words, calls, unreadable) = read(said);
            assert_eq!(calls, [("f".to_string(), r#"{"x":1}"#.to_string())], "{said}");
            assert_eq!((words.trim(), unreadable), ("", 0), "{said}");
        }
        let (_, calls, _) = read("```tool_call\n{\"name\":\"f\"}\n{\"name\":\"g\",\"arguments\":null}\n```");
        assert_eq!(calls, [("f".into(), "{}".into()), ("g".into(), "{}".into())]);
    }

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let call = ToolCall {
            id: String::new(),
            name: "f".into(),
            arguments: r#"{"code":"```sh\nls\n```","é":"</tool_call>"}"#.into(),
        };
        let said = format!("a {}b{}", written(&call), written(&call));
        let Split { words, calls, .. } = split(&said, &["f".into()]);
        assert_eq!((words.as_str(), calls), ("a b", vec![call.clone(), call]));
    }

    #[test]
    fn what_cannot_be_read_stays() {
        for said in [
            "```tool_call\n{\"name\": \"other\"}\n```",
            "```tool_call\n{\"name\": \"f\", \"arguments\": [1]}\n```",
            "```tool_call\n{\"name\": \"f\", \"arguments\": \"not JSON\"}\n```",
            "```tool_call\n{\"name\": \"f\"\n```",
            "```tool_call\n```",
            "<tool_call>",
        ] {
            assert_eq!(read(said), (said.to_string(), vec![], 1), "{said}");
        }
    }
}
