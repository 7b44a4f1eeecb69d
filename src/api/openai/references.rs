//! Parts of answers that the upstream keeps: which an answer has, and which an input refers to by their ids.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses>.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Types of an input's part that stands for one of an earlier answer by its id alone.
const REFERENCES: [&str; 2] = ["item_reference", "image_generation_call"];

/// The same, unless it has its own content, sealed.
const SEALABLE: &str = "reasoning";

/// What a text in a part of an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Id,
    Type,
    Role,
    Sealed,
}

impl Field {
    /// The field of this name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "id" => Some(Field::Id),
            "type" => Some(Field::Type),
            "role" => Some(Field::Role),
            "encrypted_content" => Some(Field::Sealed),
            _ => None,
        }
    }
}

/// A part of an input, with all that any reader of it may find.
#[derive(Debug, Default)]
pub struct InputPart {
    ids: Vec<String>,
    types: Vec<String>,
    has_role: bool,
    /// How often the sealed content is named, and how often it is there.
    sealed: (usize, usize),
}

impl InputPart {
    /// Takes in that a field is named.
    pub fn name(&mut self, field: Field) {
        match field {
            Field::Sealed => self.sealed.0 += 1,
            Field::Id | Field::Type | Field::Role => {}
        }
    }

    /// Takes in a field's text.
    pub fn take(&mut self, field: Field, text: String) {
        match field {
            Field::Id => self.ids.push(text),
            Field::Type => self.types.push(text),
            Field::Sealed if !text.is_empty() => self.sealed.1 += 1,
            Field::Role if !text.is_empty() => self.has_role = true,
            Field::Role | Field::Sealed => {}
        }
    }

    /// The ids by which it refers to parts of earlier answers; so does what has neither a type nor a role.
    pub fn references(self) -> Vec<String> {
        let refers = match self.types.as_slice() {
            [] => !self.has_role,
            types => types.iter().any(|kind| {
                REFERENCES.contains(&kind.as_str()) || (kind == SEALABLE && self.sealed != (1, 1))
            }),
        };
        if refers { self.ids } else { Vec::new() }
    }
}

/// The ids of an answer that the upstream keeps and of its parts: from the answer itself, or from an event of it.
pub fn ids_of(text: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        id: Option<String>,
        object: Option<String>,
        #[serde(borrow)]
        response: Option<Box<Answer<'a>>>,
        #[serde(borrow)]
        output: Option<&'a RawValue>,
        item: Option<Part>,
    }
    #[derive(Deserialize)]
    struct Part {
        id: Option<String>,
    }
    let data = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data:")).unwrap_or(text);
    let Ok(answer) = serde_json::from_slice::<Answer>(data) else { return Vec::new() };
    let Answer { id, object, output, item, .. } = match answer.response {
        Some(inner) => *inner,
        None => answer,
    };
    let id = id.filter(|_| object.as_deref().is_none_or(|object| object == "response"));
    let parts = output.and_then(|output| serde_json::from_str::<Vec<Part>>(output.get()).ok());
    let parts = parts.into_iter().flatten().chain(item).filter_map(|part| part.id);
    id.into_iter().chain(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_an_answer_are_found_in_it_and_in_its_events() {
        let event = |data: &str| format!("event: x\ndata: {data}\n\n").into_bytes();
        for (text, ids) in [
            (br#"{"id":"resp_1","object":"response","output":[]}"#.to_vec(), vec!["resp_1"]),
            (br#"{"id":"resp_1","output":[{"id":"msg_1"},{"type":"x"}]}"#.to_vec(), vec!["resp_1", "msg_1"]),
            (br#"{"id":"resp_1","output":"x"}"#.to_vec(), vec!["resp_1"]),
            (
                event(r#"{"type":"response.created","response":{"id":"resp_2","object":"response"}}"#),
                vec!["resp_2"],
            ),
            (event(r#"{"type":"response.output_item.added","item":{"id":"rs_1"}}"#), vec!["rs_1"]),
            (br#"{"id":"x","object":"error"}"#.to_vec(), vec![]),
            (b"no".to_vec(), vec![]),
            (b"{}".to_vec(), vec![]),
        ] {
            assert_eq!(ids_of(&text), ids, "{}", String::from_utf8_lossy(&text));
        }
    }
}
