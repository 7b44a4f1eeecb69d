//! Request ids, and one access-log line a request, written when its answer has ended.
//!
//! Lines carry identifiers and numbers, never bodies, queries, cookies or keys. The middleware
//! here is the outermost, so it also turns a panic into an answer, or into the last words of one that
//! has begun.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpMessage, HttpResponse};
use futures_util::FutureExt;
use log::Level;
use pin_project_lite::pin_project;

use super::auth::Caller;
use super::failure::failed_at;
use super::log_fields::{LogFields, REQUEST_ID, RequestId, SharedLogFields};
use crate::api::live::Draining;
use crate::api::openai::failure as openai;
use crate::domain::error::{Error, Kind};
use crate::metrics::Metrics;

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
    let id = RequestId::new(&request);
    request.extensions_mut().insert(id.clone());
    let metrics = request.app_data::<Data<Metrics>>().map(|metrics| Arc::clone(&**metrics));
    if let Some(metrics) = &metrics {
        metrics.requests_in_flight.inc();
    }
    let mut line = Line {
        metrics,
        id: id.0.clone(),
        method: request.method().clone(),
        path: request.path().to_string(),
        start: Instant::now(),
        bytes: 0,
        complete: false,
        only_blanks: true,
        answered: None,
    };
    let id = HeaderValue::from_str(&id.0).unwrap_or(HeaderValue::from_static("-"));
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(result) => {
            let mut response = result?;
            // Else a caller who keeps its connection would hold up the end.
            let draining = response.request().app_data::<Data<Draining>>();
            if draining.is_some_and(|draining| draining.has_begun()) {
                response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
            }
            let headers = response.headers_mut();
            headers.insert(REQUEST_ID, id);
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
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
                Logged { body, line, broken: false }
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

fn is_event_stream(headers: &header::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

fn defect() -> Error {
    Error::new(Kind::Internal, "the program met a defect of its own")
}

fn panicked(line: &Line, error: &Error, id: HeaderValue) -> HttpResponse {
    let mut response = failed_at(&line.path, error, &line.id).response();
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

pin_project! {
    /// A body that tells its line of the access log how it ended.
    pub struct Logged<B> {
        #[pin]
        body: B,
        line: Line,
        // Whether it panicked: then it is not asked again.
        broken: bool,
    }
}

impl<B: MessageBody> MessageBody for Logged<B> {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
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
        let size = this.body.size();
        let body = this.body;
        let polled = match catch_unwind(AssertUnwindSafe(|| body.poll_next(context))) {
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
    id: String,
    method: Method,
    path: String,
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
    key: Option<String>,
    log_fields: SharedLogFields,
}

impl Line {
    /// How a body of this size ends that panicked: in the form of its face as long as the reader can
    /// take it for what it is, else by breaking off.
    fn last_words(&self, size: BodySize) -> Result<Bytes, Box<dyn std::error::Error>> {
        let error = defect();
        let is_stream = self.answered.as_ref().is_some_and(|answered| answered.is_stream);
        if let Some(answered) = &self.answered {
            answered.log_fields.set(answered.log_fields.get().failed(&error));
        }
        let prepared = failed_at(&self.path, &error, &self.id);
        match size {
            BodySize::Stream if is_stream => Ok(openai::last_event(&prepared.body)),
            BodySize::Stream if self.only_blanks => Ok(prepared.body),
            BodySize::Stream | BodySize::Sized(_) | BodySize::None => Err(error.into()),
        }
    }

    fn count(&self, status: u16, log_fields: &LogFields) {
        let Some(metrics) = &self.metrics else { return };
        metrics.requests_in_flight.dec();
        let code = log_fields.error.as_ref().map(|(kind, _)| kind.code());
        metrics.request(log_fields.operation, status, code, self.start.elapsed(), self.bytes);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let milliseconds = self.start.elapsed().as_millis() as u64;
        let (id, method, path) = (self.id.as_str(), self.method.as_str(), self.path.as_str());
        let Some(Answered { status, key, log_fields, .. }) = &self.answered else {
            log::info!(target: "mirrorgate::access", request_id = id, method, path, status = CALLER_LEFT, ms = milliseconds; "the caller left");
            self.count(CALLER_LEFT, &LogFields::default());
            return;
        };
        let log_fields = log_fields.read();
        let logged = if self.complete { status.as_u16() } else { CALLER_LEFT };
        self.count(logged, &log_fields);
        let quiet = matches!(path, "/health" | "/ready") && status.is_success();
        let (level, message) = match &log_fields.error {
            Some((Kind::Internal, message)) => (Level::Error, message.as_str()),
            Some((_, message)) if log_fields.operation.is_some() => (Level::Warn, message.as_str()),
            Some((_, message)) => (Level::Info, message.as_str()),
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
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::CONTENT_TYPE;
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, init_service};
    use actix_web::{App, web};
    use futures_util::stream;
    use serde_json::Value;

    use super::*;
    use crate::metrics::Counter;

    /// A body that yields `first` and panics then.
    fn breaking(media: &'static str, first: &'static [u8]) -> HttpResponse {
        let body = stream::unfold(false, move |begun| async move {
            assert!(!begun, "a canary in a panic");
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(first)), true))
        });
        HttpResponse::Ok().insert_header((CONTENT_TYPE, media)).streaming(body)
    }

    /// What a service that panics at every turn answers at a path, and the metrics after it.
    async fn answer(path: &str) -> (u16, Result<String, ()>, String) {
        let metrics = Data::new(Metrics::new(Counter::default()));
        let panics = || async { panic!("a canary in a panic") as HttpResponse };
        let app = App::new()
            .app_data(metrics.clone())
            .route("/api/chat", web::to(panics))
            .route("/v1/chat/completions", web::to(panics))
            .route("/api/late", web::to(|| async { breaking("application/json", b" ") }))
            .route("/v1/stream", web::to(|| async { breaking("text/event-stream", b": ping\n\n") }))
            .route("/v1/bytes", web::to(|| async { breaking("audio/mpeg", b"abc") }))
            .wrap(from_fn(track));
        let app = init_service(app).await;
        // The middleware hands the failure on as an error that is a response.
        let request = TestRequest::with_uri(path).to_request();
        let outcome = actix_web::dev::Service::call(&app, request).await;
        let (status, body) = match outcome {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = actix_web::body::to_bytes(response.into_body()).await;
                (status, body.map(|body| String::from_utf8_lossy(&body).into_owned()).map_err(|_| ()))
            }
            Err(error) => {
                let response = error.error_response();
                let status = response.status().as_u16();
                let body = actix_web::body::to_bytes(response.into_body()).await.map_err(|_| ());
                (status, body.map(|body| String::from_utf8_lossy(&body).into_owned()))
            }
        };
        (status, body, metrics.text())
    }

    #[actix_web::test]
    async fn a_panic_is_answered_in_the_form_of_the_face_and_counted() {
        let error = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["error"].clone();
        for (path, status) in [("/api/chat", 424), ("/v1/chat/completions", 500)] {
            let (got, body, metrics) = answer(path).await;
            let body = body.expect("a body");
            assert_eq!((got, &error(&body)["code"]), (status, &Value::from("internal_error")), "{body}");
            assert_eq!(error(&body)["type"].is_string(), path.starts_with("/v1"));
            assert!(!body.contains("canary"));
            let line = format!(
                r#"mirrorgate_requests_total{{operation="other",code="internal_error",status="{status}"}} 1"#
            );
            assert!(metrics.contains(&line), "{metrics}");
            assert!(metrics.contains("mirrorgate_requests_in_flight 0"), "{metrics}");
        }
    }

    #[actix_web::test]
    async fn a_panic_within_a_body_ends_it_in_the_form_of_the_face() {
        let (status, body, _) = answer("/api/late").await;
        let body = body.expect("a body");
        let envelope: Value = serde_json::from_str(&body).expect("JSON after blanks");
        assert_eq!((status, &envelope["success"]), (200, &Value::from(false)), "{body}");
        assert_eq!(envelope["error"]["code"], "internal_error");
        let (_, body, metrics) = answer("/v1/stream").await;
        let body = body.expect("a body");
        let last = body.strip_prefix(": ping\n\ndata: ").expect("an event").trim_end();
        assert!(last.contains("internal_error") && !body.contains("[DONE]"), "{body}");
        assert!(metrics.contains(r#"code="internal_error",status="200"} 1"#), "{metrics}");
        let (_, body, _) = answer("/v1/bytes").await;
        assert!(body.is_err(), "bytes can only break off");
    }
}
