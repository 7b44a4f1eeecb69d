//! The console: the owner's pages. `/console` and `/console/{page}` are frames without data, open to all; a
//! frame's script signs in, fetches `/console/part/{page}` with the token, and puts that into the frame.
//! Lists and filters are the part's own query, so each view has an address. What pages do is done through the
//! operations of `/api`.
//!
//! A page is one file here with its route, a `Page`, a template, messages in both languages and, where it
//! needs one, a script and a style sheet; it is listed in `PAGES`.

mod advice;
mod assets;
mod changes;
mod connect;
mod figures;
mod keys;
mod maintain;
mod overview;
mod page;
mod setup;
mod sign_in;
mod state;
mod try_it;

use actix_web::http::header;
use actix_web::web::{Data, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa_actix_web::service_config::ServiceConfig as DocumentedConfig;

use crate::domain::error::{Error, Kind};
use crate::gateway::Gateway;
use crate::http::auth::Guard;
use crate::http::failure::Failure;
use crate::http::page::Language;
use page::Page;

/// The pages, in the order of the navigation. The first is at `/console` itself.
const PAGES: &[&Page] =
    &[&overview::PAGE, &try_it::PAGE, &keys::PAGE, &connect::PAGE, &maintain::PAGE, &setup::PAGE];

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut DocumentedConfig) {
    config.service(sign_in::create_console_token);
}

/// Adds frames, parts and their files, which are no operations.
pub fn pages(config: &mut ServiceConfig) {
    config.service(first).service(slashed).service(frame).service(assets::asset);
    config.service(state::part).service(advice::part).service(overview::part).service(overview::list);
    config.service(try_it::part).service(keys::part).service(connect::part);
    config.service(maintain::part).service(maintain::doctor_part).service(setup::part);
}

/// Whether a path is a frame, which holds no data.
pub fn is_frame(path: &str) -> bool {
    path == "/console" || path.strip_prefix("/console/").is_some_and(|page| !page.contains('/'))
}

/// Whether a path is the owner's.
pub fn is_owners(path: &str) -> bool {
    path.starts_with("/console/part/") || path.starts_with("/api/console/")
}

#[get("/console")]
async fn first(request: HttpRequest, guard: Data<Guard>, gateway: Data<Gateway>) -> HttpResponse {
    // While the demo answers there is one thing to do.
    let page = if gateway.is_demo() { &setup::PAGE } else { PAGES[0] };
    page::frame(page, Language::of(&request), &request, &guard)
}

#[get("/console/")]
async fn slashed() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "../console")).finish()
}

#[get("/console/{page}")]
async fn frame(
    request: HttpRequest,
    page: Path<String>,
    guard: Data<Guard>,
) -> Result<HttpResponse, Failure> {
    let page = PAGES.iter().find(|known| known.id == *page);
    let page =
        page.ok_or_else(|| Failure::new(&request, Error::new(Kind::NotFound, "there is no such page")))?;
    Ok(page::frame(page, Language::of(&request), &request, &guard))
}
