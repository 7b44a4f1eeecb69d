//! What a key has used, for whoever holds it.

use actix_web::http::StatusCode;
use actix_web::web::{Data, ReqData};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::limits::day_name;
use crate::gateway::{DayOfUse, Gateway, LimitState};
use crate::http::auth::{Caller, Guard};
use crate::http::body;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody};

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(get_usage).service(get_usage_of_all);
}

/// What the key of the call has used, over all faces and replicas.
#[derive(Serialize, ToSchema)]
pub struct UsageResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The key's name.
    #[schema(example = "dify")]
    key: String,
    /// Requests that the upstream began to answer.
    #[schema(example = 128)]
    requests: u64,
    /// Tokens of the questions.
    #[schema(example = 5120)]
    prompt_tokens: u64,
    /// Tokens of the answers.
    #[schema(example = 20480)]
    completion_tokens: u64,
    /// Both.
    #[schema(example = 25600)]
    total_tokens: u64,
    /// How many of the requests have their tokens estimated, because the upstream gave none.
    #[schema(example = 0)]
    estimated_requests: u64,
    /// Since when it is counted, in milliseconds since 1970; null while nothing was used.
    #[schema(required = true, example = 1_795_000_000_000_i64)]
    since: Option<i64>,
    /// How the key stands to its limits; empty where it has none.
    limits: Vec<LimitBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// How a key stands to one of its limits.
#[derive(Serialize, ToSchema)]
pub struct LimitBody {
    /// `requests` (in 60 seconds), `parallel`, `tokens-day` or `tokens-month`.
    #[schema(example = "tokens-day")]
    name: &'static str,
    /// How much there may be.
    #[schema(example = 200_000)]
    limit: u64,
    /// How much of it is left.
    #[schema(example = 12_000)]
    remaining: u64,
    /// When more of it is there, in seconds.
    #[schema(example = 3_600)]
    reset_seconds: u64,
}

impl From<LimitState> for LimitBody {
    fn from(state: LimitState) -> Self {
        let reset_seconds = state.reset.as_secs_f64().ceil() as u64;
        LimitBody { name: state.name, limit: state.limit, remaining: state.left, reset_seconds }
    }
}

/// What all keys used.
#[derive(Serialize, ToSchema)]
pub struct UsageOfAllResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The counts by day, key and model, the latest day first.
    usage: Vec<DayBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// What one key used of one model in one day.
#[derive(Serialize, ToSchema)]
pub struct DayBody {
    /// The day in UTC, such as `2026-11-26`.
    day: String,
    /// The key's name; null for one that was revoked.
    #[schema(required = true, example = "dify")]
    key: Option<String>,
    /// The model; `other` for those beyond the first 50 of a key; empty where none was named.
    #[schema(example = "gpt-4o")]
    model: String,
    /// Requests that the upstream began to answer.
    #[schema(example = 128)]
    requests: u64,
    /// Tokens of the questions.
    #[schema(example = 5120)]
    prompt_tokens: u64,
    /// Tokens of the answers.
    #[schema(example = 20480)]
    completion_tokens: u64,
    /// How many of the requests have their tokens estimated.
    #[schema(example = 0)]
    estimated_requests: u64,
}

/// For how long back.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AllQuery {
    /// Days, today with them: 31 where it is left out, at most 400.
    days: Option<u32>,
}

/// Read what all keys have used
///
/// By day, key and model, for the service's owner.
#[utoipa::path(
    tag = "usage",
    params(AllQuery),
    responses(
        (status = 200, description = "The counts", body = UsageOfAllResult),
        (status = "4XX", description = "A failure with what to do about it", body = reply::FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/usage/all")]
async fn get_usage_of_all(
    request: HttpRequest,
    gateway: Data<Gateway>,
    guard: Data<Guard>,
) -> Result<HttpResponse, Failure> {
    let read = async {
        let AllQuery { days } = body::query(&request)?;
        gateway.usage_of_all(days.unwrap_or(31).min(400)).await
    };
    let usage = read.await.map_err(|error| Failure::new(&request, error))?;
    let names = guard.names();
    let day = |used: DayOfUse| DayBody {
        day: day_name(used.day),
        key: names.get(&used.owner).cloned(),
        model: used.model,
        requests: used.tally.requests,
        prompt_tokens: used.tally.prompt_tokens,
        completion_tokens: used.tally.completion_tokens,
        estimated_requests: used.tally.estimated,
    };
    let body = UsageOfAllResult { success: true, usage: usage.into_iter().map(day).collect(), error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("get_usage_of_all")))
}

/// Read what the key has used
///
/// Counts requests and tokens of the key that makes this call.
#[utoipa::path(
    tag = "usage",
    responses(
        (status = 200, description = "The counts", body = UsageResult),
        (status = "4XX", description = "A failure with what to do about it", body = reply::FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/usage")]
async fn get_usage(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
) -> Result<HttpResponse, Failure> {
    let (tally, since) = gateway.usage(&caller.owner).await.map_err(|error| Failure::new(&request, error))?;
    let limits = gateway.limit_states(&caller.owner).await;
    let limits = limits.map_err(|error| Failure::new(&request, error))?;
    let body = UsageResult {
        success: true,
        key: caller.name.to_string(),
        requests: tally.requests,
        prompt_tokens: tally.prompt_tokens,
        completion_tokens: tally.completion_tokens,
        total_tokens: tally.prompt_tokens + tally.completion_tokens,
        estimated_requests: tally.estimated,
        since,
        limits: limits.into_iter().map(LimitBody::from).collect(),
        error: None,
    };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("get_usage")))
}
