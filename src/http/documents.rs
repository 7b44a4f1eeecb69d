//! The documents that are made of the handlers' annotations: for importers, and one for everything.
//!
//! Importers understand less than OpenAPI 3.1 says, so their document holds the tool operations
//! alone, in the words of OpenAPI 3.0.3, with every reference written out. Some of them refuse a whole
//! document for one operation that does not answer in JSON (Coze does), so Dify has one of its own.

use std::sync::OnceLock;

use actix_web::App;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

/// Which document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The tool operations that every importer understands.
    Tools,
    /// All tool operations.
    Dify,
    /// Every endpoint.
    Full,
}

/// Paths, and the properties and parameters that are left out of all schemas there.
pub type LeftOut = &'static [(&'static str, &'static [&'static str])];

/// Whether a document for importers tells of the operation with an id.
pub type IsTold = fn(&str, Document) -> bool;

/// What the documents are made of.
pub struct Sources {
    /// The part that belongs to no operation.
    pub base: fn() -> OpenApi,
    /// Adds the operations for importers.
    pub tools: fn(&mut ServiceConfig),
    /// Which of those stand in a document.
    pub is_told: IsTold,
    /// Adds every operation.
    pub all: fn(&mut ServiceConfig),
    /// What the importers' document does not tell.
    pub left_out: LeftOut,
}

/// The documents, without a server. They are collected when the first one is asked for: most
/// processes start, and run long, before anyone imports.
pub struct Documents {
    sources: Sources,
    collected: OnceLock<Collected>,
}

struct Collected {
    tools: Value,
    dify: Value,
    full: Value,
}

impl Documents {
    /// Those of these sources.
    pub fn new(sources: Sources) -> Self {
        Documents { sources, collected: OnceLock::new() }
    }

    fn collected(&self) -> &Collected {
        self.collected.get_or_init(|| {
            let Sources { base, tools, is_told, all, left_out } = self.sources;
            let mut dify = for_importers(collect(base, tools));
            for (path, names) in left_out {
                if let Some(item) = dify["paths"].get_mut(path) {
                    leave_out(item, names);
                }
            }
            let mut tools = dify.clone();
            tell_only(&mut tools, |id| is_told(id, Document::Tools));
            tell_only(&mut dify, |id| is_told(id, Document::Dify));
            let mut full = collect(base, all);
            spell_null_out(&mut full);
            Collected { tools, dify, full }
        })
    }

    /// A document for a service at `server`, an absolute URL without a trailing slash.
    pub fn at(&self, document: Document, server: &str) -> Value {
        let mut value = match document {
            Document::Tools => self.collected().tools.clone(),
            Document::Dify => self.collected().dify.clone(),
            Document::Full => self.collected().full.clone(),
        };
        if let Some(object) = value.as_object_mut() {
            object.insert("servers".into(), json!([{ "url": server }]));
            // Next to the title, where a reader looks for it.
            let paths = object.shift_remove("paths");
            let components = object.shift_remove("components");
            let tags = object.shift_remove("tags");
            for (key, value) in [("tags", tags), ("paths", paths), ("components", components)] {
                object.extend(value.map(|value| (key.to_string(), value)));
            }
        }
        value
    }

    /// The methods that the documents give for a path.
    pub fn methods(&self, path: &str) -> Vec<String> {
        let fits = |template: &str| {
            let (mut parts, mut segments) = (template.split('/'), path.split('/'));
            parts
                .by_ref()
                .zip(segments.by_ref())
                .all(|(part, segment)| part == segment || part.starts_with('{'))
                && template.split('/').count() == path.split('/').count()
        };
        let items = self.collected().full["paths"].as_object().into_iter().flatten();
        let item = items.filter(|(template, _)| fits(template)).find_map(|(_, item)| item.as_object());
        let methods = item.into_iter().flat_map(Map::keys).map(|method| method.to_ascii_uppercase());
        methods
            .flat_map(|method| if method == "GET" { vec![method, "HEAD".into()] } else { vec![method] })
            .collect()
    }
}

/// The document of the handlers that these add.
fn collect(base: fn() -> OpenApi, routes: fn(&mut ServiceConfig)) -> Value {
    let (_, document) = App::new().into_utoipa_app().openapi(base()).configure(routes).split_for_parts();
    let mut document =
        serde_json::to_value(document).expect("a document is made of texts, numbers, lists and maps");
    unwrap_lines(&mut document);
    document
}

/// The text of a document in YAML.
pub fn yaml(document: &Value) -> String {
    yaml_serde::to_string(document).expect("a document is made of texts, numbers, lists and maps")
}

