//! What of an upstream's own words and headers goes on to callers: by allow-lists, bounded, and with
//! secrets masked. Which failure it is, `failure` says.

use awc::http::header::HeaderMap;
use serde_json::{Map, Value};

use super::masking::Mask;
use super::reason::Reason;
use crate::domain::error::Report;

/// The most characters of an upstream's own words that stand within our own sentences.
const MAX_DETAIL_CHARS: usize = 300;

/// The most characters of them where they stand alone.
const MAX_MESSAGE_CHARS: usize = 4000;

/// The headers of a failure that say whether and when to ask again.
const RETRY_HEADERS: [&str; 3] = ["x-should-retry", "retry-after", "retry-after-ms"];

/// How the names of the headers begin that say how much may still be asked, and who answered.
const ACCOUNT_HEADERS: [&str; 2] = ["x-ratelimit-", "openai-"];

/// The most such headers that go on, and their longest value.
const MAX_HEADERS: usize = 32;
const MAX_VALUE_BYTES: usize = 256;

/// The headers of any answer that tell its caller of the account behind the gateway.
pub fn account_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    passed(headers, |name| ACCOUNT_HEADERS.iter().any(|begin| name.starts_with(begin)))
}

/// What an upstream reports of a failure, in its own fields.
pub fn of(reason: Option<&Reason>, headers: &HeaderMap, secrets: &[String]) -> Report {
    let is_retry = |name: &str| RETRY_HEADERS.contains(&name);
    let mut told = passed(headers, is_retry);
    told.extend(account_headers(headers));
    let mask = Mask::of(secrets);
    let words = |text: &String| shorten(&mask.put_on(text), MAX_MESSAGE_CHARS);
    Report {
        message: reason.and_then(|reason| reason.message.as_ref()).map(words),
        fields: reason.map(|reason| masked_fields(&reason.fields, &mask)).unwrap_or_default(),
        headers: told,
    }
}

fn passed(headers: &HeaderMap, allows: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let allowed = headers.iter().filter(|(name, _)| allows(name.as_str()));
    let text = allowed.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let short = text.filter(|(_, value)| value.len() <= MAX_VALUE_BYTES);
    short.take(MAX_HEADERS).map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// An upstream's words, made fit for a sentence: one line, short, without any of our secrets.
pub fn clean(text: &str, secrets: &[String]) -> Option<String> {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = Mask::of(secrets).put_on(&text);
    let short = shorten(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_DETAIL_CHARS);
    (!short.is_empty()).then_some(short)
}

fn masked(value: &Value, mask: &Mask) -> Value {
    match value {
        Value::String(text) => mask.put_on(text).into(),
        Value::Array(items) => items.iter().map(|item| masked(item, mask)).collect(),
        Value::Object(fields) => masked_fields(fields, mask).into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn masked_fields(fields: &Map<String, Value>, mask: &Mask) -> Map<String, Value> {
    fields.iter().map(|(name, value)| (mask.put_on(name), masked(value, mask))).collect()
}

fn shorten(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use awc::http::header::{HeaderName, HeaderValue};

    #[test]
    fn words_are_cleaned_of_secrets_and_lines() {
        let secrets = ["sk-very-secret".to_string()];
        let text = format!("bad key\r\nsk-very-secret {}", "x".repeat(500));
        let clean = clean(&text, &secrets).expect("text");
        assert!(clean.starts_with("bad key [redacted] xxx") && clean.chars().count() == 301);
    }

    #[test]
    fn a_report_keeps_the_fields_and_the_headers_of_the_list_and_no_secret() {
        let secrets = ["sk-very-secret".to_string()];
        let body = br#"{"error":{"message":"no\n sk-very-secret","code":"content_filter","extra":1,"innererror":{"code":"Policy","x":["sk-very-secret"]}}}"#;
        let reason = Reason::in_error(body);
        let headers =
            [("retry-after-ms", "1500"), ("x-ratelimit-limit-requests", "3"), ("set-cookie", "a=b")];
        let headers: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let report = of(reason.as_ref(), &headers, &secrets);
        assert_eq!(report.message.as_deref(), Some("no\n [redacted]"));
        let fields = Value::Object(report.fields).to_string();
        assert_eq!(fields, r#"{"code":"content_filter","innererror":{"code":"Policy","x":["[redacted]"]}}"#);
        let names: Vec<&str> = report.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["retry-after-ms", "x-ratelimit-limit-requests"]);
    }
}
