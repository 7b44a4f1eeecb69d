//! How the mirror does, in the words that stand on every page.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::context;

use super::{PAGES, page};
use crate::gateway::Gateway;
use crate::http::page::{Language, html};

#[get("/console/part/state")]
pub async fn part(request: HttpRequest, gateway: Data<Gateway>) -> HttpResponse {
    let health = gateway.recent_health().await;
    let context = context! {
        demo => gateway.is_demo(),
        status => health.as_ref().map_or("unknown", |health| health.status.name()),
        session => health.as_ref().map_or("unknown", |health| health.session.name()),
    };
    html(page::render("state", PAGES[0], Language::of(&request), context))
}
