//! The OpenAI-compatible face: what Dify's model provider and OpenAI's libraries call.
//!
//! Before an upstream of the same protocol requests go through in their callers' own words; before
//! a web chat the messages become a talk, and its answer is written in OpenAI's words.

mod answer;
mod body;
mod events;
mod failure;
mod forms;
mod headers;
mod messages;
mod models;
mod needs;
mod parts;
pub mod paths;
mod references;
mod relay;
mod request;
mod schemas;
mod tokens;
#[cfg(feature = "fuzzing")]
pub use request::{chat, head};

use std::sync::Arc;

use actix_web::web::{self, Data, ReqData};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, post};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gateway::{Failed, Gateway, InferenceRequest};
use crate::http::auth::Caller;
use crate::http::body::check_depth;
use crate::http::failure::Failure;
use crate::http::keep_alive::{self, EventStream, Heartbeat};
use crate::http::log_fields::{LogFields, RequestId};
use crate::http::reply::{self, Form, Prepared};
use body::V1Body;
use events::Events;
use failure::OpenAiFailure;
pub use failure::Renderer;
use schemas::{Completion, CompletionBody, EventBody};

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(chat_completions);
    models::routes(config);
}

/// Adds what goes through without being an operation of its own.
pub fn pages(config: &mut web::ServiceConfig) {
    config.service(web::resource("/v1/{path:.*}").to(relay::relay));
}

/// Complete a chat
///
/// OpenAI's chat completions. Before an upstream that speaks OpenAI's protocol, everything goes through
/// both ways: tools, images, structured output. With `stream` the answer is a stream of server-sent events
/// that ends with `[DONE]`, or with an error event when it breaks off.
#[utoipa::path(
    tag = "openai",
    operation_id = "chat_completions",
    request_body(content = CompletionBody, description = "The chat, as OpenAI's protocol has it"),
    responses(
        (status = 200, description = "The completion", content((Completion = "application/json"), (EventBody = "text/event-stream"))),
        (status = "4XX", description = "A failure with what to do about it", body = OpenAiFailure),
        (status = "5XX", description = "A failure with what to do about it", body = OpenAiFailure),
    ),
    security(("bearer" = [])),
)]
#[post("/v1/chat/completions")]
async fn chat_completions(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    heartbeat: Data<Heartbeat>,
    body: V1Body,
) -> Result<HttpResponse, Failure> {
    let request_id = RequestId::of(request.extensions());
    let fail = |error| Failure::new(&request, error);
    let body = body.json(&request).map_err(fail)?;
    let length = body.len();
    let (owner, headers) = (caller.owner.clone(), headers::asked(&request, &caller.owner));
    let read = move || {
        check_depth(&body)?;
        Ok((needs::of_chat(&body), request::inference(owner, headers, body)?))
    };
    let (needs, (asked, include_usage)) =
        crate::request::apart(length, read).await.and_then(|read| read).map_err(fail)?;
    gateway.allow(&caller.owner, &needs).await.map_err(fail)?;
    let gateway = gateway.into_inner();
    Ok(if asked.stream {
        let begin = Box::pin(streamed(gateway, asked, include_usage, request_id));
        keep_alive::stream(&request, heartbeat.every, begin).await
    } else {
        keep_alive::respond(heartbeat.on_v1(), Form::Json, Box::pin(whole(gateway, asked, request_id))).await
    })
}

/// The failure of a question for this model.
fn failed(failed: Failed, model: Option<String>, request_id: &str) -> Prepared {
    let Failed { error, partial } = failed;
    let log_fields = LogFields::of("chat_completions").answered(&partial.answer);
    failure::prepared(&error, request_id, LogFields { model: log_fields.model.or(model), ..log_fields })
}

async fn whole(gateway: Arc<Gateway>, asked: InferenceRequest, request_id: String) -> Prepared {
    let model = asked.model.clone();
    let outcome = async {
        let mut in_flight = gateway.infer(asked).await?;
        let mut wire = None;
        while let Some(delta) = in_flight.next().await {
            wire = delta?.wire.or(wire);
        }
        let headers = headers::told(in_flight.upstream_headers()).collect();
        Ok((in_flight.into_reply().answer, wire, headers))
    };
    match outcome.await {
        Ok((answer, wire, headers)) => {
            let body = wire.unwrap_or_else(|| answer::whole(&answer).into());
            let prepared = Prepared::json(body, LogFields::of("chat_completions").answered(&answer));
            Prepared { headers, ..prepared }.from_upstream(answer.upstream.as_deref().unwrap_or_default())
        }
        Err(error) => failed(error, model, &request_id),
    }
}

async fn streamed(
    gateway: Arc<Gateway>,
    asked: InferenceRequest,
    include_usage: bool,
    request_id: String,
) -> Result<EventStream, Prepared> {
    let model = asked.model.clone();
    let begun = async {
        let in_flight = gateway.infer(asked).await?;
        let log_fields = LogFields::of("chat_completions").answered(&in_flight.answer());
        let upstream = reply::upstream_header(in_flight.answer().upstream.as_deref().unwrap_or_default());
        let headers = headers::told(in_flight.upstream_headers()).chain(upstream).collect();
        let events = Box::pin(Events::chunks(in_flight, include_usage).begun().await?);
        Ok(EventStream { events, log_fields, headers })
    };
    begun.await.map_err(|error| failed(error, model, &request_id))
}
