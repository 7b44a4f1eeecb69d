//! The OpenAI-compatible face: what Dify's model provider and OpenAI's libraries call.
//!
//! Before an upstream of the same protocol requests go through in their callers' own words; before
//! a web chat the messages become a talk, and its answer is written in OpenAI's words.

mod answer;
mod body;
mod failure;
mod models;
pub mod paths;
mod relay;
mod request;
mod schemas;
#[cfg(feature = "fuzzing")]
pub use request::{passing, talk};

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::web::{self, Bytes, Data, ReqData};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, post};
use futures_util::stream::{self, Stream, StreamExt};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::error::{Error, Kind};
use crate::gateway::{Completing, CompletionContent, CompletionRequest, Passing, Service, Talk};
use crate::http::auth::Caller;
use crate::http::failure::Failure;
use crate::http::keep_alive::{self, EventStream, Heartbeat};
use crate::http::log_fields::{LogFields, RequestId};
use crate::http::reply::Prepared;
use body::V1Body;
use failure::OpenAiFailure;
pub use failure::Renderer;
use request::Form;
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
    service: Data<Service>,
    heartbeat: Data<Heartbeat>,
    body: V1Body,
) -> Result<HttpResponse, Failure> {
    let request_id = RequestId::of(request.extensions());
    let fail = |error| Failure::new(&request, error);
    let body = body.json(&request).map_err(fail)?;
    let service = service.into_inner();
    let owner = caller.owner.clone();
    let asked = request::passing(owner.clone(), body.clone()).map_err(fail)?;
    Ok(if service.passes_through(asked.model.as_deref()) {
        if asked.stream {
            let begin = Box::pin(pass_stream(service, asked, request_id));
            keep_alive::stream(&request, heartbeat.every, begin).await
        } else {
            keep_alive::respond(**heartbeat, Box::pin(pass_whole(service, asked, request_id))).await
        }
    } else {
        let (talk, form) = request::talk(owner, &body).map_err(fail)?;
        if form.stream {
            let begin = Box::pin(talk_stream(service, talk, form, request_id));
            keep_alive::stream(&request, heartbeat.every, begin).await
        } else {
            keep_alive::respond(**heartbeat, Box::pin(talk_whole(service, talk, request_id))).await
        }
    })
}

fn log_fields(model: Option<&str>) -> LogFields {
    LogFields { model: model.map(String::from), ..LogFields::of("chat_completions") }
}

async fn pass_whole(service: Arc<Service>, asked: CompletionRequest, request_id: String) -> Prepared {
    let named = asked.model.clone();
    match service.complete(asked).await {
        Ok(Completing { model, upstream, upstream_status, content }) => {
            let log_fields =
                LogFields { upstream_status: Some(upstream_status), ..log_fields(model.as_deref()) };
            match content {
                CompletionContent::Whole(body) => Prepared::json(body, log_fields).from_upstream(&upstream),
                CompletionContent::Chunks(_) => {
                    let error = Error::new(Kind::Internal, "a stream came where none was asked for");
                    failure::prepared(&error, &request_id, log_fields)
                }
            }
        }
        Err(error) => failure::prepared(&error, &request_id, log_fields(named.as_deref())),
    }
}

async fn pass_stream(
    service: Arc<Service>,
    asked: CompletionRequest,
    request_id: String,
) -> Result<EventStream, Prepared> {
    let named = asked.model.clone();
    let fail = |error: &Error| failure::prepared(error, &request_id, log_fields(named.as_deref()));
    let Completing { model, upstream, upstream_status, content } =
        service.complete(asked).await.map_err(|error| fail(&error))?;
    let CompletionContent::Chunks(passing) = content else {
        return Err(fail(&Error::new(Kind::Internal, "no stream came where one was asked for")));
    };
    let log_fields = LogFields { upstream_status: Some(upstream_status), ..log_fields(model.as_deref()) };
    let failed = log_fields.clone();
    let events = begun(passing, |data| answer::event(&data), Some(answer::DONE)).await;
    let events = events.map_err(|error| failure::prepared(&error, &request_id, failed))?;
    Ok(EventStream { events, log_fields, upstream })
}

/// A stream whose first piece is there, so that a failure before it has a status of its own.
async fn begun(
    mut passing: Passing,
    write: fn(Bytes) -> Bytes,
    done: Option<Bytes>,
) -> Result<stream::LocalBoxStream<'static, Result<Bytes, Error>>, Error> {
    let first = passing.next().await.transpose()?;
    Ok(Box::pin(Begun { first, passing, write, done }))
}

/// A stream that goes on after its first piece.
struct Begun {
    first: Option<Bytes>,
    passing: Passing,
    write: fn(Bytes) -> Bytes,
    /// What is sent after the last piece.
    done: Option<Bytes>,
}

impl Stream for Begun {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let piece = match this.first.take() {
            Some(first) => Some(Ok(first)),
            None => ready!(this.passing.poll_next_unpin(context)),
        };
        match piece {
            Some(Ok(piece)) => Poll::Ready(Some(Ok((this.write)(piece)))),
            Some(Err(error)) => {
                this.done = None;
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Ready(this.done.take().map(Ok)),
        }
    }
}

async fn talk_whole(service: Arc<Service>, talk: Talk, request_id: String) -> Prepared {
    let named = talk.model.clone();
    let mut talking = match service.talk(talk).await {
        Ok(talking) => talking,
        Err(error) => return failure::prepared(&error, &request_id, log_fields(named.as_deref())),
    };
    while let Some(event) = talking.next().await {
        if let Err(error) = event {
            let log_fields = log_fields(named.as_deref()).answered(talking.answer());
            return failure::prepared(&error, &request_id, log_fields);
        }
    }
    let said = talking.answer().text.clone();
    let answer = service.finish_talk(talking, &said).await;
    let upstream = answer.upstream.clone().unwrap_or_default();
    Prepared::json(answer::whole(&answer), log_fields(None).answered(&answer)).from_upstream(&upstream)
}

async fn talk_stream(
    service: Arc<Service>,
    talk: Talk,
    form: Form,
    request_id: String,
) -> Result<EventStream, Prepared> {
    let named = talk.model.clone();
    let mut talking = service
        .talk(talk)
        .await
        .map_err(|error| failure::prepared(&error, &request_id, log_fields(named.as_deref())))?;
    let mut writer = answer::Writer::new(talking.model());
    let log_fields =
        LogFields { model: talking.model().map(String::from), ..log_fields(None).answered(talking.answer()) };
    let upstream = talking.answer().upstream.clone().unwrap_or_default();
    // The first words are waited for, so that a failure before them has a status of its own.
    let first = loop {
        match talking.next().await {
            Some(Ok(event)) => {
                if let Some(event) = writer.step(&event) {
                    break Some(event);
                }
            }
            Some(Err(error)) => return Err(failure::prepared(&error, &request_id, log_fields)),
            None => break None,
        }
    };
    let rest = stream::unfold(Some((talking, writer)), move |state| {
        let service = Arc::clone(&service);
        async move {
            let (mut talking, mut writer) = state?;
            loop {
                match talking.next().await {
                    Some(Ok(event)) => {
                        if let Some(event) = writer.step(&event) {
                            return Some((Ok(event), Some((talking, writer))));
                        }
                    }
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => {
                        let answer = service.finish_talk(talking, writer.said()).await;
                        return Some((writer.end(&answer, form.include_usage), None));
                    }
                }
            }
        }
    });
    Ok(EventStream { events: stream::iter(first.map(Ok)).chain(rest).boxed_local(), log_fields, upstream })
}
