//! Conversations read back and deleted: for people and SDKs, not among the importers' tools.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, ReqData};
use actix_web::{HttpRequest, HttpResponse, delete, get};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::chat::ConversationId;
use crate::domain::error::{Error, Kind};
use crate::gateway::Gateway;
use crate::http::auth::Caller;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody};

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(get_conversation).service(delete_conversation);
}

/// One message of a conversation.
#[derive(Serialize, ToSchema)]
pub struct TurnMessage {
    /// `user` or `assistant`.
    #[schema(example = "user")]
    role: &'static str,
    /// What was said.
    #[schema(example = "Hello")]
    content: String,
    /// Whether the answer broke off.
    #[schema(example = false)]
    partial: bool,
}

/// A conversation.
#[derive(Serialize, ToSchema)]
pub struct ConversationResult {
    /// Whether it was found.
    #[schema(example = true)]
    success: bool,
    /// Its id.
    #[schema(example = "conv_0f8fad5bd9cb469fa16570867728950e")]
    conversation_id: String,
    /// The instructions for the model.
    #[schema(required = true)]
    system: Option<String>,
    /// Questions and answers, the oldest first.
    messages: Vec<TurnMessage>,
    /// When it began, in milliseconds since 1970.
    #[schema(example = 1_795_000_000_000_i64)]
    created_at: i64,
    /// When it was last gone on with, in milliseconds since 1970.
    #[schema(example = 1_795_000_000_000_i64)]
    used_at: i64,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// A conversation was deleted.
#[derive(Serialize, ToSchema)]
pub struct DeletedResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// Its id.
    #[schema(example = "conv_0f8fad5bd9cb469fa16570867728950e")]
    conversation_id: String,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// Read a conversation back
///
/// Returns all its questions and answers. A conversation is visible to the key that started it.
#[utoipa::path(
    tag = "conversations",
    params(("id" = String, Path, description = "The conversation_id that an answer returned")),
    responses(
        (status = 200, description = "The conversation", body = ConversationResult),
        (status = "4XX", description = "A failure with what to do about it", body = reply::FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/conversations/{id}")]
async fn get_conversation(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    id: Path<String>,
) -> Result<HttpResponse, Failure> {
    let fail = |error| Failure::new(&request, error);
    let id = parse(&id).map_err(fail)?;
    let transcript = gateway.transcript(&caller.owner, id).await.map_err(fail)?;
    let message = |role, content, partial| TurnMessage { role, content, partial };
    let messages = transcript.turns.into_iter().flat_map(|(question, answer, partial)| {
        [message("user", question, false), message("assistant", answer, partial)]
    });
    let body = ConversationResult {
        success: true,
        conversation_id: id.to_string(),
        system: transcript.system,
        messages: messages.collect(),
        created_at: transcript.created_at,
        used_at: transcript.used_at,
        error: None,
    };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("get_conversation")))
}

/// Delete a conversation
///
/// Forgets all its questions and answers here. What the upstream keeps of it stays there.
#[utoipa::path(
    tag = "conversations",
    params(("id" = String, Path, description = "The conversation_id that an answer returned")),
    responses(
        (status = 200, description = "It is deleted", body = DeletedResult),
        (status = "4XX", description = "A failure with what to do about it", body = reply::FailureBody),
    ),
    security(("bearer" = [])),
)]
#[delete("/api/conversations/{id}")]
async fn delete_conversation(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    id: Path<String>,
) -> Result<HttpResponse, Failure> {
    let fail = |error| Failure::new(&request, error);
    let id = parse(&id).map_err(fail)?;
    gateway.forget(&caller.owner, id).await.map_err(fail)?;
    let body = DeletedResult { success: true, conversation_id: id.to_string(), error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("delete_conversation")))
}

/// The id in a path; one that cannot be any is as missing as one that is not there.
fn parse(id: &str) -> Result<ConversationId, Error> {
    id.parse().map_err(|()| {
        Error::new(Kind::ConversationNotFound, "there is no such conversation, or it was forgotten")
    })
}
