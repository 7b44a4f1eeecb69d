//! How a result or failure becomes a response: the envelope, the status, and what the access log
//! is told.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::log_fields::{LogFields, RequestId, SharedLogFields};
use super::python_json;
use crate::domain::chat::Usage;
use crate::domain::error::Error;

/// The header that names the upstream that answered.
const UPSTREAM: HeaderName = HeaderName::from_static("x-upstream");

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Why an operation failed and what to do.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A stable code, such as `upstream_auth_expired`.
    #[schema(example = "upstream_auth_expired")]
    pub code: &'static str,
    /// What happened.
    #[schema(example = "the upstream does not accept the credentials (HTTP 401)")]
    pub message: String,
    /// What to do, naming the setting where one decides.
    #[schema(example = "log in to the mirror again and set `UPSTREAM_COOKIE` to the new value")]
    pub hint: String,
    /// Whether the same call can succeed later without anything being changed.
    #[schema(example = false)]
    pub retryable: bool,
    /// The id of this call in the service's log.
    #[schema(example = "5f0c2b9e8a7d4c31")]
    pub request_id: String,
}

impl ErrorBody {
    /// The error as a caller of `request` reads it.
    pub fn new(error: &Error, request: &HttpRequest) -> Self {
        ErrorBody::of(error, &RequestId::of(request.extensions()))
    }

    /// The error as the caller of the request with this id reads it.
    pub fn of(error: &Error, request_id: &str) -> Self {
        ErrorBody {
            code: error.kind.code(),
            message: error.caller_message(),
            hint: error.hint().to_string(),
            retryable: error.kind.retryable(),
            request_id: request_id.to_string(),
        }
    }
}

/// The envelope of a failure about which nothing else is known.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailureBody {
    /// Always false.
    pub success: bool,
    /// Why.
    pub error: ErrorBody,
}

/// What an answer is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// Plain text.
    Text,
}

impl Form {
    /// Its media type.
    pub fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Form::Json => "application/json",
            Form::Text => "text/plain; charset=utf-8",
        })
    }

    /// What may be sent before an answer and means nothing: of text, what the fewest readers take for a
    /// part of it. Four spaces would make its first line code in Markdown.
    pub fn blank(self) -> &'static [u8] {
        match self {
            Form::Json => b" ",
            Form::Text => b"\n",
        }
    }
}

/// What an answer becomes whose status cannot be told any more, because a good one was sent before.
pub enum Late {
    /// The same.
    Same,
    /// Another, which tells the failure without its status.
    Body(Bytes),
    /// The connection breaks off, since nothing else would tell the failure from a good answer.
    Broken(Box<Error>),
}

/// An answer, ready to be sent.
pub struct Prepared {
    /// The status, unless the head was sent before.
    pub status: StatusCode,
    /// The headers beside those of every such answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What the body is written in.
    pub form: Form,
    /// The body.
    pub body: Bytes,
    /// What it becomes after a status that was sent before.
    pub late: Late,
    /// What the answer cost, where that is known.
    pub usage: Option<Usage>,
    /// What the access log is told.
    pub log_fields: LogFields,
}

impl Prepared {
    /// A result, written for Dify.
    pub fn result(body: &impl Serialize, log_fields: LogFields) -> Self {
        Prepared::json(python_json::to_vec(body), log_fields)
    }

    /// A good answer in these very words.
    pub fn json(body: impl Into<Bytes>, log_fields: LogFields) -> Self {
        Prepared::good(Form::Json, body, log_fields)
    }

    /// A good answer of these words alone.
    pub fn text(body: impl Into<Bytes>, log_fields: LogFields) -> Self {
        Prepared::good(Form::Text, body, log_fields)
    }

    fn good(form: Form, body: impl Into<Bytes>, log_fields: LogFields) -> Self {
        let (status, headers, late) = (StatusCode::OK, Vec::new(), Late::Same);
        Prepared { status, headers, form, body: body.into(), late, usage: None, log_fields }
    }

    /// A failure, with an envelope that says what is known beside it.
    pub fn failure(error: &Error, body: &impl Serialize, log_fields: LogFields) -> Self {
        Prepared::result(body, log_fields.failed(error)).failing(error)
    }

    /// A failure in one line of text.
    pub fn text_failure(error: &Error, log_fields: LogFields) -> Self {
        let prepared = Prepared::text(one_line(error), log_fields.failed(error)).failing(error);
        Prepared { late: Late::Broken(Box::new(error.clone())), ..prepared }
    }

    /// With the status and the headers of a failure.
    fn failing(self, error: &Error) -> Self {
        let mut headers = Vec::new();
        if let Some(after) = error.retry_after {
            headers.push((header::RETRY_AFTER, retry_after_seconds(after).into()));
        }
        let status = status_code(error.kind.api_status());
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 11.6.1: a 401 names the scheme.
            headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        Prepared { status, headers, ..self }
    }

    /// The body after a status that was sent before.
    ///
    /// # Errors
    /// When the connection is to break off.
    pub fn late_body(self) -> Result<Bytes, Box<Error>> {
        match self.late {
            Late::Same => Ok(self.body),
            Late::Body(body) => Ok(body),
            Late::Broken(error) => Err(error),
        }
    }

    /// Says what the answer cost.
    pub fn costing(self, usage: Option<Usage>) -> Self {
        Prepared { usage, ..self }
    }

    /// Says which upstream answered.
    pub fn from_upstream(mut self, name: &str) -> Self {
        self.headers.extend(upstream_header(name));
        self
    }

    /// The response.
    pub fn response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status)
            .insert_header((header::CONTENT_TYPE, self.form.media_type()))
            .insert_header((header::CACHE_CONTROL, NO_STORE))
            .body(self.body);
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(SharedLogFields::from(self.log_fields));
        response
    }
}

/// A failure in one line: what happened, then what to do.
pub fn one_line(error: &Error) -> String {
    let line = format!("{}; {}", error.caller_message(), error.hint());
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `Retry-After` in whole seconds, rounded up: RFC 9110, section 10.2.3.
pub fn retry_after_seconds(after: Duration) -> u64 {
    after.as_secs() + u64::from(after.subsec_nanos() > 0)
}

/// A status of the table of kinds, which holds none that is no status.
pub fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The header that says which upstream answers, where that has a name.
pub fn upstream_header(name: &str) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::from_str(name).ok().filter(|value| !value.is_empty())?;
    Some((UPSTREAM, value))
}

/// A response with a body written for Dify.
pub fn json(status: StatusCode, body: &impl Serialize, log_fields: LogFields) -> HttpResponse {
    Prepared { status, ..Prepared::result(body, log_fields) }.response()
}
