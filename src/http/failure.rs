//! A request that failed with nothing else known about it.
//!
//! Each API writes its failures in a shape of its own and registers a [`ErrorRenderer`] for its paths;
//! on all other paths they come in the envelope of the tool operations.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError};

use super::log_fields::{LogFields, RequestId};
use super::reply::{ErrorBody, FailureBody, Prepared};
use crate::domain::error::{Error, Kind};

/// How an API writes its failures.
pub trait ErrorRenderer: Sync {
    /// Whether requests at this path are of this API.
    fn covers(&self, path: &str) -> bool;

    /// A failure, ready to be sent.
    fn render(&self, error: &Error, request_id: &str, log_fields: LogFields) -> Prepared;

    /// The event that ends a stream which failed, from the failure's body.
    fn last_event(&self, body: &[u8]) -> Bytes {
        [b"data: ", body, b"\n\n"].concat().into()
    }
}

/// The renderers of all APIs that have one.
#[derive(Clone, Copy, Default)]
pub struct ErrorRenderers(pub &'static [&'static dyn ErrorRenderer]);

impl ErrorRenderers {
    /// The renderer for this path.
    pub fn at(self, path: &str) -> &'static dyn ErrorRenderer {
        self.0.iter().find(|renderer| renderer.covers(path)).copied().unwrap_or(&Envelope)
    }

    /// The renderer for a request.
    pub fn of(request: &HttpRequest) -> &'static dyn ErrorRenderer {
        let renderers = request.app_data::<Data<ErrorRenderers>>();
        renderers.map_or(ErrorRenderers::default(), |renderers| ***renderers).at(request.path())
    }
}

/// The shape of failures where no API has its own.
struct Envelope;

impl ErrorRenderer for Envelope {
    fn covers(&self, _: &str) -> bool {
        true
    }

    fn render(&self, error: &Error, request_id: &str, log_fields: LogFields) -> Prepared {
        let body = FailureBody { success: false, error: ErrorBody::of(error, request_id) };
        Prepared::failure(error, &body, log_fields)
    }
}

/// A failure of a request, ready to be sent.
pub struct Failure {
    error: Error,
    request_id: String,
    renderer: &'static dyn ErrorRenderer,
    allow: Option<String>,
}

impl Failure {
    /// The failure of `request`.
    pub fn new(request: &HttpRequest, error: Error) -> Self {
        let request_id = RequestId::of(request.extensions());
        Failure { error, request_id, renderer: ErrorRenderers::of(request), allow: None }
    }

    /// The same, ready to be sent, maybe after an announcement.
    pub fn prepared(&self, log_fields: LogFields) -> Prepared {
        self.renderer.render(&self.error, &self.request_id, log_fields)
    }

    /// What went wrong.
    pub fn into_error(self) -> Error {
        self.error
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

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
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
        let mut response = self.prepared(LogFields::default()).response();
        if let Some(allow) = self.allow.as_ref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}
