//! The page that tells how to bring this service into Dify and elsewhere.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::context;
use minijinja::value::Serde;

use super::page::{self, Page};
use crate::api::dify;
use crate::http::auth::Guard;
use crate::http::base_url::Peers;
use crate::http::page::Language;
use crate::reachability::Unreachable;

/// The page.
pub const PAGE: Page = Page {
    id: "connect",
    is_listed: true,
    template: include_str!("connect.html"),
    messages: [include_str!("messages.connect.en.json"), include_str!("messages.connect.zh-Hant.json")],
    script: None,
    style: "",
};

#[get("/console/part/connect")]
pub async fn part(request: HttpRequest, peers: Data<Peers>, guard: Data<Guard>) -> HttpResponse {
    let (language, base) = (Language::of(&request), peers.base_url(&request));
    let is_older = request.query_string().split('&').any(|pair| pair == "dify=older");
    let context = context! {
        base => &base,
        apps => Serde(dify::listed(language, &base)),
        reach => Unreachable::of(&base).map(Unreachable::name),
        needs_key => guard.needs_key(),
        older => is_older,
    };
    page::part(&PAGE, language, context)
}
