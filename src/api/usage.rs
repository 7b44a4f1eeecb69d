//! What a key has used, for whoever holds it.

use actix_web::http::StatusCode;
use actix_web::web::{Data, ReqData};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gateway::Gateway;
use crate::http::auth::Caller;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody};

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(get_usage);
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
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
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
    let body = UsageResult {
        success: true,
        key: caller.name.clone(),
        requests: tally.requests,
        prompt_tokens: tally.prompt_tokens,
        completion_tokens: tally.completion_tokens,
        total_tokens: tally.prompt_tokens + tally.completion_tokens,
        estimated_requests: tally.estimated,
        since,
        error: None,
    };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("get_usage")))
}
