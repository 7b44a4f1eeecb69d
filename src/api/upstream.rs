//! The owner's doors to the upstream: what it is, what of a pasted text it would be, trying it step by step, and
//! keeping it without a restart. Credentials come in here and never go out, but to whoever has just sent them.

mod bodies;
mod request;

use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, delete, get, post, put};
use futures_util::stream;
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;

use super::audit;
use crate::config::UpstreamGroup;
use crate::doctor::{Doctor, Level, Outcome, Trial};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Gateway, KeptGroup, UpstreamKeeper};
use crate::http::body::JsonBody;
use crate::http::failure::Failure;
use crate::http::keep_alive::{self, Heartbeat};
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, FailureBody, Form, Prepared};
pub use bodies::UpstreamResult;
use bodies::{ReadResult, UpstreamBody};
use request::UpstreamRequest;

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(show_upstream)
        .service(set_upstream)
        .service(remove_upstream)
        .service(read_upstream)
        .service(test_upstream);
}

/// Show the upstream
///
/// Which upstream answers, where its settings come from, and whether they could be changed here. Credentials are
/// masked.
#[utoipa::path(
    tag = "upstream",
    responses(
        (status = 200, description = "The upstream", body = UpstreamResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/upstream")]
async fn show_upstream(keeper: Data<UpstreamKeeper>, doctor: Data<Doctor>) -> HttpResponse {
    shown("show_upstream", &keeper, &doctor)
}

/// Set the upstream
///
/// Keeps an upstream in the store, once it was tried, which asks it two short questions; from then on it answers,
/// here at once and at other replicas within seconds. What is left out stays as it is, as long as the address
/// does; an empty text takes away. Where variables of the environment name the upstream, they hold.
#[utoipa::path(
    tag = "upstream",
    request_body(content = UpstreamRequest, description = "The upstream"),
    responses(
        (status = 200, description = "It answers, or a failure that showed late", body = UpstreamResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[put("/api/upstream")]
async fn set_upstream(
    request: HttpRequest,
    (gateway, heartbeat): (Data<Gateway>, Data<Heartbeat>),
    (keeper, doctor): (Data<UpstreamKeeper>, Data<Doctor>),
    body: JsonBody<UpstreamRequest>,
) -> HttpResponse {
    // The trial may take minutes, and what stands before the service may give up a call that is silent.
    let work = async move {
        let log_fields = LogFields::of("set_upstream");
        match set(&keeper, &doctor, body.0).await {
            Ok(name) => {
                audit::note(&request, &gateway, "upstream.set", &name).await;
                Prepared::result(&UpstreamResult::of(&keeper, &doctor), log_fields)
            }
            Err(error) => Failure::new(&request, error).prepared(log_fields),
        }
    };
    keep_alive::respond(**heartbeat, Form::Json, Box::pin(work)).await
}

/// Tries an upstream, unless that is not wanted, and keeps it; gives its name.
async fn set(keeper: &UpstreamKeeper, doctor: &Doctor, asked: UpstreamRequest) -> Result<Arc<str>, Error> {
    keeper.expect_unlocked()?;
    let kept = keeper.read().await?;
    let group = asked.group(&kept.group)?;
    let endpoint = keeper.open(&group)?;
    let name = endpoint.settings.name.clone();
    if asked.test.unwrap_or(true) {
        let mut trial = doctor.trial(endpoint);
        while let Some(outcome) = trial.go_on().await {
            expect_passed(outcome)?;
        }
        keeper.remember(trial.endpoint());
    }
    keeper.keep(Some(&group), kept.generation).await?;
    Ok(name)
}

/// Take the upstream away
///
/// Removes what was set here. Then the built-in demo answers until another is set.
#[utoipa::path(
    tag = "upstream",
    responses(
        (status = 200, description = "It is gone", body = UpstreamResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[delete("/api/upstream")]
async fn remove_upstream(
    request: HttpRequest,
    gateway: Data<Gateway>,
    (keeper, doctor): (Data<UpstreamKeeper>, Data<Doctor>),
) -> Result<HttpResponse, Failure> {
    let removed = async {
        keeper.expect_unlocked()?;
        let kept = keeper.read().await?;
        if kept.group == KeptGroup::Absent {
            return Err(Error::new(Kind::NotFound, "no upstream is kept here"));
        }
        keeper.keep(None, kept.generation).await
    };
    removed.await.map_err(|error| Failure::new(&request, error))?;
    audit::note(&request, &gateway, "upstream.remove", "").await;
    Ok(shown("remove_upstream", &keeper, &doctor))
}

/// Read an upstream out of a text
///
/// Tells what of a browser's "Copy as cURL" (bash, cmd), "Copy as PowerShell", "Copy as fetch" or Cookie line would be
/// set, and what is left out and why; or the same of single fields. Nothing is kept, and no mirror is asked.
#[utoipa::path(
    tag = "upstream",
    request_body(content = UpstreamRequest, description = "The text, or single fields"),
    responses(
        (status = 200, description = "What was read, or why nothing could be", body = ReadResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[post("/api/upstream/read")]
async fn read_upstream(keeper: Data<UpstreamKeeper>, body: JsonBody<UpstreamRequest>) -> HttpResponse {
    // What the environment sets is not what a person would change here.
    let kept = keeper.present().kept.group.clone();
    let result = match body.0.read(&kept) {
        Ok(read) => {
            let opened = keeper.open(&read.group).map(|endpoint| UpstreamBody::of(&endpoint.settings));
            ReadResult::of(&read, opened, body.0.values.unwrap_or_default())
        }
        Err(mistake) => ReadResult::mistaken(&mistake),
    };
    reply::json(StatusCode::OK, &result, LogFields::of("read_upstream"))
}

/// Try an upstream
///
/// Takes the steps of a trial one after the other, to the first that fails: `reach`, `sign_in`, `models`, `question`,
/// `conversation`, `keep`. Each line of the answer is an object: a step that begins, how it went, at last whether all
/// passed. A step that takes long has blanks before its line. The two questions cost tokens. Without fields it tries the
/// upstream that answers now.
#[utoipa::path(
    tag = "upstream",
    request_body(content = UpstreamRequest, description = "The upstream; all that is left out as with `PUT`"),
    responses(
        (status = 200, description = "The steps as they go", content_type = "application/x-ndjson", body = String),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[post("/api/upstream/test")]
async fn test_upstream(
    request: HttpRequest,
    (gateway, heartbeat): (Data<Gateway>, Data<Heartbeat>),
    (keeper, doctor): (Data<UpstreamKeeper>, Data<Doctor>),
    body: JsonBody<UpstreamRequest>,
) -> Result<HttpResponse, Failure> {
    let opened = async {
        let present = keeper.present();
        let first = present.endpoints.first().filter(|endpoint| endpoint.settings.url.is_some());
        match first.filter(|_| body.0.is_empty()) {
            Some(endpoint) => Ok(endpoint.clone()),
            None => keeper.open(&body.0.group(&keeper.read().await?.group)?),
        }
    };
    let endpoint = opened.await.map_err(|error| Failure::new(&request, error))?;
    audit::note(&request, &gateway, "upstream.test", &endpoint.settings.name).await;
    let progress = Progress { trial: doctor.trial(endpoint), keeper, at: At::Beginning };
    let lines = stream::unfold(progress, |mut progress| async move {
        let line = progress.next().await?;
        Some((line, progress))
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/x-ndjson"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(keep_alive::lines(lines, heartbeat.every)))
}

/// A trial as its caller reads it.
struct Progress {
    trial: Trial,
    keeper: Data<UpstreamKeeper>,
    at: At,
}

enum At {
    /// Before a step.
    Beginning,
    /// Within one.
    Step,
    /// After the last, all passed or not.
    End(bool),
    Over,
}

impl Progress {
    async fn next(&mut self) -> Option<Bytes> {
        let line = match self.at {
            At::Beginning => match self.trial.upcoming() {
                Some(step) => {
                    self.at = At::Step;
                    json!({"step": step.name(), "status": "running"})
                }
                None => {
                    self.at = At::Over;
                    self.keeper.remember(self.trial.endpoint());
                    json!({"passed": true})
                }
            },
            At::Step => {
                let outcome = self.trial.go_on().await?;
                self.at = if outcome.level == Level::Broken { At::End(false) } else { At::Beginning };
                line_of(&outcome)
            }
            At::End(passed) => {
                self.at = At::Over;
                json!({"passed": passed})
            }
            At::Over => return None,
        };
        Some(format!("{line}\n").into())
    }
}

fn line_of(outcome: &Outcome) -> serde_json::Value {
    let values: serde_json::Map<_, _> =
        outcome.values.iter().map(|(name, value)| (name.to_string(), value.clone().into())).collect();
    json!({
        "step": outcome.step.name(),
        "status": outcome.level.name(),
        "code": outcome.code,
        "message": outcome.seen,
        "hint": outcome.advice,
        "values": values,
        "ms": outcome.took.as_millis() as u64,
    })
}

/// # Errors
/// Why a step failed.
fn expect_passed(outcome: Outcome) -> Result<(), Error> {
    if outcome.level != Level::Broken {
        return Ok(());
    }
    Err(outcome.error.unwrap_or_else(|| {
        let error = Error::new(Kind::UpstreamUnreachable, outcome.seen);
        match outcome.advice {
            Some(advice) => error.hinted(advice),
            None => error,
        }
    }))
}

fn shown(operation: &'static str, keeper: &UpstreamKeeper, doctor: &Doctor) -> HttpResponse {
    let body = UpstreamResult::of(keeper, doctor);
    reply::json(StatusCode::OK, &body, LogFields::of(operation))
}

/// What is kept, where that can be read.
fn open_group(kept: &KeptGroup) -> UpstreamGroup {
    match kept {
        KeptGroup::Open(group) => group.clone(),
        KeptGroup::Absent | KeptGroup::Sealed => UpstreamGroup::default(),
    }
}
