//! Conversations listed, read back and deleted: for people and SDKs, not among the importers' tools.

use std::fmt::Display;
use std::str::FromStr;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, ReqData};
use actix_web::{HttpRequest, HttpResponse, delete, get};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::conversations::ConversationRef;
use crate::domain::error::{Error, Kind};
use crate::gateway::{Gateway, Listed};
use crate::http::auth::Caller;
use crate::http::body;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody};

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(list_conversations)
        .service(delete_conversations)
        .service(get_conversation)
        .service(delete_conversation);
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
    /// Its id, or its name where that was asked for.
    #[schema(example = "conv_0f8fad5bd9cb469fa16570867728950e")]
    conversation_id: String,
    /// The name under which its caller began it; null where there is none.
    #[schema(required = true, example = "customer 42")]
    name: Option<String>,
    /// The instructions for the model.
    #[schema(required = true)]
    system: Option<String>,
    /// The questions and answers of this page, the oldest first.
    messages: Vec<TurnMessage>,
    /// What to give as `before` for the page before this one; null where there is none.
    #[schema(required = true)]
    next_before: Option<i64>,
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
    /// Its id, or its name where that was given.
    #[schema(example = "conv_0f8fad5bd9cb469fa16570867728950e")]
    conversation_id: String,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// Which part of a conversation.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Only what comes before: the `next_before` of another page.
    #[serde(default, deserialize_with = "number")]
    before: Option<i64>,
    /// The most turns, from 1 to 1000; 200 where it is not given. A page holds about 4 MiB at most.
    #[serde(default, deserialize_with = "number")]
    limit: Option<usize>,
}

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListPage {
    /// Only what comes after: the `next_after` of another page.
    after: Option<String>,
    /// The most conversations, from 1 to 1000; 100 where it is not given.
    #[serde(default, deserialize_with = "number")]
    limit: Option<usize>,
}

impl ListPage {
    /// When the last conversation of the page before was last used, and its id.
    fn place(&self) -> Result<(i64, &str), Error> {
        let Some(after) = self.after.as_deref().map(str::trim).filter(|after| !after.is_empty()) else {
            return Ok((i64::MAX, ""));
        };
        let place = after.split_once('-').and_then(|(time, id)| Some((time.parse().ok()?, id)));
        place.ok_or_else(|| {
            Error::new(Kind::InvalidRequest, "`after` is not understood")
                .hinted("give the `next_after` of another page, or leave it out")
        })
    }
}

/// A number in a query, where an empty text is none.
fn number<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(reader: D) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(reader)?.unwrap_or_default();
    let given = Some(text.trim()).filter(|text| !text.is_empty());
    given.map(str::parse).transpose().map_err(D::Error::custom)
}

fn most(limit: Option<usize>, default: usize) -> usize {
    limit.unwrap_or(default).clamp(1, 1000)
}

/// A conversation in a list.
#[derive(Serialize, ToSchema)]
pub struct ListedConversation {
    /// Its id.
    #[schema(example = "conv_0f8fad5bd9cb469fa16570867728950e")]
    conversation_id: String,
    /// The name under which its caller began it; null where there is none.
    #[schema(required = true, example = "customer 42")]
    name: Option<String>,
    /// How many questions were asked in it.
    #[schema(example = 3)]
    turns: i64,
    /// The bytes of its questions and answers.
    #[schema(example = 4096)]
    bytes: i64,
    /// When it began, in milliseconds since 1970.
    #[schema(example = 1_795_000_000_000_i64)]
    created_at: i64,
    /// When it was last gone on with, in milliseconds since 1970.
    #[schema(example = 1_795_000_000_000_i64)]
    used_at: i64,
}

impl From<Listed> for ListedConversation {
    fn from(Listed { id, name, turns, bytes, created_at, used_at }: Listed) -> Self {
        ListedConversation { conversation_id: id, name, turns, bytes, created_at, used_at }
    }
}

/// The conversations of a key.
#[derive(Serialize, ToSchema)]
pub struct ConversationList {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The conversations of this page, the latest first.
    conversations: Vec<ListedConversation>,
    /// What to give as `after` for the next page; null where there is none.
    #[schema(required = true)]
    next_after: Option<String>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// Conversations were deleted.
#[derive(Serialize, ToSchema)]
pub struct DeletedConversations {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// How many.
    #[schema(example = 12)]
    deleted: u64,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

impl DeletedConversations {
    /// So many were.
    pub fn new(deleted: u64) -> Self {
        DeletedConversations { success: true, deleted, error: None }
    }
}

/// List the key's conversations
///
/// The latest first, page by page: give `next_after` of one page as `after` for the next.
#[utoipa::path(
    tag = "conversations",
    params(ListPage),
    responses(
        (status = 200, description = "The conversations", body = ConversationList),
        (status = "4XX", description = "A failure with what to do about it", body = reply::FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/conversations")]
async fn list_conversations(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
) -> Result<HttpResponse, Failure> {
    let fail = |error| Failure::new(&request, error);
    let page: ListPage = body::query(&request).map_err(fail)?;
    let (after, most) = (page.place().map_err(fail)?, most(page.limit, 100));
    let listed = gateway.conversations(&caller.owner, after, most).await.map_err(fail)?;
    let last = listed.last().filter(|_| listed.len() == most);
    let body = ConversationList {
        success: true,
        next_after: last.map(|last| format!("{}-{}", last.used_at, last.id)),
        conversations: listed.into_iter().map(ListedConversation::from).collect(),
        error: None,
    };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("list_conversations")))
}

/// Delete all conversations of the key
///
/// Forgets them and their answers here. What the upstream keeps of them stays there.
#[utoipa::path(
    tag = "conversations",
    responses(
        (status = 200, description = "They are deleted", body = DeletedConversations),
        (status = "4XX", description = "A failure with what to do about it", body = reply::FailureBody),
    ),
    security(("bearer" = [])),
)]
#[delete("/api/conversations")]
async fn delete_conversations(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
) -> Result<HttpResponse, Failure> {
    let deleted = gateway.forget_all(&caller.owner).await.map_err(|error| Failure::new(&request, error))?;
    let body = DeletedConversations::new(deleted);
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("delete_conversations")))
}

/// Read a conversation back
///
/// Returns its latest questions and answers, page by page: give `next_before` of one page as `before` for
/// the one before it. A conversation is visible to the key that started it.
#[utoipa::path(
    tag = "conversations",
    params(("id" = String, Path, description = "The conversation_id that an answer returned, or the name that the caller gave the conversation, percent-encoded"), Page),
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
    let meant: ConversationRef = id.parse().map_err(fail)?;
    let Page { before, limit } = body::query(&request).map_err(fail)?;
    let transcript =
        gateway.transcript(&caller.owner, meant.id(), before, most(limit, 200)).await.map_err(fail)?;
    let message = |role, content, partial| TurnMessage { role, content, partial };
    let messages = transcript.turns.into_iter().flat_map(|(question, answer, partial)| {
        [message("user", question, false), message("assistant", answer, partial)]
    });
    let body = ConversationResult {
        success: true,
        conversation_id: meant.to_string(),
        name: transcript.name,
        system: transcript.system,
        messages: messages.collect(),
        next_before: transcript.next_before,
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
    params(("id" = String, Path, description = "The conversation_id that an answer returned, or the name that the caller gave the conversation, percent-encoded")),
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
    let meant: ConversationRef = id.parse().map_err(fail)?;
    gateway.forget(&caller.owner, meant.id()).await.map_err(fail)?;
    let body = DeletedResult { success: true, conversation_id: meant.to_string(), error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("delete_conversation")))
}
