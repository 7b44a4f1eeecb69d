//! The tools over MCP, the Model Context Protocol: streamable HTTP without sessions and without
//! event streams, so that any replica answers any call.
//!
//! What a tool is called, takes and returns is read from the importers' document; a call does what
//! the operation of that name does. Source: <https://modelcontextprotocol.io/specification>.

mod failure;
mod message;
mod schema;

use actix_web::http::header::HeaderName;
use actix_web::web::{Data, ReqData};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, post};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use super::tools::{self, TOOLS};
use crate::domain::error::{Error, Kind};
use crate::gateway::Gateway;
use crate::http::auth::Caller;
use crate::http::body::{self, JsonBody};
use crate::http::documents::{Document, Documents};
use crate::http::failure::Failure;
use crate::http::keep_alive::{self, Heartbeat};
use crate::http::log_fields::{LogFields, RequestId};
use crate::http::origin::Admitted;
use crate::http::reply::{Form, Prepared};
pub use failure::Renderer;
use failure::{INVALID_PARAMS, METHOD_NOT_FOUND, RpcFailure};
use message::{Id, JsonRpc, Message};

/// What a client may ask for.
const METHODS: [&str; 4] = ["initialize", "ping", "tools/list", "tools/call"];

/// The header in which a client says the version that was agreed upon. Dify sends none.
const VERSION_HEADER: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The versions of the protocol. Between them nothing differs that is used here.
const VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", WIDELY_KNOWN, NEWEST];

/// For a client whose own version is none of these: Dify takes nothing newer.
const WIDELY_KNOWN: &str = "2025-06-18";

/// For a client that is ahead.
const NEWEST: &str = "2025-11-25";

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(mcp);
}

/// What came of a request.
#[derive(Serialize)]
struct Response<T> {
    jsonrpc: JsonRpc,
    id: Id,
    result: T,
}

impl<T: Serialize> Response<T> {
    fn prepared(id: Id, result: T, log_fields: LogFields) -> Prepared {
        let response = Response { jsonrpc: JsonRpc::V2, id, result };
        Prepared::json(
            serde_json::to_vec(&response).expect("a result is made of texts and numbers"),
            log_fields,
        )
    }
}

/// Which tool is called, and with what.
#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
}

/// What a tool returned: as text for the model, and where it is one, as an object for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallResult<'a> {
    content: [Value; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_content: Option<&'a RawValue>,
    is_error: bool,
}

/// Call the tools over MCP
///
/// The Model Context Protocol as streamable HTTP without sessions: one message of JSON-RPC 2.0 a
/// request. The tools are the operations of the document for importers.
#[utoipa::path(
    tag = "mcp",
    request_body(content = Message, description = "One message"),
    responses(
        (status = 200, description = "What came of a request", body = Object),
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
    let params = params.as_ref().map_or("{}", |params| params.get());
    if !params.starts_with('{') {
        let error = Error::new(Kind::InvalidRequest, "`params` is not an object");
        return Err(Failure::new(&request, error));
    }
    if METHODS.contains(&method.as_str()) && !is_spoken(&request) {
        let error = Error::new(Kind::InvalidRequest, "this version of MCP is not spoken");
        return Err(Failure::new(&request, error.hinted(format!("speak one of {}", VERSIONS.join(", ")))));
    }
    // No notification changes anything here.
    let Some(id) = id else { return Ok(HttpResponse::Accepted().finish()) };
    let outcome = match method.as_str() {
        "initialize" => Ok(initialized(params)),
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({ "tools": schema::tools(&documents.at(Document::Dify, "")) })),
        "tools/call" => {
            match body::parse(params.as_bytes()).and_then(|call| work(call, &gateway, &caller, &request)) {
                Ok(work) => {
                    let work = async move { called(id, work.await) };
                    return Ok(keep_alive::respond(**heartbeat, Form::Json, Box::pin(work)).await);
                }
                Err(error) => Err((INVALID_PARAMS, error)),
            }
        }
        _ => {
            let error = Error::new(Kind::NotFound, "there is no such method");
            Err((METHOD_NOT_FOUND, error.hinted(format!("there are {}", METHODS.join(", ")))))
        }
    };
    let prepared = match outcome {
        Ok(result) => Response::prepared(id, result, LogFields::of("mcp")),
        Err((code, error)) => {
            let request_id = RequestId::of(request.extensions());
            failure::answer(id, code, &error, &request_id)
        }
    };
    Ok(prepared.response())
}

/// Whether a request is of a version that is spoken, as far as it says.
fn is_spoken(request: &HttpRequest) -> bool {
    let version = request.headers().get(VERSION_HEADER);
    version.is_none_or(|version| VERSIONS.iter().any(|spoken| version == spoken))
}

/// The answer to a client that introduces itself.
fn initialized(params: &str) -> Value {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Hello {
        protocol_version: String,
    }
    let asked = serde_json::from_str(params)
        .map_or_else(|_| String::new(), |Hello { protocol_version }| protocol_version);
    let spoken = VERSIONS.into_iter().find(|version| *version == asked);
    let other = if asked.as_str() > NEWEST { NEWEST } else { WIDELY_KNOWN };
    json!({
        "protocolVersion": spoken.unwrap_or(other),
        "capabilities": { "tools": {} },
        "serverInfo": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
    })
}

/// What a call sets going.
///
/// # Errors
/// When there is no such tool.
fn work(
    call: Call,
    gateway: &Data<Gateway>,
    caller: &Caller,
    request: &HttpRequest,
) -> Result<LocalBoxFuture<'static, Prepared>, Error> {
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == call.name) else {
        let error = Error::new(Kind::InvalidRequest, "there is no such tool");
        return Err(error.hinted("tools/list names the tools"));
    };
    let (gateway, caller, request) = (gateway.clone(), caller.clone(), request.clone());
    Ok((tool.call)(tools::Call { gateway, caller, request, arguments: call.arguments }))
}

/// The answer to a call: what the operation would have answered, failures too.
fn called(id: Id, outcome: Prepared) -> Prepared {
    let text = std::str::from_utf8(&outcome.body).expect("an operation writes UTF-8");
    let structured_content = match outcome.form {
        Form::Json => Some(serde_json::from_str(text).expect("it is JSON")),
        Form::Text => None,
    };
    let result = CallResult {
        content: [json!({ "type": "text", "text": text })],
        structured_content,
        is_error: outcome.log_fields.error.is_some(),
    };
    Prepared { headers: outcome.headers, ..Response::prepared(id, result, outcome.log_fields) }
}
