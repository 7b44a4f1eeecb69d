//! The documents over HTTP: one for importers, one for everything, and Swagger UI over both.

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse, Responder, get};
use serde::Deserialize;
use serde_json::json;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::error::{Error, Kind};
use crate::http::base_url::Peers;
use crate::http::documents::{Document, Documents, pretty, yaml};
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
pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

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

/// For whom a document is.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct For {
    /// The importer: `dify`, or nothing for any.
    #[param(example = "dify")]
    r#for: Option<String>,
}

/// The document that a request for one is for; of a query that is not understood, the common one.
fn wanted(request: &HttpRequest) -> Document {
    let importer =
        Query::<For>::from_query(request.query_string()).ok().and_then(|query| query.into_inner().r#for);
    match importer {
        Some(importer) if importer.trim().eq_ignore_ascii_case("dify") => Document::Dify,
        Some(_) | None => Document::Tools,
    }
}

/// The document for importers
///
/// The tool operations in OpenAPI 3.0.3: import its URL in Dify as a custom tool. With `?for=dify` it has
/// those too that other importers refuse: `ask`, which answers in plain text.
#[utoipa::path(
    tag = "documents",
    params(For),
    responses(
        (status = 200, description = "An OpenAPI 3.0.3 document", body = Object, content_type = "application/json"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(()),
)]
#[get("/openapi.json")]
async fn openapi_json(request: HttpRequest, documents: Data<Documents>, peers: Data<Peers>) -> HttpResponse {
    let server = peers.base_url(&request);
    document(pretty(&documents.at(wanted(&request), &server)), "application/json")
}

/// The document for importers, as YAML
///
/// The same document as `/openapi.json`.
#[utoipa::path(
    tag = "documents",
    params(For),
    responses(
        (status = 200, description = "An OpenAPI 3.0.3 document", body = Object, content_type = "application/yaml"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(()),
)]
#[get("/openapi.yaml")]
async fn openapi_yaml(request: HttpRequest, documents: Data<Documents>, peers: Data<Peers>) -> HttpResponse {
    // The media type of RFC 9512.
    let server = peers.base_url(&request);
    document(yaml(&documents.at(wanted(&request), &server)), "application/yaml")
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
    let description = &documents.at(Document::Tools, &base)["info"]["description"];
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
