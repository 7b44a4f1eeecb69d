//! What was asked of whom over a time, for the owner.

use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gateway::{By, Gateway, Range, Series, Statistics, Sum};
use crate::http::body;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody};
use crate::traffic::Histogram;

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(get_statistics);
}

/// Of which time, and by what.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StatisticsQuery {
    /// `hour` by five minutes, `day` by the hour, where it is left out, or `month`: 30 days.
    #[param(inline)]
    range: Option<RangeName>,
    /// By what calls are told apart: `key`, where it is left out, `model`, `upstream` or `code`.
    #[param(inline)]
    by: Option<ByName>,
    /// How far the reader's clock is before UTC, in minutes, for the days of a month: 480 in Taipei.
    minutes: Option<i64>,
}

/// The time.
#[derive(Deserialize, Serialize, ToSchema, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum RangeName {
    Hour,
    #[default]
    Day,
    Month,
}

/// By what calls are told apart.
#[derive(Deserialize, Serialize, ToSchema, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum ByName {
    #[default]
    Key,
    Model,
    Upstream,
    Code,
}

/// The median and the 95th percentile, in milliseconds, to within an eighth.
#[derive(Serialize, ToSchema)]
pub struct TimesBody {
    /// Half of the calls took no longer.
    #[schema(example = 780)]
    p50: u64,
    /// Nineteen of twenty took no longer.
    #[schema(example = 1_940)]
    p95: u64,
}

/// What calls came to.
#[derive(Serialize, ToSchema)]
pub struct SumBody {
    /// How many there were.
    #[schema(example = 696)]
    calls: u64,
    /// How many of them failed.
    #[schema(example = 21)]
    failed: u64,
    /// How many of them were left by their callers before the end.
    #[schema(example = 3)]
    stopped: u64,
    /// Tokens of the questions.
    #[schema(example = 436_000)]
    prompt_tokens: u64,
    /// Tokens of the answers.
    #[schema(example = 296_000)]
    completion_tokens: u64,
    /// How many of the calls have their tokens estimated.
    #[schema(example = 0)]
    estimated_calls: u64,
    /// From the question to the first piece of its answer, of calls that were answered.
    #[schema(required = true)]
    first_token_ms: Option<TimesBody>,
    /// From the call to the end of its answer, of calls that were answered.
    #[schema(required = true)]
    total_ms: Option<TimesBody>,
}

/// The calls of one name.
#[derive(Serialize, ToSchema)]
pub struct SeriesBody {
    /// The key's name, the model, the upstream or the code; null where there is none.
    #[schema(required = true, example = "dify")]
    name: Option<String>,
    /// All of them.
    sum: SumBody,
    /// How many there were in each slot.
    calls: Vec<u64>,
}

/// What was asked in a time.
#[derive(Serialize, ToSchema)]
pub struct StatisticsResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    #[schema(inline)]
    range: RangeName,
    #[schema(inline)]
    by: ByName,
    /// How long a slot is.
    #[schema(example = 3_600)]
    slot_seconds: i64,
    /// When each slot begins, in milliseconds since 1970.
    starts: Vec<i64>,
    /// All calls.
    all: SumBody,
    /// Those of as long a time before; null where nothing is known of it.
    #[schema(required = true)]
    before: Option<SumBody>,
    /// Those of each slot.
    slots: Vec<SumBody>,
    /// Those of each name, the most calls first; `(other)` for all names beyond the first 50.
    groups: Vec<SeriesBody>,
    /// Failed calls by their code, the most first.
    failures: Vec<SeriesBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

impl From<RangeName> for Range {
    fn from(name: RangeName) -> Self {
        match name {
            RangeName::Hour => Range::Hour,
            RangeName::Day => Range::Day,
            RangeName::Month => Range::Month,
        }
    }
}

impl From<ByName> for By {
    fn from(name: ByName) -> Self {
        match name {
            ByName::Key => By::Key,
            ByName::Model => By::Model,
            ByName::Upstream => By::Upstream,
            ByName::Code => By::Code,
        }
    }
}

impl TimesBody {
    fn of(times: &Histogram) -> Option<Self> {
        let at = |share| times.quantile(share).map(|time| time.round() as u64);
        Some(TimesBody { p50: at(0.5)?, p95: at(0.95)? })
    }
}

impl From<&Sum> for SumBody {
    fn from(sum: &Sum) -> Self {
        SumBody {
            calls: sum.calls,
            failed: sum.failed,
            stopped: sum.left,
            prompt_tokens: sum.prompt_tokens,
            completion_tokens: sum.completion_tokens,
            estimated_calls: sum.estimated,
            first_token_ms: TimesBody::of(&sum.first_token),
            total_ms: TimesBody::of(&sum.total),
        }
    }
}

impl From<Series> for SeriesBody {
    fn from(series: Series) -> Self {
        let name = Some(series.name).filter(|name| !name.is_empty());
        SeriesBody { name, sum: (&series.sum).into(), calls: series.calls }
    }
}

/// Read the statistics
///
/// Questions, failures, tokens and times over the last hour, day or 30 days, of all processes on this store,
/// by key, model, upstream or code, for the service's owner. They are kept for 35 days.
#[utoipa::path(
    tag = "operations",
    params(StatisticsQuery),
    responses(
        (status = 200, description = "The statistics", body = StatisticsResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/statistics")]
async fn get_statistics(request: HttpRequest, gateway: Data<Gateway>) -> Result<HttpResponse, Failure> {
    let read = async {
        let StatisticsQuery { range, by, minutes } = body::query(&request)?;
        let (range, by) = (range.unwrap_or_default(), by.unwrap_or_default());
        let found = gateway.statistics(range.into(), by.into(), minutes.unwrap_or_default()).await?;
        Ok((range, by, found))
    };
    let (range, by, found) = read.await.map_err(|error| Failure::new(&request, error))?;
    let Statistics { span, starts, all, before, slots, groups, failures } = found;
    let series = |all: Vec<Series>| all.into_iter().map(SeriesBody::from).collect();
    let body = StatisticsResult {
        success: true,
        range,
        by,
        slot_seconds: span / 1000,
        starts,
        all: (&all).into(),
        before: before.as_ref().map(SumBody::from),
        slots: slots.iter().map(SumBody::from).collect(),
        groups: series(groups),
        failures: series(failures),
        error: None,
    };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("get_statistics")))
}
