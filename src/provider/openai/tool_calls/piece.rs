//! A piece of a tool call in whatever form it comes.

use serde_json::{Map, Value};

use super::Call;
use super::arguments::{Written, is_repeated};
use crate::provider::content::{Unreadable, as_text};

/// Where a call says what it calls: a function with arguments in JSON, or a tool that takes any text.
/// Source: <https://platform.openai.com/docs/api-reference/chat/object>.
#[derive(PartialEq, Eq)]
pub struct Form {
    pub name: &'static str,
    pub input: &'static str,
}

pub const FUNCTION: Form = Form { name: "function", input: "arguments" };
const CUSTOM: Form = Form { name: "custom", input: "input" };

/// The form of a call.
pub fn form_of(call: &Value) -> &'static Form {
    if call[CUSTOM.name].is_object() { &CUSTOM } else { &FUNCTION }
}

/// A piece of a call, taken apart.
pub struct Piece {
    pub index: Option<u64>,
    pub id: Option<String>,
    pub form: &'static Form,
    pub name: String,
    pub arguments: String,
    /// Whether the arguments are the text that they should be, or left out.
    pub is_text: bool,
    /// All else that it says.
    pub rest: Map<String, Value>,
}

/// The pieces of calls: a list of them, one alone, or all of them by their places.
pub fn listed(calls: Value) -> Result<Vec<Map<String, Value>>, Unreadable> {
    let pieces: Vec<Value> = match calls {
        Value::Null => Vec::new(),
        Value::Array(calls) => calls,
        Value::Object(calls) if calls.values().all(Value::is_object) && !calls.contains_key("function") => {
            calls.into_iter().map(|(_, call)| call).collect()
        }
        call @ Value::Object(_) => vec![call],
        _ => return Err(Unreadable),
    };
    let fields = |piece| match piece {
        Value::Object(piece) => Some(Ok(piece)),
        Value::Null => None,
        _ => Some(Err(Unreadable)),
    };
    pieces.into_iter().filter_map(fields).collect()
}

impl Piece {
    /// The piece that these fields are.
    pub fn of(mut piece: Map<String, Value>) -> Self {
        let index = piece.shift_remove("index").and_then(|index| index.as_u64());
        let id = match piece.shift_remove("id") {
            Some(Value::String(id)) if !id.is_empty() => Some(id),
            _ => None,
        };
        // Some leave the function out, and say what it would at its place.
        let form = if piece.get(CUSTOM.name).is_some_and(Value::is_object) { &CUSTOM } else { &FUNCTION };
        let said = piece.shift_remove(form.name);
        let is_flat = !matches!(said, Some(Value::Object(_)));
        let inputs = [form.input, "parameters"];
        let mut function = match said {
            Some(Value::Object(said)) => said,
            _ => ["name"].iter().chain(&inputs).filter_map(|key| piece.shift_remove_entry(*key)).collect(),
        };
        let arguments = inputs.iter().find_map(|key| function.shift_remove(*key));
        let is_text = !is_flat && arguments.as_ref().is_none_or(|text| text.is_string() || text.is_null());
        let name = function.shift_remove("name").map(as_text).unwrap_or_default();
        let arguments = arguments.map(as_text).unwrap_or_default();
        Piece { index, id, form, name, arguments, is_text, rest: piece }
    }

    /// Whether it is whole, as a call before it is, and another.
    pub fn is_another_whole(&self, call: &Call) -> bool {
        call.written == Written::Whole
            && !self.name.is_empty()
            && !self.arguments.trim().is_empty()
            && !self.repeats(call)
    }

    /// Whether it is more of a call, rather than the beginning of one.
    pub fn goes_on(&self) -> bool {
        self.name.is_empty() && (self.index.is_some() || !self.arguments.is_empty())
    }

    /// Whether it begins another call than this one, of which something came in the same chunk.
    pub fn begins_beside(&self, call: &Call) -> bool {
        !self.name.is_empty() && (call.written == Written::Whole || self.index.is_none() && self.id.is_none())
    }

    /// Whether it says once more what a call before it said.
    fn repeats(&self, call: &Call) -> bool {
        self.name == call.name && is_repeated(&call.arguments, &self.arguments)
    }

    /// Whether it begins another call than this one, as far as no id tells: what is named after a call was
    /// whole is another.
    pub fn begins_after(&self, call: &Call) -> bool {
        let has_another_name = !call.name.is_empty() && self.name != call.name;
        !self.name.is_empty()
            && match call.written {
                Written::Nothing => has_another_name,
                Written::Open { .. } => false,
                Written::Whole => {
                    let is_repeated = self.index.is_some() && self.repeats(call);
                    has_another_name || !is_repeated && !self.arguments.trim().is_empty()
                }
            }
    }
}