/// Joins the lines of each paragraph: the breaks are those of the source code's margin.
fn unwrap_lines(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(unwrap_lines),
        Value::Object(object) => {
            if let Some(Value::String(text)) = object.get_mut("description") {
                let paragraphs: Vec<String> =
                    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
                *text = paragraphs.join("\n\n");
            }
            object.values_mut().for_each(unwrap_lines);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What a schema says about a value whatever its type.
const ANNOTATIONS: [&str; 8] =
    ["title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"];

/// Says null by a choice in place of a list of types: `anyOf` means the same, generators know it from
/// FastAPI, and Dify, which fails on any list of types in a request, takes such a parameter for a text.
fn spell_null_out(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(spell_null_out),
        Value::Object(object) => {
            object.values_mut().for_each(spell_null_out);
            let is_list = object.get("type").is_some_and(Value::is_array);
            if is_list && drop_null(object) {
                let (annotations, schema) = std::mem::take(object)
                    .into_iter()
                    .partition::<Map<_, _>, _>(|(key, _)| ANNOTATIONS.contains(&key.as_str()));
                *object = annotations;
                object.insert("anyOf".into(), json!([schema, { "type": "null" }]));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Turns a document of OpenAPI 3.1 into one of 3.0.3 that every importer understands.
fn for_importers(mut document: Value) -> Value {
    let schemas = document["components"]["schemas"].take();
    let mut paths = document["paths"].take();
    if let Some(items) = paths.as_object_mut() {
        for operation in items.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
            let is_request = |part: &str| part == "requestBody";
            for (part, value) in operation.as_object_mut().into_iter().flatten() {
                simplify(value, &schemas, is_request(part));
            }
        }
    }
    document["paths"] = paths;
    document["openapi"] = "3.0.3".into();
    if let Some(components) = document["components"].as_object_mut() {
        components.remove("schemas");
    }
    if let Some(info) = document["info"].as_object_mut() {
        // The identifier of a licence is new in 3.1.
        info.insert("license".into(), json!({ "name": "MIT", "url": "https://spdx.org/licenses/MIT.html" }));
    }
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.retain(|tag| tag["name"] == "tools");
    }
    document
}

/// Leaves those operations alone whose ids are told.
fn tell_only(document: &mut Value, is_told: impl Fn(&str) -> bool) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for operations in paths.values_mut().filter_map(Value::as_object_mut) {
        operations.retain(|_, operation| operation["operationId"].as_str().is_some_and(&is_told));
    }
    paths.retain(|_, item| item.as_object().is_some_and(|operations| !operations.is_empty()));
}

/// Takes properties and parameters of these names out.
fn leave_out(value: &mut Value, names: &[&str]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| leave_out(item, names)),
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                properties.retain(|name, _| !names.contains(&name.as_str()));
            }
            if let Some(Value::Array(parameters)) = object.get_mut("parameters") {
                let is_named =
                    |parameter: &Value| parameter["name"].as_str().is_some_and(|name| names.contains(&name));
                parameters.retain(|parameter| !is_named(parameter));
                if parameters.is_empty() {
                    object.shift_remove("parameters");
                }
            }
            object.values_mut().for_each(|inner| leave_out(inner, names));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Writes references out and says null the way of 3.0: not at all in requests, where a parameter
/// is left out instead, and as `nullable` in answers.
fn simplify(value: &mut Value, schemas: &Value, in_request: bool) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| simplify(item, schemas, in_request)),
        Value::Object(object) => {
            let reference =
                object.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            if let Some(schema) = reference.and_then(|name| schemas.get(name)) {
                let mut schema = schema.clone();
                simplify(&mut schema, schemas, in_request);
                *value = schema;
                return;
            }
            let nullable = drop_null(object);
            object.values_mut().for_each(|inner| simplify(inner, schemas, in_request));
            if nullable {
                hoist_single(object);
                if !in_request {
                    object.insert("nullable".into(), true.into());
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes null out of the types that a schema allows; says whether it was there.
fn drop_null(schema: &mut Map<String, Value>) -> bool {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        let before = types.len();
        types.retain(|kind| kind != "null");
        let nullable = types.len() < before;
        if let [single] = types.as_slice() {
            let single = single.clone();
            schema.insert("type".into(), single);
        }
        return nullable;
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(Value::Array(choices)) = schema.get_mut(key) {
            let before = choices.len();
            choices.retain(|choice| choice["type"] != "null");
            return choices.len() < before;
        }
    }
    false
}

/// Replaces a choice of one by that one; the description beside the choice wins over its own.
fn hoist_single(schema: &mut Map<String, Value>) {
    for key in ["oneOf", "anyOf"] {
        if let Some([Value::Object(single)]) = schema.get(key).and_then(Value::as_array).map(Vec::as_slice) {
            let mut single = single.clone();
            schema.remove(key);
            single.extend(std::mem::take(schema));
            *schema = single;
        }
    }
}

/// JSON for people and diffs.
pub fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_said_the_way_of_3_0() {
        let schemas = json!({"E": {"type": "object", "description": "own", "properties": {"n": {"type": ["integer", "null"]}}}});
        let mut answer =
            json!({"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/E"}], "description": "beside"});
        simplify(&mut answer, &schemas, false);
        let expected = json!({
            "type": "object",
            "description": "beside",
            "properties": {"n": {"type": "integer", "nullable": true}},
            "nullable": true,
        });
        assert_eq!(answer, expected);
        let mut request = json!({"type": ["string", "null"], "default": ""});
        simplify(&mut request, &schemas, true);
        assert_eq!(request, json!({"type": "string", "default": ""}));
    }

    #[test]
    fn null_is_said_without_a_list_of_types() {
        let mut schema = json!({
            "properties": {"n": {"type": ["integer", "null"], "format": "int64", "minimum": 0, "description": "how many"}},
        });
        spell_null_out(&mut schema);
        let expected = json!({
            "properties": {
                "n": {
                    "description": "how many",
                    "anyOf": [{"type": "integer", "format": "int64", "minimum": 0}, {"type": "null"}],
                },
            },
        });
        assert_eq!(schema, expected);
    }
}
