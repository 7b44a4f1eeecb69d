//! What of the upstream's account a request touches: its path, and what its body names by an id.
//!
//! Open to every key is what answers a question and is then forgotten. What the account keeps (files, batches,
//! stores of vectors, other people's answers) needs more: see [`Needs`].

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::json;

use super::parts::{self, Part};
use super::references::{Field, InputPart};
use crate::domain::error::{Error, Kind};
use crate::gateway::Needs;
use crate::http::body::check_depth;
use crate::http::depth;

/// Paths under `/v1/` that are open to every key with these methods; with what is below those that end in
/// a slash.
const OPEN: &[(&str, &[&str])] = &[
    ("completions", &["POST"]),
    ("embeddings", &["POST"]),
    ("models", &["GET"]),
    ("models/", &["GET"]),
    ("responses", &["POST"]),
    ("messages", &["POST"]),
    ("messages/count_tokens", &["POST"]),
    ("moderations", &["POST"]),
    ("rerank", &["POST"]),
    ("images/", &["GET", "POST"]),
    ("audio/", &["GET", "POST"]),
];

/// Names in a body whose values are ids, and the path under which the upstream keeps what they name.
const IDS: &[(&str, &str)] = &[
    ("file_id", "files"),
    ("file_ids", "files"),
    ("vector_store_id", "vector_stores"),
    ("vector_store_ids", "vector_stores"),
    ("container", "containers"),
    ("container_id", "containers"),
    ("skill_id", "skills"),
];

/// The same, but only at the top of a body, where the value may also stand in an object's `id`.
const CONVERSATION: &str = "conversation";

/// The name of an earlier answer's id, at the top of a body.
const PREVIOUS: &str = "previous_response_id";

/// Names at the top of a body under which some upstreams take models to fall back on.
const OTHER_MODELS: [&str; 4] = ["models", "fallbacks", "fallback_models", "fallback_model"];

/// Names at the top of a body in which a `model`, however deep, is one that is asked as well.
const TOOLS: [&str; 3] = ["tools", "plugins", "extra_body"];

/// The name at the top of a body that lets its answer be made after the call.
const BACKGROUND: &str = "background";

/// The most of a part of a form that is read where it is no JSON, in bytes.
const LONGEST_VALUE: usize = 1 << 10;

/// What a text in a body names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// Something that the upstream keeps under this path.
    Kept(&'static str),
    /// An answer that the upstream keeps.
    Answer,
    /// The model that is asked.
    Model,
    /// One that a tool asks.
    ModelOfTool,
    /// The input of an answer.
    Input,
    /// A field in a part of that.
    InputField(Field),
}

/// What a request of this method to a path under `/v1` needs, and the model that it asks, if it names one and
/// no other.
///
/// # Errors
/// That its body is not what it is declared to be, so that the upstream may read in it what is not seen here.
pub fn of_request(
    method: &str,
    path: &[String],
    body: &[u8],
    is_form: bool,
) -> Result<(Needs, Option<String>), Error> {
    let mut seen = Seen::default();
    let of_responses = path.first().is_some_and(|first| first == "responses");
    if is_form {
        seen.read_form(body, of_responses)?;
    } else if !body.is_empty() {
        check_depth(body)?;
        serde_json::from_slice::<IgnoredAny>(body).map_err(|error| {
            Error::new(Kind::InvalidJson, format!("the request body is no JSON: {error}"))
                .hinted("send JSON in UTF-8")
        })?;
        seen.read(body, of_responses);
    }
    let Seen { mut needs, mut models, .. } = seen;
    let whole = path.join("/");
    let is_open = methods_of(&whole).is_some_and(|methods| methods.contains(&method));
    match path {
        // What a key has made it may read, delete and end.
        [first, id, ..] if first == "responses" && method != "POST" => needs.objects.push(id.clone()),
        [first, id, last] if first == "responses" && last == "cancel" => needs.objects.push(id.clone()),
        _ if !is_open => needs.paths.insert(0, whole),
        _ => {}
    }
    needs.makes_object = method == "POST" && path.len() == 1 && path[0] == "responses";
    let model = models.pop().filter(|_| !needs.has_other_models);
    Ok((needs, model))
}

