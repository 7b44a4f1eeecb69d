//! Request ids, and one access-log line a request, written when its answer has ended.
//!
//! Lines carry identifiers and numbers, never bodies, queries, cookies or keys. The middleware
//! here is the outermost, so it also turns a panic into an answer, or into the last words of one that
//! has begun.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpMessage, HttpResponse};
use futures_util::FutureExt;
use log::Level;
use pin_project_lite::pin_project;

use super::auth::Caller;
use super::draining::Draining;
use super::failure::{ErrorRenderer, ErrorRenderers};
use super::log_fields::{LogFields, REQUEST_ID, RequestId, SharedLogFields};
use crate::budget::Budget;
use crate::domain::error::{Error, Kind};
use crate::metrics::Metrics;
use crate::request::Context as RequestContext;
use crate::traffic::End;

/// Stands for a status where the caller left before the answer's end, as nginx has it.
const CALLER_LEFT: u16 = 499;

/// The middleware: gives each request its id, logs it, and answers where a handler panics.
///
/// # Errors
/// The response that stands for a panic.
pub async fn track<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Logged<B>>, actix_web::Error> {
    let RequestId(id) = RequestId::new(&request);
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    let metrics = request.app_data::<Data<Metrics>>().map(|metrics| Arc::clone(&**metrics));
    if let Some(metrics) = &metrics {
        metrics.requests_in_flight.inc();
    }
    let budget =
        request.app_data::<Data<Budget>>().map_or_else(Budget::default, |budget| (***budget).clone());
    let context = RequestContext::new(id, budget.share());
    let mut line = Line {
        metrics,
        context: context.clone(),
        method: request.method().clone(),
        path: request.path().to_string(),
        renderer: ErrorRenderers::of(request.request()),
        start: Instant::now(),
        bytes: 0,
        complete: false,
        only_blanks: true,
        answered: None,
    };
    let answer = context.scope(async move { next.call(request).await });
    let id = HeaderValue::from_str(context.id()).unwrap_or(HeaderValue::from_static("-"));
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(result) => {
            let mut response = result?;
            set_head(&mut response, id, context.told());
            line.answered = Some(Answered {
                status: response.status(),
                is_stream: is_event_stream(response.headers()),
                key: response.request().extensions().get::<Caller>().map(|caller| caller.name.clone()),
                log_fields: response
                    .response()
                    .extensions()
                    .get::<SharedLogFields>()
                    .cloned()
                    .unwrap_or_default(),
            });
            Ok(response.map_body(|_, body| {
                // A HEAD is answered without the body.
                line.complete =
                    line.method == Method::HEAD || matches!(body.size(), BodySize::None | BodySize::Sized(0));
                Logged { body: Some(body), line, broken: false }
            }))
        }
        Err(_) => {
            let error = defect();
            let response = panicked(&line, &error, id);
            let log_fields = response.extensions().get::<SharedLogFields>().cloned().unwrap_or_default();
            line.answered =
                Some(Answered { status: response.status(), is_stream: false, key: None, log_fields });
            line.complete = true;
            Err(actix_web::error::InternalError::from_response(error, response).into())
        }
    }
}

