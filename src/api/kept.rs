//! The owner's doors to what is kept: conversations of each key counted, exported and deleted, and the store as one
//! file.

use std::io::Read;

use actix_web::http::{StatusCode, header};
use actix_web::web::{self, Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::audit;
use super::conversations::DeletedConversations;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::gateway::{Export, Gateway};
use crate::http::auth::Guard;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody};

/// How much of a file is sent at once.
const PIECE: usize = 256 << 10;

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(list_kept).service(export_kept).service(delete_kept).service(take_backup);
}

/// What is kept for a key.
#[derive(Serialize, ToSchema)]
pub struct KeptBody {
    /// The id of its owner, which stays when the key is replaced.
    #[schema(example = "3f1c9d1e8b1a4c2d9e3f0a1b2c3d4e5f")]
    owner: String,
    /// The key's name; null where the key is gone.
    #[schema(required = true, example = "dify")]
    key: Option<String>,
    /// Conversations.
    #[schema(example = 1482)]
    conversations: u64,
    /// Bytes of their questions and answers.
    #[schema(example = 18_874_368)]
    bytes: u64,
}

/// What is kept for each key.
#[derive(Serialize, ToSchema)]
pub struct KeptResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The keys for which something is kept, the most bytes first.
    kept: Vec<KeptBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// What is kept for each key, with the keys' names.
///
/// # Errors
/// When the store cannot be used.
pub async fn of_all(gateway: &Gateway, guard: &Guard) -> Result<Vec<KeptBody>, Error> {
    let names = guard.names();
    let body = |kept: crate::gateway::KeptOf| KeptBody {
        key: match kept.owner.0.as_ref() {
            // Who asks at a terminal has no key.
            "terminal" => Some("terminal".into()),
            _ => names.get(&kept.owner).cloned(),
        },
        owner: kept.owner.0.to_string(),
        conversations: kept.conversations,
        bytes: kept.bytes,
    };
    Ok(gateway.kept_of_all().await?.into_iter().map(body).collect())
}

/// Count what is kept
///
/// How many conversations are kept for each key, and their bytes.
#[utoipa::path(
    tag = "kept",
    responses(
        (status = 200, description = "The keys", body = KeptResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/kept")]
async fn list_kept(
    request: HttpRequest,
    gateway: Data<Gateway>,
    guard: Data<Guard>,
) -> Result<HttpResponse, Failure> {
    let kept = of_all(&gateway, &guard).await.map_err(|error| Failure::new(&request, error))?;
    let body = KeptResult { success: true, kept, error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("list_kept")))
}

/// Export the conversations of a key
///
/// JSON lines: one for each conversation, the latest first, with its instructions and messages. One of more than
/// 1000 turns or 4 MiB comes in several lines, its end first; `first_turn` says where each begins.
#[utoipa::path(
    tag = "kept",
    params(("owner" = String, Path, description = "The `owner` of the list", example = "3f1c9d1e8b1a4c2d9e3f0a1b2c3d4e5f")),
    responses(
        (status = 200, description = "The conversations", content_type = "application/x-ndjson", body = String),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/kept/{owner}")]
async fn export_kept(request: HttpRequest, gateway: Data<Gateway>, owner: Path<String>) -> HttpResponse {
    audit::note(&request, &gateway, "kept.export", &owner).await;
    let export = gateway.export(Owner(owner.into_inner().into()));
    let lines = stream::try_unfold(export, |mut export| async move {
        Ok(line(&mut export).await?.map(|line| (line, export)))
    });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/x-ndjson"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"conversations.jsonl\""))
        .streaming::<_, Box<Error>>(lines)
}

/// The line of the next conversation. A store that fails breaks the connection off, so that no part passes for the
/// whole.
async fn line(export: &mut Export) -> Result<Option<Bytes>, Box<Error>> {
    let Some((listed, first_turn, page)) = export.next().await.map_err(Box::new)? else { return Ok(None) };
    let messages = page.turns.into_iter().flat_map(|(question, answer, partial)| {
        [
            json!({"role": "user", "content": question}),
            json!({"role": "assistant", "content": answer, "partial": partial}),
        ]
    });
    let line = json!({
        "conversation_id": listed.id,
        "name": page.name,
        "system": page.system,
        "created_at": page.created_at,
        "used_at": page.used_at,
        "first_turn": first_turn,
        "messages": messages.collect::<Vec<_>>(),
    });
    Ok(Some(format!("{line}\n").into()))
}

/// Delete the conversations of a key
///
/// All of them, for good. The key itself stays.
#[utoipa::path(
    tag = "kept",
    params(("owner" = String, Path, description = "The `owner` of the list", example = "3f1c9d1e8b1a4c2d9e3f0a1b2c3d4e5f")),
    responses(
        (status = 200, description = "They are gone", body = DeletedConversations),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[delete("/api/kept/{owner}")]
async fn delete_kept(
    request: HttpRequest,
    gateway: Data<Gateway>,
    owner: Path<String>,
) -> Result<HttpResponse, Failure> {
    let deleted = gateway.forget_all(&Owner(owner.as_str().into())).await;
    let deleted = deleted.map_err(|error| Failure::new(&request, error))?;
    audit::note(&request, &gateway, "kept.delete", &owner).await;
    let body = DeletedConversations::new(deleted);
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("delete_kept")))
}

/// Take a backup
///
/// The SQLite store as one file, as `mirrorgate backup` writes it; `mirrorgate restore` puts it back.
#[utoipa::path(
    tag = "kept",
    responses(
        (status = 200, description = "The file", content_type = "application/vnd.sqlite3", body = Vec<u8>),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/backup")]
async fn take_backup(request: HttpRequest, gateway: Data<Gateway>) -> Result<HttpResponse, Failure> {
    let taken = async {
        let snapshot = gateway.snapshot().await?;
        let file = snapshot.open().map_err(|error| unreadable(&error))?;
        Ok((snapshot.size(), file, snapshot))
    };
    let (size, file, snapshot) = taken.await.map_err(|error| Failure::new(&request, error))?;
    audit::note(&request, &gateway, "backup.take", "").await;
    // The file goes with the snapshot, once it was sent or given up.
    let pieces = stream::try_unfold((file, snapshot), |(mut file, snapshot)| async move {
        let read = web::block(move || {
            let mut piece = Vec::with_capacity(PIECE);
            file.by_ref().take(PIECE as u64).read_to_end(&mut piece).map(|_| (piece, file))
        });
        let read = read.await.map_err(|_| Box::new(Error::new(Kind::Internal, "the backup broke off")))?;
        let (piece, file) = read.map_err(|error| Box::new(unreadable(&error)))?;
        Ok((!piece.is_empty()).then(|| (Bytes::from(piece), (file, snapshot))))
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/vnd.sqlite3"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"mirrorgate.db\""))
        .no_chunking(size)
        .streaming::<_, Box<Error>>(pieces))
}

fn unreadable(error: &std::io::Error) -> Error {
    Error::new(Kind::StorageUnavailable, format!("the backup cannot be read: {error}"))
}
