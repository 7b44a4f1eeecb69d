//! The headers that pass between a caller and an upstream of the same protocol, by allow-lists. Those of
//! answers are chosen where they come in, in `provider::report`.

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, HeaderValue};

/// The headers of a caller's that say in which form it wants its answer, or that it asks again.
const ASKED: [&str; 4] = ["anthropic-version", "anthropic-beta", "openai-beta", "idempotency-key"];

/// The headers of a request that go on to the upstream.
pub fn asked(request: &HttpRequest) -> Vec<(&'static str, String)> {
    let value = |name| request.headers().get(name)?.to_str().ok().map(String::from);
    ASKED.into_iter().filter_map(|name| Some((name, value(name)?))).collect()
}

/// The headers of an upstream's answer as those of ours.
pub fn told(headers: &[(String, String)]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let parse = |(name, value): &(String, String)| Some((name.parse().ok()?, value.parse().ok()?));
    headers.iter().filter_map(parse)
}
