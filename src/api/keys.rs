//! The owner's doors to the keys: made, listed, limited, replaced and revoked.

use std::time::SystemTime;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, post, put};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::audit;
use crate::domain::error::{Error, Kind};
use crate::domain::keys;
use crate::domain::limits::{self, KeyLimits};
use crate::gateway::{Gateway, StoredKey, check_name};
use crate::http::auth::Guard;
use crate::http::body::JsonBody;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody};

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(list_keys).service(create_key).service(limit_key).service(rotate_key).service(revoke_key);
}

/// A key, or the limits of one. What is left out is not limited.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Its name: up to 40 letters, digits, `-`, `_` and `.`. Only for a new key.
    #[schema(example = "dify")]
    name: Option<String>,
    /// How long it holds from now on, such as `30d`, `12h` or `2w`.
    #[schema(example = "30d")]
    expires: Option<String>,
    /// The models that it may ask.
    #[schema(example = json!(["gpt-4o-mini"]))]
    models: Option<Vec<String>>,
    /// Questions in any 60 seconds.
    #[schema(example = 60)]
    rpm: Option<u32>,
    /// Questions that are answered at once.
    #[schema(example = 4)]
    parallel: Option<u32>,
    /// Tokens of questions and answers in a day, in UTC.
    #[schema(example = 200_000)]
    tokens_per_day: Option<u64>,
    /// The same in a month.
    #[schema(example = 4_000_000)]
    tokens_per_month: Option<u64>,
    /// Bytes of conversations that are kept for it, such as `200MiB`; `0` for any number.
    #[schema(example = "200MiB")]
    storage: Option<String>,
    /// Paths under `/v1/` that it opens beside those which are open to every key.
    #[schema(example = json!(["files"]))]
    paths: Option<Vec<String>>,
}

impl KeyRequest {
    fn limits(self) -> Result<KeyLimits, Error> {
        let expiry = |text: String| limits::expiry(&text, SystemTime::now());
        Ok(KeyLimits {
            expires_at: self.expires.map(expiry).transpose()?,
            models: self.models.map(limits::models).transpose()?,
            requests_per_minute: self.rpm,
            parallel: self.parallel,
            tokens_per_day: self.tokens_per_day,
            tokens_per_month: self.tokens_per_month,
            storage_bytes: self.storage.map(|text| limits::storage(&text)).transpose()?,
            paths: limits::paths(self.paths.unwrap_or_default())?,
        })
    }
}

/// A key, without its text.
#[derive(Serialize, ToSchema)]
pub struct KeyBody {
    /// Its name.
    #[schema(example = "dify")]
    name: String,
    /// When it was made, in milliseconds since 1970.
    #[schema(example = 1_795_000_000_000_i64)]
    created_at: i64,
    /// When it was last used, in milliseconds since 1970; null where it was not in the last 400 days.
    #[schema(required = true, example = 1_795_000_000_000_i64)]
    last_used_at: Option<i64>,
    /// When it ends, in milliseconds since 1970; null for never.
    #[schema(required = true, example = 1_797_592_000_000_i64)]
    expires_at: Option<i64>,
    /// The models that it may ask; null for all.
    #[schema(required = true)]
    models: Option<Vec<String>>,
    /// Questions in any 60 seconds; null for any number, as below.
    #[schema(required = true, example = 60)]
    rpm: Option<u32>,
    /// Questions that are answered at once.
    #[schema(required = true, example = 4)]
    parallel: Option<u32>,
    /// Tokens of questions and answers in a day, in UTC.
    #[schema(required = true, example = 200_000)]
    tokens_per_day: Option<u64>,
    /// The same in a month.
    #[schema(required = true, example = 4_000_000)]
    tokens_per_month: Option<u64>,
    /// Bytes of conversations that are kept for it; null for `KEY_STORAGE_BYTES`.
    #[schema(required = true, example = 209_715_200)]
    storage_bytes: Option<u64>,
    /// Paths under `/v1/` that it opens beside those which are open to every key.
    paths: Vec<String>,
}

/// The keys of the store.
#[derive(Serialize, ToSchema)]
pub struct KeysResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The keys, by name; those of `GATEWAY_API_KEYS` and the owner's are not among them.
    keys: Vec<KeyBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// A key's text, told this once.
#[derive(Serialize, ToSchema)]
pub struct NewKeyResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// Its name.
    #[schema(example = "dify")]
    name: String,
    /// What its holder sends as `Authorization: Bearer KEY`. It is kept nowhere.
    #[schema(example = "mg_...")]
    key: String,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// It was done.
