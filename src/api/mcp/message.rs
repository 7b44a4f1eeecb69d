//! What a client sends: one message of JSON-RPC 2.0.
//!
//! Source: <https://www.jsonrpc.org/specification>, section 4.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::error::{Error, Kind};

/// Where MCP is spoken; Dify takes no URL that ends otherwise.
pub const PATH: &str = "/mcp";

/// A message of JSON-RPC 2.0: a request, or a notification when it has no id.
#[derive(Deserialize, ToSchema)]
pub struct Message {
    /// The version of JSON-RPC.
    #[expect(dead_code, reason = "to be there is all that it is for")]
    jsonrpc: JsonRpc,
    /// It comes back with the result.
    #[serde(default, deserialize_with = "not_null")]
    pub id: Option<Id>,
    /// `tools/list`, `tools/call`, and what the revision of the protocol has beside them.
    #[schema(example = "tools/list")]
    pub method: String,
    /// What the method takes.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub params: Option<Box<RawValue>>,
}

/// MCP has no id that is null: such a message is neither a request nor a notification.
fn not_null<'de, D: Deserializer<'de>>(id: D) -> Result<Option<Id>, D::Error> {
    Id::deserialize(id).map(Some)
}

/// The version of JSON-RPC.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
pub enum JsonRpc {
    /// The one in use.
    #[serde(rename = "2.0")]
    V2,
}

/// The id of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a number")]
pub enum Id {
    /// A text.
    Text(String),
    /// A number.
    #[schema(value_type = f64)]
    Number(serde_json::Number),
}

/// What a method takes, with what every method may be told beside it.
pub struct Params {
    text: Box<RawValue>,
    /// The member `_meta`; null where there is none.
    pub meta: Value,
}

impl Params {
    /// Reads them; a message without any has an empty object.
    ///
    /// # Errors
    /// When they are no object.
    pub fn new(text: Option<Box<RawValue>>) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Common {
            #[serde(default, rename = "_meta")]
            meta: Value,
        }
        let text = text.unwrap_or_else(|| RawValue::from_string("{}".into()).expect("an object is JSON"));
        if !text.get().starts_with('{') {
            return Err(Error::new(Kind::InvalidRequest, "`params` is not an object"));
        }
        let Common { meta } = serde_json::from_str(text.get())
            .map_err(|_| Error::new(Kind::InvalidRequest, "`params` has two members `_meta`"))?;
        Ok(Params { text, meta })
    }

    /// The text of the object.
    pub fn text(&self) -> &str {
        self.text.get()
    }

    /// What the method takes, as a type.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.text()).ok()
    }
}
