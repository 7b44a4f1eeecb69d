//! How a tool operation's result or failure becomes a response: the envelope, the status, and what
//! the access log is told.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use super::note::{Note, RequestId};
use super::{python_json, retry_after_seconds, tool_status};
use crate::error::{Error, Kind};

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
        ErrorBody {
            code: error.kind.code(),
            message: error.caller_message(),
            hint: error.hint().to_string(),
            retryable: error.kind.retryable(),
            request_id: RequestId::of(request.extensions()),
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

/// A result or a failure, ready to be sent.
pub struct Prepared<B> {
    /// The envelope.
    pub body: B,
    /// What the access log is told.
    pub note: Note,
    failure: Option<Error>,
}

impl<B: Serialize> Prepared<B> {
    /// A result.
    pub fn result(body: B, note: Note) -> Self {
        Prepared { body, note, failure: None }
    }

    /// A failure, with an envelope that says what is known beside it.
    pub fn failure(error: Error, body: B, note: Note) -> Self {
        Prepared { body, note: note.failed(&error), failure: Some(error) }
    }

    /// The response, with the status of the failure if it is one.
    pub fn response(self) -> HttpResponse {
        match self.failure {
            None => json(StatusCode::OK, &self.body, self.note),
            Some(error) => failure(&error, &self.body, self.note),
        }
    }
}

/// A response with a body written for Dify.
pub fn json(status: StatusCode, body: &impl Serialize, note: Note) -> HttpResponse {
    let mut response = HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(python_json::to_vec(body));
    response.extensions_mut().insert(note);
    response
}

fn failure(error: &Error, body: &impl Serialize, note: Note) -> HttpResponse {
    let mut response = json(tool_status(error.kind), body, note);
    if let Some(after) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after_seconds(after).into());
    }
    if matches!(error.kind, Kind::KeyMissing | Kind::KeyWrong | Kind::KeyGuessing) {
        // RFC 9110, section 11.6.1: a 401 names the scheme.
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A failure of a request, ready to be sent.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    body: FailureBody,
    allow: Option<String>,
}

impl Failure {
    /// The failure of `request`.
    pub fn new(request: &HttpRequest, error: Error) -> Self {
        let body = FailureBody { success: false, error: ErrorBody::new(&error, request) };
        Failure { error, body, allow: None }
    }

    /// The failure of a request whose method the path does not have, RFC 9110, section 15.5.6.
    pub fn method(request: &HttpRequest, allow: String) -> Self {
        let error = Error::new(
            Kind::MethodNotAllowed,
            format!("the method {} is not allowed here", request.method()),
        )
        .hinted(format!("use {allow}"));
        Failure { allow: Some(allow), ..Failure::new(request, error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        tool_status(self.error.kind)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = failure(&self.error, &self.body, Note::default().failed(&self.error));
        if let Some(allow) = self.allow.as_ref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}
