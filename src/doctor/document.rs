//! An OpenAPI document by the rules of Dify's importer, which are stricter than OpenAPI's and mostly
//! unwritten: what it refuses, what it silently drops, and what other importers stumble over.
//!
//! Here is what holds for the document and its operations; `parameters` has what holds for the
//! values that an operation takes.

mod parameters;

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::finding::Finding;

/// The check's name.
pub const CHECK: &str = "document.rules";

/// The most operations that Dify takes.
const MOST_OPERATIONS: usize = 100;

/// The longest description that GPT Actions take.
const LONGEST: usize = 300;

/// The methods of a path item that are operations.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// What is wrong with a document; nothing when an importer understands all of it.
pub fn check(document: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(document) = document.as_object() else {
        return vec![broken("the document is no JSON object", "serve an OpenAPI document there")];
    };
    for part in ["info", "servers", "paths"] {
        if document.get(part).is_none_or(Value::is_null) {
            findings.push(broken(
                format!("`{part}` is missing"),
                "Dify refuses a document without `info`, `servers` and `paths`: add it",
            ));
        }
    }
    version(document, &mut findings);
    info(document, &mut findings);
    servers(document, &mut findings);
    paths(document, &mut findings);
    findings
}

fn broken(seen: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding::broken(CHECK, seen, advice)
}

fn warning(seen: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding::warning(CHECK, seen, advice)
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).map(str::trim).unwrap_or_default()
}

fn version(document: &Map<String, Value>, findings: &mut Vec<Finding>) {
    match text(document, "openapi") {
        version if version.starts_with("3.0") => {}
        version if version.starts_with("3.") => findings.push(warning(
            format!("`openapi` is `{version}`"),
            "write it in the words of 3.0, which every importer understands (Coze takes no other)",
        )),
        _ => findings.push(broken("`openapi` names no version 3", "give a document of OpenAPI 3.0")),
    }
}

fn info(document: &Map<String, Value>, findings: &mut Vec<Finding>) {
    let Some(info) = document.get("info").and_then(Value::as_object) else { return };
    if text(info, "title").is_empty() {
        findings.push(broken("`info.title` is missing", "name the tool there"));
    }
    if text(info, "description").is_empty() {
        findings.push(warning(
            "`info.description` is missing",
            "say there what the tool is for: Dify shows it, and Coze asks for it",
        ));
    }
}

fn servers(document: &Map<String, Value>, findings: &mut Vec<Finding>) {
    let Some(servers) = document.get("servers").filter(|servers| !servers.is_null()) else { return };
    let servers = servers.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(first) = servers.first() else {
        findings.push(broken("`servers` is empty", "give one server with the service's public URL"));
        return;
    };
    let url = first.get("url").and_then(Value::as_str).unwrap_or_default();
    if !url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
        findings.push(broken(
            format!("`servers[0].url` is `{url}`, which is not absolute"),
            "it imports, and then every call fails: give scheme and host, by setting PUBLIC_URL",
        ));
    }
    if url.ends_with('/') {
        findings.push(broken(
            format!("`servers[0].url` ends in a slash: `{url}`"),
            "Dify puts the path right behind it, which gives `//`: leave the slash out",
        ));
    }
    if url.contains('{') {
        findings.push(broken(
            format!("`servers[0].url` holds a variable: `{url}`"),
            "Dify does not expand it: write the whole URL out",
        ));
    }
    if servers.len() > 1 {
        findings.push(warning(
            format!("`servers` has {} entries", servers.len()),
            "Dify takes the first, Coze refuses more than one: leave one",
        ));
    }
}

fn paths(document: &Map<String, Value>, findings: &mut Vec<Finding>) {
    let Some(paths) = document.get("paths").filter(|paths| !paths.is_null()) else { return };
    let mut names = HashSet::new();
    let mut count = 0;
    for (path, item) in paths.as_object().into_iter().flatten() {
        let Some(item) = item.as_object() else { continue };
        if item.get("parameters").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
            findings.push(broken(
                format!("{path}: parameters stand beside the operations"),
                "Dify ignores them: move them into each operation",
            ));
        }
        for (method, operation) in item.iter().filter(|(method, _)| METHODS.contains(&method.as_str())) {
            count += 1;
            let place = format!("{} {path}", method.to_ascii_uppercase());
            if let Some(operation) = operation.as_object() {
                self::operation(&place, operation, &mut names, findings);
            }
        }
    }
    if count == 0 {
        findings.push(broken("there is no operation in `paths`", "Dify needs one at least"));
    }
    if count > MOST_OPERATIONS {
        findings.push(broken(
            format!("there are {count} operations"),
            format!("Dify takes {MOST_OPERATIONS} at most: give fewer"),
        ));
    }
}

