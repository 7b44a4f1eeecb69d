//! Request ids, and one access-log line a request.
//!
//! Lines carry identifiers and numbers, never bodies, queries, cookies or keys. The middleware
//! here is the outermost, so it also turns a panic into an answer.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse};
use futures_util::FutureExt;
use log::Level;

use super::reply::{ErrorBody, FailureBody};
use crate::chat::Answer;
use crate::error::{Error, Kind};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the caller's own when it is a plain one, else random.
#[derive(Clone)]
pub struct RequestId(String);

impl RequestId {
    fn new(request: &ServiceRequest) -> Self {
        let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let is_plain = |id: &&str| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        RequestId(given.filter(is_plain).map_or_else(
            || {
                crate::random::bytes::<8>()
                    .map(u64::from_be_bytes)
                    .map_or_else(|_| "-".into(), |id| format!("{id:016x}"))
            },
            String::from,
        ))
    }

    /// The id that the middleware gave the request with these extensions.
    pub fn of(extensions: impl std::ops::Deref<Target = Extensions>) -> String {
        extensions.get::<RequestId>().map_or_else(|| "-".into(), |id| id.0.clone())
    }
}

/// What a handler tells the access log about a request.
#[derive(Debug, Clone, Default)]
pub struct Note {
    operation: Option<&'static str>,
    model: Option<String>,
    upstream_status: Option<u16>,
    error: Option<(Kind, String)>,
}

impl Note {
    /// A note about an operation.
    pub fn of(operation: &'static str) -> Self {
        Note { operation: Some(operation), ..Note::default() }
    }

    /// Adds the model that answered, and the status with which the upstream did.
    pub fn answered(mut self, answer: &Answer) -> Self {
        self.model = answer.model.clone();
        self.upstream_status = answer.upstream_status;
        self
    }

    /// Adds the failure. Its detail stays out: an upstream may quote the prompt.
    pub fn failed(mut self, error: &Error) -> Self {
        self.upstream_status = error.upstream_status.or(self.upstream_status);
        self.error = Some((error.kind, error.message.clone()));
        self
    }
}

impl Note {
    /// Logs how an answer ended whose head was sent before.
    pub fn log_late(&self, request_id: &str) {
        let level = if self.error.is_some() { Level::Warn } else { Level::Info };
        let message = self.error.as_ref().map_or("answered late", |(_, message)| message);
        log::log!(target: "mirrorgate::access", level,
            request_id,
            operation = self.operation,
            model = self.model.as_deref(),
            upstream_status = self.upstream_status,
            error = self.error.as_ref().map(|(kind, _)| kind.code());
            "{message}");
    }
}

/// The name of the gateway key that a request presented, for the log.
#[derive(Clone)]
pub struct KeyName(pub String);

/// The middleware: gives each request its id, logs it, and answers where a handler panics.
///
/// # Errors
/// The response that stands for a panic.
pub async fn track(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let id = RequestId::new(&request);
    request.extensions_mut().insert(id.clone());
    let mut line = Line {
        id: id.0.clone(),
        method: request.method().to_string(),
        path: request.path().to_string(),
        start: Instant::now(),
        outcome: None,
    };
    let id = HeaderValue::from_str(&id.0).unwrap_or(HeaderValue::from_static("-"));
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(result) => {
            let mut response = result?;
            response.headers_mut().insert(REQUEST_ID, id);
            response
                .headers_mut()
                .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            let key = response.request().extensions().get::<KeyName>().map(|key| key.0.clone());
            let note = response.response().extensions().get::<Note>().cloned().unwrap_or_default();
            let bytes = match response.response().body().size() {
                BodySize::Sized(bytes) => Some(bytes),
                BodySize::None | BodySize::Stream => None,
            };
            line.outcome = Some(Outcome { status: response.status(), bytes, key, note });
            Ok(response)
        }
        Err(_) => {
            let error = Error::new(Kind::Internal, "the program met a defect of its own");
            let response = panicked(&line, &error, id);
            let note = Note::default().failed(&error);
            line.outcome = Some(Outcome { status: response.status(), bytes: None, key: None, note });
            Err(actix_web::error::InternalError::from_response(error, response).into())
        }
    }
}

fn panicked(line: &Line, error: &Error, id: HeaderValue) -> HttpResponse {
    let status = if line.path.starts_with("/api/") {
        StatusCode::FAILED_DEPENDENCY
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let body = ErrorBody {
        code: error.kind.code(),
        message: error.message.clone(),
        hint: error.hint().to_string(),
        retryable: error.kind.retryable(),
        request_id: line.id.clone(),
    };
    HttpResponse::build(status)
        .insert_header((REQUEST_ID, id))
        .json(FailureBody { success: false, error: body })
}

/// The access-log line of a request. It is written when it is dropped, so that a caller who leaves
/// before the answer is logged as well.
struct Line {
    id: String,
    method: String,
    path: String,
    start: Instant,
    outcome: Option<Outcome>,
}

struct Outcome {
    status: StatusCode,
    bytes: Option<u64>,
    key: Option<String>,
    note: Note,
}

impl Drop for Line {
    fn drop(&mut self) {
        let milliseconds = self.start.elapsed().as_millis() as u64;
        let (id, method, path) = (self.id.as_str(), self.method.as_str(), self.path.as_str());
        let Some(Outcome { status, bytes, key, note }) = &self.outcome else {
            log::info!(target: "mirrorgate::access", request_id = id, method, path, status = 499, ms = milliseconds; "the caller left");
            return;
        };
        let quiet = matches!(path, "/health" | "/ready") && status.is_success();
        let level = match &note.error {
            Some((Kind::Internal, _)) => Level::Error,
            Some(_) if status.as_u16() == 424 || note.operation.is_some() => Level::Warn,
            _ if quiet => Level::Debug,
            _ => Level::Info,
        };
        let message = note.error.as_ref().map_or("answered", |(_, message)| message);
        log::log!(target: "mirrorgate::access", level,
            request_id = id,
            method,
            path,
            operation = note.operation,
            key = key.as_deref(),
            model = note.model.as_deref(),
            status = status.as_u16(),
            upstream_status = note.upstream_status,
            error = note.error.as_ref().map(|(kind, _)| kind.code()),
            ms = milliseconds,
            bytes = *bytes;
            "{message}");
    }
}
