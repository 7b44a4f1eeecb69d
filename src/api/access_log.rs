//! Request ids, and one access-log line a request.
//!
//! Lines carry identifiers and numbers, never bodies, queries, cookies or keys. The middleware
//! here is the outermost, so it also turns a panic into an answer.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse};
use futures_util::FutureExt;
use log::Level;

use super::note::{KeyName, Note, REQUEST_ID, RequestId};
use super::reply::{ErrorBody, FailureBody};
use crate::error::{Error, Kind};

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

/// Logs how an answer ended whose head, and with it its line, was sent before.
pub fn late(request_id: &str, note: &Note) {
    let level = if note.error.is_some() { Level::Warn } else { Level::Info };
    let message = note.error.as_ref().map_or("answered late", |(_, message)| message);
    log::log!(target: "mirrorgate::access", level,
        request_id,
        operation = note.operation,
        model = note.model.as_deref(),
        upstream_status = note.upstream_status,
        error = note.error.as_ref().map(|(kind, _)| kind.code());
        "{message}");
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