fn operation<'a>(
    place: &str,
    operation: &'a Map<String, Value>,
    names: &mut HashSet<&'a str>,
    findings: &mut Vec<Finding>,
) {
    let id = text(operation, "operationId");
    let is_name = (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !is_name {
        findings.push(broken(
            format!("{place}: the operationId `{id}` can be no tool's name"),
            "use 1 to 64 letters, digits, `_` and `-`",
        ));
    } else if !names.insert(id) {
        findings.push(broken(
            format!("{place}: the operationId `{id}` stands there twice"),
            "give each operation a name of its own",
        ));
    }
    // An empty description wins over a summary.
    let description = match operation.get("description") {
        Some(_) => text(operation, "description"),
        None => text(operation, "summary"),
    };
    if description.is_empty() {
        findings.push(warning(
            format!("{place}: nothing describes the tool"),
            "write a `description`: by it the model chooses among tools",
        ));
    } else if description.chars().count() > LONGEST {
        findings.push(warning(
            format!("{place}: the description has over {LONGEST} characters"),
            "shorten it: GPT Actions take no longer one",
        ));
    }
    let odd = |status: &&String| !matches!(status.as_str(), "200" | "default");
    let responses = operation.get("responses").and_then(Value::as_object);
    if let Some(status) = responses.and_then(|responses| responses.keys().find(odd)) {
        findings.push(warning(
            format!("{place}: the response `{status}` is described"),
            "describe `200` and `default` alone: Coze takes no other",
        ));
    }
    let content = responses.and_then(|responses| responses.get("200")?.get("content")?.as_object());
    if let Some(media) = content.and_then(|content| content.keys().find(|media| *media != "application/json"))
    {
        findings.push(warning(
            format!("{place}: the response is `{media}`"),
            "answer in JSON: Coze refuses the whole document for it, and Dify takes it",
        ));
    }
    parameters::check(place, operation, findings);
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "openapi": "3.0.3",
            "info": {"title": "t", "description": "d"},
            "servers": [{"url": "https://a.example.com"}],
            "paths": {"/api/chat": {"post": {
                "operationId": "chat",
                "description": "asks",
                "parameters": [{"name": "q", "in": "query", "description": "d", "schema": {"type": "string"}}],
                "requestBody": {"content": {"application/json": {"schema": {
                    "type": "object",
                    "required": ["message"],
                    "properties": {
                        "message": {"type": "string", "description": "what is asked"},
                        "count": {"type": "string", "description": "a number", "enum": ["1"]},
                    },
                }}}},
                "responses": {"200": {}, "default": {}},
            }}},
        })
    }

    /// Puts a value at a pointer; null removes what is there.
    fn with(pointer: &str, value: Value) -> Value {
        let mut document = good();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = document.pointer_mut(parent).expect("the parent");
        let key = key.replace("~1", "/");
        match parent {
            Value::Object(object) if value.is_null() => drop(object.remove(&key)),
            Value::Object(object) => drop(object.insert(key, value)),
            Value::Array(list) => list[key.parse::<usize>().expect("an index")] = value,
            _ => panic!("no container"),
        }
        document
    }

    #[test]
    fn a_good_document_and_ours_have_nothing_wrong() {
        assert_eq!(check(&good()), []);
        for long_answers in [false, true] {
            let documents = crate::api::documents(long_answers);
            let ours = documents.at(crate::http::documents::Document::Tools, "https://a.example.com");
            assert_eq!(check(&ours), []);
            // What is for Dify alone has what another importer would stumble over, and nothing else.
            let for_dify = documents.at(crate::http::documents::Document::Dify, "https://a.example.com");
            let found = check(&for_dify);
            assert!(found.len() == 1 && found[0].seen.contains("text/plain"), "{found:#?}");
        }
    }

    #[test]
    fn each_rule_finds_its_bad_document() {
        const OPERATION: &str = "/paths/~1api~1chat/post";
        const BODY: &str = "/paths/~1api~1chat/post/requestBody";
        const CONTENT: &str = "/paths/~1api~1chat/post/requestBody/content";
        const SCHEMA: &str = "/paths/~1api~1chat/post/requestBody/content/application~1json/schema";
        let media = json!({"schema": {"type": "object", "properties": {}}});
        let many: Map<String, Value> = (0..101)
            .map(|n| (format!("/{n}"), json!({"get": {"operationId": format!("o{n}"), "summary": "s"}})))
            .collect();
        let twice = json!({"/a": {"get": {"operationId": "a", "summary": "s"}, "put": {"operationId": "a", "summary": "s"}}});
        let string = json!({"type": "string"});
        let property = |schema: Value| (format!("{SCHEMA}/properties/count"), schema);
        let parameter = |value: Value| (format!("{OPERATION}/parameters/0"), value);
        let at = |base: &str, key: &str, value: Value| (format!("{base}/{key}"), value);
        let cases: Vec<((String, Value), Level, &str)> = vec![
            (at("", "info", json!(null)), Level::Broken, "`info` is missing"),
            (at("", "servers", json!(null)), Level::Broken, "`servers` is missing"),
            (at("", "paths", json!(null)), Level::Broken, "`paths` is missing"),
            (at("", "openapi", json!("3.1.0")), Level::Warning, "3.1.0"),
            (at("", "openapi", json!(null)), Level::Broken, "no version 3"),
            (at("/info", "title", json!(null)), Level::Broken, "info.title"),
            (at("/info", "description", json!("")), Level::Warning, "info.description"),
            (at("", "servers", json!([])), Level::Broken, "`servers` is empty"),
            (at("", "servers", json!([{"url": "/"}])), Level::Broken, "not absolute"),
            (at("", "servers", json!([{"url": "https://a.example.com/"}])), Level::Broken, "slash"),
            (at("", "servers", json!([{"url": "https://{host}"}])), Level::Broken, "variable"),
            (
                at("", "servers", json!([{"url": "https://a"}, {"url": "https://b"}])),
                Level::Warning,
                "2 entries",
            ),
            (at("", "paths", json!({})), Level::Broken, "no operation"),
            (at("", "paths", Value::Object(many)), Level::Broken, "101 operations"),
            (at("", "paths", twice), Level::Broken, "twice"),
            (at("/paths/~1api~1chat", "parameters", json!([{}])), Level::Broken, "beside the operations"),
            (at(OPERATION, "operationId", json!("ask a model")), Level::Broken, "no tool's name"),
            (at(OPERATION, "operationId", json!(null)), Level::Broken, "no tool's name"),
            (at(OPERATION, "description", json!("")), Level::Warning, "nothing describes"),
            (at(OPERATION, "description", json!("x".repeat(301))), Level::Warning, "300"),
            (at(OPERATION, "responses", json!({"200": {}, "404": {}})), Level::Warning, "`404`"),
            (
                at(OPERATION, "responses", json!({"200": {"content": {"text/plain": {}}}})),
                Level::Warning,
                "text/plain",
            ),
            (at(OPERATION, "requestBody", json!({"$ref": "#/x"})), Level::Broken, "a reference"),
            (
                at(BODY, "content", json!({"application/json": media, "text/json": media})),
                Level::Broken,
                "doubled",
            ),
            (
                at(BODY, "content", json!({"application/json; charset=utf-8": media})),
                Level::Broken,
                "charset",
            ),
            (
                at(CONTENT, "application~1json", json!({"schema": {"oneOf": [media]}})),
                Level::Broken,
                "no object",
            ),
            (
                at(CONTENT, "application~1json", json!({"schema": {"type": "array"}})),
                Level::Broken,
                "no object",
            ),
            (
                property(json!({"type": ["string", "null"], "description": "d"})),
                Level::Broken,
                "list of types",
            ),
            (
                property(
                    json!({"type": "object", "description": "d", "properties": {"x": {"type": ["string"]}}}),
                ),
                Level::Broken,
                "list of types",
            ),
            (property(json!({"$ref": "#/x"})), Level::Warning, "a reference"),
            (
                property(json!({"anyOf": [string, {"type": "null"}], "description": "d"})),
                Level::Warning,
                "anyOf",
            ),
            (property(json!({"oneOf": [string], "description": "d"})), Level::Broken, "no type"),
            (property(json!({"enum": ["a"], "description": "d"})), Level::Broken, "no type"),
            (property(string.clone()), Level::Warning, "nothing describes"),
            (property(json!({"type": "integer", "description": "d"})), Level::Warning, "optional number"),
            (property(json!({"type": "boolean", "description": "d"})), Level::Warning, "boolean"),
            (
                parameter(json!({"name": "X-A", "in": "header", "description": "d", "schema": string})),
                Level::Warning,
                "always sent",
            ),
            (parameter(json!({"$ref": "#/x"})), Level::Broken, "a reference"),
            (parameter(json!({"name": "q", "in": "query", "description": "d"})), Level::Broken, "no type"),
        ];
        for ((pointer, value), level, words) in cases {
            let found = check(&with(&pointer, value.clone()));
            let fits = |finding: &Finding| finding.level == level && finding.seen.contains(words);
            assert!(found.iter().any(fits), "{pointer} = {value}: {words}: {found:#?}");
        }
        assert_eq!(check(&json!([]))[0].level, Level::Broken);
    }
}
