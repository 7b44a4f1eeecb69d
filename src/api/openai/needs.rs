//! What of the upstream's account a request touches: its path, and what its body names by an id.
//!
//! Open to every key is what answers a question and is then forgotten. What the account keeps (files, batches,
//! stores of vectors, other people's answers) needs more: see [`Needs`].

use std::borrow::Cow;

use serde::de::IgnoredAny;

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
];

/// The same, but only at the top of a body, where their values may also stand in an object's `id`.
const IDS_ON_TOP: &[(&str, &str)] = &[("conversation", "conversations"), ("prompt", "prompts")];

/// Names at the top of a body under which some upstreams take models to fall back on.
const OTHER_MODELS: [&str; 2] = ["models", "fallbacks"];

/// What a text in a body names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// Something that the upstream keeps under this path.
    Kept(&'static str),
    /// An answer that the upstream keeps.
    Answer,
    /// The model that is asked.
    Model,
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
    if is_form {
        seen.read_form(body)?;
    } else if !body.is_empty() {
        check_depth(body)?;
        serde_json::from_slice::<IgnoredAny>(body).map_err(|error| {
            Error::new(Kind::InvalidJson, format!("the request body is no JSON: {error}"))
                .hinted("send JSON in UTF-8")
        })?;
        seen.read(body, path.first().is_some_and(|first| first == "responses"));
    }
    let Seen { mut needs, mut models, .. } = seen;
    let whole = path.join("/");
    let is_open = OPEN.iter().any(|(open, methods)| {
        methods.contains(&method)
            && if open.ends_with('/') { whole.starts_with(open) } else { whole == *open }
    });
    match path {
        [first, id, ..] if first == "responses" && method == "GET" => needs.objects.push(id.clone()),
        _ if !is_open => needs.paths.insert(0, whole),
        _ => {}
    }
    needs.makes_object = method == "POST" && path.len() == 1 && path[0] == "responses";
    let model = models.pop().filter(|_| !needs.has_other_models);
    Ok((needs, model))
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
    of_responses: bool,
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
        self.needs.has_other_models |= self.models.len() > 1;
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
        if on_top && name == "model" {
            self.needs.has_other_models |= written != "model";
            return Some(Named::Model);
        }
        self.needs.has_other_models |= on_top && OTHER_MODELS.contains(&name.as_ref());
        match of_object {
            Some(Named::Input) => Field::of(&name).map(Named::InputField).or_else(|| kept(IDS)),
            // An object in place of an id: its `id` is meant.
            Some(_) if name == "id" => of_object,
            _ if on_top && self.of_responses && name == "previous_response_id" => Some(Named::Answer),
            _ if on_top && self.of_responses && name == "input" => Some(Named::Input),
            _ if on_top && self.of_responses => kept(IDS_ON_TOP).or_else(|| kept(IDS)),
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
            Named::Input | Named::InputField(_) => {}
        }
    }

    /// Reads a form. The name of a part may have an id's name in it, such as `image[0][file_id]`.
    fn read_form(&mut self, body: &[u8]) -> Result<(), Error> {
        for Part { name, value } in parts::of(body) {
            let (name, written) = (folded(&name).into_owned(), name);
            let words = || name.split(|c: char| !c.is_alphanumeric() && c != '_');
            for (_, path) in IDS.iter().filter(|(known, _)| words().any(|word| word == *known)) {
                self.note(Named::Kept(path), value.clone());
            }
            if words().next() == Some("model") {
                self.needs.has_other_models |= written != "model";
                self.models.push(value);
            }
        }
        self.needs.has_other_models |= self.models.len() > 1;
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
mod tests {
    use super::*;

    fn needs(method: &str, path: &str, body: &str) -> Needs {
        let path: Vec<String> = path.split('/').map(String::from).collect();
        of_request(method, &path, body.as_bytes(), false).expect("JSON").0
    }

    #[test]
    fn what_is_forgotten_afterwards_is_open_and_what_the_account_keeps_is_not() {
        for (method, path) in [
            ("POST", "embeddings"),
            ("POST", "responses"),
            ("POST", "images/generations"),
            ("POST", "audio/speech"),
            ("GET", "models/a"),
            ("POST", "messages"),
        ] {
            assert!(needs(method, path, "{}").paths.is_empty(), "{method} {path}");
        }
        for (method, path) in [
            ("GET", "files"),
            ("DELETE", "files/file-1"),
            ("DELETE", "models/ft:a"),
            ("GET", "embeddings"),
            ("DELETE", "responses/resp_1"),
            ("POST", "responses/resp_1/cancel"),
            ("DELETE", "images/1"),
            ("GET", "organization/admin_api_keys"),
            ("GET", "imagesx"),
            ("GET", "chat/completions/chatcmpl-1"),
        ] {
            assert_eq!(needs(method, path, "").paths, [path], "{method} {path}");
        }
        let read = needs("GET", "responses/resp_1/input_items", "");
        assert_eq!((read.objects, read.paths), (vec!["resp_1".to_string()], vec![]));
    }

    #[test]
    fn ids_in_a_body_need_what_they_name() {
        for (body, paths) in [
            (r#"{"conversation":"conv_1"}"#, vec!["conversations"]),
            (r#"{"conversation":{"id":"conv_1"}}"#, vec!["conversations"]),
            (r#"{"conversation":null,"prompt":{"id":"pmpt_1"}}"#, vec!["prompts"]),
            (r#"{"input":[{"content":[{"type":"input_file","file_id":"file-1"}]}]}"#, vec!["files"]),
            (r#"{"input":[{"content":[{"file\u005fid":"file-1"}]}]}"#, vec!["files"]),
            (r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]}"#, vec!["vector_stores"]),
            (r#"{"tools":[{"type":"code_interpreter","container":"cntr_1"}]}"#, vec!["containers"]),
            (r#"{"tools":[{"type":"code_interpreter","container":{"type":"auto"}}]}"#, vec![]),
            (r#"{"input":"what is a file_id? conversation"}"#, vec![]),
            // The description of a tool that has such a parameter.
            (r#"{"tools":[{"parameters":{"properties":{"file_id":{"type":"string"}}}}]}"#, vec![]),
        ] {
            let seen = needs("POST", "responses", body);
            let seen: Vec<_> = seen.paths.iter().map(String::as_str).collect();
            assert_eq!(seen, paths, "{body}");
        }
        let goes_on = needs("POST", "responses", r#"{"previous_response_id":"resp_9"}"#);
        assert_eq!((goes_on.objects, goes_on.makes_object), (vec!["resp_9".to_string()], true));
        assert_eq!(of_chat(br#"{"container":"container_1"}"#).paths, ["containers"]);
        let chat = of_chat(br#"{"messages":[{"content":[{"file":{"file_id":"f"}}]}],"prompt":"x"}"#);
        assert_eq!(chat.paths, ["files"]);
        assert!(of_chat(br#"{"prompt":{"id":"x"},"tool_call_id":"c"}"#).paths.is_empty());
    }

    #[test]
    fn an_input_that_refers_to_a_part_of_an_answer_needs_its_maker() {
        for (part, ids) in [
            (r#"{"type":"item_reference","id":"msg_1"}"#, vec!["msg_1"]),
            (r#"{"id":"msg_1"}"#, vec!["msg_1"]),
            (r#"{"id":"a","type":"message","Type":"item_reference","ID":"b"}"#, vec!["a", "b"]),
            (r#"{"type":"item\u005freference","content":"x","id":"msg_1"}"#, vec!["msg_1"]),
            (r#"{"type":"image_generation_call","id":"ig_1"}"#, vec!["ig_1"]),
            (r#"{"type":"reasoning","id":"rs_1","summary":[]}"#, vec!["rs_1"]),
            (r#"{"type":"reasoning","id":"rs_1","encrypted_content":"x"}"#, vec![]),
            (
                r#"{"type":"reasoning","id":"rs_1","encrypted_content":"x","encrypted_content":null}"#,
                vec!["rs_1"],
            ),
            // A part of an earlier answer with all that is in it.
            (
                r#"{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"x"}]}"#,
                vec![],
            ),
            (r#"{"role":"user","id":"msg_1","content":"x"}"#, vec![]),
            (r#"{"role":"user","content":[{"type":"item_reference","id":"msg_1"}]}"#, vec![]),
        ] {
            let seen = needs("POST", "responses", &format!(r#"{{"input":[{part}]}}"#));
            assert_eq!(seen.objects, ids, "{part}");
            assert!(needs("POST", "embeddings", &format!(r#"{{"input":[{part}]}}"#)).objects.is_empty());
        }
        let with_file = r#"{"input":[{"type":"x","file_id":"f"}]}"#;
        assert_eq!(needs("POST", "responses", with_file).paths, ["files"]);
    }

    #[test]
    fn what_any_reader_of_the_body_would_find_is_found() {
        for body in [
            r#"{"previous_response_id":1,"previous_response_id":"resp_9"}"#,
            r#"{"previous_response_id":"resp_9","previous_response_id":null}"#,
            r#"{"x":"\ud800","previous_response_id":"resp_9"}"#,
            r#"{"x":1e999,"previous_response_id":"resp_9"}"#,
            r#"{"x":"\"}","Previous_Response_ID":"resp_9"}"#,
            r#"{"previou\u017f_response_id":"resp\u005f9"}"#,
            r#"{"previous_response_id":["resp_9"]}"#,
        ] {
            assert_eq!(needs("POST", "responses", body).objects, ["resp_9"], "{body}");
        }
        assert_eq!(of_chat(r#"{"x":"\ud800","FILE_ID":"f"}"#.as_bytes()).paths, ["files"]);
        assert!(of_chat(r#"{"\"file_id":"f","file_id":"","x":["file_id","f"]}"#.as_bytes()).paths.is_empty());
        let path = ["responses".to_string()];
        let utf16: Vec<u8> = r#"{"a":1}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let nested = format!("{}{}", "[".repeat(65), "]".repeat(65));
        for body in [&b"{\"x\":NaN}"[..], b"/**/{}", b"\xef\xbb\xbf{}", b"{}{}", &utf16, nested.as_bytes()] {
            assert!(of_request("POST", &path, body, false).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn the_model_is_what_any_reader_of_the_body_would_take() {
        let path = ["embeddings".to_string()];
        let model = |body: &str| of_request("POST", &path, body.as_bytes(), false).expect("JSON").1;
        assert_eq!(model(r#"{"model":"a","input":{"model":"b"}}"#).as_deref(), Some("a"));
        for body in [
            r#"{"input":"model"}"#,
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MODEL":"b"}"#,
            r#"{"model":"a","models":["b"]}"#,
        ] {
            assert_eq!(model(body), None, "{body}");
        }
        let part = |head: &str, value: &str| {
            format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
        };
        let form =
            |parts: &[String]| of_request("POST", &path, parts.concat().as_bytes(), true).expect("a form");
        let good = part("name=\"model\"", "a");
        assert_eq!(form(&[good.clone(), part("name=\"file\"; filename=\"b\"", "x")]).1.as_deref(), Some("a"));
        for head in [
            "name=model",
            "name=\"model\"",
            "x=y;\r\n Name = Model",
            "name=\"mo\\del\"",
            "name*=utf-8''mod%65l",
        ] {
            assert_eq!(form(&[good.clone(), part(head, "b")]).1, None, "{head}");
        }
        for head in ["name=\"image[0][file_id]\"", "name=file_id", "name=\"File_ID\""] {
            assert_eq!(form(&[part(head, "file-1")]).0.paths, ["files"], "{head}");
        }
    }
}
