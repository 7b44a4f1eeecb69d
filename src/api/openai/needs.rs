//! What of the upstream's account a request touches: its path, and what its body names by an id.
//!
//! Open to every key is what answers a question and is then forgotten. What the account keeps (files, batches,
//! stores of vectors, other people's answers) needs more: see [`Needs`].

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::gateway::Needs;

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

/// What a request of this method to a path under `/v1` needs.
pub fn of_request(method: &str, path: &[String], body: &[u8]) -> Needs {
    let mut needs = of_body(body, path.first().is_some_and(|first| first == "responses"));
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
    needs
}

/// What a body needs. That `of_responses` is read in any case; in others ids are rare, and looked for first.
pub fn of_body(body: &[u8], of_responses: bool) -> Needs {
    let mut needs = Needs::default();
    let mentions = |text: &str| memmem::find(body, text.as_bytes()).is_some();
    // A name may be written with escapes.
    if of_responses || IDS.iter().any(|(name, _)| mentions(name)) || mentions("\\u") {
        let mut json = serde_json::Deserializer::from_slice(body);
        // What is no JSON names nothing: its own error is told elsewhere.
        let _ = Walk { needs: &mut needs, on_top: of_responses, names: None }.deserialize(&mut json);
    }
    needs
}

/// Walks through a value and notes the ids in it.
struct Walk<'n> {
    needs: &'n mut Needs,
    /// Whether it is the whole body, of an API with ids there.
    on_top: bool,
    /// The path of what a text here names.
    names: Option<&'static str>,
}

impl Walk<'_> {
    fn inner(&mut self, names: Option<&'static str>) -> Walk<'_> {
        Walk { needs: self.needs, on_top: false, names }
    }

    fn note(&mut self, text: &str) {
        if let Some(path) = self.names.filter(|_| !text.is_empty())
            && !self.needs.paths.iter().any(|noted| noted == path)
        {
            self.needs.paths.push(path.into());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let named = |list: &[(&str, &'static str)]| {
                list.iter().find(|(known, _)| *known == name).map(|(_, path)| *path)
            };
            if self.on_top && name == "previous_response_id" {
                if let Some(id) = map.next_value::<Option<String>>()?.filter(|id| !id.is_empty()) {
                    self.needs.objects.push(id);
                }
                continue;
            }
            let names = match self.names {
                // An object in place of an id: its `id` is meant.
                Some(path) if name == "id" => Some(path),
                _ if self.on_top => named(IDS_ON_TOP).or_else(|| named(IDS)),
                _ => named(IDS),
            };
            map.next_value_seed(self.inner(names))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let names = self.names;
        while list.next_element_seed(self.inner(names))?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.note(text);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The id of the answer that the upstream keeps, from the answer itself or from its first event.
pub fn object_of(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        id: Option<String>,
        object: Option<String>,
        response: Option<Box<Answer>>,
    }
    let data = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data:")).unwrap_or(text);
    let Answer { id, object, response } = serde_json::from_slice(data).ok()?;
    let (id, object) = response.map_or((id, object), |inner| (inner.id, inner.object));
    id.filter(|_| object.as_deref().is_none_or(|object| object == "response"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(method: &str, path: &str, body: &str) -> Needs {
        let path: Vec<String> = path.split('/').map(String::from).collect();
        of_request(method, &path, body.as_bytes())
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
        assert_eq!(of_body(br#"{"container":"container_1"}"#, false).paths, ["containers"]);
        let chat = of_body(br#"{"messages":[{"content":[{"file":{"file_id":"f"}}]}],"prompt":"x"}"#, false);
        assert_eq!(chat.paths, ["files"]);
        assert!(of_body(br#"{"prompt":{"id":"x"},"tool_call_id":"c"}"#, false).paths.is_empty());
    }

    #[test]
    fn the_id_of_an_answer_is_found_in_it_and_in_its_first_event() {
        assert_eq!(
            object_of(br#"{"id":"resp_1","object":"response","output":[]}"#).as_deref(),
            Some("resp_1")
        );
        let event = b"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_2\",\"object\":\"response\"}}\n\n";
        assert_eq!(object_of(event).as_deref(), Some("resp_2"));
        for text in [&b"{}"[..], b"no", br#"{"id":"x","object":"error"}"#] {
            assert_eq!(object_of(text), None);
        }
    }
}
