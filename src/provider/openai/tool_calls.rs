//! Tool calls on their way through.
//!
//! Clients differ most in how they join the pieces of a call: Dify adds a piece without an id to the latest
//! call, OpenAI's own library goes by the index and makes an id that comes twice one of double length, and
//! LlamaIndex reads the first call of a chunk alone. What suits all is OpenAI's own order: a call's id and
//! name in its first piece, the others by its index, one call after the other and one piece a chunk.
//! Pieces in that order go on as they come. All others are held, and each call goes on whole as soon as
//! it is complete, in a chunk of its own.

mod arguments;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::answer::{Delta, ToolCallDelta};
use crate::domain::chat::estimate_tokens;
use crate::provider::content::{Unreadable, as_text};
use crate::provider::decoding::new_call_id;
use crate::telemetry::mending::{Mending, Mendings};
use arguments::{Written, is_repeated, news};

/// How many calls of an answer are known. Nobody offers so many tools, and each piece is looked up among
/// the calls before it.
const MAX_CALLS: usize = 1024;

/// The tool calls of an answer.
#[derive(Default)]
pub struct ToolCalls {
    choices: BTreeMap<u64, Calls>,
    /// What the chunks say beside the calls that are held.
    head: Map<String, Value>,
    count: usize,
}

/// The calls of one choice, in the order in which they began.
#[derive(Default)]
struct Calls {
    calls: Vec<Call>,
    /// How many have gone on, or begun to.
    sent: usize,
}

struct Call {
    /// The index and the id that the upstream gives it, where it does.
    index: Option<u64>,
    id: Option<String>,
    /// Where it says what it calls.
    form: &'static Form,
    name: String,
    arguments: String,
    written: Written,
    way: Way,
}

/// Where a call says what it calls: a function with arguments in JSON, or a tool that takes any text.
/// Source: <https://platform.openai.com/docs/api-reference/chat/object>.
#[derive(PartialEq, Eq)]
struct Form {
    name: &'static str,
    input: &'static str,
}

const FUNCTION: Form = Form { name: "function", input: "arguments" };
const CUSTOM: Form = Form { name: "custom", input: "input" };

/// How a call goes on.
enum Way {
    /// Piece by piece, under this index.
    Sent(usize),
    /// Whole: its fields but for its function.
    Held(Map<String, Value>),
}

/// A piece of a call, taken apart.
struct Piece {
    index: Option<u64>,
    id: Option<String>,
    form: &'static Form,
    name: String,
    arguments: String,
    /// Whether the arguments are the text that they should be, or left out.
    is_text: bool,
    /// All else that it says.
    rest: Map<String, Value>,
}

impl ToolCalls {
    /// Whether there are calls of this choice.
    pub fn has(&self, choice: u64) -> bool {
        self.choices.get(&choice).is_some_and(|calls| !calls.calls.is_empty())
    }

    /// Whether calls of this choice are held.
    pub fn holds(&self, choice: u64) -> bool {
        self.choices.get(&choice).is_some_and(Calls::hold)
    }

    /// Whether there are more calls than an answer may have. Those beyond were left out.
    pub fn is_over_full(&self) -> bool {
        self.count > MAX_CALLS
    }

    /// Takes in the pieces that a choice of this chunk holds. Gives those that go on now, as clients
    /// understand them.
    ///
    /// # Errors
    /// For a piece of no form that is known.
    pub fn take(
        &mut self,
        choice: u64,
        pieces: Value,
        chunk: &Map<String, Value>,
        mendings: &mut Mendings,
    ) -> Result<Vec<Value>, Unreadable> {
        let pieces = listed(pieces)?;
        if self.head.is_empty() {
            self.head = chunk.clone();
            self.head.insert("usage".into(), Value::Null);
        }
        let calls = self.choices.entry(choice).or_default();
        let alone = pieces.len() == 1;
        let mut sent = Vec::new();
        for (place, piece) in pieces.into_iter().enumerate() {
            let piece = Piece::of(piece);
            if let Some(at) = calls.place_of(&piece) {
                sent.extend(calls.calls[at].go_on(piece, mendings));
            } else if self.count <= MAX_CALLS {
                self.count += 1;
                sent.extend(calls.begin(piece, place, alone, mendings));
            }
        }
        Ok(sent)
    }

