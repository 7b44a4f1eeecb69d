//! What single values of an answer say of a failure, by what servers write where there is none.

use serde_json::Value;

/// Whether the value of an error is none that is left empty.
pub fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => items.iter().any(says_something),
        // The name of what has nothing in it says something, such as that of a limit.
        Value::Object(fields) => fields.values().any(|value| value.is_object() || says_something(value)),
    }
}

/// What is said in the place of an error where there is none.
const FINE: [&str; 13] = [
    "",
    "0",
    "false",
    "none",
    "null",
    "ok",
    "success",
    "succeeded",
    "successful",
    "no error",
    "no errors",
    "no_error",
    "stop",
];

/// Whether an error beside an answer says that there is none.
pub fn says_all_is_well(error: &Value) -> bool {
    let fine = |text: &str| {
        let text = text.trim().trim_end_matches(['.', '!', '。', '！']).to_ascii_lowercase();
        FINE.contains(&text.as_str()) || text.ends_with("成功")
    };
    match error {
        Value::String(text) => fine(text),
        Value::Object(fields) => fields.values().all(|value| match value {
            Value::String(text) => fine(text),
            Value::Number(number) => matches!(number.as_i64(), Some(0 | 200)),
            other => !says_something(other),
        }),
        _ => false,
    }
}

/// Whether a sign of success says that there is none.
pub fn is_false(value: &Value) -> bool {
    *value == false || *value == 0 || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("false"))
}

/// Whether a status says that there is a failure.
pub fn is_failure(status: &Value) -> bool {
    status.as_str().is_some_and(|status| {
        ["error", "failed", "failure", "fail"].contains(&status.to_ascii_lowercase().as_str())
    }) || status.as_i64().is_some_and(|status| (400..600).contains(&status))
}

/// Whether a code is there and is none of those that say that all is well.
pub fn is_failing(code: Option<&Value>) -> bool {
    let fine = ["0", "200", "ok", "success", "succeeded", "none", "null"];
    code.is_some_and(|code| match code {
        Value::String(text) => {
            let number = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            let is_zero = !number.is_empty() && number.bytes().all(|byte| byte == b'0');
            !text.is_empty() && !is_zero && !fine.contains(&text.to_ascii_lowercase().as_str())
        }
        Value::Number(number) => !matches!(number.as_i64(), Some(0 | 200)),
        _ => false,
    })
}
