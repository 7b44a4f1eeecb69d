//! The faces: each translates between a wire format and the use cases, and decides nothing.

pub mod audit;
pub mod calls;
pub mod console;
pub mod conversations;
pub mod dify;
pub mod docs;
pub mod doctor;
pub mod home;
pub mod idempotency;
pub mod kept;
pub mod keys;
pub mod live;
pub mod mcp;
pub mod metrics;
pub mod openai;
pub mod session;
pub mod statistics;
pub mod tools;
pub mod upstream;
pub mod usage;

use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::error::{Error, Kind};
use crate::http::auth::Access;
use crate::http::documents::{Documents, IsTold, LeftOut, Sources};
use crate::http::failure::{ErrorRenderers, Failure};

/// Every operation, served and documented.
pub fn routes(config: &mut ServiceConfig) {
    // The first ones are found first, and most requests come here. Those of `tools` have a pattern among
    // them, which costs more to compare than a path.
    openai::routes(config);
    tools::routes(config);
    mcp::routes(config);
    conversations::routes(config);
    usage::routes(config);
    calls::routes(config);
    statistics::routes(config);
    session::routes(config);
    upstream::routes(config);
    keys::routes(config);
    audit::routes(config);
    kept::routes(config);
    console::routes(config);
    doctor::routes(config);
    home::routes(config);
    live::routes(config);
    metrics::routes(config);
    docs::routes(config);
    dify::routes(config);
}

/// What is served beside the operations: the files of the page, Swagger UI, and the answer where
/// nothing else does.
pub fn pages(config: &mut web::ServiceConfig) {
    openai::pages(config);
    docs::pages(config);
    dify::pages(config);
    console::pages(config);
    home::assets(config);
    config.default_service(web::to(not_found));
}

/// How failures are written on the paths of those APIs that have a shape of their own.
pub const ERROR_RENDERERS: ErrorRenderers =
    ErrorRenderers(&[&openai::Renderer, &mcp::Renderer, &tools::AskRenderer]);

/// To whom each path is open; to all also the metrics, where that is set.
pub fn access(metrics: bool) -> fn(&str) -> Access {
    if metrics { |path| if path == "/metrics" { Access::Public } else { access_to(path) } } else { access_to }
}

fn access_to(path: &str) -> Access {
    if is_public(path) {
        Access::Public
    } else if is_owners(path) {
        Access::Owner
    } else {
        Access::Caller
    }
}

/// What touches the upstream's account, or shows what others do.
fn is_owners(path: &str) -> bool {
    matches!(
        path,
        "/api/session"
            | "/api/kept"
            | "/api/backup"
            | "/api/upstream"
            | "/api/doctor"
            | "/metrics"
            | "/api/keys"
            | "/api/audit"
            | "/api/usage/all"
            | "/api/calls"
            | "/api/calls/live"
            | "/api/statistics"
    ) || path.starts_with("/api/keys/")
        || path.starts_with("/api/upstream/")
        || path.starts_with("/api/kept/")
        || console::is_owners(path)
}

/// What importers, browsers and platforms read before they have a key.
fn is_public(path: &str) -> bool {
    matches!(
        path,
        "/" | "/health"
            | "/ready"
            | "/openapi.json"
            | "/openapi.yaml"
            | "/openapi/full.json"
            | "/docs"
            | "/dify"
            | "/favicon.ico"
    ) || is_well_known(path)
        || console::is_frame(path)
        || path.starts_with("/docs/")
        || path.starts_with("/dify/")
        || path.starts_with("/assets/")
}

/// The path that is meant by one that people paste or type by mistake; `None` for one that is good as it is.
pub fn meant(path: &str) -> Option<String> {
    match path {
        "/mcp/" | "/api/chat/" => path.strip_suffix('/').map(String::from),
        _ => openai::paths::canonical(path),
    }
}

/// What is looked for before there is a key: RFC 8615. MCP's clients look for an authorization server there;
/// on 401 they would tell their user of that one instead of the key, so what is not there has to be 404.
fn is_well_known(path: &str) -> bool {
    path.strip_prefix("/mcp").unwrap_or(path).starts_with("/.well-known/")
}

/// What importers need not know, by path.
const LEFT_OUT: LeftOut = &[("/api/chat", &["upstream", "shape", "wait_seconds"])];
const LEFT_OUT_WITH_ANSWERS: LeftOut =
    &[("/api/chat", &["upstream", "shape"]), ("/api/answers/{response_id}", &["upstream"])];

/// The documents of [`routes`]; with `long_answers`, importers learn of answers to come back for.
pub fn documents(long_answers: bool) -> Documents {
    let (is_told, left_out): (IsTold, _) = if long_answers {
        (|id, document| tools::is_told(id, document, true), LEFT_OUT_WITH_ANSWERS)
    } else {
        (|id, document| tools::is_told(id, document, false), LEFT_OUT)
    };
    Documents::new(Sources { base: docs::base, tools: tools::routes, is_told, all: routes, left_out })
}

/// 405 where another method would be answered, else 404.
async fn not_found(request: HttpRequest, documents: Data<Documents>) -> Result<HttpResponse, Failure> {
    let allowed = documents.methods(request.path());
    Err(if allowed.is_empty() {
        Failure::new(&request, Error::new(Kind::NotFound, "there is nothing at this path"))
    } else {
        Failure::method(&request, allowed.join(", "))
    })
}

#[cfg(test)]
mod tests;
