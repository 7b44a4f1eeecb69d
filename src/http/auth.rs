//! Who may call: the middleware that asks for a gateway key.
//!
//! Keys are understood in every form in which Dify and other importers send them. An address that
//! sends many wrong keys is slowed down; a right key passes from anywhere at any time.

use std::borrow::Cow;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{HttpMessage, HttpRequest, ResponseError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::base_url::Peers;
use super::failure::Failure;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::{GatewayKey, KeyRing};

/// Wrong keys that an address may send a minute.
const WRONG_KEYS_A_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");

/// Where a key may stand beside `Authorization` and the query.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How many addresses are remembered before the recovered ones are forgotten.
const ADDRESSES: usize = 10_000;

/// Who a request comes from.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who owns what is kept for it.
    pub owner: Owner,
    /// The name of its key.
    pub name: String,
}

/// The keys, and how often each address was wrong.
pub struct Guard {
    /// Whether everyone may call: `GATEWAY_AUTH=none`. That no key is left never means that.
    open: bool,
    /// The keys of the environment, which need no store.
    configured: Vec<GatewayKey>,
    keys: RwLock<Arc<KeyRing>>,
    wrong: DefaultKeyedRateLimiter<IpAddr>,
    /// How often each key may call.
    rate: Option<DefaultKeyedRateLimiter<Owner>>,
    /// Whether a path is open to all.
    is_public: fn(&str) -> bool,
}

impl Guard {
    /// A guard over the keys of the environment, or none at all when it is `open`.
    pub fn new(open: bool, configured: Vec<GatewayKey>) -> Self {
        let keys = RwLock::new(Arc::new(KeyRing::new(configured.clone())));
        let wrong = RateLimiter::dashmap(Quota::per_minute(WRONG_KEYS_A_MINUTE));
        Guard { open, configured, keys, wrong, rate: None, is_public: |_| false }
    }

    /// Lets each key send so many requests a minute.
    pub fn limited(self, a_minute: Option<NonZeroU32>) -> Self {
        Guard { rate: a_minute.map(|rate| RateLimiter::dashmap(Quota::per_minute(rate))), ..self }
    }

    /// Asks for no key on the paths of which `is_public` is true.
    pub fn opening(self, is_public: fn(&str) -> bool) -> Self {
        Guard { is_public, ..self }
    }

    /// Whether a path is open to all.
    pub fn opens(&self, path: &str) -> bool {
        (self.is_public)(path)
    }

    /// Whether callers must present a key.
    pub fn needs_key(&self) -> bool {
        !self.open
    }

    /// Replaces the keys of the store.
    pub fn renew(&self, stored: Vec<GatewayKey>) {
        let all = self.configured.iter().cloned().chain(stored).collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(KeyRing::new(all));
    }

    /// The key of a request that was admitted by one.
    pub fn accepted(&self, request: &HttpRequest) -> Option<String> {
        let ring = self.ring();
        let mut keys = presented(request).into_iter();
        keys.find(|key| ring.find([key.as_ref()].into_iter()).is_some()).map(Cow::into_owned)
    }

    fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn admit(&self, request: &HttpRequest) -> Result<Caller, Error> {
        let caller = self.identify(request)?;
        let refused = self.rate.as_ref().and_then(|rate| rate.check_key(&caller.owner).err());
        match refused {
            None => Ok(caller),
            Some(refused) => {
                Err(Error::new(Kind::RateLimited, "this key has sent as many requests in a minute as it may")
                    .retry_after(Some(refused.wait_time_from(DefaultClock::default().now()))))
            }
        }
    }

