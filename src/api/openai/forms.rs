//! Values of a request that have several forms, read without keeping more of them than is meant.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{self, Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::domain::chat::ToolChoice;

/// How many messages, parts and calls a request may hold together, each of which takes many times its
/// bytes. It is Anthropic's limit of messages: <https://docs.anthropic.com/en/api/messages>.
pub const MAX_ELEMENTS: usize = 100_000;

/// A list of which no more is kept than a request may hold.
pub struct List<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut asked: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(next) = asked.next_element()? {
                    list.push(next);
                    bounded(list.len())?;
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

pub fn bounded<E: de::Error>(elements: usize) -> Result<(), E> {
    if elements > MAX_ELEMENTS {
        return Err(E::custom(format_args!("more than {MAX_ELEMENTS} messages, parts or calls")));
    }
    Ok(())
}

/// The JSON of a value that has several forms. An untagged enum would first keep what it is read from, at
/// many times its bytes.
fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(deserializer)
}

/// A text, or the JSON of anything else.
pub fn text_or_json(json: Box<RawValue>) -> String {
    text(&json).unwrap_or_else(|| json.get().into())
}

/// A text out of its JSON, if it is one.
fn text(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

pub fn tool_choice<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ToolChoice, D::Error> {
    #[derive(Deserialize)]
    struct Named {
        function: Function,
    }
    #[derive(Deserialize)]
    struct Function {
        name: String,
    }
    let Some(asked) = raw(deserializer)? else { return Ok(ToolChoice::Auto) };
    Ok(match text(&asked).as_deref() {
        Some("none") => ToolChoice::None,
        Some("required") => ToolChoice::Required,
        Some(_) => ToolChoice::Auto,
        None => match serde_json::from_str(asked.get()) {
            Ok(Named { function }) => ToolChoice::Named(function.name),
            // Of another form, such as a list of the tools that are allowed.
            Err(_) => ToolChoice::Required,
        },
    })
}

/// The name of the form that an answer must have, unless it is text.
pub fn response_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Form {
        r#type: String,
    }
    let Some(asked) = raw(deserializer)? else { return Ok(None) };
    let form = serde_json::from_str(asked.get());
    let form = form.map_or_else(|_| "another form".into(), |Form { r#type }| r#type);
    Ok(Some(form).filter(|form| form != "text"))
}

/// A number, which may be written as a text. What is none counts as absent: it is a hint alone.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let Some(asked) = raw(deserializer)? else { return Ok(None) };
    let text = text(&asked);
    let number = text.as_deref().unwrap_or(asked.get()).trim().parse().ok();
    Ok(number.filter(|number: &f64| number.is_finite()))
}

pub fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let Some(asked) = raw(deserializer)? else { return Ok(Vec::new()) };
    if let Some(text) = text(&asked) {
        return Ok(vec![text]);
    }
    serde_json::from_str(asked.get()).map(|List(texts)| texts).map_err(|_| {
        let form = "a text or a list of texts";
        D::Error::invalid_type(Unexpected::Other("another value"), &form)
    })
}

/// The URL of a picture, which may stand in an object.
pub fn image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    #[derive(Deserialize)]
    struct Image {
        url: Arc<str>,
    }
    let Some(asked) = raw(deserializer)? else { return Ok(None) };
    let url = serde_json::from_str(asked.get());
    let url = url.or_else(|_| serde_json::from_str(asked.get()).map(|Image { url }| url));
    url.map(Some).map_err(|_| D::Error::custom("a picture without its `url`"))
}
