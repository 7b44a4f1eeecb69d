//! The page to try questions on. It asks through `/v1/chat/completions` as any client would, so that what it
//! shows is what clients get.

use actix_web::web::{Data, ReqData};
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::context;

use super::page::{self, Page};
use crate::gateway::Gateway;
use crate::http::auth::Caller;
use crate::http::base_url::Peers;
use crate::http::codes;
use crate::http::page::Language;

/// The page.
pub const PAGE: Page = Page {
    id: "try",
    is_listed: true,
    template: include_str!("try.html"),
    messages: [include_str!("messages.try.en.json"), include_str!("messages.try.zh-Hant.json")],
    script: Some(include_str!("try.js")),
    style: include_str!("try.css"),
};

#[get("/console/part/try")]
pub async fn part(
    request: HttpRequest,
    gateway: Data<Gateway>,
    caller: ReqData<Caller>,
    peers: Data<Peers>,
) -> HttpResponse {
    let language = Language::of(&request);
    // Where no list is to be had, the default model can still be asked.
    let models = gateway.models_of(&caller.owner).await;
    let failure = models.as_ref().err().and_then(|error| codes::words(language, error.kind.code()));
    let failure = failure.map(|words| words.act.as_str());
    let failed = models.is_err();
    let (models, default_model) = models.map_or((Vec::new(), None), |known| {
        (known.models.into_iter().map(|model| model.id).collect(), known.default_model)
    });
    let context = context! { base => peers.base_url(&request), models, default_model, failed, failure };
    page::part(&PAGE, language, context)
}
