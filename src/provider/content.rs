//! The content of a message in whatever form it comes: a text, parts, an object with one, or a number; and the
//! numbers of tokens that it cost.

use serde_json::{Map, Value};

/// The places of a part's words.
const PLACES: [&str; 7] = ["text", "content", "value", "refusal", "parts", "url", "image_url"];

/// Where events of protocols, and failures of no known form, have their words.
const ELSEWHERE: [&str; 14] = [
    "choices",
    "message",
    "modelResponse",
    "candidates",
    "response",
    "delta",
    "content",
    "content_block",
    "completion",
    "text",
    "thinking",
    "output",
    "data",
    "parts",
];

/// A part of a content is of no form that is known, and so may hold words.
#[derive(Debug)]
pub(super) struct Unreadable;

/// What a content says.
#[derive(Default)]
pub(super) struct Content {
    pub answer: String,
    pub thoughts: String,
}

impl Content {
    /// What this says.
    ///
    /// # Errors
    /// For a part that cannot be read.
    pub fn of(content: &Value) -> Result<Self, Unreadable> {
        let mut said = Content::default();
        said.take(content)?;
        Ok(said)
    }

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
        let place = |name: &str| part.get(name).filter(|value| !value.is_null() && !value.is_boolean());
        if let Some(thoughts) = place("thinking").or_else(|| place("reasoning")) {
            let Content { answer, thoughts } = Content::of(thoughts)?;
            self.thoughts += &(thoughts + &answer);
            return Ok(());
        }
        // Some parts have what they say under the name of their type, as a text or an address.
        let named = || part.get("type").and_then(Value::as_str).and_then(place);
        let named = || named().filter(|said| said.is_string() || said.get("url").is_some());
        match PLACES.iter().find_map(|name| place(name)).or_else(named) {
            Some(words) => self.take(words),
            // A reference, such as Mistral's, has no words.
            None if part.iter().all(|(name, value)| name == "type" || !value.is_string()) => Ok(()),
            None => Err(Unreadable),
        }
    }
}

/// Whether an event of no known form may hold words.
pub(super) fn speaks(event: &Map<String, Value>) -> bool {
    let says = |place: &&str| match event.get(*place) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        _ => false,
    };
    ELSEWHERE.iter().any(says)
}

/// More tokens than this are none that were counted.
const MOST_TOKENS: f64 = 1e12;

/// A number of tokens, which some write as 3.0 or "3".
pub(super) fn tokens(value: &Value) -> Option<u64> {
    let told = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    let is_count = |number: &f64| (0.0..=MOST_TOKENS).contains(number) && number.fract() == 0.0;
    told.filter(is_count).map(|number| number as u64)
}

/// What a part of a tool call says. Some mirrors give the arguments as the object that they describe.
pub(super) fn as_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        value => value.to_string(),
    }
}