    /// The calls of a choice that are complete and were held, each in a chunk of its own; all of them, once
    /// the choice has `ended`.
    pub fn release(&mut self, choice: u64, ended: bool, is_first: bool) -> Vec<Delta> {
        let Some(calls) = self.choices.get_mut(&choice) else { return Vec::new() };
        let whole = calls.release(ended);
        whole.into_iter().map(|call| self.chunk(choice, call, is_first)).collect()
    }

    /// As [`ToolCalls::release`], of every choice, since all have ended.
    pub fn release_all(&mut self, first: Option<u64>) -> Vec<Delta> {
        let choices: Vec<u64> = self.choices.keys().copied().collect();
        choices.into_iter().flat_map(|choice| self.release(choice, true, first == Some(choice))).collect()
    }

    /// A chunk of its own for a call, or a piece of one.
    pub fn chunk(&self, choice: u64, call: Value, is_first: bool) -> Delta {
        let mut delta = Delta::default();
        if is_first {
            delta.tool_calls.extend(meaning(&call));
        } else {
            delta.other_tokens = tokens(&call);
        }
        let choice = json!({ "index": choice, "delta": { "tool_calls": [call] }, "finish_reason": null });
        let mut chunk = self.head.clone();
        chunk.insert("choices".into(), json!([choice]));
        delta.wire = Some(Value::Object(chunk).to_string().into());
        delta
    }
}

/// The calls of a message that is there as a whole, as clients understand them.
///
/// # Errors
/// For a call of no form that is known.
pub fn whole_calls(calls: Value, mendings: &mut Mendings) -> Result<Value, Unreadable> {
    let mut all = ToolCalls::default();
    let mut calls = all.take(0, calls, &Map::new(), mendings)?;
    calls.extend(all.choices.get_mut(&0).map(|calls| calls.release(true)).unwrap_or_default());
    for call in calls.iter_mut().filter_map(Value::as_object_mut) {
        call.shift_remove("index");
    }
    Ok(calls.into())
}

/// The pieces of calls: a list of them, one alone, or all of them by their places.
fn listed(calls: Value) -> Result<Vec<Map<String, Value>>, Unreadable> {
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

/// What a tool call means, or a piece of one, in the form in which it goes on.
pub fn meaning(call: &Value) -> Option<ToolCallDelta> {
    let form = form_of(call);
    let said = &call[form.name];
    Some(ToolCallDelta {
        index: usize::try_from(call["index"].as_u64()?).ok()?,
        id: call["id"].as_str().map(String::from),
        name: said["name"].as_str().map(String::from),
        arguments: said[form.input].as_str().unwrap_or_default().into(),
    })
}

fn form_of(call: &Value) -> &'static Form {
    if call[CUSTOM.name].is_object() { &CUSTOM } else { &FUNCTION }
}

/// A rough count of the tokens in a tool call or a piece of one.
pub fn tokens(call: &Value) -> u64 {
    let form = form_of(call);
    let said = |key: &str| call[form.name][key].as_str().map_or(0, estimate_tokens);
    said("name") + said(form.input)
}

impl Calls {
    fn hold(&self) -> bool {
        self.calls.iter().any(|call| matches!(call.way, Way::Held(..)))
    }

    /// The call that a piece belongs to: by the index and the id, as far as they are told, else the latest.
    fn place_of(&self, piece: &Piece) -> Option<usize> {
        // Some give all calls the same index: then the id tells them apart, or that one is whole.
        let is_same = |call: &Call| match (&piece.id, &call.id) {
            _ if piece.index.is_some() && piece.index != call.index => false,
            (Some(id), Some(of_call)) => id == of_call && !piece.is_another_whole(call),
            // The name may come in pieces.
            (None, Some(_)) if piece.index.is_some() && call.written == Written::Nothing => true,
            _ => !piece.begins_after(call),
        };
        self.calls.iter().rposition(is_same)
    }

