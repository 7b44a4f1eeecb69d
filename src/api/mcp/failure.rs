//! Failures in the shape of JSON-RPC 2.0.
//!
//! Source: <https://www.jsonrpc.org/specification>, section 5.1.

use actix_web::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::message::{self, Id, JsonRpc};
use crate::domain::error::Error;
use crate::http::failure::ErrorRenderer;
use crate::http::log_fields::LogFields;
use crate::http::reply::{ErrorBody, Prepared};

/// There is no such method.
pub const METHOD_NOT_FOUND: i32 = -32601;

/// What the method takes is not understood.
pub const INVALID_PARAMS: i32 = -32602;

/// A failure, as JSON-RPC writes it.
#[derive(Serialize, ToSchema)]
pub struct RpcFailure {
    jsonrpc: JsonRpc,
    /// The id of the request; null where it was not read.
    #[schema(required = true)]
    id: Option<Id>,
    error: RpcError,
}

/// Why a request failed.
#[derive(Serialize, ToSchema)]
struct RpcError {
    /// The class of the failure.
    #[schema(example = -32600)]
    code: i32,
    /// What happened and what to do, for a person.
    #[schema(example = "the request is not understood; compare it with the document")]
    message: String,
    /// The failure as the tool operations tell it.
    data: ErrorBody,
}

/// The answer to a request that was understood as such and failed: its status is 200.
pub fn answer(id: Id, code: i32, error: &Error, request_id: &str) -> Prepared {
    let prepared = Prepared::failure(error, &body(Some(id), code, error, request_id), LogFields::of("mcp"));
    Prepared { status: StatusCode::OK, ..prepared }
}

/// Writes failures of requests whose id is not known.
pub struct Renderer;

impl ErrorRenderer for Renderer {
    fn covers(&self, path: &str) -> bool {
        path == message::PATH
    }

    fn render(&self, error: &Error, request_id: &str, log_fields: LogFields) -> Prepared {
        let code = error.kind.json_rpc_code();
        let prepared = Prepared::failure(error, &body(None, code, error, request_id), log_fields);
        match prepared.status {
            // What MCP asks for where a message is none.
            StatusCode::UNPROCESSABLE_ENTITY => Prepared { status: StatusCode::BAD_REQUEST, ..prepared },
            _ => prepared,
        }
    }
}

fn body(id: Option<Id>, code: i32, error: &Error, request_id: &str) -> RpcFailure {
    // Many clients show the message alone.
    let message = format!("{}; {}", error.caller_message(), error.hint());
    RpcFailure {
        jsonrpc: JsonRpc::V2,
        id,
        error: RpcError { code, message, data: ErrorBody::of(error, request_id) },
    }
}
