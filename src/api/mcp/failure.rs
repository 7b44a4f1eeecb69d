//! Failures in the shape of JSON-RPC 2.0.
//!
//! Source: <https://www.jsonrpc.org/specification>, section 5.1.

use actix_web::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::message::{self, Id, JsonRpc};
use super::revision::{Revision, VERSIONS};
use crate::domain::error::{Error, Kind};
use crate::http::failure::ErrorRenderer;
use crate::http::log_fields::LogFields;
use crate::http::reply::{ErrorBody, Prepared};

/// There is no such method.
const METHOD_NOT_FOUND: i32 = -32601;

/// What the method takes is not understood.
const INVALID_PARAMS: i32 = -32602;

/// A header is missing, or says something else than the body: MCP 2026-07-28, basic, "Error Codes".
const HEADER_MISMATCH: i32 = -32020;

/// The version of the protocol is not spoken: the same place.
const UNSUPPORTED_PROTOCOL_VERSION: i32 = -32022;

/// A failure, as JSON-RPC writes it.
#[derive(Serialize, ToSchema)]
pub struct RpcFailure {
    jsonrpc: JsonRpc,
    /// The id of the request; left out where it was not read, as MCP wants it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
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
    data: RpcErrorData,
}

/// The failure as the tool operations tell it, and the versions where that is the matter.
#[derive(Serialize, ToSchema)]
struct RpcErrorData {
    #[serde(flatten)]
    error: ErrorBody,
    /// The versions of the protocol that are spoken, where the one asked for is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    supported: Option<&'static [&'static str]>,
    /// The version that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    requested: Option<String>,
}

/// Why a request with an id is not answered.
pub struct Refusal {
    code: i32,
    status: StatusCode,
    error: Box<Error>,
    requested: Option<String>,
}

impl Refusal {
    fn new(code: i32, status: StatusCode, error: Error) -> Self {
        Refusal { code, status, error: error.into(), requested: None }
    }

    /// A version that is not spoken.
    pub fn version(requested: &str) -> Self {
        let error = Error::new(Kind::InvalidRequest, "this version of MCP is not spoken")
            .hinted(format!("speak one of {}", VERSIONS.join(", ")));
        let refusal = Refusal::new(UNSUPPORTED_PROTOCOL_VERSION, StatusCode::BAD_REQUEST, error);
        Refusal { requested: Some(requested.into()), ..refusal }
    }

    /// A header that is missing or does not agree with the body.
    pub fn header(name: &str) -> Self {
        let error =
            Error::new(Kind::InvalidRequest, format!("the header `{name}` does not agree with the body"))
                .hinted("send the header with the value that the body has");
        Refusal::new(HEADER_MISMATCH, StatusCode::BAD_REQUEST, error)
    }

    /// A member of `_meta` that each request has to have.
    pub fn meta(key: &str) -> Self {
        let error = Error::new(Kind::InvalidRequest, format!("`_meta` has no `{key}`"))
            .hinted("send what each request of this version has to say in its `_meta`");
        Refusal::new(INVALID_PARAMS, StatusCode::BAD_REQUEST, error)
    }

    /// Parameters that the method does not understand.
    pub fn params(revision: Revision, error: Error) -> Self {
        Refusal::new(INVALID_PARAMS, revision.status(StatusCode::BAD_REQUEST), error)
    }

    /// A method that the revision does not have.
    pub fn method(revision: Revision) -> Self {
        let error = Error::new(Kind::NotFound, "there is no such method")
            .hinted("there are tools alone: `tools/list` names them, `tools/call` calls one");
        Refusal::new(METHOD_NOT_FOUND, revision.status(StatusCode::NOT_FOUND), error)
    }

    /// A call that its client has given up.
    pub fn given_up() -> Self {
        let error = Error::new(Kind::CallGivenUp, "the caller gave this call up");
        Refusal::new(error.kind.json_rpc_code(), StatusCode::OK, error)
    }

    /// The answer to the request with this id.
    pub fn prepared(self, id: Id, request_id: &str) -> Prepared {
        let data = RpcErrorData {
            error: ErrorBody::of(&self.error, request_id),
            supported: self.requested.is_some().then_some(&VERSIONS),
            requested: self.requested,
        };
        let body = body(Some(id), self.code, data);
        Prepared { status: self.status, ..Prepared::failure(&self.error, &body, LogFields::of("mcp")) }
    }
}

/// Writes failures of requests whose id is not known.
pub struct Renderer;

impl ErrorRenderer for Renderer {
    fn covers(&self, path: &str) -> bool {
        path == message::PATH
    }

    fn render(&self, error: &Error, request_id: &str, log_fields: LogFields) -> Prepared {
        let error_body = ErrorBody::of(error, request_id);
        let data = RpcErrorData { error: error_body, supported: None, requested: None };
        let prepared = Prepared::failure(error, &body(None, error.kind.json_rpc_code(), data), log_fields);
        match prepared.status {
            // What MCP asks for where a message is none.
            StatusCode::UNPROCESSABLE_ENTITY => Prepared { status: StatusCode::BAD_REQUEST, ..prepared },
            _ => prepared,
        }
    }
}

fn body(id: Option<Id>, code: i32, data: RpcErrorData) -> RpcFailure {
    // Many clients show the message alone.
    let message = format!("{}; {}", data.error.message, data.error.hint);
    RpcFailure { jsonrpc: JsonRpc::V2, id, error: RpcError { code, message, data } }
}
