//! The one recogniser of failures that an upstream reports: whether JSON or text reports one, in which
//! words, by which codes. It is asked for the bodies of error statuses, for whole answers, and for every
//! event of a stream, whatever the protocol.
//!
//! The shapes, with a server that sends each: `{error: {…}}` and `{error: "…"}` (OpenAI and most),
//! `[{error}]` (Gemini), `{object: "error", message, code}` (vLLM, SGLang), `{detail: "…" | [{loc, msg}]}`
//! (FastAPI), `{message: {detail: […]}}` (Mistral), `{code, message}` and `{code, msg}` (DashScope, One API),
//! `{error_code, error_msg}` (ERNIE), `{base_resp: {status_code, status_msg}}` (MiniMax), `{success: false}`,
//! `{errors: […]}` (Cloudflare), `{error_type, error_message}`, `{error: {metadata: {raw}}}` (OpenRouter, whose
//! inner words are the reason), `choices[0].error`, and reasons to finish that are none.

mod values;

use serde_json::{Map, Value, json};

use super::page::Page;
pub use values::says_all_is_well;
use values::{is_failing, is_failure, is_false, says_something};

/// The words of a `finish_reason` that says that the answer broke off.
const BROKEN_OFF: [&str; 12] = [
    "error",
    "network_error",
    "server_error",
    "internal_error",
    "insufficient_system_resource",
    "abort",
    "aborted",
    "cancelled",
    "canceled",
    "timeout",
    "overloaded",
    "overloaded_error",
];

/// The keys under which a failure's words stand, the best first.
const WORDS: [&str; 14] = [
    "message",
    "msg",
    "detail",
    "error_description",
    "error_msg",
    "error_message",
    "errorMessage",
    "errMsg",
    "errmsg",
    "Message",
    "status_msg",
    "reason",
    "error",
    "text",
];

/// The keys that say by themselves that there is a failure, beside choices too; and those that do where there
/// are none.
const NAMED: [&str; 4] = ["error_code", "error_type", "errorCode", "errcode"];
const ALONE: [&str; 6] = ["detail", "error_msg", "error_message", "errorMessage", "errMsg", "errmsg"];

/// The keys under which its codes stand.
const CODES: [&str; 9] =
    ["code", "type", "status", "error_code", "error_type", "status_code", "errorCode", "errcode", "Code"];

/// The fields of an error that go on to callers, beside its words.
const FIELDS: [&str; 4] = ["type", "param", "code", "innererror"];

/// How many words may stand between a model and that it is not there.
const MOST_BETWEEN: usize = 4;

/// The most that is read of texts within texts.
const DEPTH: usize = 4;

/// What an upstream says about its failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reason {
    /// Its words.
    pub message: Option<String>,
    /// Its codes and types, in lower case, joined by blanks.
    codes: String,
    /// The first of its codes that is a number.
    pub number: Option<i64>,
    /// The fields of it that callers of the same protocol read: [`FIELDS`], as they came.
    pub fields: Map<String, Value>,
}

impl Reason {
    /// The failure that an answer with a good status reports, or an event of one, if it does. An error
    /// that is empty beside a good answer is none.
    pub fn in_answer(value: &Value) -> Option<Self> {
        match value {
            Value::Array(items) => {
                items.first().filter(|item| item.get("error").is_some()).and_then(Self::in_answer)
            }
            Value::Object(answer) => reported(answer, DEPTH),
            _ => None,
        }
    }

    /// The same of an answer that is passed on, whose protocol is not known: there only what is called
    /// an error surely is one.
    pub fn in_relayed(value: &Value) -> Option<Self> {
        if let Value::Array(items) = value {
            return items.first().and_then(Self::in_relayed);
        }
        let is_error =
            ["object", "type"].iter().any(|key| value.get(key).is_some_and(|name| name == "error"))
                || value.get("error").is_some_and(says_something);
        // A job or a file that has failed says so in a good answer.
        let is_resource = ["id", "object", "status"].iter().all(|key| value.get(key).is_some())
            && value["object"] != "error";
        (is_error && !is_resource).then(|| Self::in_answer(value)).flatten()
    }

