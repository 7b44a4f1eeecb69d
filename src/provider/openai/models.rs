//! The list of models, in the forms that mirrors give it.

use serde_json::Value;

use crate::domain::chat::Model;
use crate::domain::error::{Error, Kind};
use crate::provider::decoding::Fault;

/// The models of a list in JSON.
pub fn list(json: &[u8]) -> Result<Vec<Model>, Fault> {
    let value: Value = serde_json::from_slice(json).map_err(|error| Fault::not_json(&error))?;
    Fault::check(&value)?;
    // `data` is OpenAI's; Ollama and Gemini say `models`, Azure `value`, Cloudflare `result`.
    let at = |path: &&str| value.pointer(path).filter(|list| list.is_array());
    let list = ["", "/data", "/models", "/value", "/result", "/data/models"].iter().find_map(at);
    let list = list.and_then(Value::as_array).ok_or_else(|| {
        Error::new(Kind::UpstreamInvalid, "the upstream's list of models is not of the protocol")
    })?;
    Ok(list.iter().filter_map(model).collect())
}

fn model(value: &Value) -> Option<Model> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let id = text("id").or_else(|| text("name")).or_else(|| value.as_str())?;
    let owned_by = text("owned_by").unwrap_or("upstream").to_string();
    Some(Model { id: id.to_string(), owned_by, max_tokens: None })
}
