//! The messages of a request in OpenAI's words, read.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::forms::{self, List, bounded, text_or_json};
use crate::domain::chat::{Message, Part, Role, ToolCall};
use crate::domain::error::{Error, Kind};

/// The messages, or why one of them is none. Lists become messages while they are read: a short element
/// can take many times its bytes.
pub struct Messages(pub Result<Vec<Message>, Error>);

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut asked: A) -> Result<Messages, A::Error> {
                let (mut messages, mut elements) = (Vec::new(), 0);
                while let Some(next) = asked.next_element::<AskedMessage>()? {
                    match message(next) {
                        Ok(message) => {
                            elements += 1 + message.parts.len() + message.tool_calls.len();
                            bounded(elements)?;
                            messages.push(message);
                        }
                        Err(error) => {
                            while asked.next_element::<IgnoredAny>()?.is_some() {}
                            return Ok(Messages(Err(error)));
                        }
                    }
                }
                Ok(Messages(Ok(messages)))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

#[derive(Deserialize)]
struct AskedMessage {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    #[serde(default, deserialize_with = "calls")]
    tool_calls: Vec<ToolCall>,
    tool_call_id: Option<String>,
}

/// What a message says.
pub struct Content(pub Vec<Part>);

#[derive(Deserialize)]
struct AskedPart {
    r#type: String,
    text: Option<Arc<str>>,
    #[serde(default, deserialize_with = "forms::image")]
    image_url: Option<Arc<str>>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content(vec![Part::Text(text.into())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut asked: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(AskedPart { r#type, text, image_url }) = asked.next_element()? {
                    parts.push(match (text, image_url) {
                        (Some(text), _) => Part::Text(text),
                        (None, Some(url)) => Part::Image(url),
                        (None, None) => Part::Other(r#type),
                    });
                    bounded(parts.len())?;
                }
                Ok(Content(parts))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The tools that a message called. Arguments may be the object that they describe.
fn calls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ToolCall>, D::Error> {
    #[derive(Deserialize)]
    struct AskedCall {
        id: Option<String>,
        function: Option<Function>,
    }
    #[derive(Deserialize)]
    struct Function {
        name: Option<String>,
        arguments: Option<Box<RawValue>>,
    }
    let asked: Option<List<AskedCall>> = Deserialize::deserialize(deserializer)?;
    let call = |AskedCall { id, function }| {
        let Function { name, arguments } = function?;
        let arguments = arguments.map(text_or_json).unwrap_or_default();
        Some(ToolCall { id: id.unwrap_or_default(), name: name.unwrap_or_default(), arguments })
    };
    Ok(asked.into_iter().flat_map(|List(calls)| calls).filter_map(call).collect())
}

fn message(asked: AskedMessage) -> Result<Message, Error> {
    let AskedMessage { role, content, name, tool_calls, tool_call_id } = asked;
    let (role, answers) = match role.as_str() {
        "system" | "developer" => (Role::System, None),
        "user" => (Role::User, None),
        "assistant" => (Role::Assistant, None),
        "tool" | "function" => (Role::Tool, Some((tool_call_id.unwrap_or_default(), name))),
        _ => {
            return Err(Error::new(Kind::InvalidRequest, "a message has an unknown role")
                .hinted("use system, developer, user, assistant or tool"));
        }
    };
    let parts = content.map_or_else(Vec::new, |Content(parts)| parts);
    Ok(Message { role, parts, tool_calls, answers })
}

/// Names the tool of each result by the call that it answers.
pub fn name_tools(messages: &mut [Message]) {
    let mut names = HashMap::new();
    for message in messages {
        names.extend(message.tool_calls.iter().map(|call| (call.id.clone(), call.name.clone())));
        if let Some((id, name @ None)) = &mut message.answers {
            *name = names.get(id).cloned();
        }
    }
}