    /// What the body of an answer with an error's status says: JSON of any of the shapes, or text. A web
    /// page says nothing.
    pub fn in_error(body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            let reason = Self::in_answer(&value).unwrap_or_else(|| of(&value, DEPTH));
            return (reason != Reason::default()).then_some(reason);
        }
        if text.starts_with('<') {
            let page = Page::of(text);
            return page.title.filter(|_| !page.is_login).map(Reason::of_words);
        }
        // Some answer as a stream all the same.
        let mut data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let told = data.find_map(|data| Self::in_answer(&serde_json::from_str(data).ok()?));
        told.or_else(|| (!text.is_empty()).then(|| Reason::of_words(text)))
    }

    /// What says these words and nothing else.
    pub fn of_words(words: impl Into<String>) -> Self {
        Reason { message: Some(words.into()), ..Reason::default() }
    }

    /// Whether one of its codes is or holds one of these words.
    pub fn has_code(&self, words: &[&str]) -> bool {
        // Some write their codes as one word.
        let codes = self.codes.replace(['_', '-', '.'], "");
        words.iter().any(|word| self.codes.contains(word) || codes.contains(&word.replace('_', "")))
    }

    /// Whether its words hold one of these phrases, which are in lower case, or begin with one after `^`.
    /// Prose comes after codes, and only by phrases that say one thing.
    pub fn says(&self, phrases: &[&str]) -> bool {
        let message = self.message.as_deref().unwrap_or_default().trim().to_ascii_lowercase();
        phrases.iter().any(|phrase| match phrase.strip_prefix('^') {
            Some(begin) => message.starts_with(begin),
            None => message.contains(phrase),
        })
    }

    /// Whether its words say that there is no such model. That a model lacks a feature, or has no room
    /// now, is something else.
    pub fn names_no_model(&self) -> bool {
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        let after = message.find("model").map(|at| &message[at + "model".len()..]).unwrap_or_default();
        let missing = ["does not exist", "doesn't exist", "not found", "not_found"];
        // Anthropic names what was not found alone.
        let is_named = self.has_code(&["not_found_error"]) && message.starts_with("model:");
        // Between them stands the model's name, and not a sentence about something else.
        let is_near = |at: usize| after[..at].split_whitespace().count() <= MOST_BETWEEN;
        is_named || missing.iter().any(|words| after.find(words).is_some_and(is_near))
    }

    /// The parameter that it blames, where it names one.
    pub fn param(&self) -> Option<&str> {
        self.fields.get("param")?.as_str()
    }
}

/// The data of an event that is called an error, in a form that reports one whatever they are.
pub fn named(data: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(data.trim_ascii());
    let value = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(&*text));
    if Reason::in_answer(&value).is_some() {
        return data;
    }
    let error = if says_something(&value) { value } else { "an event that is called an error".into() };
    json!({ "error": error }).to_string().into()
}

/// The failure that an object reports, if it does.
fn reported(answer: &Map<String, Value>, depth: usize) -> Option<Reason> {
    let has_choices =
        answer.get("choices").and_then(Value::as_array).is_some_and(|choices| !choices.is_empty());
    let is_error = |error: &&Value| says_something(error) && !(has_choices && says_all_is_well(error));
    if let Some(error) = answer.get("error").filter(is_error) {
        return Some(with_beside(of(error, depth), answer, depth));
    }
    let named = |key: &str, name: &str| answer.get(key).is_some_and(|value| value == name);
    if named("object", "error") || named("type", "error") {
        return Some(of(&Value::Object(answer.clone()), depth));
    }
    let first = match answer.get("errors") {
        Some(Value::Array(errors)) => errors.first(),
        Some(Value::Object(errors)) => errors.values().next(),
        _ => None,
    };
    if let Some(first) = first.filter(|error| says_something(error)) {
        return Some(of(first, depth));
    }
    // AWS names a failure in a stream by its key.
    let exception = answer.iter().find(|(key, value)| key.ends_with("Exception") && value.is_object());
    if let Some((_, exception)) = exception {
        return Some(of(exception, depth));
    }
    let base = answer.get("base_resp");
    if let Some(base) = base.filter(|base| is_failing(base.get("status_code"))) {
        return Some(of(base, depth));
    }
    let choices = answer.get("choices").and_then(Value::as_array).into_iter().flatten();
    if let Some(reason) = choices.filter_map(|choice| of_choice(choice, depth)).next() {
        return Some(reason);
    }
    // What an answer is wrapped in, where that is no OpenAI's.
    let inner = ["header", "Response", "x_groq"].iter().filter_map(|key| answer.get(*key)?.as_object());
    if let Some(reason) = inner.filter_map(|inner| of_wrapping(inner, depth)).next() {
        return Some(reason);
    }
    let says = |key: &str| answer.get(key).is_some_and(says_something);
    let says_why = || {
        WORDS.iter().any(|key| {
            answer.get(*key).is_some_and(|words| !says_all_is_well(words) && says_something(words))
        })
    };
    let fails = answer.get("success").is_some_and(is_false)
        || NAMED.iter().any(|key| is_failing(answer.get(*key)))
        || is_failing(answer.get("code")) && says_why()
        || !has_choices
            && (ALONE.iter().any(|key| says(key) && !says_all_is_well(&answer[*key]))
                || ["status", "code"].iter().any(|key| answer.get(*key).is_some_and(is_failure))
                || answer.get("message").is_some_and(|message| message.get("detail").is_some()));
    fails.then(|| of(&Value::Object(answer.clone()), depth))
}

