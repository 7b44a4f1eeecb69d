//! `/metrics`, as Prometheus reads it.

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpResponse, get};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gateway::Gateway;
use crate::http::log_fields::{LogFields, SharedLogFields};
use crate::http::reply::FailureBody;
use crate::metrics::{self, Metrics};

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(get_metrics);
}

/// Metrics
///
/// What the process has counted since it began, in the text format of OpenMetrics. It needs a gateway
/// key, unless `METRICS_PUBLIC` is set.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/metrics")]
async fn get_metrics(gateway: Data<Gateway>, metrics: Data<Metrics>) -> HttpResponse {
    gateway.measure().await;
    let mut response = HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, metrics::MEDIA_TYPE))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(metrics.text());
    response.extensions_mut().insert(SharedLogFields::from(LogFields::of("metrics")));
    response
}
