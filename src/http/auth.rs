//! Who may call: the middleware that asks for a gateway key.
//!
//! Keys are understood in every form in which Dify and other importers send them. From an address that
//! sends many wrong keys only a key that has passed before is let in; others are not looked at.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
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
use super::guesses::Guesses;
use super::token::{self, Signer, Token};
use crate::activity::Activity;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::{self, GatewayKey, KeyRing};
use crate::request;
use crate::traffic::{Beginning, Traffic};

/// Where a key may stand beside `Authorization` and the query.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How many keys a request may hold in good faith: one in each place. A wrong one beside a good one is no guess,
/// since programs and proxies send what they have; a list of them is.
const PLACES: usize = 3;

/// Who a request comes from.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who owns what is kept for it.
    pub owner: Owner,
    /// The name of its key.
    pub name: Arc<str>,
    /// Whether it is the service's owner, to whom everything is open.
    pub is_owner: bool,
}

/// To whom a path is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To all, without a key.
    Public,
    /// To whoever has a key.
    Caller,
    /// To the owner alone.
    Owner,
}

/// The keys, and how often each address was wrong.
pub struct Guard {
    /// Whether everyone may call: `GATEWAY_AUTH=none`. That no key is left never means that.
    open: bool,
    /// The keys of the environment, which need no store; the owner's among them, if it is set there.
    configured: Vec<GatewayKey>,
    keys: RwLock<Arc<KeyRing>>,
    guesses: Guesses,
    /// How often each key may call.
    rate: Option<DefaultKeyedRateLimiter<Owner>>,
    /// To whom a path is open.
    access: fn(&str) -> Access,
    tokens: Signer,
}

impl Guard {
    /// A guard over the keys of the environment, or none at all when it is `open`.
    pub fn new(open: bool, configured: Vec<GatewayKey>) -> Self {
        let keys = RwLock::new(Arc::new(KeyRing::new(configured.clone())));
        let (guesses, tokens) = (Guesses::default(), Signer::new(&[]));
        Guard { open, configured, keys, guesses, rate: None, access: |_| Access::Owner, tokens }
    }

    /// Lets each key send so many requests a minute.
    pub fn limited(self, a_minute: Option<NonZeroU32>) -> Self {
        Guard { rate: a_minute.map(|rate| RateLimiter::dashmap(Quota::per_minute(rate))), ..self }
    }

    /// Opens each path to those whom `access` names; else all is the owner's.
    pub fn opening(self, access: fn(&str) -> Access) -> Self {
        Guard { access, ..self }
    }

    /// Signs the console's tokens over this secret, which is in no store.
    pub fn signing(self, secret: &[u8]) -> Self {
        Guard { tokens: Signer::new(secret), ..self }
    }

    /// Whether the path of a request is open to all.
    pub fn opens(&self, request: &HttpRequest) -> bool {
        self.access(request) == Access::Public
    }

    fn access(&self, request: &HttpRequest) -> Access {
        // The path as the router reads it, which takes `%73` for `s`.
        (self.access)(request.match_info().as_str())
    }

    /// Whether callers must present a key.
    pub fn needs_key(&self) -> bool {
        !self.open
    }

    /// Replaces the keys of the store. The owner's key of the environment holds in place of the store's.
    pub fn renew(&self, stored: Vec<GatewayKey>) {
        let has_owner = self.configured.iter().any(GatewayKey::is_owners);
        let stored = stored.into_iter().filter(|key| !(has_owner && key.is_owners()));
        let all = self.configured.iter().cloned().chain(stored).collect();
        let renewed = Arc::new(self.ring().renewed(all));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = renewed;
    }

    /// The name of each owner's key.
    pub fn names(&self) -> HashMap<Owner, String> {
        let ring = self.ring();
        ring.keys().map(|key| (key.owner.clone(), key.shown_name().to_string())).collect()
    }

    /// Whether there is a key that opens what is the owner's.
    pub fn has_owner(&self) -> bool {
        self.ring().has_owner()
    }

