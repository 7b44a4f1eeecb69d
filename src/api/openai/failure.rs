//! Failures in OpenAI's shape.
//!
//! Source: <https://platform.openai.com/docs/guides/error-codes>.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{headers, paths};
use crate::domain::error::{Error, Report, Session};
use crate::http::failure::ErrorRenderer;
use crate::http::log_fields::LogFields;
use crate::http::reply::{Late, Prepared, retry_after_seconds, status_code};

/// Tells OpenAI's own libraries whether to try again, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A failure, as OpenAI writes it.
#[derive(Serialize, ToSchema)]
pub struct OpenAiFailure {
    /// `error`, where the status was sent before the failure was known: else some clients take any 200 for
    /// a completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "error")]
    object: Option<&'static str>,
    error: OpenAiError,
}

/// Why a request failed and what to do. What an upstream of this protocol says of it goes on as it came.
#[derive(Serialize, ToSchema)]
struct OpenAiError {
    /// The upstream's words; else what happened and what to do, for a person.
    #[schema(
        example = "the upstream limits the rate of requests (HTTP 429); wait for the time in `Retry-After`"
    )]
    message: String,
    /// The upstream's own type; else the class of the failure.
    #[schema(example = "rate_limit_error", value_type = String)]
    r#type: Value,
    /// The parameter that the upstream blames; else null.
    #[schema(required = true, value_type = Option<String>)]
    param: Value,
    /// The upstream's own code; else a stable one, the same as in the tool operations.
    #[schema(example = "upstream_rate_limited", value_type = String)]
    code: Value,
    /// What the upstream says of the cause in more detail, such as what a content filter found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    innererror: Option<Value>,
    /// What to do.
    #[schema(example = "wait for the time in `Retry-After`")]
    hint: String,
    /// The id of this call in the service's log.
    #[schema(example = "5f0c2b9e8a7d4c31")]
    request_id: String,
}

/// A failure, ready to be sent.
pub fn prepared(error: &Error, request_id: &str, log_fields: LogFields) -> Prepared {
    let status = status_code(status_of(error));
    let report = error.report.as_deref();
    let mut failure = OpenAiFailure { object: None, error: body(error, status, report, request_id) };
    let retry = if error.kind.retryable() { "true" } else { "false" };
    let mut headers = vec![(SHOULD_RETRY, HeaderValue::from_static(retry))];
    let told = report.map_or(&[][..], |report| &report.headers);
    if let Some(after) = error.retry_after.filter(|_| !told.iter().any(|(name, _)| tells_when(name))) {
        headers.push((header::RETRY_AFTER, retry_after_seconds(after).into()));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    }
    // The upstream's own come last, and win.
    headers.extend(headers::told(told));
    let written = |failure: &OpenAiFailure| serde_json::to_vec(failure).expect("a failure is made of texts");
    let body = written(&failure);
    failure.object = Some("error");
    let late = Late::Body(written(&failure).into());
    Prepared { status, headers, late, ..Prepared::json(body, log_fields.failed(error)) }
}

fn body(error: &Error, status: StatusCode, report: Option<&Report>, request_id: &str) -> OpenAiError {
    // A failure of the upstream's credentials is not its caller's, whose library would name it so.
    let report = report.filter(|_| !is_of_credentials(error));
    let field = |name: &str| report?.fields.get(name).filter(|value| **value != "").cloned();
    // Many programs show the message alone.
    let ours = || format!("{}; {}", error.caller_message(), error.hint());
    OpenAiError {
        message: report.and_then(|report| report.message.clone()).unwrap_or_else(ours),
        r#type: field("type").unwrap_or_else(|| class(status).into()),
        param: field("param").unwrap_or_default(),
        code: field("code").unwrap_or_else(|| error.kind.code().into()),
        innererror: field("innererror"),
        hint: error.hint().to_string(),
        request_id: request_id.to_string(),
    }
}

/// The status: the upstream's own where that is an error's, unless it is of the upstream's credentials.
fn status_of(error: &Error) -> u16 {
    let told = error.upstream_status.filter(|status| (400..600).contains(status));
    told.filter(|_| error.report.is_some() && !is_of_credentials(error)).unwrap_or(error.kind.v1_status())
}

/// Whether a failure is of the gateway's credentials at the upstream: the caller's key was right.
fn is_of_credentials(error: &Error) -> bool {
    match error.upstream_status {
        Some(401 | 407) => true,
        Some(403) => error.kind.session() == Session::Expired || !says_another_reason(error),
        Some(400..) => false,
        // Told in an answer with a good status.
        _ => error.kind.session() == Session::Expired,
    }
}

/// Whether an upstream that forbids a request says that it is for something else than its credentials: what
/// is asked, where from, or what the account may still spend.
fn says_another_reason(error: &Error) -> bool {
    const OTHERS: [&str; 12] = [
        "quota",
        "balance",
        "credit",
        "overdue",
        "flagged",
        "moderation",
        "content",
        "policy",
        "safety",
        "country",
        "region",
        "free tier",
    ];
    let Some(report) = error.report.as_deref() else { return false };
    let codes = ["type", "code"].iter().filter_map(|name| report.fields.get(*name)?.as_str());
    let mut said = codes.chain(report.message.as_deref()).map(str::to_lowercase);
    said.any(|said| OTHERS.iter().any(|word| said.contains(word)) && !said.contains("credential"))
}

fn tells_when(header: &str) -> bool {
    matches!(header, "retry-after" | "retry-after-ms")
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
