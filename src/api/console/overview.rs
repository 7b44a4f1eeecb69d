//! The page that tells whether all works: a notice where something needs its reader, how the mirror stands,
//! plots of what was asked, and the last calls.

mod calls;
mod notice;
mod plots;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::context;
use minijinja::value::Serde;
use serde::Deserialize;
use serde_json::json;

use super::figures;
use super::page::{self, Page};
use crate::gateway::{By, Gateway, Range, UpstreamState};
use crate::http::body;
use crate::http::failure::Failure;
use crate::http::page::{Language, html};
use crate::traffic::{Call, Filter, Traffic};

/// The page.
pub const PAGE: Page = Page {
    id: "overview",
    is_listed: true,
    template: include_str!("overview.html"),
    messages: [include_str!("messages.overview.en.json"), include_str!("messages.overview.zh-Hant.json")],
    script: Some(include_str!("overview.js")),
    style: concat!(include_str!("vendor/uplot/uPlot.min.css"), "\n", include_str!("overview.css")),
};

/// What the address of the page asks for. A word that means nothing is as none.
#[derive(Deserialize, Default)]
struct View {
    #[serde(default)]
    range: String,
    #[serde(default)]
    by: String,
    /// How far the reader's clock is before UTC, in minutes.
    minutes: Option<i64>,
    key: Option<String>,
    model: Option<String>,
    result: Option<String>,
    /// The call whose row is open.
    call: Option<u64>,
    /// The id of the one request that is listed, with its row open.
    request: Option<String>,
    /// How many calls are listed.
    show: Option<usize>,
}

impl View {
    fn range(&self) -> (Range, &'static str) {
        match self.range.as_str() {
            "hour" => (Range::Hour, "hour"),
            "month" => (Range::Month, "month"),
            _ => (Range::Day, "day"),
        }
    }

    fn by(&self) -> (By, &'static str) {
        match self.by.as_str() {
            "model" => (By::Model, "model"),
            "upstream" => (By::Upstream, "upstream"),
            "code" => (By::Code, "code"),
            _ => (By::Key, "key"),
        }
    }

    fn filter(&self) -> Filter {
        Filter { key: self.key.clone(), model: self.model.clone(), result: self.result.clone() }
    }

    /// Whether a call is listed, where one request alone is.
    fn lists(&self, call: &Call) -> bool {
        self.request.as_deref().is_none_or(|id| id.is_empty() || id == &*call.request_id)
    }

    /// Whether a call's row is open.
    fn opens(&self, call: &Call) -> bool {
        self.call == Some(call.number) || self.request.as_deref() == Some(&*call.request_id)
    }

    /// The address of this view, with other values in some places.
    fn with(&self, changes: &[(&str, Option<&str>)]) -> String {
        let (call, show) = (self.call.map(|id| id.to_string()), self.show.map(|count| count.to_string()));
        let given = [
            ("range", Some(self.range.as_str())),
            ("by", Some(self.by.as_str())),
            ("key", self.key.as_deref()),
            ("model", self.model.as_deref()),
            ("result", self.result.as_deref()),
            ("request", self.request.as_deref()),
            ("show", show.as_deref()),
            ("call", call.as_deref()),
        ];
        let mut query = url::form_urlencoded::Serializer::for_suffix(String::from("?"), 1);
        for (name, value) in given {
            let changed = changes.iter().find(|(changed, _)| *changed == name);
            if let Some(value) = changed.map_or(value, |(_, value)| *value).filter(|value| !value.is_empty())
            {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

#[get("/console/part/overview")]
pub async fn part(
    request: HttpRequest,
    gateway: Data<Gateway>,
    traffic: Data<Traffic>,
) -> Result<HttpResponse, Failure> {
    let view: View = body::query(&request).map_err(|error| Failure::new(&request, error))?;
    let language = Language::of(&request);
    let ((range, range_name), (by, by_name)) = (view.range(), view.by());
    let upstreams = gateway.upstream_states().await;
    let statistics = gateway.statistics(range, by, view.minutes.unwrap_or_default()).await;
    let listed = calls::Listed::of(&traffic, &view, language);
    let notice = notice::worst(&upstreams, statistics.as_ref().err(), gateway.is_demo(), language);
    let found = statistics.ok().filter(|found| found.all.calls > 0);
    let context = context! {
        range => range_name,
        by => by_name,
        ranges => ["hour", "day", "month"].map(|name| (name, view.with(&[("range", Some(name))]))),
        notice => Serde(json!(notice)),
        upstreams => Serde(json!(upstreams.iter().map(facts).collect::<Vec<_>>())),
        plots => Serde(json!(found.map(|found| plots::Plots::of(&found, by, language)))),
        is_unread => notice.as_ref().is_some_and(|notice| notice.id == notice::STORE),
        ..listed.context(&view)
    };
    Ok(page::part(&PAGE, language, context))
}

/// The list alone, for a page whose calls change.
#[get("/console/part/overview/calls")]
pub async fn list(request: HttpRequest, traffic: Data<Traffic>) -> Result<HttpResponse, Failure> {
    let view: View = body::query(&request).map_err(|error| Failure::new(&request, error))?;
    let language = Language::of(&request);
    let context = calls::Listed::of(&traffic, &view, language).context(&view);
    Ok(html(page::render("overview_calls.html", &PAGE, language, context)))
}

/// How an upstream stands.
fn facts(upstream: &UpstreamState) -> serde_json::Value {
    let health = upstream.health.as_ref();
    json!({
        "name": upstream.name.split_once("://").map_or(upstream.name.as_str(), |(_, host)| host),
        "state": health.map_or("unknown", |health| health.status.name()),
        "latency": health.map(|health| health.latency.as_millis() as u64),
        "breaker": upstream.breaker,
        "session": upstream.session,
        "age": upstream.session_since.map(figures::age),
        "ends": upstream.session_ends.map(figures::hours_until),
    })
}