/// What an error says, and what stands beside it: words and codes may stand there instead.
fn with_beside(mut reason: Reason, answer: &Map<String, Value>, depth: usize) -> Reason {
    let mut beside = answer.clone();
    let error = beside.remove("error").unwrap_or_default();
    let beside = of(&Value::Object(beside), depth);
    reason.message = match (reason.message, beside.message) {
        (Some(name), Some(words)) if error.is_string() => Some(format!("{name}: {words}")),
        (message, words) => message.or(words),
    };
    reason.number = reason.number.or(beside.number);
    reason.codes = [reason.codes, beside.codes].join(" ").trim().into();
    beside.fields.into_iter().for_each(|(name, value)| {
        reason.fields.entry(name).or_insert(value);
    });
    reason
}

/// The failure in an object around an answer: its error, or a code that is none of success.
fn of_wrapping(inner: &Map<String, Value>, depth: usize) -> Option<Reason> {
    let error = inner.get("error").or_else(|| inner.get("Error")).filter(|error| says_something(error));
    error.map(|error| of(error, depth)).or_else(|| {
        let is_fine = inner.get("message").is_some_and(says_all_is_well);
        (is_failing(inner.get("code")) && !is_fine).then(|| of(&Value::Object(inner.clone()), depth))
    })
}

fn of_choice(choice: &Value, depth: usize) -> Option<Reason> {
    if let Some(error) = choice.get("error").filter(|error| says_something(error) && !says_all_is_well(error))
    {
        return Some(of(error, depth));
    }
    let said = choice.get("delta").or_else(|| choice.get("message"));
    if let Some(error) = said.and_then(|said| said.get("error")).filter(|error| says_something(error)) {
        return Some(of(error, depth));
    }
    let finish = choice.get("finish_reason");
    if let Some(fields) = finish.and_then(Value::as_object)
        && fields.get("type").and_then(Value::as_str).is_some_and(breaks_off)
    {
        return Some(of(&Value::Object(fields.clone()), depth));
    }
    let finish = finish.and_then(Value::as_str).unwrap_or_default();
    breaks_off(finish).then(|| {
        let message = format!("the answer broke off with the finish_reason `{finish}`");
        Reason { message: Some(message), codes: finish.into(), ..Reason::default() }
    })
}

/// Whether a `finish_reason` says that the answer broke off.
pub fn breaks_off(finish: &str) -> bool {
    BROKEN_OFF.iter().any(|reason| finish.eq_ignore_ascii_case(reason))
}

/// Whether a `finish_reason` is one: some write that there is none as a text.
pub fn finishes(reason: &str) -> bool {
    !["", "null", "none"].iter().any(|none| reason.eq_ignore_ascii_case(none))
}

/// What the value of an error says.
fn of(error: &Value, depth: usize) -> Reason {
    let Value::Object(fields) = error else {
        return Reason { message: words(error, depth), ..Reason::default() };
    };
    let mut reason = of_codes(fields);
    let raw = fields.get("metadata").and_then(|metadata| metadata.get("raw"));
    let inner = raw.into_iter().chain(WORDS.iter().filter_map(|key| fields.get(*key)));
    reason.message = inner.filter_map(|value| words(value, depth)).next();
    reason
}

fn of_codes(fields: &Map<String, Value>) -> Reason {
    let values = || CODES.iter().filter_map(|key| fields.get(*key));
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let codes: Vec<&str> = values().filter_map(Value::as_str).collect();
    Reason {
        codes: codes.join(" ").to_ascii_lowercase(),
        number: values().find_map(number),
        fields: FIELDS
            .iter()
            .filter_map(|name| Some((name.to_string(), fields.get(*name)?.clone())))
            .filter(|(_, value)| !value.is_null())
            .collect(),
        message: None,
    }
}

/// The words that a value says: a text, which may itself be an error in JSON, or parts of one.
fn words(value: &Value, depth: usize) -> Option<String> {
    if depth == 0 {
        return None;
    }
    match value {
        Value::String(text) => {
            let inner = text.trim_start().starts_with('{').then(|| serde_json::from_str::<Value>(text).ok());
            let inner = inner.flatten().and_then(|inner| match &inner {
                Value::Object(fields) => reported(fields, depth - 1).or_else(|| Some(of(&inner, depth - 1))),
                _ => None,
            });
            inner.and_then(|reason| reason.message).or_else(|| Some(text.clone()))
        }
        Value::Array(items) => {
            let texts: Vec<String> = items.iter().filter_map(|item| words(item, depth - 1)).collect();
            Some(texts.join("; "))
        }
        Value::Object(fields) => {
            let said =
                WORDS.iter().filter_map(|key| fields.get(*key)).find_map(|value| words(value, depth - 1))?;
            let place = fields.get("loc").and_then(Value::as_array).map(|path| {
                let names =
                    path.iter().map(|name| name.as_str().map_or_else(|| name.to_string(), String::from));
                names.collect::<Vec<_>>().join(".")
            });
            Some(place.map_or(said.clone(), |place| format!("{place}: {said}")))
        }
        _ => None,
    }
    .filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests;
