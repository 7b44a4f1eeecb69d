//! A request that failed with nothing else known about it: its answer takes the form of the face
//! that the path belongs to.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError};

use super::log_fields::{LogFields, RequestId};
use super::reply::{ErrorBody, FailureBody, Prepared};
use crate::api::mcp::{failure as mcp, message};
use crate::api::openai::{failure as openai, paths};
use crate::domain::error::{Error, Kind};

/// The answer to a request at `path` that failed with nothing else known about it.
pub fn failed_at(path: &str, error: &Error, request_id: &str) -> Prepared {
    if paths::is_face(path) {
        openai::prepared(error, request_id, LogFields::default())
    } else if path == message::PATH {
        mcp::prepared(error, request_id)
    } else {
        let body = FailureBody { success: false, error: ErrorBody::of(error, request_id) };
        Prepared::failure(error, &body, LogFields::default())
    }
}

/// A failure of a request, ready to be sent.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    path: String,
    request_id: String,
    allow: Option<String>,
}

impl Failure {
    /// The failure of `request`.
    pub fn new(request: &HttpRequest, error: Error) -> Self {
        let request_id = RequestId::of(request.extensions());
        Failure { error, path: request.path().to_string(), request_id, allow: None }
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
        self.error_response().status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = failed_at(&self.path, &self.error, &self.request_id).response();
        if let Some(allow) = self.allow.as_ref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}
