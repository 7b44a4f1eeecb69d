//! Failures in OpenAI's shape.
//!
//! Source: <https://platform.openai.com/docs/guides/error-codes>.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use super::paths;
use crate::domain::error::Error;
use crate::http::failure::ErrorRenderer;
use crate::http::log_fields::LogFields;
use crate::http::reply::{Prepared, retry_after_seconds, status_code};

/// Tells OpenAI's own libraries whether to try again, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A failure, as OpenAI writes it.
#[derive(Serialize, ToSchema)]
pub struct OpenAiFailure {
    error: OpenAiError,
}

/// Why a request failed and what to do.
#[derive(Serialize, ToSchema)]
struct OpenAiError {
    /// What happened and what to do, for a person.
    #[schema(
        example = "the upstream limits the rate of requests (HTTP 429); wait for the time in `Retry-After`"
    )]
    message: String,
    /// The class of the failure.
    #[schema(example = "rate_limit_error")]
    r#type: &'static str,
    /// Always null.
    #[schema(required = true)]
    param: Option<String>,
    /// A stable code, the same as in the tool operations.
    #[schema(example = "upstream_rate_limited")]
    code: &'static str,
    /// What to do.
    #[schema(example = "wait for the time in `Retry-After`")]
    hint: String,
    /// The id of this call in the service's log.
    #[schema(example = "5f0c2b9e8a7d4c31")]
    request_id: String,
}

/// A failure, ready to be sent.
pub fn prepared(error: &Error, request_id: &str, log_fields: LogFields) -> Prepared {
    let status = status_code(error.kind.v1_status());
    let body = OpenAiFailure {
        error: OpenAiError {
            // Many programs show the message alone.
            message: format!("{}; {}", error.caller_message(), error.hint()),
            r#type: class(status),
            param: None,
            code: error.kind.code(),
            hint: error.hint().to_string(),
            request_id: request_id.to_string(),
        },
    };
    let retry = if error.kind.retryable() { "true" } else { "false" };
    let mut headers = vec![(SHOULD_RETRY, HeaderValue::from_static(retry))];
    if let Some(after) = error.retry_after {
        headers.push((header::RETRY_AFTER, retry_after_seconds(after).into()));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    }
    let body = serde_json::to_vec(&body).expect("a failure is made of texts");
    Prepared { status, headers, ..Prepared::json(body, log_fields.failed(error)) }
}

/// Writes failures in OpenAI's shape on OpenAI's paths. No `[DONE]` follows the event that ends a
/// stream which failed.
pub struct Renderer;

impl ErrorRenderer for Renderer {
    fn covers(&self, path: &str) -> bool {
        paths::covers(path)
    }

    fn render(&self, error: &Error, request_id: &str, log_fields: LogFields) -> Prepared {
        prepared(error, request_id, log_fields)
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}