    fn identify(&self, request: &HttpRequest) -> Result<Caller, Error> {
        if self.open {
            return Ok(Caller { owner: Owner("anyone".into()), name: "anyone".into() });
        }
        let (ring, candidates) = (self.ring(), presented(request));
        if let Some(key) = ring.find(candidates.iter().map(AsRef::as_ref)) {
            return Ok(Caller { owner: key.owner.clone(), name: key.name.clone() });
        }
        if candidates.is_empty() {
            return Err(Error::new(Kind::KeyMissing, "this needs a gateway key, and none was sent"));
        }
        let peers = request.app_data::<Data<Peers>>().expect("the application holds the peers' rule");
        match peers.address(request).and_then(|address| self.wait(address)) {
            None => Err(Error::new(Kind::KeyWrong, "the gateway key is not one of this service's")),
            wait => Err(Error::new(Kind::KeyGuessing, "too many wrong gateway keys came from this address")
                .retry_after(wait)),
        }
    }

    /// Counts a wrong key of an address; says how long it must wait when that was one too many.
    fn wait(&self, address: IpAddr) -> Option<Duration> {
        if self.wrong.len() > ADDRESSES {
            self.wrong.retain_recent();
        }
        let refused = self.wrong.check_key(&address).err()?;
        Some(refused.wait_time_from(DefaultClock::default().now()))
    }
}

/// The middleware.
///
/// # Errors
/// Those of the handlers.
pub async fn check<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let guard = request.app_data::<Data<Guard>>().expect("the application holds the guard");
    if guard.opens(request.path()) {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    match guard.admit(request.request()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            Ok(next.call(request).await?.map_into_left_body())
        }
        Err(error) => {
            let response = Failure::new(request.request(), error).error_response();
            Ok(request.into_response(response).map_into_right_body())
        }
    }
}

/// Every text in the request that may be meant as the key.
fn presented(request: &HttpRequest) -> Vec<Cow<'_, str>> {
    let mut keys = Vec::new();
    let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = header(header::AUTHORIZATION) {
        let mut rest = value.trim();
        let mut basic = false;
        // People paste the word along with the key, so it may stand there twice.
        while let Some((word, after)) = rest.split_once(char::is_whitespace) {
            basic |= word.eq_ignore_ascii_case("basic");
            if !word.eq_ignore_ascii_case("bearer") && !word.eq_ignore_ascii_case("basic") {
                break;
            }
            rest = after.trim();
        }
        if !["bearer", "basic"].iter().any(|word| rest.eq_ignore_ascii_case(word)) {
            keys.push(Cow::Borrowed(rest));
        }
        if basic {
            keys.extend(password(rest).map(Cow::Owned));
        }
    }
    keys.extend(header(X_API_KEY).map(|value| Cow::Borrowed(value.trim())));
    let query = url::form_urlencoded::parse(request.query_string().as_bytes());
    keys.extend(
        query.filter(|(name, _)| name == "key").map(|(_, value)| Cow::Owned(value.trim().to_string())),
    );
    keys.retain(|key| !key.is_empty());
    keys
}

/// The password of HTTP Basic credentials, RFC 7617.
fn password(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn every_form_of_presenting_a_key_is_understood() {
        let key = "sk-0123/4+5=";
        let encoded = STANDARD.encode(format!("user:{key}"));
        for value in [
            format!("Bearer {key}"),
            format!("bearer  {key} "),
            format!("Bearer Bearer {key}"),
            format!("Basic {key}"),
            format!("Basic {encoded}"),
            format!("Basic Bearer {key}"),
            key.to_string(),
        ] {
            let request =
                TestRequest::default().insert_header(("Authorization", value.as_str())).to_http_request();
            assert!(presented(&request).contains(&key.into()), "{value}");
        }
        let request =
            TestRequest::default().insert_header(("X-API-Key", format!(" {key} "))).to_http_request();
        assert_eq!(presented(&request), [key]);
        let request = TestRequest::with_uri("/api/models?x=1&key=sk-0123%2F4%2B5%3D%0A").to_http_request();
        assert_eq!(presented(&request), [key]);
        for value in ["Bearer ", "Basic", ""] {
            let request = TestRequest::default().insert_header(("Authorization", value)).to_http_request();
            assert_eq!(presented(&request), Vec::<&str>::new(), "{value}");
        }
    }
}
