//! The list of models.
//!
//! Source: <https://platform.claude.com/docs/en/api/models/list>.

use serde_json::Value;

use crate::domain::chat::Model;
use crate::domain::error::{Error, Kind};
use crate::provider::decoding::Fault;

/// The models of a list in JSON, without those that are listed as retired: they answer nothing.
pub fn list(json: &[u8]) -> Result<Vec<Model>, Fault> {
    let value: Value = serde_json::from_slice(json).map_err(|error| Fault::not_json(&error))?;
    Fault::check(&value)?;
    let list = value.get("data").and_then(Value::as_array).ok_or_else(|| {
        Error::new(Kind::UpstreamInvalid, "the upstream's list of models is not of the protocol")
    })?;
    Ok(list.iter().filter(|model| model["lifecycle"] != "retired").filter_map(model).collect())
}

fn model(value: &Value) -> Option<Model> {
    let id = value.get("id").and_then(Value::as_str).filter(|id| !id.is_empty())?;
    let max_tokens = value.get("max_tokens").and_then(Value::as_u64);
    Some(Model {
        id: id.to_string(),
        owned_by: value.get("owned_by").and_then(Value::as_str).unwrap_or("anthropic").to_string(),
        max_tokens: max_tokens.and_then(|most| u32::try_from(most).ok()).filter(|most| *most > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_their_limit_where_it_is_told() {
        let text = r#"{"data":[{"type":"model","id":"a","display_name":"A","max_tokens":64000},{"id":"b","max_tokens":null},
            {"id":"c","lifecycle":"retired"},{"id":""},{"display_name":"none"}],"has_more":false}"#;
        let models = list(text.as_bytes()).expect("a list");
        let seen: Vec<_> = models.iter().map(|model| (model.id.as_str(), model.max_tokens)).collect();
        assert_eq!(seen, [("a", Some(64000)), ("b", None)]);
        assert_eq!(models[0].owned_by, "anthropic");
        assert!(matches!(list(br#"{"type":"error","error":{"type":"api_error"}}"#), Err(Fault::Reported(_))));
        assert!(list(b"{}").is_err() && list(b"{").is_err());
    }
}