/// The methods that are open to every key at a path under `/v1/`, where there are any.
pub fn methods_of(path: &str) -> Option<&'static [&'static str]> {
    let is_open = |open: &str| if open.ends_with('/') { path.starts_with(open) } else { path == open };
    OPEN.iter().find(|(open, _)| is_open(open)).map(|(_, methods)| *methods)
}

/// What the body of a chat needs, which is JSON.
pub fn of_chat(body: &[u8]) -> Needs {
    let mut seen = Seen::default();
    seen.read(body, false);
    seen.needs
}

/// What was seen in a body.
#[derive(Default)]
struct Seen {
    needs: Needs,
    models: Vec<String>,
    /// How often a model is named, be it as nothing.
    named_models: usize,
    of_responses: bool,
    /// Whether what is being read stands under one of [`TOOLS`].
    in_tools: bool,
    /// Whether the next value says that the answer may be made after the call.
    awaits_background: bool,
}

/// A list or an object that is being read.
struct Open {
    is_object: bool,
    /// What a text in this list names, or the `id` in this object.
    names: Option<Named>,
    /// What the value after a name in this object names.
    next: Option<Named>,
    awaits_name: bool,
    /// What was seen of a part of an input.
    part: Option<Box<InputPart>>,
}

impl Seen {
    /// Reads JSON that nests no deeper than is allowed. It is read by its marks and not by a parser, since
    /// parsers disagree: of two fields of one name, or a text with half a surrogate, one must see what any other
    /// sees.
    fn read(&mut self, json: &[u8], of_responses: bool) {
        self.of_responses = of_responses;
        let (mut open, mut rest): (Vec<Open>, _) = (Vec::new(), json);
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'"' => {
                    let (text, after) = depth::string(after);
                    rest = after;
                    self.text(text, &mut open);
                    if std::mem::take(&mut self.awaits_background) {
                        let value =
                            rest.trim_ascii_start().strip_prefix(b":").unwrap_or(rest).trim_ascii_start();
                        self.needs.is_background |=
                            !value.starts_with(b"false") && !value.starts_with(b"null");
                    }
                }
                b'{' | b'[' => {
                    let (is_object, names) = (*byte == b'{', open.last().and_then(Open::value));
                    let part = (is_object && names == Some(Named::Input)).then(Box::default);
                    open.push(Open { is_object, names, next: None, awaits_name: is_object, part });
                }
                b'}' | b']' => {
                    let part = open.pop().and_then(|closed| closed.part);
                    self.needs.objects.extend(part.map(|part| part.references()).unwrap_or_default());
                }
                b',' => {
                    open.iter_mut().next_back().into_iter().for_each(|last| last.awaits_name = last.is_object)
                }
                _ => {}
            }
        }
        self.needs.has_other_models |= self.named_models > 1;
    }

    fn text(&mut self, text: &[u8], open: &mut [Open]) {
        let on_top = open.len() == 1;
        match open.last_mut() {
            Some(last) if last.awaits_name => {
                last.awaits_name = false;
                last.next = self.named(text, on_top, last.names);
                if let (Some(part), Some(Named::InputField(field))) = (&mut last.part, last.next) {
                    part.name(field);
                }
            }
            Some(last) => match (last.value(), &mut last.part) {
                (Some(Named::InputField(field)), Some(part)) => {
                    part.take(field, unescaped(text).into_owned())
                }
                (Some(named), _) => self.note(named, unescaped(text).into_owned()),
                (None, _) => {}
            },
            None => {}
        }
    }

    /// What the value after this name names.
    fn named(&mut self, name: &[u8], on_top: bool, of_object: Option<Named>) -> Option<Named> {
        let written = unescaped(name);
        let name = folded(&written);
        let kept = |list: &[(&str, &'static str)]| {
            list.iter().find(|(known, _)| *known == name).map(|(_, path)| Named::Kept(path))
        };
        if on_top {
            self.in_tools = TOOLS.contains(&name.as_ref());
            self.awaits_background = name == BACKGROUND;
            self.needs.has_other_models |= OTHER_MODELS.contains(&name.as_ref());
        }
        if on_top && name == "model" {
            self.needs.has_other_models |= written != "model";
            self.named_models += 1;
            return Some(Named::Model);
        }
        if self.in_tools && name == "model" {
            return Some(Named::ModelOfTool);
        }
        match of_object {
            Some(Named::Input) => Field::of(&name).map(Named::InputField).or_else(|| kept(IDS)),
            // An object in place of an id: its `id` is meant.
            Some(_) if name == "id" => of_object,
            _ if on_top && name == PREVIOUS => Some(Named::Answer),
            _ if on_top && name == CONVERSATION => Some(Named::Kept("conversations")),
            _ if on_top && self.of_responses && name == "input" => Some(Named::Input),
            _ if on_top && self.of_responses && name == "prompt" => Some(Named::Kept("prompts")),
            _ => kept(IDS),
        }
    }

    fn note(&mut self, named: Named, text: String) {
        match named {
            _ if text.is_empty() => {}
            Named::Kept(path) if self.needs.paths.iter().any(|noted| noted == path) => {}
            Named::Kept(path) => self.needs.paths.push(path.into()),
            Named::Answer | Named::InputField(Field::Id) => self.needs.objects.push(text),
            Named::Model => self.models.push(text),
            Named::ModelOfTool => self.needs.models_of_tools.push(text),
            Named::Input | Named::InputField(_) => {}
        }
    }

    /// Reads a form as the object that its parts are, each of which may be JSON. The name of a part may have
    /// an id's name in it, such as `image[0][file_id]`.
    fn read_form(&mut self, body: &[u8], of_responses: bool) -> Result<(), Error> {
        // Some read a body without a look at what it is declared to be.
        if !body.trim_ascii_start().starts_with(b"--") {
            return Err(Error::new(
                Kind::InvalidRequest,
                "the request body is declared as a form, and begins like none",
            )
            .hinted("send JSON as `application/json`"));
        }
        for Part { name, value } in parts::of(body) {
            let (name, written) = (folded(&name).into_owned(), name);
            let words = || name.split(|c: char| !c.is_alphanumeric() && c != '_');
            let value = value.trim_ascii();
            let is_json = value.starts_with(b"{") || value.starts_with(b"[");
            // What is longer is no id, but a file.
            let text = String::from_utf8_lossy(&value[..value.len().min(LONGEST_VALUE)]);
            if words().next() == Some("model") {
                self.needs.has_other_models |= written != "model";
                self.named_models += 1;
                self.models.push(text.into_owned());
                continue;
            }
            for (_, path) in IDS.iter().filter(|(known, _)| words().any(|word| word == *known)) {
                self.note(Named::Kept(path), text.clone().into_owned());
            }
            let value = if is_json { value.into() } else { Cow::Owned(json!(text).to_string().into_bytes()) };
            let part = [b"{", json!(words().next()).to_string().as_bytes(), b":", &value, b"}"].concat();
            check_depth(&part)?;
            self.read(&part, of_responses);
        }
        self.needs.has_other_models |= self.named_models > 1;
        Ok(())
    }
}

impl Open {
    /// What a value that begins here names.
    fn value(&self) -> Option<Named> {
        if self.is_object { self.next } else { self.names }
    }
}

/// A text of JSON without its escapes. What is no text in the end is no name and no id of anything.
fn unescaped(text: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', text).is_none() {
        return String::from_utf8_lossy(text);
    }
    let quoted = [b"\"", text, b"\""].concat();
    serde_json::from_slice(&quoted).map_or(Cow::Borrowed("\u{fffd}"), Cow::Owned)
}

/// A name as those read it who take no notice of case, such as Go's `encoding/json`, for which even `ſ` is an `s`
/// and the sign for kelvin a `k`.
fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return Cow::Borrowed(name);
    }
    let upper = name.chars().flat_map(char::to_uppercase);
    Cow::Owned(upper.flat_map(char::to_lowercase).collect())
}

#[cfg(test)]
mod tests;
