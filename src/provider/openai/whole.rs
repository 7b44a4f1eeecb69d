//! Completions that are there as a whole: looked at, or made into a chunk of a stream.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{tool_calls, usage};
use crate::domain::answer::Delta;
use crate::domain::chat::{Usage, estimate_tokens};
use crate::provider::body::{is_bound, silent};
use crate::provider::content::{Content, Unreadable};
use crate::provider::decoding::Fault;
use crate::provider::reason::{Reason, breaks_off};
use crate::provider::tolerant;
use crate::telemetry::mending::{Mending, Mendings};

/// The `object` of a chunk.
pub const CHUNK: &str = "chat.completion.chunk";

/// Takes over what a message, or a delta of one, says. Spoken words are its own where it `has_words` besides.
pub fn take(message: &Map<String, Value>, delta: &mut Delta, has_words: bool) {
    let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    let reasoning = [text("reasoning_content"), text("reasoning")];
    delta.reasoning.push_str(reasoning.into_iter().find(|words| !words.is_empty()).unwrap_or_default());
    // The words of a refusal are the answer, and so are those that are spoken in its place.
    let spoken = || message.get("audio").filter(|_| !has_words)?.get("transcript")?.as_str();
    delta.text.push_str(
        Some(text("content")).filter(|words| !words.is_empty()).or_else(spoken).unwrap_or_default(),
    );
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
    let said = Content::of(content)?;
    message.insert("content".into(), said.answer.into());
    if !said.thoughts.is_empty() {
        let thoughts = message.get("reasoning_content").and_then(Value::as_str).unwrap_or_default();
        message.insert("reasoning_content".into(), [thoughts, &said.thoughts].concat().into());
    }
    Ok(true)
}

/// Whether a text has words in it.
pub fn says_words(text: &str) -> bool {
    text.contains(|c: char| !c.is_whitespace())
}

/// Whether a value says something.
pub fn says(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => says_words(text),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// The addresses of the images that a message has beside its content:
/// <https://openrouter.ai/docs/features/multimodal/image-generation>.
pub fn images(message: &Map<String, Value>) -> Vec<String> {
    let images = message.get("images").and_then(Value::as_array).into_iter().flatten();
    let address = |image: &Value| {
        let url = image.get("image_url").or_else(|| image.get("url")).unwrap_or(image);
        url.get("url").unwrap_or(url).as_str().map(String::from)
    };
    images.filter_map(address).collect()
}

/// Brings what a choice says to the `place` where clients look for it: `message` in a whole answer, `delta`
/// in a stream. Older completions have a text, and some the other one of the two. Gives the place that it came
/// from, if that is another; nothing where all is good.
pub fn bring(choice: &mut Map<String, Value>, place: &str) -> Option<&'static str> {
    let speaks = |said: &Value| match said {
        Value::Object(said) => said.iter().any(|(key, value)| key != "role" && is_given(value)),
        said => is_given(said),
    };
    let own = choice.get(place);
    let is_there = own.is_some_and(Value::is_object);
    if is_there && own.is_some_and(speaks) {
        return None;
    }
    let from = ["message", "delta", "text"].into_iter().find(|place| choice.get(*place).is_some_and(speaks));
    let said = match from.and_then(|place| choice.shift_remove(place)) {
        None if is_there => return None,
        None => json!({}),
        Some(said @ Value::Object(_)) => said,
        Some(content) => json!({ "content": content }),
    };
    choice.insert(place.into(), said);
    from.or(Some("nowhere"))
}

/// Whether a value is there and not empty.
pub fn is_given(value: &Value) -> bool {
    says(value) || value.as_str().is_some_and(|text| !text.is_empty())
}

/// A whole completion in the form of a chunk, for callers that asked for a stream.
pub fn as_chunk(bytes: &[u8]) -> Result<Value, Fault> {
    let mut value = whole_value(bytes)?;
    value["object"] = CHUNK.into();
    Ok(value)
}

fn whole_value(bytes: &[u8]) -> Result<Value, Fault> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut value = tolerant::whole(bytes).map_err(|error| Fault::not_json(&error))?;
    Fault::check(&value)?;
    if value["choices"].is_object() {
        value["choices"] = json!([value["choices"].take()]);
    }
    match value["choices"].as_array() {
        Some(choices) if choices.is_empty() => Err(Fault::empty()),
        Some(_) => Ok(value),
        // Gemini leaves them out where it says nothing.
        None if value["choices"].is_null() && value["object"] == "chat.completion" => Err(Fault::empty()),
        // What is of no known form may say why all the same.
        None => Err(Reason::in_error(bytes)
            .and_then(|reason| reason.message)
            .map_or_else(|| Fault::unfinished(false, 1, b""), |words| Fault::Foreign(words.into()))),
    }
}

/// How many tool calls are compared with each other without being taken apart.
const FEW_CALLS: usize = 16;

/// What matters in a completion, whole or a chunk of one, with choices of that form.
#[derive(Deserialize)]
#[serde(bound(deserialize = "Choice: Deserialize<'de>"))]
pub struct Envelope<'a, Choice> {
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub model: Option<&'a RawValue>,
    pub choices: Option<Vec<Choice>>,
    #[serde(borrow)]
    pub usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub object: Option<&'a str>,
    /// Any field in which failures are told; where there are several, nothing is read in this way.
    #[serde(alias = "errors", alias = "base_resp", alias = "success", alias = "code", alias = "error_code")]
    #[serde(
        alias = "error_type",
        alias = "errorCode",
        alias = "errcode",
        alias = "header",
        alias = "Response"
    )]
    #[serde(alias = "x_groq")]
    pub error: Option<IgnoredAny>,
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
    error: Option<IgnoredAny>,
}

