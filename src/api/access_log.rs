//! Request ids, and one access-log line a request, written when its answer has ended.
//!
//! Lines carry identifiers and numbers, never bodies, queries, cookies or keys. The middleware
//! here is the outermost, so it also turns a panic into an answer.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpResponse};
use futures_util::FutureExt;
use log::Level;
use pin_project_lite::pin_project;

use super::note::{KeyName, REQUEST_ID, RequestId, SharedNote};
use super::reply;
use crate::error::{Error, Kind};

/// The middleware: gives each request its id, logs it, and answers where a handler panics.
///
/// # Errors
/// The response that stands for a panic.
pub async fn track<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Logged<B>>, actix_web::Error> {
    let id = RequestId::new(&request);
    request.extensions_mut().insert(id.clone());
    let mut line = Line {
        id: id.0.clone(),
        method: request.method().to_string(),
        path: request.path().to_string(),
        start: Instant::now(),
        bytes: 0,
        complete: false,
        answered: None,
    };
    let id = HeaderValue::from_str(&id.0).unwrap_or(HeaderValue::from_static("-"));
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(result) => {
            let mut response = result?;
            let headers = response.headers_mut();
            headers.insert(REQUEST_ID, id);
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            line.answered = Some(Answered {
                status: response.status(),
                key: response.request().extensions().get::<KeyName>().map(|key| key.0.clone()),
                note: response.response().extensions().get::<SharedNote>().cloned().unwrap_or_default(),
            });
            Ok(response.map_body(|_, body| {
                // A HEAD is answered without the body.
                line.complete =
                    line.method == "HEAD" || matches!(body.size(), BodySize::None | BodySize::Sized(0));
                Logged { body, line }
            }))
        }
        Err(_) => {
            let error = Error::new(Kind::Internal, "the program met a defect of its own");
            let response = panicked(&line, &error, id);
            let note = response.extensions().get::<SharedNote>().cloned().unwrap_or_default();
            line.answered = Some(Answered { status: response.status(), key: None, note });
            line.complete = true;
            Err(actix_web::error::InternalError::from_response(error, response).into())
        }
    }
}

fn panicked(line: &Line, error: &Error, id: HeaderValue) -> HttpResponse {
    let mut response = reply::failed_at(&line.path, error, &line.id);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

pin_project! {
    /// A body that tells its line of the access log how it ended.
    pub struct Logged<B> {
        #[pin]
        body: B,
        line: Line,
    }
}

impl<B: MessageBody> MessageBody for Logged<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        let this = self.project();
        let size = this.body.size();
        let polled = this.body.poll_next(context);
        match &polled {
            Poll::Ready(Some(Ok(bytes))) => {
                this.line.bytes += bytes.len() as u64;
                this.line.complete = size == BodySize::Sized(this.line.bytes);
            }
            Poll::Ready(None) => this.line.complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }
}

/// The access-log line of a request. It is written when it is dropped, so that a caller who leaves
/// before the answer's end is logged as well.
struct Line {
    id: String,
    method: String,
    path: String,
    start: Instant,
    bytes: u64,
    /// Whether the answer went out to its end.
    complete: bool,
    answered: Option<Answered>,
}

struct Answered {
    status: StatusCode,
    key: Option<String>,
    note: SharedNote,
}

impl Drop for Line {
    fn drop(&mut self) {
        let milliseconds = self.start.elapsed().as_millis() as u64;
        let (id, method, path) = (self.id.as_str(), self.method.as_str(), self.path.as_str());
        let Some(Answered { status, key, note }) = &self.answered else {
            log::info!(target: "mirrorgate::access", request_id = id, method, path, status = 499, ms = milliseconds; "the caller left");
            return;
        };
        let note = note.get();
        let quiet = matches!(path, "/health" | "/ready") && status.is_success();
        let (level, message) = match &note.error {
            Some((Kind::Internal, message)) => (Level::Error, message.as_str()),
            Some((_, message)) if note.operation.is_some() => (Level::Warn, message.as_str()),
            Some((_, message)) => (Level::Info, message.as_str()),
            None if !self.complete => (Level::Info, "the caller left"),
            None if quiet => (Level::Debug, "answered"),
            None => (Level::Info, "answered"),
        };
        log::log!(target: "mirrorgate::access", level,
            request_id = id,
            method,
            path,
            operation = note.operation,
            key = key.as_deref(),
            model = note.model.as_deref(),
            status = if self.complete { status.as_u16() } else { 499 },
            upstream_status = note.upstream_status,
            error = note.error.as_ref().map(|(kind, _)| kind.code()),
            ms = milliseconds,
            bytes = self.bytes;
            "{message}");
    }
}
