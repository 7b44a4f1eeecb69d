//! The tools over MCP, the Model Context Protocol: streamable HTTP without sessions, so that any
//! replica answers any call.
//!
//! What a tool is called, takes and returns is read from the importers' document; a call does what
//! the operation of that name does. Source: <https://modelcontextprotocol.io/specification>.

mod call;
mod failure;
mod message;
mod progress;
mod revision;
mod running;
mod schema;

use actix_web::web::{Data, ReqData};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, post};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use super::tools::UsageBody;
use crate::domain::chat::Usage;
use crate::gateway::Gateway;
use crate::http::auth::Caller;
use crate::http::body::JsonBody;
use crate::http::documents::{Document, Documents};
use crate::http::failure::Failure;
use crate::http::keep_alive::Heartbeat;
use crate::http::log_fields::{LogFields, RequestId};
use crate::http::origin::Admitted;
use crate::http::reply::Prepared;
pub use failure::Renderer;
use failure::{Refusal, RpcFailure};
use message::{Id, JsonRpc, Message, Params};
use revision::{Revision, VERSIONS};
pub use running::Running;

/// Where a result says what answers it.
const SERVER_KEY: &str = "io.modelcontextprotocol/serverInfo";

/// How long a client need not ask again what changes with a restart alone.
const TTL_MILLISECONDS: u32 = 300_000;

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(mcp);
}

/// A request that is of a revision that is spoken.
pub struct Asked {
    id: Id,
    revision: Revision,
    params: Params,
}

/// What came of a request.
#[derive(Serialize)]
struct Response<T> {
    jsonrpc: JsonRpc,
    id: Id,
    result: Complete<T>,
}

/// A result that is not the beginning of another.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Complete<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    result_type: Option<&'static str>,
    #[serde(flatten)]
    content: T,
    #[serde(rename = "_meta", skip_serializing_if = "Map::is_empty")]
    meta: Map<String, Value>,
}

impl<T: Serialize> Response<T> {
    fn new(asked: Asked, content: T) -> Self {
        let mut meta = Map::new();
        let result_type = match asked.revision {
            Revision::Introduced => None,
            Revision::Stateless => {
                meta.insert(SERVER_KEY.into(), this_server());
                Some("complete")
            }
        };
        Response { jsonrpc: JsonRpc::V2, id: asked.id, result: Complete { result_type, content, meta } }
    }

    /// Says what the answer cost, where Dify counts it.
    fn costing(mut self, usage: Option<Usage>) -> Self {
        self.result.meta.extend(usage.map(|usage| ("usage".into(), json!(UsageBody::from(usage)))));
        self
    }

    fn prepared(self, log_fields: LogFields) -> Prepared {
        let body = serde_json::to_vec(&self).expect("a result is made of texts and numbers");
        Prepared::json(body, log_fields)
    }
}

/// Call the tools over MCP
///
/// The Model Context Protocol as streamable HTTP without sessions: one message of JSON-RPC 2.0 a
/// request. The tools are the operations of the document for importers.
#[utoipa::path(
    tag = "mcp",
    request_body(content = Message, description = "One message"),
    responses(
        (status = 200, description = "What came of a request; as events where it is late and a `progressToken` was sent", content((Object = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "A notification was taken"),
        (status = "default", description = "The request is at fault", body = RpcFailure),
    ),
    security(("bearer" = [])),
)]
#[post("/mcp")]
async fn mcp(
    _: Admitted,
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    documents: Data<Documents>,
    heartbeat: Data<Heartbeat>,
    body: JsonBody<Message>,
) -> Result<HttpResponse, Failure> {
    let Message { id, method, params, .. } = body.0;
    let params = Params::new(params).map_err(|error| Failure::new(&request, error))?;
    let caller = caller.into_inner();
    let Some(id) = id else {
        notified(&method, &params, &request, &caller);
        return Ok(HttpResponse::Accepted().finish());
    };
    let request_id = RequestId::of(request.extensions());
    let revision = match Revision::of(&request, &method, &params) {
        Ok(revision) => revision,
        Err(refusal) => return Ok(refusal.prepared(id, &request_id).response()),
    };
    let asked = Asked { id, revision, params };
    let outcome = match (revision, method.as_str()) {
        (_, "tools/call") => call::respond(asked, request, caller, gateway, **heartbeat).await,
        (_, "tools/list") => {
            let tools = json!({ "tools": schema::tools(&documents.at(Document::Dify, "")) });
            Ok(result(asked, kept(revision, tools)))
        }
        (Revision::Stateless, "server/discover") => {
            let discovered = json!({ "supportedVersions": VERSIONS, "capabilities": { "tools": {} } });
            Ok(result(asked, kept(revision, discovered)))
        }
        (Revision::Introduced, "initialize") => {
            let introduced = json!({
                "protocolVersion": revision::agreed(&asked.params),
                "capabilities": { "tools": {} },
                "serverInfo": this_server(),
            });
            Ok(result(asked, introduced))
        }
        (Revision::Introduced, "ping") => Ok(result(asked, json!({}))),
        _ => Err((asked, Refusal::method(revision))),
    };
    Ok(outcome.unwrap_or_else(|(asked, refusal)| refusal.prepared(asked.id, &request_id).response()))
}

/// Takes a notification. One alone changes something here: that a request is given up.
fn notified(method: &str, params: &Params, request: &HttpRequest, caller: &Caller) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Cancelled {
        request_id: Id,
    }
    if method == "notifications/cancelled"
        && let Some(Cancelled { request_id }) = params.parse()
    {
        Running::of(request).give_up(&caller.owner, &request_id);
    }
}

fn result(asked: Asked, content: Value) -> HttpResponse {
    Response::new(asked, content).prepared(LogFields::of("mcp")).response()
}

/// A result that clients may keep, and share among their users: it is the same for every key.
fn kept(revision: Revision, mut content: Value) -> Value {
    if revision == Revision::Stateless {
        content["ttlMs"] = TTL_MILLISECONDS.into();
        content["cacheScope"] = "public".into();
    }
    content
}

fn this_server() -> Value {
    json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") })
}
