//! A line of a web chat's answer on the wire.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::provider::content::{Content, Unreadable, as_text};
use crate::provider::template::text;

#[derive(Deserialize)]
pub struct Line<'a> {
    #[serde(borrow)]
    pub result: Option<ResultPart<'a>>,
    pub error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultPart<'a> {
    pub conversation: Option<Conversation>,
    #[serde(borrow)]
    pub response: Option<Part<'a>>,
    // The fields of a part that stands here itself; `flatten` would keep a copy of all fields first.
    #[serde(borrow)]
    pub token: Option<Token<'a>>,
    #[serde(default, deserialize_with = "name")]
    pub response_id: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    pub is_thinking: Option<bool>,
    #[serde(borrow)]
    pub message_tag: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "flag")]
    pub is_soft_stop: Option<bool>,
    pub model_response: Option<ModelResponse>,
    pub card_attachment: Option<CardAttachment>,
    pub error: Option<Value>,
}

impl<'a> ResultPart<'a> {
    /// The conversation, the part that stands here itself, and the one that stands under `response`.
    pub fn split(self) -> (Option<Conversation>, Part<'a>, Option<Part<'a>>) {
        let ResultPart {
            conversation,
            response,
            token,
            response_id,
            is_thinking,
            message_tag,
            is_soft_stop,
            model_response,
            card_attachment,
            error,
        } = self;
        let own = Part {
            token,
            response_id,
            is_thinking,
            message_tag,
            is_soft_stop,
            model_response,
            card_attachment,
            error,
        };
        (conversation, own, response)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    #[serde(default, deserialize_with = "name")]
    pub conversation_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part<'a> {
    #[serde(borrow)]
    pub token: Option<Token<'a>>,
    #[serde(default, deserialize_with = "name")]
    pub response_id: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    pub is_thinking: Option<bool>,
    #[serde(borrow)]
    pub message_tag: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "flag")]
    pub is_soft_stop: Option<bool>,
    pub model_response: Option<ModelResponse>,
    pub card_attachment: Option<CardAttachment>,
    pub error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelResponse {
    #[serde(default, deserialize_with = "words")]
    pub message: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub response_id: Option<String>,
    pub model: Option<String>,
    pub stream_errors: Option<Value>,
    pub error: Option<Value>,
    #[serde(default, deserialize_with = "flag")]
    pub partial: Option<bool>,
    pub generated_image_urls: Option<Vec<String>>,
    /// Cards that the words refer to, each as JSON.
    pub card_attachments_json: Option<Vec<String>>,
}

impl ModelResponse {
    /// The failures that it tells of; some may be empty.
    pub fn failures(&self) -> impl Iterator<Item = Value> + use<> {
        let errors = match self.stream_errors.clone() {
            Some(Value::Array(errors)) => errors,
            error => Vec::from_iter(error),
        };
        errors.into_iter().chain(self.error.clone())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CardAttachment {
    pub json_data: Option<String>,
}

/// Parts of the tags of tokens that are no words of the answer: what tools were called with and gave.
const NOT_SAID: [&str; 3] = ["tool_usage", "function_result", "function_call"];

/// A token, and its place in the line.
pub struct Token<'a> {
    pub text: Cow<'a, str>,
    pub raw: &'a RawValue,
}

impl<'de: 'a, 'a> Deserialize<'de> for Token<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let number = || raw.get().parse::<f64>().is_ok().then(|| raw.get().into());
        let text = text(raw).or_else(number).ok_or_else(|| D::Error::custom("a token is no text"))?;
        Ok(Token { text, raw })
    }
}

/// A yes or no, which some write as a number or as a text.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    match raw.get().trim_matches('"') {
        "null" | "" => Ok(None),
        "true" | "True" | "1" => Ok(Some(true)),
        "false" | "False" | "0" => Ok(Some(false)),
        _ => Err(D::Error::custom("this is neither yes nor no")),
    }
}

/// An id, which some write as a number.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        id @ (Value::Null | Value::String(_) | Value::Number(_)) => {
            Ok(Some(as_text(id)).filter(|id| !id.is_empty()))
        }
        _ => Err(D::Error::custom("an id is neither a text nor a number")),
    }
}

/// The words of a message: a text, or parts.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let content = Content::of(&Value::deserialize(deserializer)?);
    content
        .map(|said| Some(said.answer))
        .map_err(|Unreadable| D::Error::custom("a part of the message is no text"))
}

impl Part<'_> {
    /// What a token of this part is.
    pub fn kind(&self) -> Said {
        let tag = self.message_tag.as_deref().unwrap_or_default();
        match self.is_thinking {
            _ if NOT_SAID.iter().any(|part| tag.contains(part)) => Said::Nothing,
            Some(true) => Said::Reasoning,
            _ => Said::Answer,
        }
    }

    /// Whether it says that the answer may be complete.
    pub fn ends(&self) -> bool {
        self.is_soft_stop.unwrap_or_default() || self.model_response.is_some() && !self.is_partial()
    }

    /// Whether its settled text is not all of the answer.
    pub fn is_partial(&self) -> bool {
        self.model_response.as_ref().is_some_and(|response| response.partial == Some(true))
    }
}

/// What a token is.
#[derive(Clone, Copy)]
pub enum Said {
    Answer,
    Reasoning,
    Nothing,
}
