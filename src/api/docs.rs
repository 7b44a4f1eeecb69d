//! The documents: one for importers, one for everything, and Swagger UI over both.
//!
//! Both are collected from the handlers' annotations. Importers understand less than OpenAPI 3.1
//! says, so their document holds the tool operations alone, in the words of OpenAPI 3.0.3, with
//! every reference written out.

use std::sync::OnceLock;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::{Data, Path};
use actix_web::{App, HttpRequest, HttpResponse, Responder, get};
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::error::{Error, Kind};
use crate::http::base_url::Peers;
use crate::http::failure::Failure;
use crate::http::reply::FailureBody;

/// Adds the documents to an application and to the full document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(openapi_json).service(openapi_yaml).service(full_json).service(plugin_manifest);
}

/// Adds Swagger UI, which is a page and no operation.
pub fn pages(config: &mut actix_web::web::ServiceConfig) {
    config.service(swagger_root).service(swagger);
}

/// The part of the documents that belongs to no operation.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "mirrorgate",
        description = "Ask a language model behind a mirror: chat with it, list its models, check that it can be reached.",
        license(name = "MIT", identifier = "MIT"),
    ),
    tags(
        (name = "tools", description = "What an agent or a workflow calls"),
        (name = "openai", description = "The OpenAI-compatible interface; what is not listed under /v1 goes through as well"),
        (name = "mcp", description = "The tools over the Model Context Protocol"),
        (name = "conversations", description = "What was said, read back and deleted"),
        (name = "usage", description = "What a key has used"),
        (name = "session", description = "The gateway's login at the upstream"),
        (name = "documents", description = "What importers read"),
        (name = "operations", description = "What platforms and monitors read"),
    ),
    modifiers(&BearerKey),
)]
struct Base;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description =
            Some("A gateway key: one of GATEWAY_API_KEYS, or the one printed at the first start".into());
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// Which document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The tool operations, for importers.
    Tools,
    /// Every endpoint.
    Full,
}

/// Both documents, without a server. They are collected when the first one is asked for: most
/// processes start, and run long, before anyone imports.
pub struct Documents {
    tools: fn(&mut ServiceConfig),
    all: fn(&mut ServiceConfig),
    left_out: &'static [&'static str],
    collected: OnceLock<Collected>,
}

struct Collected {
    tools: Value,
    full: Value,
}

