//! A browser's "Copy as fetch", of which that for Node.js has the cookies: a call with an address and an object,
//! both written as JSON.

use serde_json::{Deserializer, Map, Value};

use super::Mistake;
use super::request::Request;

const CALL: &str = "fetch(";

/// Whether a text is of this form.
pub fn is_fetch(text: &str) -> bool {
    let start = text.trim_start();
    start.strip_prefix("await ").unwrap_or(start).trim_start().starts_with(CALL)
}

/// The requests in a text.
pub fn requests(text: &str) -> Vec<Result<Request, Mistake>> {
    text.match_indices(CALL).map(|(at, _)| request(&text[at + CALL.len()..])).collect()
}

fn request(arguments: &str) -> Result<Request, Mistake> {
    let mut address = Deserializer::from_str(arguments).into_iter::<String>();
    let url = address.next().and_then(Result::ok).ok_or(Mistake::BAD_FETCH)?;
    let rest = arguments[address.byte_offset()..].trim_start();
    let options = match rest.strip_prefix(',') {
        Some(rest) => Deserializer::from_str(rest).into_iter::<Map<String, Value>>().next(),
        None => Some(Ok(Map::new())),
    };
    let options = options.and_then(Result::ok).ok_or(Mistake::BAD_FETCH)?;
    let text = |name: &str| options.get(name).and_then(Value::as_str).map(String::from);
    let headers = options.get("headers").and_then(Value::as_object).into_iter().flatten();
    let headers =
        headers.filter_map(|(name, value)| Some((name.to_ascii_lowercase(), value.as_str()?.into())));
    let mut headers: Vec<(String, String)> = headers.collect();
    if let Some(referrer) = text("referrer").filter(|_| !headers.iter().any(|(name, _)| name == "referer")) {
        headers.push(("referer".into(), referrer));
    }
    Request::new(Some(url), text("method").map(|method| method.to_ascii_uppercase()), headers, text("body"))
}
