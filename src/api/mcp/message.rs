//! What a client sends: one message of JSON-RPC 2.0.
//!
//! Source: <https://www.jsonrpc.org/specification>, section 4.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Where MCP is spoken; Dify takes no URL that ends otherwise.
pub const PATH: &str = "/mcp";

/// A message of JSON-RPC 2.0: a request, or a notification when it has no id.
#[derive(Deserialize, ToSchema)]
pub struct Message {
    /// The version of JSON-RPC.
    #[expect(dead_code, reason = "to be there is all that it is for")]
    jsonrpc: JsonRpc,
    /// It comes back with the result.
    #[serde(default)]
    pub id: Option<Id>,
    /// `initialize`, `ping`, `tools/list` or `tools/call`.
    #[schema(example = "tools/list")]
    pub method: String,
    /// What the method takes.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub params: Option<Box<RawValue>>,
}

/// The version of JSON-RPC.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
pub enum JsonRpc {
    /// The one in use.
    #[serde(rename = "2.0")]
    V2,
}

/// The id of a request.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a number")]
pub enum Id {
    /// A text.
    Text(String),
    /// A number.
    #[schema(value_type = f64)]
    Number(serde_json::Number),
}