#[derive(Serialize, ToSchema)]
pub struct DoneResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// List the keys
///
/// Names, limits and last use. The texts of keys are kept nowhere.
#[utoipa::path(
    tag = "keys",
    responses(
        (status = 200, description = "The keys", body = KeysResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/keys")]
async fn list_keys(request: HttpRequest, gateway: Data<Gateway>) -> Result<HttpResponse, Failure> {
    let keys = gateway.keys().await.map_err(|error| Failure::new(&request, error))?;
    let keys = keys.into_iter().map(|(key, last)| KeyBody::of(key, last)).collect();
    let body = KeysResult { success: true, keys, error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("list_keys")))
}

/// Make a key
///
/// Its text is in the answer and nowhere else. It holds at once here, and within seconds at other replicas.
#[utoipa::path(
    tag = "keys",
    request_body(content = KeyRequest, description = "Its name, and its limits if it has any"),
    responses(
        (status = 200, description = "The key", body = NewKeyResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[post("/api/keys")]
async fn create_key(
    request: HttpRequest,
    gateway: Data<Gateway>,
    guard: Data<Guard>,
    body: JsonBody<KeyRequest>,
) -> Result<HttpResponse, Failure> {
    let made = async {
        let name = body.0.name.clone().unwrap_or_default();
        check_name(&name)?;
        if guard.names().values().any(|taken| *taken == name) {
            return Err(keys::taken(&name));
        }
        let key = gateway.new_key(&name, body.0.limits()?).await?;
        Ok(NewKeyResult { success: true, name, key, error: None })
    };
    let body = made.await.map_err(|error| Failure::new(&request, error))?;
    after(&request, &gateway, "key.new", &body.name).await;
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("create_key")))
}

/// Give a key other limits
///
/// They take the place of those before: what is left out is not limited any more.
#[utoipa::path(
    tag = "keys",
    params(("name" = String, Path, description = "The key's name", example = "dify")),
    request_body(content = KeyRequest, description = "The limits"),
    responses(
        (status = 200, description = "They hold", body = DoneResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[put("/api/keys/{name}")]
async fn limit_key(
    request: HttpRequest,
    gateway: Data<Gateway>,
    name: Path<String>,
    body: JsonBody<KeyRequest>,
) -> Result<HttpResponse, Failure> {
    let limited = async {
        if body.0.name.as_ref().is_some_and(|other| *other != *name) {
            return Err(Error::new(Kind::InvalidRequest, "a key keeps its name: leave `name` out"));
        }
        gateway.limit_key(&name, &body.0.limits()?).await
    };
    limited.await.map_err(|error| Failure::new(&request, error))?;
    after(&request, &gateway, "key.set", &name).await;
    Ok(done("limit_key"))
}

/// Replace a key's text
///
/// The text before opens nothing any more; conversations, usage and limits stay. `owner` is the admin key.
#[utoipa::path(
    tag = "keys",
    params(("name" = String, Path, description = "The key's name", example = "dify")),
    responses(
        (status = 200, description = "The new text", body = NewKeyResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[post("/api/keys/{name}/rotate")]
async fn rotate_key(
    request: HttpRequest,
    gateway: Data<Gateway>,
    name: Path<String>,
) -> Result<HttpResponse, Failure> {
    let key = gateway.rotate_key(&name).await.map_err(|error| Failure::new(&request, error))?;
    after(&request, &gateway, "key.rotate", &name).await;
    let body = NewKeyResult { success: true, name: name.into_inner(), key, error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("rotate_key")))
}

/// Revoke a key
///
/// It opens nothing any more, and answers that are under way for it end within seconds. What is kept for it
/// stays until it expires; a new key of the same name does not get it.
#[utoipa::path(
    tag = "keys",
    params(("name" = String, Path, description = "The key's name", example = "dify")),
    responses(
        (status = 200, description = "It is gone", body = DoneResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[delete("/api/keys/{name}")]
async fn revoke_key(
    request: HttpRequest,
    gateway: Data<Gateway>,
    name: Path<String>,
) -> Result<HttpResponse, Failure> {
    gateway.revoke_key(&name).await.map_err(|error| Failure::new(&request, error))?;
    after(&request, &gateway, "key.revoke", &name).await;
    Ok(done("revoke_key"))
}

impl KeyBody {
    fn of(key: StoredKey, last_used_at: Option<i64>) -> Self {
        let StoredKey { name, created_at, limits, .. } = key;
        KeyBody {
            name,
            created_at,
            last_used_at,
            expires_at: limits.expires_at,
            models: limits.models,
            rpm: limits.requests_per_minute,
            parallel: limits.parallel,
            tokens_per_day: limits.tokens_per_day,
            tokens_per_month: limits.tokens_per_month,
            storage_bytes: limits.storage_bytes,
            paths: limits.paths,
        }
    }
}

fn done(operation: &'static str) -> HttpResponse {
    reply::json(StatusCode::OK, &DoneResult { success: true, error: None }, LogFields::of(operation))
}

/// Lets a change of the keys hold here at once, and notes it.
async fn after(request: &HttpRequest, gateway: &Gateway, action: &'static str, target: &str) {
    if let (Some(guard), Ok(keys)) = (request.app_data::<Data<Guard>>(), gateway.read_keys().await) {
        guard.renew(keys);
    }
    audit::note(request, gateway, action, target).await;
}