    /// A token of the console for the owner, and how long it holds: the first of a sign-in where the admin key
    /// was presented, the next where a token was.
    ///
    /// # Errors
    /// When no key is needed, or the sign-in has lasted as long as one may.
    pub fn sign_in(&self, request: &HttpRequest) -> Result<(String, Duration), Error> {
        let (ring, now) = (self.ring(), SystemTime::now());
        let Some(admin) = ring.owners().filter(|_| !self.open) else {
            let error = Error::new(Kind::InvalidRequest, "this service asks for no key");
            return Err(error.hinted("use the console without signing in"));
        };
        let token = match self.token(request, &ring) {
            Some((_, token)) => token.renewed(now),
            None => Some(Token::begin(now)),
        };
        let token = token.and_then(|token| Some((token, token.left(now)?)));
        token.map(|(token, left)| (self.tokens.sign(admin, token), left)).ok_or_else(signed_out)
    }

    /// The token that a request presents, if this service has signed it, whether it still holds or not. Only
    /// the console sends tokens, so they are looked for where it puts them and nowhere else.
    fn token(&self, request: &HttpRequest, ring: &KeyRing) -> Option<(String, Token)> {
        let header = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
        let text = header.strip_prefix("Bearer ").filter(|text| text.starts_with(token::PREFIX))?;
        Some((text.to_string(), self.tokens.read(ring.owners()?, text)?))
    }

    /// The key, or the token, of a request that was admitted by one.
    pub fn accepted(&self, request: &HttpRequest) -> Option<String> {
        let ring = self.ring();
        if let Some((text, _)) = self.token(request, &ring) {
            return Some(text);
        }
        let presented = presented(request);
        let mut keys = presented.iter().flat_map(meant);
        keys.find(|(key, place)| ring.find(key).is_some_and(|entry| place.may_hold(entry)))
            .map(|(key, _)| key.into_owned())
    }

    fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the caller may go on to a path that is open so, now.
    fn admit(&self, caller: &Caller, access: Access) -> Result<(), Error> {
        if !caller.is_owner && access == Access::Owner {
            return Err(self.owner_only());
        }
        let refused = self.rate.as_ref().and_then(|rate| rate.check_key(&caller.owner).err());
        match refused {
            None => Ok(()),
            Some(refused) => {
                Err(Error::new(Kind::RateLimited, "this key has sent as many requests in a minute as it may")
                    .retry_after(Some(refused.wait_time_from(DefaultClock::default().now()))))
            }
        }
    }

    fn identify(&self, request: &HttpRequest) -> Result<Caller, Error> {
        if self.open {
            return Ok(Caller {
                owner: Owner(keys::ANYONE.into()),
                name: keys::ANYONE.into(),
                is_owner: true,
            });
        }
        let (ring, presented) = (self.ring(), presented(request));
        if let Some((_, token)) = self.token(request, &ring) {
            let (owner, name) = (Owner(keys::OWNER.into()), keys::OWNER.into());
            let caller = Caller { owner, name, is_owner: true };
            return token.left(SystemTime::now()).map(|_| caller).ok_or_else(signed_out);
        }
        if presented.is_empty() {
            return Err(Error::new(Kind::KeyMissing, "this needs a gateway key, and none was sent"));
        }
        let sent = presented.len();
        let mut tried = presented.iter().enumerate();
        let found = tried.find_map(|(place, text)| {
            let mut keys = meant(text);
            keys.find_map(|(key, place)| ring.find(&key).filter(|entry| place.may_hold(entry)))
                .map(|entry| (place, entry))
        });
        let wrong = found.map_or(sent, |(place, _)| (place + 1).saturating_sub(PLACES));
        let entry = found.map(|(_, entry)| entry);
        let address = || {
            let peers = request.app_data::<Data<Peers>>().expect("the application holds the peers' rule");
            peers.address(request)
        };
        if let Some(entry) = entry.filter(|entry| entry.has_passed()) {
            if wrong > 0 {
                self.guesses.add(address(), wrong);
            }
            return entry.caller(&ring);
        }
        let address = address();
        if let Some(wait) = self.guesses.wait(address) {
            return Err(Error::new(Kind::KeyGuessing, "too many wrong gateway keys came from this address")
                .retry_after(Some(wait)));
        }
        if wrong > 0 {
            self.guesses.add(address, wrong);
        }
        let Some(entry) = entry else {
            return Err(Error::new(Kind::KeyWrong, "the gateway key is not one of this service's"));
        };
        entry.pass();
        entry.caller(&ring)
    }