    /// Begins a call; gives its piece where it goes on at once.
    fn begin(&mut self, piece: Piece, place: usize, alone: bool, mendings: &mut Mendings) -> Option<Value> {
        let Piece { index, id, form, name, arguments, is_text, mut rest } = piece;
        // Clients that join by the id would make one call of two.
        let id = id.filter(|id| !self.calls.iter().any(|call| call.id.as_ref() == Some(id)));
        let before_is_open = self.calls.iter().any(Call::is_on_its_way);
        let in_order = alone
            && is_text
            && index == Some(self.sent as u64)
            && id.is_some()
            && !name.is_empty()
            && !before_is_open
            && !self.hold();
        let mut written = if *form == FUNCTION { Written::default() } else { Written::UNKNOWN };
        written.add(&arguments);
        if !rest.get("type").is_some_and(Value::is_string) {
            rest.insert("type".into(), form.name.into());
        }
        let index = index.or(Some(place as u64));
        let mut call = Call { index, id, form, name, arguments, written, way: Way::Sent(self.sent) };
        let sent = if in_order {
            self.sent += 1;
            Some(call.written_as(rest, self.sent - 1))
        } else {
            mendings.note(Mending::ToolCallHeld);
            call.way = Way::Held(rest);
            None
        };
        self.calls.push(call);
        sent
    }

    /// The calls that were held and are complete; all of them, once their choice has `ended`.
    fn release(&mut self, ended: bool) -> Vec<Value> {
        // Pieces without an id would be taken for one of a call between them.
        if !ended && self.calls.iter().any(Call::is_on_its_way) {
            return Vec::new();
        }
        let mut whole = Vec::new();
        for call in &mut self.calls {
            if let Way::Held(fields) = &mut call.way
                && (ended || call.written == Written::Whole)
            {
                let fields = std::mem::take(fields);
                call.way = Way::Sent(self.sent);
                call.id.get_or_insert_with(new_call_id);
                whole.push(call.written_as(fields, self.sent));
                self.sent += 1;
            }
        }
        whole
    }
}

impl Call {
    /// Whether it has begun to go on, and more of it may come.
    fn is_on_its_way(&self) -> bool {
        matches!(self.way, Way::Sent(_)) && self.written != Written::Whole
    }

    /// Takes in a further piece; gives it where the call has begun to go on.
    fn go_on(&mut self, piece: Piece, mendings: &mut Mendings) -> Option<Value> {
        let Piece { id, name, arguments: said, is_text, rest, .. } = piece;
        let more_name = self.more_name(&name);
        let arguments = news(&self.arguments, &self.written, &said);
        let is_mended =
            id.is_some() || more_name.len() < name.len() || arguments.len() < said.len() || !is_text;
        self.written.add(arguments);
        self.arguments.push_str(arguments);
        self.name.push_str(more_name);
        match &mut self.way {
            Way::Held(fields) => {
                rest.into_iter().for_each(|(key, value)| {
                    fields.entry(key).or_insert(value);
                });
                self.id = self.id.take().or(id);
                None
            }
            Way::Sent(index) => {
                // An id or a name that comes again would be joined to one of double length.
                if is_mended {
                    mendings.note(Mending::PieceMended);
                }
                let mut function = Map::new();
                if !more_name.is_empty() {
                    function.insert("name".into(), more_name.into());
                }
                function.insert(self.form.input.into(), arguments.into());
                let mut written = Map::new();
                written.insert("index".into(), (*index).into());
                written.extend(rest);
                written.insert(self.form.name.into(), function.into());
                Some(written.into())
            }
        }
    }

    /// What a name adds to the call's own: that may come in pieces, before its arguments, or whole with each.
    fn more_name<'a>(&self, said: &'a str) -> &'a str {
        match said.strip_prefix(self.name.as_str()) {
            Some(more) => more,
            None if self.written == Written::Nothing => said,
            None => "",
        }
    }

    /// The call as it begins to go on, with its arguments so far.
    fn written_as(&self, rest: Map<String, Value>, index: usize) -> Value {
        let mut written = Map::new();
        written.insert("index".into(), index.into());
        written.insert("id".into(), self.id.clone().into());
        written.extend(rest);
        written.insert(self.form.name.into(), json!({ "name": self.name, self.form.input: self.arguments }));
        written.into()
    }
}

impl Piece {
    fn of(mut piece: Map<String, Value>) -> Self {
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
    fn is_another_whole(&self, call: &Call) -> bool {
        call.written == Written::Whole
            && !self.name.is_empty()
            && !self.arguments.trim().is_empty()
            && !self.repeats(call)
    }

    /// Whether it says once more what a call before it said.
    fn repeats(&self, call: &Call) -> bool {
        self.name == call.name && is_repeated(&call.arguments, &self.arguments)
    }

    /// Whether it begins another call than this one, as far as no id tells: what is named after a call was
    /// whole is another.
    fn begins_after(&self, call: &Call) -> bool {
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
