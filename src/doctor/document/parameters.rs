//! What an operation takes, as Dify reads it: a parameter or property with one plain type becomes a
//! field; most else is dropped, made a text, or fails the import.

use serde_json::{Map, Value};

use super::{Finding, broken, text, warning};

/// What is wrong with the parameters and the request body of an operation.
pub fn check(place: &str, operation: &Map<String, Value>, findings: &mut Vec<Finding>) {
    for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let Some(parameter) = parameter.as_object() else { continue };
        if parameter.contains_key("$ref") {
            findings.push(broken(
                format!("{place}: a parameter is a reference"),
                "write the parameter out: Dify drops it",
            ));
            continue;
        }
        let name = text(parameter, "name");
        let required = is_true(parameter.get("required"));
        let whereabouts = text(parameter, "in");
        if matches!(whereabouts, "header" | "cookie") && !required {
            findings.push(warning(
                format!("{place}, `{name}`: an optional {whereabouts}, which is always sent"),
                "take it in the query or the body: not given, it is sent empty",
            ));
        }
        let described = !text(parameter, "description").is_empty();
        let schema = parameter.get("schema").unwrap_or(&Value::Null);
        value(&format!("{place}, `{name}`"), schema, required, described, findings);
    }
    if let Some(body) = operation.get("requestBody") {
        request_body(place, body, findings);
    }
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool).unwrap_or_default()
}

fn request_body(place: &str, body: &Value, findings: &mut Vec<Finding>) {
    if body.get("$ref").is_some() {
        findings.push(broken(
            format!("{place}: the request body is a reference"),
            "write it out: Dify gives the tool no parameters",
        ));
        return;
    }
    let Some(content) = body.get("content").and_then(Value::as_object) else { return };
    if content.len() > 1 {
        findings.push(broken(
            format!("{place}: the request body has {} media types, so parameters are doubled", content.len()),
            "leave `application/json` alone",
        ));
    }
    for (media, part) in content {
        if media != "application/json" {
            findings.push(broken(
                format!("{place}: the request body is `{media}`, and not just `application/json`"),
                "name the media type without a charset: Dify sends a form otherwise",
            ));
        }
        let schema = part.get("schema").unwrap_or(&Value::Null);
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            findings.push(broken(
                format!("{place}: the request body is no object with properties"),
                "describe one object: of `oneOf`, `allOf`, arrays and references Dify makes no parameters",
            ));
            continue;
        };
        let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice);
        for (name, property) in properties {
            let required = required.unwrap_or_default().iter().any(|required| required == name);
            let described = property.get("description").and_then(Value::as_str);
            let described = described.is_some_and(|text| !text.trim().is_empty());
            value(&format!("{place}, `{name}`"), property, required, described, findings);
        }
    }
}

/// One field of the tool.
fn value(place: &str, schema: &Value, required: bool, described: bool, findings: &mut Vec<Finding>) {
    if has_type_list(schema) {
        findings.push(broken(
            format!("{place}: a list of types"),
            "give one type: the whole import fails (\"unhashable type: 'list'\")",
        ));
        return;
    }
    if schema.get("$ref").is_some() {
        findings.push(warning(
            format!("{place}: a reference"),
            "write it out: Dify makes it a text without a description",
        ));
        return;
    }
    match schema.get("type").and_then(Value::as_str) {
        None if schema.get("anyOf").is_some() => findings.push(warning(
            format!("{place}: `anyOf`, which Dify makes a text"),
            "give one type, and leave the parameter out where it may be null",
        )),
        None => findings.push(broken(
            format!("{place}: no type"),
            "give one type: with `oneOf`, with `enum` alone or with nothing, Dify sends null",
        )),
        Some("integer" | "number") if !required => findings.push(warning(
            format!("{place}: an optional number"),
            "take a text and read the number from it: Dify refuses the empty field before any call",
        )),
        Some("boolean") => findings.push(warning(
            format!("{place}: a boolean"),
            "take a text: Dify's Test button sends true for `false`",
        )),
        Some(_) => {}
    }
    if !described {
        findings.push(warning(
            format!("{place}: nothing describes it"),
            "say in `description` what it is and which values it takes: the model sees no enum and no range",
        ));
    }
}

/// Whether a schema holds a list of types, itself or within.
fn has_type_list(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            object.get("type").is_some_and(Value::is_array) || object.values().any(has_type_list)
        }
        Value::Array(items) => items.iter().any(has_type_list),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
