//! The tools as MCP describes them, from the document with all of them.

use serde_json::{Map, Value, json};

/// The tools of the document.
pub fn tools(document: &Value) -> Vec<Value> {
    let items = document["paths"].as_object().into_iter().flat_map(Map::values);
    items.filter_map(Value::as_object).flat_map(Map::values).map(tool).collect()
}

/// An operation as a tool.
fn tool(operation: &Value) -> Value {
    let mut tool = json!({
        "name": operation["operationId"],
        "title": operation["summary"],
        "description": operation["description"],
        "inputSchema": input(operation),
    });
    // One that answers in plain text has none.
    if let Some(schema) = operation["responses"]["200"]["content"].get("application/json") {
        tool["outputSchema"] = json_schema(&schema["schema"]);
    }
    tool
}

/// What an operation takes: its body, or its parameters.
fn input(operation: &Value) -> Value {
    if let Some(body) = operation.get("requestBody") {
        return json_schema(&body["content"]["application/json"]["schema"]);
    }
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |parameter: &Value| parameter["name"].as_str().unwrap_or_default().to_string();
    let properties: Map<String, Value> = parameters
        .iter()
        .map(|parameter| {
            let mut schema = json_schema(&parameter["schema"]);
            schema["description"] = parameter["description"].clone();
            (name(parameter), schema)
        })
        .collect();
    let required: Vec<String> = parameters.iter().map(name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// A schema of OpenAPI 3.0.3 in the words of JSON Schema, which has neither `nullable` and `example` nor
/// the number formats. What may be null there may be left out here: Dify's editor, 1.9.2 to 1.11.1,
/// breaks off on a list of types.
fn json_schema(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(json_schema).collect(),
        Value::Object(object) => {
            // An object under one of these names is a property that is called so.
            let is_word = |key: &str, value: &Value| {
                matches!(key, "example" | "format" | "nullable") && !value.is_object()
            };
            let kept = object.iter().filter(|(key, value)| !is_word(key, value));
            let mut schema: Map<String, Value> =
                kept.map(|(key, value)| (key.clone(), json_schema(value))).collect();
            if let Some(Value::Array(required)) = schema.get_mut("required") {
                let may_be_null = |name: &Value| object["properties"][name.as_str()?]["nullable"].as_bool();
                required.retain(|name| may_be_null(name) != Some(true));
            }
            Value::Object(schema)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_null_may_be_left_out() {
        let schema = json!({
            "type": "object",
            "properties": {
                "n": {"type": "integer", "format": "int64", "nullable": true, "example": 1},
                "t": {"type": "string"},
            },
            "required": ["n", "t"],
        });
        let expected = json!({
            "type": "object",
            "properties": {"n": {"type": "integer"}, "t": {"type": "string"}},
            "required": ["t"],
        });
        assert_eq!(json_schema(&schema), expected);
    }

    #[test]
    fn parameters_are_what_an_operation_without_a_body_takes() {
        let operation =
            json!({"parameters": [{"name": "id", "schema": {"type": "string"}, "description": "which"}]});
        let expected = json!({
            "type": "object",
            "properties": {"id": {"type": "string", "description": "which"}},
            "required": ["id"],
        });
        assert_eq!(input(&operation), expected);
    }
}