    fn owner_only(&self) -> Error {
        let error = Error::new(Kind::OwnerOnly, "this is open to the service's owner alone");
        if self.has_owner() {
            return error;
        }
        error.hinted(
            "this service has no admin key: set `ADMIN_KEY` to a long random text, and send that as the key",
        )
    }
}

fn signed_out() -> Error {
    Error::new(Kind::KeyExpired, "this sign-in to the console has ended")
        .hinted("sign in to the console again")
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
    let access = guard.access(request.request());
    if access == Access::Public {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    if let Some(activity) = request.app_data::<Data<Activity>>() {
        // A key may have been made or revoked meanwhile, and a login swapped.
        activity.note().await;
    }
    let caller = guard.identify(request.request());
    if access == Access::Caller {
        see(request.request(), caller.as_ref().ok());
    }
    match caller.and_then(|caller| guard.admit(&caller, access).map(|()| caller)) {
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

/// Shows the owner a call. One without a key of the service's is shown only where there is something at its
/// path: else it is noise of the Internet.
fn see(request: &HttpRequest, caller: Option<&Caller>) {
    let Some(traffic) = request.app_data::<Data<Traffic>>() else { return };
    if let Some(context) = request::current()
        && (caller.is_some() || request.resource_map().has_resource(request.path()))
    {
        let beginning = Beginning {
            key: caller.map(|caller| &caller.name),
            path: request.path(),
            is_post: request.method() == Method::POST,
            request_id: Arc::clone(context.id()),
        };
        context.is_call(traffic.begin(beginning));
    }
}

impl keys::Entry {
    /// Who has presented it, of those in a ring.
    fn caller(&self, ring: &KeyRing) -> Result<Caller, Error> {
        let GatewayKey { owner, name, limits, .. } = &self.key;
        if limits.have_ended(SystemTime::now()) {
            return Err(Error::new(Kind::KeyExpired, format!("the gateway key `{name}` has ended")));
        }
        if ring.is_shared() && !self.key.is_owners() {
            request::is_of(&self.held);
        }
        let name = self.key.shown_name().into();
        Ok(Caller { owner: owner.clone(), name, is_owner: self.key.is_owners() })
    }
}

/// Where a key was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Query,
}

impl Place {
    /// Whether this key is accepted there: addresses are written into logs and histories, so the owner's
    /// key is not taken from one.
    fn may_hold(self, entry: &keys::Entry) -> bool {
        self == Place::Header || !entry.key.is_owners()
    }
}

/// Every text in the request that may be meant as the key: the last word in its place, since people paste
/// words such as `Bearer` along with it.
fn presented(request: &HttpRequest) -> Vec<(String, Place)> {
    let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let headers = [header(header::AUTHORIZATION), header(X_API_KEY)].into_iter().flatten();
    let headers = headers.map(|text| (Cow::Borrowed(text), Place::Header));
    let query = url::form_urlencoded::parse(request.query_string().as_bytes());
    let query = query.filter(|(name, _)| name == "key").map(|(_, value)| (value, Place::Query));
    let last_word = |(text, place): (Cow<'_, str>, Place)| {
        let word = text.split_whitespace().next_back().filter(|word| !is_scheme(word))?;
        Some((word.to_string(), place))
    };
    headers.chain(query).filter_map(last_word).collect()
}

fn is_scheme(word: &str) -> bool {
    ["bearer", "basic"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// The keys that such a text may be: itself, what follows the name in `name:KEY`, and the password of HTTP
/// Basic credentials, RFC 7617.
fn meant((text, place): &(String, Place)) -> impl Iterator<Item = (Cow<'_, str>, Place)> {
    let itself = iter::once(Cow::from(text));
    let after_name = iter::once_with(|| after_name(text).map(Cow::from)).flatten();
    let password = iter::once_with(|| password(text).map(Cow::from)).flatten();
    itself.chain(after_name).chain(password).map(|key| (key, *place))
}

fn after_name(text: &str) -> Option<&str> {
    text.split_once(':').filter(|(name, _)| keys::is_name(name)).map(|(_, key)| key)
}

fn password(text: &str) -> Option<String> {
    let pair = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.trim().into())
}

#[cfg(test)]
mod tests;
