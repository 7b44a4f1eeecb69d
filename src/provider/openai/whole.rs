//! Completions that are there as a whole: looked at, or made into a chunk of a stream.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::usage;
use crate::domain::answer::Delta;
use crate::domain::chat::{Usage, estimate_tokens};
use crate::provider::decoding::Fault;
use crate::provider::reason::breaks_off;
use crate::provider::tolerant;
use crate::telemetry::mending::{Mending, Mendings};

/// The `object` of a chunk.
pub const CHUNK: &str = "chat.completion.chunk";

/// Takes over what a message, or a delta of one, says.
pub fn take(message: &Map<String, Value>, delta: &mut Delta) {
    let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    let reasoning = [text("reasoning_content"), text("reasoning")];
    delta.reasoning.push_str(reasoning.into_iter().find(|words| !words.is_empty()).unwrap_or_default());
    // The words of a refusal are the answer.
    delta.text.push_str(text("content"));
    delta.text.push_str(text("refusal"));
}

/// Makes the parts of a message's content, or of a delta's, the words that they are, since clients take
/// nothing else: thoughts among them go where thoughts stand. Says whether something was changed.
///
/// # Errors
/// For a part that cannot be read, and so may hold words.
pub fn mend_content(message: &mut Map<String, Value>) -> Result<bool, Unreadable> {
    let Some(content) = message.get("content").filter(|content| !content.is_string() && !content.is_null())
    else {
        return Ok(false);
    };
    let mut said = Said::default();
    said.take(content)?;
    message.insert("content".into(), said.answer.into());
    if !said.thoughts.is_empty() {
        let thoughts = message.get("reasoning_content").and_then(Value::as_str).unwrap_or_default();
        message.insert("reasoning_content".into(), [thoughts, &said.thoughts].concat().into());
    }
    Ok(true)
}

/// A part of a content is of no form that is known.
pub struct Unreadable;

/// What the parts of a content say.
#[derive(Default)]
struct Said {
    answer: String,
    thoughts: String,
}

impl Said {
    /// Takes a text or parts in. Mistral's thoughts are parts of parts:
    /// <https://docs.mistral.ai/capabilities/reasoning/>.
    fn take(&mut self, content: &Value) -> Result<(), Unreadable> {
        let part = match content {
            Value::Null => return Ok(()),
            Value::String(text) => {
                self.answer.push_str(text);
                return Ok(());
            }
            Value::Number(number) => {
                self.answer.push_str(&number.to_string());
                return Ok(());
            }
            Value::Array(parts) => return parts.iter().try_for_each(|part| self.take(part)),
            Value::Object(part) => part,
            Value::Bool(_) => return Err(Unreadable),
        };
        if let Some(thoughts) = part.get("thinking").or_else(|| part.get("reasoning")) {
            let mut inner = Said::default();
            inner.take(thoughts)?;
            self.thoughts.push_str(&inner.answer);
            return Ok(());
        }
        let places = ["text", "content", "value", "refusal", "parts", "url"];
        let words = places.iter().find_map(|place| part.get(*place)).or_else(|| part.get("image_url"));
        match words {
            Some(words) => self.take(words),
            // A reference, such as Mistral's, has no words.
            None if part.iter().all(|(name, value)| name == "type" || !value.is_string()) => Ok(()),
            None => Err(Unreadable),
        }
    }
}

/// What a part of a tool call says. Some mirrors give the arguments as the object that they describe.
pub fn as_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

/// Makes the arguments of a message's tool calls the text that clients take alone.
fn mend_calls(message: &mut Value) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten();
    for arguments in calls.filter_map(|call| call.get_mut("function")?.get_mut("arguments")) {
        if !arguments.is_string() {
            *arguments = as_text(arguments.take()).into();
        }
    }
}

/// A whole completion in the form of a chunk, for callers that asked for a stream.
pub fn as_chunk(bytes: &[u8]) -> Result<Value, Fault> {
    let mut value = whole_value(bytes)?;
    value["object"] = CHUNK.into();
    for choice in value["choices"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        let message = choice.remove("message").unwrap_or_else(|| json!({}));
        choice.insert("delta".into(), message);
    }
    Ok(value)
}

fn whole_value(bytes: &[u8]) -> Result<Value, Fault> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let value = tolerant::value(bytes).map_err(|error| Fault::not_json(&error))?;
    Fault::check(&value)?;
    match value["choices"].as_array() {
        Some(choices) if choices.is_empty() => Err(Fault::empty()),
        Some(_) => Ok(value),
        None => Err(Fault::unfinished(false, 1, b"")),
    }
}

/// What matters in a whole completion.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    choices: Option<Vec<WholeChoice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a str>,
    /// Any field in which failures are told; where there are several, nothing is read in this way.
    #[serde(alias = "errors", alias = "base_resp", alias = "success", alias = "code", alias = "error_code")]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct WholeChoice<'a> {
    #[serde(borrow)]
    message: Option<Message<'a>>,
    finish_reason: Option<&'a str>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// A field that is there, be it null.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