impl Documents {
    /// The documents of the handlers that these add: the tools, without the parameters that are
    /// `left_out`, and everything.
    pub fn new(
        tools: fn(&mut ServiceConfig),
        all: fn(&mut ServiceConfig),
        left_out: &'static [&'static str],
    ) -> Self {
        Documents { tools, all, left_out, collected: OnceLock::new() }
    }

    fn collected(&self) -> &Collected {
        self.collected.get_or_init(|| {
            let mut tools = for_importers(collect(self.tools));
            for path in ["/api/chat", "/api/answers/{response_id}"] {
                if let Some(item) = tools["paths"].get_mut(path) {
                    leave_out(item, self.left_out);
                }
            }
            Collected { tools, full: collect(self.all) }
        })
    }

    /// A document for a service at `server`, an absolute URL without a trailing slash.
    pub fn at(&self, document: Document, server: &str) -> Value {
        let mut value = match document {
            Document::Tools => self.collected().tools.clone(),
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
fn collect(routes: fn(&mut ServiceConfig)) -> Value {
    let (_, document) =
        App::new().into_utoipa_app().openapi(Base::openapi()).configure(routes).split_for_parts();
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

/// Takes properties of these names out of all schemas and examples.
fn leave_out(value: &mut Value, names: &[&str]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| leave_out(item, names)),
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                properties.retain(|name, _| !names.contains(&name.as_str()));
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

/// The document for importers
///
/// The tool operations in OpenAPI 3.0.3: import its URL in Dify as a custom tool.
#[utoipa::path(
    tag = "documents",
    responses(
        (status = 200, description = "An OpenAPI 3.0.3 document", body = Object, content_type = "application/json"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(()),
)]
#[get("/openapi.json")]
async fn openapi_json(request: HttpRequest, documents: Data<Documents>, peers: Data<Peers>) -> HttpResponse {
    document(pretty(&documents.at(Document::Tools, &peers.base_url(&request))), "application/json")
}

/// The document for importers, as YAML
///
/// The same document as `/openapi.json`.
#[utoipa::path(
    tag = "documents",
    responses(
        (status = 200, description = "An OpenAPI 3.0.3 document", body = Object, content_type = "application/yaml"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(()),
)]
#[get("/openapi.yaml")]
async fn openapi_yaml(request: HttpRequest, documents: Data<Documents>, peers: Data<Peers>) -> HttpResponse {
    // The media type of RFC 9512.
    document(yaml(&documents.at(Document::Tools, &peers.base_url(&request))), "application/yaml")
}

/// The full document
///
/// Every endpoint of the service in OpenAPI 3.1, for SDKs and people.
#[utoipa::path(
    tag = "documents",
    responses(
        (status = 200, description = "An OpenAPI 3.1 document", body = Object, content_type = "application/json"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(()),
)]
#[get("/openapi/full.json")]
async fn full_json(request: HttpRequest, documents: Data<Documents>, peers: Data<Peers>) -> HttpResponse {
    document(pretty(&documents.at(Document::Full, &peers.base_url(&request))), "application/json")
}

/// The plugin manifest
///
/// Points older importers at the document.
#[utoipa::path(
    tag = "documents",
    responses(
        (status = 200, description = "A plugin manifest", body = Object, content_type = "application/json"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(()),
)]
#[get("/.well-known/ai-plugin.json")]
async fn plugin_manifest(
    request: HttpRequest,
    documents: Data<Documents>,
    peers: Data<Peers>,
) -> HttpResponse {
    let base = peers.base_url(&request);
    let description = &documents.collected().tools["info"]["description"];
    let manifest = json!({
        "schema_version": "v1",
        "name_for_human": "mirrorgate",
        "name_for_model": "mirrorgate",
        "description_for_human": description,
        "description_for_model": description,
        "auth": { "type": "user_http", "authorization_type": "bearer" },
        "api": { "type": "openapi", "url": format!("{base}/openapi.json") },
        "logo_url": format!("{base}/assets/favicon.svg"),
        "contact_email": "operator@mirrorgate.invalid",
        "legal_info_url": format!("{base}/"),
    });
    document(pretty(&manifest), "application/json")
}

/// JSON for people and diffs.
pub fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Never cached: a proxy between has been seen to keep a document beyond its time.
fn document(text: String, media_type: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, media_type))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text)
}

#[get("/docs")]
async fn swagger_root() -> impl Responder {
    HttpResponse::build(StatusCode::PERMANENT_REDIRECT).insert_header((header::LOCATION, "docs/")).finish()
}

/// Swagger UI from the binary. The policy allows no markup its own styles but the logo, by its hash.
#[get("/docs/{file:.*}")]
async fn swagger(request: HttpRequest, file: Path<String>) -> Result<HttpResponse, Failure> {
    let config = utoipa_swagger_ui::Config::new([
        utoipa_swagger_ui::Url::with_primary("Tools for Dify", "../openapi.json", true),
        utoipa_swagger_ui::Url::new("Everything", "../openapi/full.json"),
    ])
    .try_it_out_enabled(true)
    .display_request_duration(true)
    .validator_url("none");
    let found = utoipa_swagger_ui::serve(&file, std::sync::Arc::new(config)).ok().flatten();
    let file = found
        .ok_or_else(|| Failure::new(&request, Error::new(Kind::NotFound, "there is nothing at this path")))?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, file.content_type.as_str()))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ));
    if file.gzpipped {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response.body(file.bytes.into_owned()))
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
}
