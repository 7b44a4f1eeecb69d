//! What happened and what to do about it, in the reader's language, for a page that has met a failure.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::{Deserialize, Serialize};

use crate::http::codes;
use crate::http::log_fields::LogFields;
use crate::http::page::Language;
use crate::http::reply;
use crate::traffic::Traffic;

/// Which failure.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AdviceQuery {
    code: String,
    /// The call that failed. Under `/v1` a failure has the upstream's own code; this process knows ours.
    request_id: String,
}

/// The failure as a person reads it; without a code that is known, only the service's own words are there.
#[derive(Serialize)]
struct Advice {
    code: String,
    what: Option<&'static str>,
    hint: Option<&'static str>,
}

#[get("/console/part/advice")]
pub async fn part(request: HttpRequest, query: Query<AdviceQuery>, traffic: Data<Traffic>) -> HttpResponse {
    let AdviceQuery { code, request_id } = query.into_inner();
    let mut calls = traffic.calls(0).0.into_iter().map(|(call, _)| call);
    let failed = calls.find(|call| call.has_failed() && *call.request_id == request_id);
    let code = failed.map_or(code, |call| call.of.code.into_owned());
    let words = codes::words(Language::of(&request), &code);
    let (what, hint) = (words.map(|words| words.what.as_str()), words.map(|words| words.act.as_str()));
    reply::json(StatusCode::OK, &Advice { code, what, hint }, LogFields::default())
}
