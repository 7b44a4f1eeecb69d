//! The tools: operations that Dify imports and calls over HTTP, and that MCP calls by their names.
//!
//! [`TOOLS`] is the only list of them: the routes, the importers' documents and MCP follow it. The
//! annotation of each handler is the only source of the documents; its texts are what a model reads
//! when it chooses a tool.
//!
//! Every parameter is a string in the documents, because Dify refuses an empty number and turns
//! every boolean into true; numbers are understood as text or number, `""` and null as absent.

mod answers;
mod ask;
mod chat;
mod loose;
mod wrapper;

use actix_web::web::{Data, ReqData};
use actix_web::{HttpRequest, HttpResponse, get};
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub use ask::Renderer as AskRenderer;
pub use chat::{ChatRequest, UsageBody};

use crate::domain::error::Error;
use crate::gateway::{Gateway, Health, Models};
use crate::http::auth::Caller;
use crate::http::body;
use crate::http::documents::Document;
use crate::http::log_fields::LogFields;
use crate::http::reply::{ErrorBody, Prepared};

/// Every tool. Those whose path is a pattern come last, since each request looks through them.
pub const TOOLS: &[Tool] = &[chat::TOOL, ask::TOOL, LIST_MODELS, HEALTH, answers::TOOL];

/// A tool.
pub struct Tool {
    /// The id of its operation, which is its name over MCP.
    pub name: &'static str,
    /// Whether it is of no use, and not told of, without answers to come back for.
    needs_long_answers: bool,
    /// Whether it answers in JSON, without which some importers refuse a whole document.
    answers_in_json: bool,
    /// Adds its operation over HTTP.
    route: fn(&mut ServiceConfig),
    /// Answers a call whose arguments come as one object.
    pub call: fn(Call) -> LocalBoxFuture<'static, Prepared>,
}

/// A call of a tool.
pub struct Call {
    /// The use cases.
    pub gateway: Data<Gateway>,
    /// Who calls.
    pub caller: Caller,
    /// The request that the call came in.
    pub request: HttpRequest,
    /// A JSON object, or nothing.
    pub arguments: Option<Box<RawValue>>,
}

impl Call {
    /// Reads the arguments. Those that do not fit are the tool's own failure: a model reads it and can
    /// mend them.
    fn arguments<T: DeserializeOwned>(&self) -> Result<T, Error> {
        body::parse(self.arguments.as_ref().map_or("{}", |arguments| arguments.get()).as_bytes())
    }
}

/// Adds the operations of all tools to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    TOOLS.iter().for_each(|tool| (tool.route)(config));
}

/// Whether a document for importers tells of the operation with this id.
pub fn is_told(id: &str, document: Document, long_answers: bool) -> bool {
    TOOLS.iter().find(|tool| tool.name == id).is_some_and(|tool| {
        (long_answers || !tool.needs_long_answers) && (tool.answers_in_json || document == Document::Dify)
    })
}

const LIST_MODELS: Tool = Tool {
    name: "list_models",
    needs_long_answers: false,
    answers_in_json: true,
    route: |config| {
        config.service(list_models);
    },
    call: |call| Box::pin(models(call.gateway, call.caller, call.request)),
};

const HEALTH: Tool = Tool {
    name: "health",
    needs_long_answers: false,
    answers_in_json: true,
    route: |config| {
        config.service(health);
    },
    call: |call| Box::pin(probe(call.gateway, call.request)),
};

/// A model that can be named.
#[derive(Serialize, ToSchema)]
pub struct ModelBody {
    /// Its name, for the `model` parameter of chat.
    #[schema(example = "gpt-4o")]
    id: String,
    /// Who runs it, as far as the upstream says.
    #[schema(example = "upstream")]
    owned_by: String,
}