/// A tool call; one that lacks something is mended.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(rename = "name")]
    _name: IgnoredAny,
    #[serde(borrow)]
    arguments: &'a RawValue,
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
        let message = self.message.as_ref().filter(|message| message.error.is_none())?;
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        let is_good = |call: &Call<'_>| !call.id.is_empty() && call.function.arguments.get().starts_with('"');
        let is_twice = |at: usize| calls[..at].iter().any(|before| before.id == calls[at].id);
        let calls_are_good =
            calls.len() <= FEW_CALLS && calls.iter().all(is_good) && !(1..calls.len()).any(is_twice);
        let content = message.content?;
        let speaks = match content.get() {
            "null" => !calls.is_empty(),
            // Without words, or with half of a character, it is looked at more closely.
            content => {
                let blanks = ['"', ' ', '\\', 'n', 'r', 't'];
                let says = content.starts_with('"') && content.contains(|c| !blanks.contains(&c));
                (says || !calls.is_empty()) && !tolerant::may_hold_half(content.as_bytes())
            }
        };
        (speaks && calls_are_good).then_some(content)
    }
}

/// A whole completion that goes on as it is, unless it lacks what Dify's client insists on: a
/// `content`, be it null, and both counts in a `usage`. Its words are not read: it was asked for by a
/// caller of the same protocol, who gets its bytes.
pub fn look(bytes: Bytes, mendings: &mut Mendings) -> Result<Delta, Fault> {
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    // As text, since a RawValue of bytes is checked to be text once more.
    match std::str::from_utf8(text).ok().and_then(good) {
        Some(delta) => {
            mendings.add(Mending::PieceMended, usize::from(text.len() < bytes.len()));
            Ok(Delta { wire: Some(bytes.slice_ref(text)), ..delta })
        }
        None => {
            mendings.note(Mending::PieceMended);
            mended(text)
        }
    }
}

/// What a completion that is good as it is tells of its cost.
fn good(text: &str) -> Option<Delta> {
    let whole: Envelope<'_, WholeChoice<'_>> = serde_json::from_str(text).ok()?;
    let Envelope { choices: Some(choices), usage: spent, error: None, object, .. } = whole else {
        return None;
    };
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
    value.as_object_mut().map(bring_usage);
    let spent = value.get_mut("usage").and_then(|usage| mend_usage(usage).0);
    // One that says nothing beside a good answer would be read as a failure.
    value.as_object_mut().map(|fields| fields.shift_remove("error"));
    let (mut speaks, mut finish) = (false, None);
    for choice in value["choices"].as_array_mut().into_iter().flatten() {
        speaks |= mend_choice(choice).map_err(|Unreadable| Fault::unreadable())?;
        finish = finish.or_else(|| choice["finish_reason"].as_str().map(String::from));
    }
    if !speaks && !finish.as_deref().is_some_and(is_bound) {
        return Err(silent(finish.as_deref(), false).into());
    }
    let other_tokens = estimate_tokens(&value["choices"].to_string());
    Ok(Delta { other_tokens, wire: Some(value.to_string().into()), ..Delta::costing(spent) })
}

/// Mends one choice of a whole answer; says whether it says something.
fn mend_choice(choice: &mut Value) -> Result<bool, Unreadable> {
    let choice = choice.as_object_mut().ok_or(Unreadable)?;
    bring(choice, "message");
    let message = choice.get_mut("message").and_then(Value::as_object_mut).ok_or(Unreadable)?;
    mend_content(message)?;
    if let Some(calls) = message.get_mut("tool_calls").filter(|calls| !calls.is_null()) {
        *calls = tool_calls::whole_calls(calls.take())?;
    }
    if !["content", "refusal"].iter().any(|key| message.get(*key).is_some_and(says)) {
        let images = images(message);
        if !images.is_empty() {
            message.insert("content".into(), images.join("\n").into());
        }
    }
    message.entry("content").or_insert(Value::Null);
    Ok(message.iter().any(|(key, value)| key != "role" && says(value)))
}

/// Brings what an answer cost to the place where clients look for it, from where Groq (`x_groq`) and Moonshot
/// (the last choice) tell it in a stream; says whether it was brought.
pub fn bring_usage(completion: &mut Map<String, Value>) -> bool {
    if completion.get("usage").is_some_and(|usage| !usage.is_null()) {
        return false;
    }
    let choices = completion.get("choices").and_then(Value::as_array).into_iter().flatten();
    let elsewhere = completion.get("x_groq").into_iter().chain(choices);
    let told = elsewhere.filter_map(|place| place.get("usage")).find(|told| usage(told).is_some()).cloned();
    let is_told = told.is_some();
    if let Some(told) = told {
        completion.insert("usage".into(), told);
    }
    is_told
}

/// A usage that names both counts and is of the usual form.
pub fn counts(usage: &str) -> Option<Usage> {
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

/// Makes a usage one that names both counts as numbers, or nothing; says what it tells, and whether it
/// was changed.
pub fn mend_usage(value: &mut Value) -> (Option<Usage>, bool) {
    let spent = usage(value);
    let is_count = |key: &&str| value.get(*key).is_some_and(Value::is_u64);
    let is_good = spent.is_some() && ["prompt_tokens", "completion_tokens"].iter().all(is_count);
    if is_good || value.is_null() {
        return (spent, false);
    }
    *value = spent.map_or(Value::Null, |Usage { prompt_tokens, completion_tokens, total_tokens, .. }| {
        json!({ "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total_tokens })
    });
    (spent, true)
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
