//! The page on which a mirror is connected: choose what it speaks, paste or type, see what was read, test, save.
//! It is not in the navigation, and it is the first page while the demo answers. All that is asked of a mirror is
//! asked through `/api/upstream`.

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::context;
use minijinja::value::Serde;
use serde::Deserialize;
use serde_json::{Value, json};

use super::page::{self, Page};
use crate::api::upstream::UpstreamResult;
use crate::doctor::{Doctor, Step};
use crate::domain::error::Kind;
use crate::gateway::UpstreamKeeper;
use crate::http::codes;
use crate::http::page::Language;

/// The page.
pub const PAGE: Page = Page {
    id: "setup",
    is_listed: false,
    template: include_str!("setup.html"),
    messages: [include_str!("messages.setup.en.json"), include_str!("messages.setup.zh-Hant.json")],
    script: Some(include_str!("setup.js")),
    style: include_str!("setup.css"),
};

/// What a mirror may speak, or how its login is given.
const KINDS: [&str; 4] = ["web-chat", "cookie", "openai", "anthropic"];

/// Which view.
#[derive(Deserialize)]
struct SetupQuery {
    kind: Option<String>,
}

#[get("/console/part/setup")]
pub async fn part(
    request: HttpRequest,
    query: Query<SetupQuery>,
    keeper: Data<UpstreamKeeper>,
    doctor: Data<Doctor>,
) -> HttpResponse {
    let kind = query.kind.as_deref().and_then(|kind| KINDS.into_iter().find(|known| *known == kind));
    let language = Language::of(&request);
    let context = context! {
        kind => kind,
        now => Serde(UpstreamResult::of(&keeper, &doctor)),
        keeps => doctor.place.store.lasts(),
        steps => Step::ALL.map(Step::name),
        failures => Serde(failures(language)),
    };
    page::part(&PAGE, language, context)
}

/// What a step may fail for, in words.
pub fn failures(language: Language) -> Vec<Value> {
    let of_a_trial =
        |code: &&str| ["upstream_", "model", "storage_"].iter().any(|start| code.starts_with(start));
    let codes = Kind::ALL.iter().map(|kind| kind.code()).filter(of_a_trial);
    let told = codes.filter_map(|code| Some((code, codes::words(language, code)?)));
    told.map(|(code, words)| json!({"code": code, "what": words.what, "act": words.act})).collect()
}
