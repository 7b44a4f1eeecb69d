//! `Idempotency-Key`: a call that is sent again gets the answer of the first one.
//!
//! The first call runs in a task of its own, and what it answers is recorded; its caller, and all who send
//! it again, read the record.

use std::pin::pin;
use std::sync::Arc;

use actix_web::body::{BodySize, EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::ErrorInternalServerError;
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError};
use futures_util::future::{Either, poll_fn, select};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::config::Limits;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::hex;
use crate::gateway::{Begun, Call, CallHead, Gateway, Recorder, Recording};
use crate::http::auth::Caller;
use crate::http::body;
use crate::http::failure::Failure;
use crate::http::log_fields::SharedLogFields;
use crate::http::reply::status_code;
use crate::metrics::Metrics;
use crate::request as context;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer is that of an earlier call.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest name that a caller may give a call, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// What an answer's first caller learns besides the record.
type Begins = oneshot::Sender<Result<(HttpRequest, SharedLogFields), actix_web::Error>>;

/// The middleware.
///
/// # Errors
/// Those of the handlers.
pub async fn check<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let Some(name) = name(&request) else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let payload = request.take_payload();
    let begun = begin(&request, payload, name).await;
    let (recorder, body) = match begun {
        Err(error) => {
            let response = Failure::new(request.request(), error).error_response();
            return Ok(request.into_response(response).map_into_right_body());
        }
        Ok((Begun::Again(recording), _)) => {
            let mut response = answer(recording, true).await;
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            return Ok(request.into_response(response).map_into_right_body());
        }
        Ok((Begun::New(recorder), body)) => (recorder, body),
    };
    request.set_payload(payload_of(body));
    let recording = recorder.recording();
    let (begins, begun) = oneshot::channel();
    let metrics = request.app_data::<Data<Metrics>>().cloned();
    let work = next.call(request);
    tokio::task::spawn_local(context::carried(async move {
        // Whoever stops the service waits for it as for any other call.
        let _running = metrics.map(|metrics| metrics.running());
        record(work, recorder, begins).await;
    }));
    let (request, log_fields) = begun.await.unwrap_or_else(|_| Err(ErrorInternalServerError(defect())))?;
    let mut response = answer(recording, false).await;
    response.extensions_mut().insert(log_fields);
    Ok(ServiceResponse::new(request, response).map_into_right_body())
}

/// The caller's name for its call, where such a call may be sent again.
fn name(request: &ServiceRequest) -> Option<String> {
    let path = request.path();
    let may_be = request.method() == Method::POST
        && (path.starts_with("/api/") || path == "/v1/chat/completions")
        && request.extensions().contains::<Caller>();
    let name = request.headers().get(IDEMPOTENCY_KEY).filter(|_| may_be)?.to_str().unwrap_or_default();
    Some(name.trim().to_string()).filter(|name| !name.is_empty())
}

async fn begin(request: &ServiceRequest, payload: Payload, name: String) -> Result<(Begun, Bytes), Error> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::new(Kind::InvalidRequest, "the `Idempotency-Key` is too long")
            .hinted(format!("give one of at most {MAX_NAME_BYTES} characters, such as a UUID")));
    }
    let limit: fn(&Limits) -> usize = match request.path().starts_with("/v1/") {
        true => |limits| limits.v1_body_bytes,
        false => |limits| limits.body_bytes,
    };
    let body = body::read(request.request(), payload, limit).await?;
    let owner = request.extensions().get::<Caller>().map(|caller| caller.owner.clone());
    let owner = owner.ok_or_else(defect)?;
    let mut digest = Sha256::new();
    digest.update(request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes));
    digest.update([0]);
    digest.update(request.query_string());
    digest.update([0]);
    digest.update(&body);
    let digest = hex(&digest.finalize());
    let gateway = request.app_data::<Data<Gateway>>().ok_or_else(defect)?;
    let call = Call { owner, path: request.path().to_string(), name, digest };
    Ok((gateway.begin_call(call).await?, body))
}

fn payload_of(body: Bytes) -> Payload {
    let (_, mut payload) = actix_http::h1::Payload::create(true);
    payload.unread_data(body);
    Payload::from(payload)
}

/// Makes a call and records its answer.
async fn record<B: MessageBody>(
    work: impl Future<Output = Result<ServiceResponse<B>, actix_web::Error>>,
    recorder: Recorder,
    begins: Begins,
) {
    let whole = async {
        let (request, response) = match work.await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                let _ = begins.send(Err(error));
                return false;
            }
        };
        let log_fields = response.extensions().get::<SharedLogFields>().cloned().unwrap_or_default();
        recorder.begin(head(&response));
        let _ = begins.send(Ok((request, log_fields)));
        let (_, body) = response.into_parts();
        if let BodySize::None | BodySize::Sized(0) = body.size() {
            return true;
        }
        let mut body = pin!(body);
        while let Some(chunk) = poll_fn(|context| body.as_mut().poll_next(context)).await {
            let Ok(bytes) = chunk else { return false };
            if context::take(bytes.len()).is_err() {
                return false;
            }
            recorder.add(bytes);
        }
        true
    };
    let complete = match select(pin!(whole), pin!(recorder.vouch())).await {
        Either::Left((complete, _)) => complete,
        Either::Right(_) => false,
    };
    // What was asked of no upstream costs nothing when it is asked again.
    let counts = context::is_paid();
    recorder.end(complete, counts).await;
}

fn head<B>(response: &HttpResponse<B>) -> CallHead {
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_string(), value.to_str().ok()?.to_string()))
    };
    CallHead {
        status: response.status().as_u16(),
        headers: response.headers().iter().filter_map(header).collect(),
    }
}

/// The response that a record gives, to the caller of the call or to one who sends it `again`.
async fn answer(recording: Arc<Recording>, again: bool) -> HttpResponse {
    let Some(head) = recording.head().await else {
        return HttpResponse::build(status_code(500)).finish();
    };
    let mut response = HttpResponse::build(status_code(head.status));
    for header in head.headers {
        response.append_header(header);
    }
    response.streaming(recording.body(again))
}

fn defect() -> Error {
    Error::new(Kind::Internal, "the program met a defect of its own")
}
