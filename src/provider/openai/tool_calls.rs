//! Tool calls on their way through.
//!
//! Clients differ most in how they join the pieces of a call: Dify adds a piece without an id to the latest
//! call, OpenAI's own library goes by the index and makes an id that comes twice one of double length, and
//! LlamaIndex reads the first call of a chunk alone. What suits all is OpenAI's own order: a call's id and
//! name in its first piece, the others by its index, one call after the other and one piece a chunk.
//! Pieces in that order go on as they come. All others are held, and each call goes on whole as soon as
//! it is complete, in a chunk of its own.

mod arguments;
mod piece;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::domain::answer::{Delta, ToolCallDelta};
use crate::domain::chat::estimate_tokens;
use crate::provider::content::Unreadable;
use crate::provider::decoding::new_call_id;
use crate::telemetry::mending::{Mending, Mendings};
use arguments::{Written, news};
use piece::{FUNCTION, Form, Piece, form_of, listed};

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

/// How a call goes on.
enum Way {
    /// Piece by piece, under this index.
    Sent(usize),
    /// Whole: its fields but for its function.
    Held(Map<String, Value>),
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
        let (mut sent, mut seen) = (Vec::new(), BTreeSet::new());
        for (place, piece) in pieces.into_iter().enumerate() {
            let piece = Piece::of(piece);
            // Two whole calls of one chunk are two, also where they are the same.
            let is_another = |at: &usize| seen.contains(at) && piece.begins_beside(&calls.calls[*at]);
            let found = calls.place_of(&piece).filter(|at| !is_another(at));
            seen.insert(found.unwrap_or(calls.calls.len()));
            if let Some(at) = found {
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

/// The calls of a message that is there as a whole, as clients understand them: each entry is one.
///
/// # Errors
/// For a call of no form that is known.
pub fn whole_calls(calls: Value) -> Result<Value, Unreadable> {
    let mut ids = BTreeSet::new();
    let pieces = listed(calls)?.into_iter().map(|piece| {
        let Piece { id, form, name, arguments, mut rest, .. } = Piece::of(piece);
        let id = id.filter(|id| !ids.contains(id)).unwrap_or_else(new_call_id);
        ids.insert(id.clone());
        let mut written = Map::new();
        written.insert("id".into(), id.into());
        rest.entry("type").or_insert(form.name.into());
        written.extend(rest);
        written.insert(form.name.into(), json!({ "name": name, form.input: arguments }));
        Value::from(written)
    });
    Ok(pieces.collect())
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
            (Some(id), Some(of_call)) if id == of_call => !piece.is_another_whole(call),
            // A call is named where it begins, and some give each of its pieces an id of its own.
            (Some(_), Some(_)) => {
                piece.goes_on() && (piece.index.is_some() || call.written != Written::Whole)
            }
            // The name may come in pieces.
            (None, _) if piece.index.is_some() && call.written == Written::Nothing => true,
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