/// The models that can be named, or why they are not known.
#[derive(Serialize, ToSchema)]
pub struct ModelsResult {
    /// Whether the models are known.
    #[schema(example = true)]
    success: bool,
    /// The models.
    #[schema(required = false)]
    models: Vec<ModelBody>,
    /// The model that answers when none is named.
    #[schema(required = false, example = "gpt-4o")]
    default_model: Option<String>,
    /// Null, or why the call failed and what to do.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// List the models
///
/// Returns the names of the language models that chat can use, and the default one. Use it to
/// choose a value for the model parameter of chat, or to tell the user which models there are.
#[utoipa::path(
    tag = "tools",
    responses(
        (status = 200, description = "The models", body = ModelsResult, example = json!({"success": true, "models": [{"id": "gpt-4o", "owned_by": "upstream"}], "default_model": "gpt-4o", "error": null})),
        (status = "default", description = "A failure with what to do about it", body = ModelsResult, example = json!({"success": false, "models": [], "default_model": null, "error": {"code": "upstream_auth_expired", "message": "the upstream does not accept the credentials (HTTP 401)", "hint": "log in to the mirror again and set `UPSTREAM_COOKIE` to the new value", "retryable": false, "request_id": "5f0c2b9e8a7d4c31"}})),
    ),
    security(("bearer" = [])),
    extensions(("x-openai-isConsequential" = json!(false))),
)]
#[get("/api/models")]
async fn list_models(request: HttpRequest, caller: ReqData<Caller>, gateway: Data<Gateway>) -> HttpResponse {
    models(gateway, caller.into_inner(), request).await.response()
}

/// What list_models answers.
async fn models(gateway: Data<Gateway>, caller: Caller, request: HttpRequest) -> Prepared {
    let log_fields = LogFields::of("list_models");
    match gateway.models_of(&caller.owner).await {
        Ok(Models { models, default_model }) => {
            let models = models.into_iter().map(|model| ModelBody { id: model.id, owned_by: model.owned_by });
            let body = ModelsResult { success: true, models: models.collect(), default_model, error: None };
            Prepared::result(&body, log_fields)
        }
        Err(error) => {
            let body = ModelsResult {
                success: false,
                models: Vec::new(),
                default_model: None,
                error: Some(ErrorBody::new(&error, &request)),
            };
            Prepared::failure(&error, &body, log_fields)
        }
    }
}

/// The upstream's health.
#[derive(Serialize, ToSchema)]
pub struct HealthResult {
    /// Whether a question would be answered now.
    #[schema(example = true)]
    success: bool,
    /// `ok`, `degraded` (reachable, but a question would fail) or `down`.
    #[schema(required = false, example = "ok")]
    status: &'static str,
    /// The upstream: its scheme, host and port, or that it is the built-in demo.
    #[schema(required = false, example = "https://mirror.example.com")]
    upstream: String,
    /// How long the check took, in milliseconds.
    #[schema(required = false, example = 42)]
    latency_ms: u64,
    /// How the upstream took the credentials: `ok`, `expired`, `refused` or `unknown`.
    #[schema(required = false, example = "ok")]
    session: &'static str,
    /// Null, or what is wrong and what to do.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// Check the connection to the model
///
/// Tells whether the connected language model can be reached and accepts the login. Costs no
/// tokens. Use it when chat fails, to tell the user what is wrong and what to do.
#[utoipa::path(
    tag = "tools",
    responses(
        (status = 200, description = "The health, good or bad", body = HealthResult, example = json!({"success": true, "status": "ok", "upstream": "https://mirror.example.com", "latency_ms": 42, "session": "ok", "error": null})),
        (status = "default", description = "A failure with what to do about it", body = HealthResult, example = json!({"success": false, "error": {"code": "gateway_key_missing", "message": "this needs a gateway key, and none was sent", "hint": "send the gateway key as `Authorization: Bearer KEY`", "retryable": false, "request_id": "5f0c2b9e8a7d4c31"}})),
    ),
    security(("bearer" = [])),
    extensions(("x-openai-isConsequential" = json!(false))),
)]
#[get("/api/health")]
async fn health(request: HttpRequest, gateway: Data<Gateway>) -> HttpResponse {
    probe(gateway, request).await.response()
}

/// What health answers.
async fn probe(gateway: Data<Gateway>, request: HttpRequest) -> Prepared {
    let Health { status, upstream, latency, session, error } = gateway.health().await;
    let log_fields = match &error {
        Some(error) => LogFields::of("health").failed(error),
        None => LogFields::of("health"),
    };
    let body = HealthResult {
        success: error.is_none(),
        status: status.name(),
        upstream: if gateway.is_demo() { gateway.upstream_name() } else { upstream },
        latency_ms: latency.as_millis() as u64,
        session: session.name(),
        error: error.map(|error| ErrorBody::new(&error, &request)),
    };
    Prepared::result(&body, log_fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;

    #[test]
    fn tools_are_named_as_their_operations() {
        let document = api::documents(true).at(Document::Dify, "");
        let items = document["paths"].as_object().expect("paths").values();
        let operations = items.flat_map(|item| item.as_object().expect("operations").values());
        let ids: Vec<_> = operations.map(|operation| operation["operationId"].clone()).collect();
        let names: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
        assert_eq!(ids, names);
    }
}
