//! What platforms and monitors ask: does the process serve, and should it be sent requests.

use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gateway::{Gateway, Status};
use crate::http::draining::Draining;
use crate::http::log_fields::LogFields;
use crate::http::reply;

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(live).service(ready);
}

/// The process serves.
#[derive(Serialize, ToSchema)]
pub struct LiveResult {
    /// `ok`; `degraded` while an upstream did not accept the login when it was last asked a question.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the process should be sent requests.
#[derive(Serialize, ToSchema)]
pub struct ReadyResult {
    /// `ok` or `unavailable`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Why not; empty when it is ready.
    reasons: Vec<String>,
}

fn probe() -> LogFields {
    LogFields { is_probe: true, ..LogFields::default() }
}

/// Liveness
///
/// Answers 200 while the process serves. It never asks the upstream, and repeats what the last question
/// showed of its login.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "The process serves", body = LiveResult),
        (status = "4XX", description = "The request is at fault", body = reply::FailureBody),
    ),
    security(()),
)]
#[get("/health")]
async fn live(gateway: Data<Gateway>) -> HttpResponse {
    // Still 200: no restart brings a login back.
    let status = if gateway.login_fails() { Status::Degraded } else { Status::Ok };
    reply::json(StatusCode::OK, &LiveResult { status: status.name() }, probe())
}

/// Readiness
///
/// Answers 503 with reasons while the service cannot take requests: its store cannot be used, or it is stopping.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "Ready", body = ReadyResult),
        (status = "4XX", description = "The request is at fault", body = reply::FailureBody),
        (status = 503, description = "Not ready, with reasons", body = ReadyResult),
    ),
    security(()),
)]
#[get("/ready")]
async fn ready(draining: Data<Draining>, gateway: Data<Gateway>) -> HttpResponse {
    let mut reasons = Vec::new();
    if draining.has_begun() {
        reasons.push("the service is stopping".to_string());
    }
    reasons.extend(gateway.store_ready().await.err().map(|error| error.message));
    let (status, word) = match reasons.is_empty() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    reply::json(status, &ReadyResult { status: word, reasons }, probe())
}
