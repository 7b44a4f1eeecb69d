//! The page at `/`: where a person sees what this is, whether the upstream answers, and how to
//! bring it into Dify. It is public, so it says nothing that a key protects.

use std::sync::LazyLock;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gateway::{Gateway, Health};
use crate::http::auth::Guard;
use crate::http::base_url::Peers;
use crate::http::codes;
use crate::http::log_fields::LogFields;
use crate::http::page::{self, Language, messages};
use crate::http::reply;
use crate::reachability::Unreachable;
use crate::version::VERSION;

/// Adds the page to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(home);
}

/// Adds the page's files.
pub fn assets(config: &mut actix_web::web::ServiceConfig) {
    config.service(style).service(script).service(icon).service(favicon);
}

/// The service, for programs.
#[derive(Serialize, ToSchema)]
pub struct HomeResult {
    /// Always `mirrorgate`.
    #[schema(example = "mirrorgate")]
    name: &'static str,
    /// The program's version.
    #[schema(example = "0.2.0")]
    version: &'static str,
    /// The upstream's status: `ok`, `degraded`, `down` or `unknown`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Whether the built-in demo answers, because no upstream is configured.
    #[schema(example = false)]
    demo: bool,
    /// Where to go from here.
    endpoints: Endpoints,
}

/// Absolute URLs of this service.
#[derive(Serialize, ToSchema)]
pub struct Endpoints {
    /// What Dify imports.
    #[schema(example = "https://your-app.example.com/openapi.json")]
    document: String,
    /// The document of everything.
    #[schema(example = "https://your-app.example.com/openapi/full.json")]
    full_document: String,
    /// Swagger UI.
    #[schema(example = "https://your-app.example.com/docs/")]
    docs: String,
    /// Liveness.
    #[schema(example = "https://your-app.example.com/health")]
    health: String,
    /// Readiness.
    #[schema(example = "https://your-app.example.com/ready")]
    ready: String,
}

/// The home page
///
/// A page for browsers; with `Accept: application/json`, the same in short for programs.
#[utoipa::path(
    tag = "documents",
    responses(
        (status = 200, description = "The page", content((HomeResult = "application/json"), (String = "text/html"))),
        (status = "4XX", description = "The request is at fault", body = reply::FailureBody),
    ),
    security(()),
)]
#[get("/")]
async fn home(
    request: HttpRequest,
    gateway: Data<Gateway>,
    peers: Data<Peers>,
    guard: Data<Guard>,
) -> HttpResponse {
    let base = peers.base_url(&request);
    let health = gateway.recent_health().await;
    let mut response = if wants_json(&request) {
        let result = HomeResult {
            name: "mirrorgate",
            version: VERSION,
            status: health.as_ref().map_or("unknown", |health| health.status.name()),
            demo: gateway.is_demo(),
            endpoints: Endpoints {
                document: format!("{base}/openapi.json"),
                full_document: format!("{base}/openapi/full.json"),
                docs: format!("{base}/docs/"),
                health: format!("{base}/health"),
                ready: format!("{base}/ready"),
            },
        };
        reply::json(StatusCode::OK, &result, LogFields::default())
    } else {
        page::html(render(Language::of(&request), &base, health, &gateway, guard.needs_key()))
    };
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("accept, accept-language"));
    response
}

fn render(
    language: Language,
    base: &str,
    health: Option<Health>,
    gateway: &Gateway,
    needs_key: bool,
) -> String {
    static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
        let mut pages = Environment::new();
        pages.add_template("page.html", include_str!("home/page.html")).expect("the page is a good template");
        pages
    });
    let error = health.as_ref().and_then(|health| health.error.as_ref());
    let words = error.and_then(|error| codes::words(language, error.kind.code()));
    let context = context! {
        lang => language.tag(),
        t => Serde(texts(language)),
        version => VERSION,
        base_url => base,
        document_url => format!("{base}/openapi.json"),
        demo => gateway.is_demo(),
        status => health.as_ref().map_or("unknown", |health| health.status.name()),
        cause => words.map(|words| context! { what => &words.what, hint => &words.act }),
        reach => Unreachable::of(base).map(Unreachable::name),
        key_required => needs_key,
    };
    let page = PAGES.get_template("page.html").and_then(|template| template.render(context));
    page.expect("the page names only what the context holds")
}

fn wants_json(request: &HttpRequest) -> bool {
    let accept =
        request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

/// The texts of this page.
fn texts(language: Language) -> &'static Value {
    static ENGLISH: LazyLock<Value> = LazyLock::new(|| messages(include_str!("home/messages.en.json")));
    static CHINESE: LazyLock<Value> = LazyLock::new(|| messages(include_str!("home/messages.zh-Hant.json")));
    match language {
        Language::English => &ENGLISH,
        Language::TraditionalChinese => &CHINESE,
    }
}

fn asset(media_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, media_type))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(text)
}

#[get("/assets/home.css")]
async fn style() -> HttpResponse {
    asset("text/css; charset=utf-8", include_str!("home/style.css"))
}

#[get("/assets/home.js")]
async fn script() -> HttpResponse {
    asset("text/javascript; charset=utf-8", include_str!("home/page.js"))
}

#[get("/assets/favicon.svg")]
async fn icon() -> HttpResponse {
    asset("image/svg+xml", include_str!("home/favicon.svg"))
}

#[get("/favicon.ico")]
async fn favicon() -> HttpResponse {
    asset("image/svg+xml", include_str!("home/favicon.svg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_have_the_same_messages() {
        let keys = |language: Language| {
            texts(language).as_object().map(|object| object.keys().cloned().collect::<Vec<_>>())
        };
        assert_eq!(keys(Language::English), keys(Language::TraditionalChinese));
    }
}