impl<'a> WholeChoice<'a> {
    /// Its content, if nothing of it need be mended.
    fn good_content(&self) -> Option<&'a RawValue> {
        if self.error.is_some() || self.finish_reason.is_some_and(breaks_off) {
            return None;
        }
        let message = self.message.as_ref()?;
        let functions = message.tool_calls.iter().flatten().filter_map(|call| call.function.as_ref());
        let mut arguments = functions.filter_map(|function| function.arguments);
        let is_text = |content: &&RawValue| content.get().starts_with('"') || content.get() == "null";
        message
            .content
            .filter(is_text)
            .filter(|_| arguments.all(|arguments| arguments.get().starts_with('"')))
    }
}

/// A whole completion that goes on as it is, unless it lacks what Dify's client insists on: a
/// `content`, be it null, and both counts in a `usage`. Its words are not read: it was asked for by a
/// caller of the same protocol, who gets its bytes.
pub fn look(bytes: Bytes, mendings: &mut Mendings) -> Result<Delta, Fault> {
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    // As text, since a RawValue of bytes is checked to be text once more.
    match std::str::from_utf8(text).ok().and_then(good) {
        Some(delta) => Ok(Delta { wire: Some(bytes.slice_ref(text)), ..delta }),
        None => {
            mendings.note(Mending::PieceMended);
            mended(text)
        }
    }
}

/// What a completion that is good as it is tells of its cost.
fn good(text: &str) -> Option<Delta> {
    let whole = serde_json::from_str(text).ok()?;
    let Whole { choices: Some(choices), usage: spent, error: None, object } = whole else { return None };
    if object == Some("error") {
        return None;
    }
    let spent = spent.map(|spent| counts(spent.get()));
    let contents: Vec<_> = choices.iter().map(WholeChoice::good_content).collect::<Option<_>>()?;
    if contents.is_empty() || spent == Some(None) {
        return None;
    }
    let estimate = || contents.iter().map(|content| estimate_tokens(content.get())).sum();
    let other_tokens = if spent.is_some() { 0 } else { estimate() };
    Some(Delta { other_tokens, ..Delta::costing(spent.flatten()) })
}

fn mended(bytes: &[u8]) -> Result<Delta, Fault> {
    let mut value = whole_value(bytes)?;
    let spent = usage(&value["usage"]);
    if !value["usage"].is_null() && complete_usage(&value["usage"]).is_none() {
        value["usage"] = match spent {
            Some(Usage { prompt_tokens, completion_tokens, total_tokens, .. }) => {
                json!({ "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total_tokens })
            }
            None => Value::Null,
        };
    }
    // One that says nothing beside a good answer would be read as a failure.
    value.as_object_mut().map(|fields| fields.shift_remove("error"));
    for choice in value["choices"].as_array_mut().into_iter().flatten() {
        let Some(message) = choice.get_mut("message") else { continue };
        mend_calls(message);
        if let Some(message) = message.as_object_mut() {
            mend_content(message).map_err(|Unreadable| Fault::unreadable())?;
            message.entry("content").or_insert(Value::Null);
        }
    }
    let other_tokens = estimate_tokens(&value["choices"].to_string());
    Ok(Delta { other_tokens, wire: Some(value.to_string().into()), ..Delta::costing(spent) })
}

/// A usage that names both counts and is of the usual form.
fn counts(usage: &str) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Counts {
        prompt_tokens: u64,
        completion_tokens: u64,
        total_tokens: Option<u64>,
    }
    // serde would take a list for an object, by position.
    let usage = Some(usage).filter(|usage| usage.starts_with('{'))?;
    let Counts { prompt_tokens, completion_tokens, total_tokens } = serde_json::from_str(usage).ok()?;
    Some(Usage::told(prompt_tokens, completion_tokens, total_tokens))
}

/// A usage that names both counts.
fn complete_usage(value: &Value) -> Option<Usage> {
    usage(value).filter(|_| value.get("completion_tokens").is_some_and(Value::is_u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_is_good_as_it_is_in_its_usual_form_alone() {
        let totals = |usage: &str| counts(usage).map(|usage| usage.total_tokens);
        assert_eq!(totals(r#"{"prompt_tokens":1,"x":[],"completion_tokens":2,"total_tokens":4}"#), Some(4));
        assert_eq!(totals(r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":null}"#), Some(3));
        for usage in ["null", "[1,2,3]", "{}", r#"{"prompt_tokens":1}"#, r#"{"prompt_tokens":"1"}"#] {
            assert_eq!(totals(usage), None, "{usage}");
        }
    }

    #[test]
    fn arguments_that_are_an_object_become_text() {
        let whole = r#"{"choices":[{"index":0,"message":{"content":null,"tool_calls":[{"id":"a","function":{"name":"f","arguments":{"x":1}}}]},"finish_reason":"tool_calls"}]}"#;
        let looked = look(Bytes::from_static(whole.as_bytes()), &mut Mendings::default())
            .unwrap_or_else(|_| panic!("good"));
        let wire: Value = serde_json::from_slice(&looked.wire.expect("bytes")).expect("JSON");
        let call = &wire["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(call["function"]["arguments"], r#"{"x":1}"#);
    }
}