/// Sets what the head of every answer has, and the headers that were told for this one.
fn set_head<B>(response: &mut ServiceResponse<B>, id: HeaderValue, told: Vec<(String, String)>) {
    // Else a caller who keeps its connection would hold up the end.
    let draining = response.request().app_data::<Data<Draining>>();
    if draining.is_some_and(|draining| draining.has_begun()) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    for (name, value) in told {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

fn is_event_stream(headers: &header::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

fn defect() -> Error {
    Error::new(Kind::Internal, "the program met a defect of its own")
}

fn panicked(line: &Line, error: &Error, id: HeaderValue) -> HttpResponse {
    let mut response = line.renderer.render(error, line.context.id(), LogFields::default()).response();
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

pin_project! {
    /// A body that tells its line of the access log how it ended.
    pub struct Logged<B> {
        // Nothing only while this is dropped.
        #[pin]
        body: Option<B>,
        line: Line,
        // Whether it panicked: then it is not asked again.
        broken: bool,
    }

    impl<B> PinnedDrop for Logged<B> {
        // What a body does when its reader leaves is logged for the request too.
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let context = this.line.context.clone();
            context.sync_scope(|| this.body.set(None));
        }
    }
}

impl<B: MessageBody> MessageBody for Logged<B> {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.as_ref().map_or(BodySize::None, MessageBody::size)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.project();
        if *this.broken {
            this.line.complete = true;
            return Poll::Ready(None);
        }
        let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let size = body.size();
        // A stream is asked for its pieces after the handler has returned.
        let poll = || this.line.context.sync_scope(|| body.poll_next(context));
        let polled = match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(polled) => polled.map_err(Into::into),
            Err(_) => {
                *this.broken = true;
                Poll::Ready(Some(this.line.last_words(size)))
            }
        };
        match &polled {
            Poll::Ready(Some(Ok(bytes))) => {
                this.line.bytes += bytes.len() as u64;
                this.line.only_blanks &= bytes.trim_ascii().is_empty();
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
    metrics: Option<Arc<Metrics>>,
    context: RequestContext,
    method: Method,
    path: String,
    renderer: &'static dyn ErrorRenderer,
    start: Instant,
    bytes: u64,
    /// Whether the answer went out to its end.
    complete: bool,
    /// Whether the body was nothing but blanks so far.
    only_blanks: bool,
    answered: Option<Answered>,
}

struct Answered {
    status: StatusCode,
    /// Whether the body is a stream of events.
    is_stream: bool,
    key: Option<Arc<str>>,
    log_fields: SharedLogFields,
}

impl Line {
    /// How a body of this size ends that panicked: in the form of its API as long as the reader can
    /// take it for what it is, else by breaking off.
    fn last_words(&self, size: BodySize) -> Result<Bytes, Box<dyn std::error::Error>> {
        let error = defect();
        let is_stream = self.answered.as_ref().is_some_and(|answered| answered.is_stream);
        if let Some(answered) = &self.answered {
            answered.log_fields.set(answered.log_fields.get().failed(&error));
        }
        let prepared = self.renderer.render(&error, self.context.id(), LogFields::default());
        match size {
            BodySize::Stream if is_stream => Ok(self.renderer.last_event(&prepared.body)),
            BodySize::Stream if self.only_blanks => prepared.late_body().map_err(Into::into),
            BodySize::Stream | BodySize::Sized(_) | BodySize::None => Err(error.into()),
        }
    }

    /// Tells the metrics and the owner's list of calls how it ended.
    fn count(&self, status: u16, log_fields: &LogFields, total: Duration) {
        let failure = log_fields.error.as_ref().map(|(kind, failure)| (kind.code(), failure));
        if let Some(metrics) = &self.metrics {
            metrics.requests_in_flight.dec();
            let code = failure.map(|(code, _)| code);
            metrics.request(log_fields.operation, status, code, total, self.bytes);
        }
        let Some(call) = self.context.call() else { return };
        call.ends(End {
            operation: log_fields.operation,
            status,
            upstream_status: log_fields.upstream_status,
            model: log_fields.model.as_deref(),
            failure,
            is_left: status == CALLER_LEFT,
            total,
            sent: self.bytes,
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let total = self.start.elapsed();
        let milliseconds = total.as_millis() as u64;
        let (id, method, path) = (&**self.context.id(), self.method.as_str(), self.path.as_str());
        let Some(Answered { status, key, log_fields, .. }) = self.answered.take() else {
            log::info!(target: "mirrorgate::access", request_id = id, method, path, status = CALLER_LEFT, ms = milliseconds; "the caller left");
            self.count(CALLER_LEFT, &LogFields::default(), total);
            return;
        };
        let log_fields = log_fields.read();
        let logged = if self.complete { status.as_u16() } else { CALLER_LEFT };
        let quiet = log_fields.is_probe && status.is_success();
        let (level, message) = match &log_fields.error {
            Some((kind, failure)) if log_fields.operation.is_some() || kind.log_level() == Level::Error => {
                (kind.log_level(), failure.message.as_str())
            }
            // No operation was meant: mostly noise of the Internet.
            Some((_, failure)) => (Level::Info, failure.message.as_str()),
            None if !self.complete => (Level::Info, "the caller left"),
            None if quiet => (Level::Debug, "answered"),
            None => (Level::Info, "answered"),
        };
        log::log!(target: "mirrorgate::access", level,
            request_id = id,
            method,
            path,
            operation = log_fields.operation,
            key = key.as_deref(),
            model = log_fields.model.as_deref(),
            status = logged,
            upstream_status = log_fields.upstream_status,
            error = log_fields.error.as_ref().map(|(kind, _)| kind.code()),
            ms = milliseconds,
            bytes = self.bytes;
            "{message}");
        self.count(logged, &log_fields, total);
    }
}
