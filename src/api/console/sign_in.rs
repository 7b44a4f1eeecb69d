//! Signing in to the console: the admin key is exchanged for a token, and a token for the next one.

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, post};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::audit;
use crate::gateway::Gateway;
use crate::http::auth::Guard;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody};
use crate::http::token;

/// A token for the console.
#[derive(Serialize, ToSchema)]
pub struct ConsoleTokenResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// What the console sends as `Authorization: Bearer TOKEN`, and only so. It opens what the admin key opens.
    #[schema(example = "mgt_...")]
    token: String,
    /// How long it holds, in seconds. It is kept nowhere and cannot be taken back before.
    #[schema(example = 1800)]
    expires_in: u64,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// Sign in to the console
///
/// Gives a token that stands for the admin key for half an hour. Sent with such a token, it gives the next
/// one, until 12 hours after the admin key was presented.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "The token", body = ConsoleTokenResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[post("/api/console/token")]
pub async fn create_console_token(
    request: HttpRequest,
    gateway: Data<Gateway>,
    guard: Data<Guard>,
) -> Result<HttpResponse, Failure> {
    let (token, left) = guard.sign_in(&request).map_err(|error| Failure::new(&request, error))?;
    let was_signed_in = guard.accepted(&request).is_some_and(|key| key.starts_with(token::PREFIX));
    if !was_signed_in {
        audit::note(&request, &gateway, "console.sign_in", "").await;
    }
    let body = ConsoleTokenResult { success: true, token, expires_in: left.as_secs(), error: None };
    let mut response = reply::json(StatusCode::OK, &body, LogFields::of("create_console_token"));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(response)
}
