//! The headers that pass between a caller and an upstream of the same protocol, by allow-lists. Those of
//! answers are chosen where they come in, in `provider::report`.

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::domain::chat::Owner;
use crate::domain::keys;

/// The headers of a caller's that say in which form it wants its answer.
static ASKED: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("openai-beta"),
];

/// The header of a caller's that says that it asks again.
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The headers of a request that go on to the upstream. To that all callers are one account, so a name that
/// two of them give to their calls must not be the same there: one would get the answer of the other.
pub fn asked(request: &HttpRequest, owner: &Owner) -> Vec<(&'static str, String)> {
    let value = |name: &HeaderName| request.headers().get(name)?.to_str().ok().map(String::from);
    let own = |name: String| keys::hex(&Sha256::digest(format!("{}\n{name}", owner.0))[..16]);
    let named = value(&IDEMPOTENCY_KEY).map(|name| (IDEMPOTENCY_KEY.as_str(), own(name)));
    ASKED.iter().filter_map(|name| Some((name.as_str(), value(name)?))).chain(named).collect()
}

/// The headers of an upstream's answer as those of ours.
pub fn told(headers: &[(String, String)]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let parse = |(name, value): &(String, String)| Some((name.parse().ok()?, value.parse().ok()?));
    headers.iter().filter_map(parse)
}
