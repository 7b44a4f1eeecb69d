//! The upstream's session: the cookies and the key that stand for the login.
//!
//! Seeded from the settings, kept up to date from each answer's `Set-Cookie`, swapped without a
//! restart, and shared by all workers. It also remembers how the upstream last took it. Keeping it
//! beyond the process is not done here: it only tells when it has changed.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use awc::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use cookie_store::{CookieExpiration, CookieStore, RawCookie};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use url::Url;

use super::breaker::Breaker;
use crate::config;
use crate::domain::error::{self, Error};

/// A login that ends sooner than this is told of beforehand.
const EXPIRING: Duration = Duration::from_secs(24 * 3600);

/// Cookies of protection services, which live for minutes and say nothing about a login.
const ROLLING: [&str; 2] = ["__cf_bm", "_cfuvid"];

/// How the upstream last took the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was asked yet.
    Unknown,
    /// Accepted.
    Ok,
    /// Accepted, and about to end by the cookies' own dates.
    Expiring,
    /// Not accepted: log in again.
    Expired,
    /// Accepted, and refused what was asked, by plan or rate.
    Refused,
}

impl State {
    /// The word for callers.
    pub const fn name(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Ok => "ok",
            State::Expiring => "expiring",
            State::Expired => "expired",
            State::Refused => "refused",
        }
    }
}

/// New credentials, as a person gives them. What is not given stays as it is.
#[derive(Clone, Default)]
pub struct Credentials {
    /// A Cookie header line.
    pub cookie: Option<SecretString>,
    /// An API key.
    pub api_key: Option<SecretString>,
}

/// Cookies, key and state of one upstream.
pub struct Session {
    base: Url,
    /// A digest of the settings that seeded it: when they change, what was kept is void.
    seed: String,
    inner: Mutex<Inner>,
    breaker: Breaker,
    changed: Notify,
    expired: Notify,
}

#[derive(Clone)]
struct Inner {
    cookies: CookieStore,
    /// The names in the cookie line that a person gave: the login is among them.
    given: HashSet<String>,
    api_key: Option<ApiKey>,
    state: State,
}

/// The header that presents an API key.
#[derive(Debug, Clone, Copy)]
pub enum KeyHeader {
    /// `Authorization`, with the scheme `Bearer`.
    Bearer,
    /// One of this name, in lower case, with the key alone.
    Named(&'static str),
}

/// An API key, with the values of the headers that may present it.
#[derive(Clone)]
struct ApiKey {
    key: SecretString,
    bearer: HeaderValue,
    alone: HeaderValue,
}

impl ApiKey {
    /// A key as the settings have checked it; `None` for one that no header can hold.
    fn new(key: SecretString) -> Option<Self> {
        let value = |text: &str| {
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let bearer = value(&format!("Bearer {}", key.expose_secret()))?;
        let alone = value(key.expose_secret())?;
        Some(ApiKey { key, bearer, alone })
    }
}

/// The session as it is kept.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    seed: String,
    cookies: String,
    given: HashSet<String>,
    api_key: Option<String>,
}

impl Session {
    /// The session that the settings begin with, for an upstream at `base`.
    pub fn new(base: &Url, settings: &config::Upstream) -> Self {
        let mut seed = Sha256::new();
        for part in [&settings.cookie, &settings.api_key].into_iter().flatten() {
            seed.update(part.expose_secret());
            seed.update([0]);
        }
        seed.update(base.origin().ascii_serialization());
        let mut inner = Inner {
            cookies: CookieStore::default(),
            given: HashSet::new(),
            api_key: settings.api_key.clone().and_then(ApiKey::new),
            state: State::Unknown,
        };
        if let Some(line) = &settings.cookie {
            inner.seed(base, line.expose_secret());
        }
        Session {
            base: base.clone(),
            seed: seed.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            inner: Mutex::new(inner),
            breaker: Breaker::default(),
            changed: Notify::new(),
            expired: Notify::new(),
        }
    }

    /// A copy of this session with other credentials, to try them.
    pub fn with(&self, credentials: &Credentials) -> Self {
        let mut inner = self.lock().clone();
        inner.state = State::Unknown;
        if let Some(line) = &credentials.cookie {
            inner.cookies = CookieStore::default();
            inner.given.clear();
            inner.seed(&self.base, line.expose_secret());
        }
        if let Some(key) = &credentials.api_key {
            inner.api_key = ApiKey::new(key.clone());
        }
        Session {
            base: self.base.clone(),
            seed: self.seed.clone(),
            inner: Mutex::new(inner),
            breaker: Breaker::default(),
            changed: Notify::new(),
            expired: Notify::new(),
        }
    }

    /// Takes over what another session has become.
    pub fn replace(&self, other: &Session) {
        let inner = other.lock().clone();
        *self.lock() = inner;
        self.changed.notify_one();
    }

    /// The Cookie header's value for a request to `url`.
    pub fn cookie_header(&self, url: &Url) -> Option<String> {
        let inner = self.lock();
        let pairs: Vec<String> =
            inner.cookies.get_request_values(url).map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// The header that presents the API key in this form, where there is a key.
    pub fn key_header(&self, form: KeyHeader) -> Option<(HeaderName, HeaderValue)> {
        let inner = self.lock();
        let key = inner.api_key.as_ref()?;
        Some(match form {
            KeyHeader::Bearer => (AUTHORIZATION, key.bearer.clone()),
            KeyHeader::Named(name) => (HeaderName::from_static(name), key.alone.clone()),
        })
    }

    /// All that must not be shown: the values of the cookies, and the key.
    pub fn secrets(&self) -> Vec<String> {
        let inner = self.lock();
        let cookies = inner.cookies.iter_any().map(|cookie| cookie.value().to_string());
        cookies.chain(inner.key()).collect()
    }

    /// Takes in the `Set-Cookie` lines of an answer from `url`.
    pub fn adopt<'a>(&self, url: &Url, lines: impl Iterator<Item = &'a str>) {
        let cookies = lines.filter_map(|line| RawCookie::parse(line).ok().map(RawCookie::into_owned));
        let mut cookies = cookies.peekable();
        if cookies.peek().is_some() {
            self.lock().cookies.store_response_cookies(cookies, url);
            self.changed.notify_one();
        }
    }

    /// How the upstream last took the credentials.
    pub fn state(&self) -> State {
        let inner = self.lock();
        match inner.state {
            State::Ok | State::Unknown if inner.is_expiring() => State::Expiring,
            state => state,
        }
    }

    /// When the login ends, by its cookies' own dates; most cookies tell none.
    pub fn ends(&self) -> Option<SystemTime> {
        self.lock().ends()
    }

    /// Learns from how an exchange ended. A good answer that is not `conclusive` leaves an expired
    /// session expired, since it may not have needed the login.
    pub fn learn(&self, outcome: Result<(), &Error>, conclusive: bool) {
        self.breaker.learn(outcome.map_err(|error| error.kind));
        let state = match outcome {
            Ok(()) if !conclusive && self.lock().state == State::Expired => return,
            Ok(()) => State::Ok,
            Err(error) => match error.kind.session() {
                error::Session::Expired if error.spares_session => return,
                error::Session::Expired => State::Expired,
                error::Session::Refused => State::Refused,
                error::Session::Same => return,
            },
        };
        let before = std::mem::replace(&mut self.lock().state, state);
        if state == State::Expired && before != State::Expired {
            self.expired.notify_one();
        }
    }

    /// Whether the upstream is to be asked before others.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Says again that the session has changed, when that could not be kept.
    pub fn mark_changed(&self) {
        self.changed.notify_one();
    }

    /// Waits until the session has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until the upstream stops accepting the session.
    pub async fn expired(&self) {
        self.expired.notified().await;
    }

    /// The session as a text to be kept.
    pub fn snapshot(&self) -> String {
        let inner = self.lock();
        let mut cookies = Vec::new();
        // Writing to memory does not fail; what cannot be written is left out.
        let _ = cookie_store::serde::json::save_incl_expired_and_nonpersistent(&inner.cookies, &mut cookies);
        let snapshot = Snapshot {
            seed: self.seed.clone(),
            cookies: String::from_utf8_lossy(&cookies).into_owned(),
            given: inner.given.clone(),
            api_key: inner.key(),
        };
        serde_json::to_string(&snapshot).unwrap_or_default()
    }

    /// Takes over a kept text, unless the settings have changed since: then those hold. Says
    /// whether it did.
    pub fn restore(&self, text: &str) -> bool {
        let Ok(snapshot) = serde_json::from_str::<Snapshot>(text) else { return false };
        let Ok(cookies) = cookie_store::serde::json::load_all(snapshot.cookies.as_bytes()) else {
            return false;
        };
        if snapshot.seed != self.seed {
            return false;
        }
        *self.lock() = Inner {
            cookies,
            given: snapshot.given,
            api_key: snapshot.api_key.map(SecretString::from).and_then(ApiKey::new),
            state: State::Unknown,
        };
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The API key in clear text.
    fn key(&self) -> Option<String> {
        self.api_key.as_ref().map(|key| key.key.expose_secret().to_string())
    }

    /// Takes in a Cookie header line.
    fn seed(&mut self, base: &Url, line: &str) {
        let secure = base.scheme() == "https";
        for pair in line.split(';') {
            if let Some((name, value)) = pair.trim().split_once('=') {
                let (name, value) = (name.trim().to_string(), value.trim().to_string());
                let cookie = RawCookie::build((name.clone(), value)).path("/").secure(secure).build();
                // A cookie that the store refuses would be refused by a browser as well.
                if self.cookies.insert_raw(&cookie, base).is_ok() {
                    self.given.insert(name);
                }
            }
        }
    }

    /// When the first of the given cookies ends by its own date.
    fn ends(&self) -> Option<SystemTime> {
        let given = self
            .cookies
            .iter_any()
            .filter(|cookie| self.given.contains(cookie.name()) && !ROLLING.contains(&cookie.name()));
        given
            .filter_map(|cookie| match cookie.expires {
                CookieExpiration::AtUtc(time) => Some(SystemTime::from(time)),
                CookieExpiration::SessionEnd => None,
            })
            .min()
    }

    fn is_expiring(&self) -> bool {
        self.ends().is_some_and(|ends| ends < SystemTime::now() + EXPIRING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::Kind;

    fn session(url: &str, line: &str) -> Session {
        let variables = [("UPSTREAM_URL", url), ("UPSTREAM_PROTOCOL", "web-chat"), ("UPSTREAM_COOKIE", line)];
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        let config = config::Config::load(&lookup, std::iter::empty()).expect("good settings");
        Session::new(&Url::parse(url).expect("a URL"), &config.upstream)
    }

    fn sorted(session: &Session, url: &Url) -> String {
        let line = session.cookie_header(url).unwrap_or_default();
        let mut pairs: Vec<&str> = line.split("; ").collect();
        pairs.sort_unstable();
        pairs.join("; ")
    }

    #[test]
    fn cookies_are_seeded_adopted_replaced_and_kept_to_their_host() {
        let session = session("https://mirror.example.com/x", "sso=old; theme=dark=1; ; broken");
        let url = Url::parse("https://mirror.example.com/rest/app-chat/conversations/new").expect("url");
        assert_eq!(sorted(&session, &url), "sso=old; theme=dark=1");
        let lines =
            ["sso=new; Path=/; Secure; HttpOnly", "theme=; Max-Age=0; Path=/", "evil=1; Domain=example.org"];
        session.adopt(&url, lines.into_iter());
        assert_eq!(sorted(&session, &url), "sso=new");
        assert_eq!(session.cookie_header(&Url::parse("https://other.example.com/").expect("url")), None);
        assert_eq!(session.cookie_header(&Url::parse("http://mirror.example.com/").expect("url")), None);
    }

    #[test]
    fn a_kept_session_returns_until_the_settings_change() {
        let (address, url) = ("https://m.example.com", Url::parse("https://m.example.com/").expect("url"));
        let first = session(address, "sso=old");
        first.adopt(&url, ["sso=new; Path=/; Max-Age=99999999"].into_iter());
        let kept = first.snapshot();
        let second = session(address, "sso=old");
        assert!(second.restore(&kept));
        assert_eq!(sorted(&second, &url), "sso=new");
        let third = session(address, "sso=fresh");
        assert!(!third.restore(&kept) && !third.restore("nonsense"));
        assert_eq!(sorted(&third, &url), "sso=fresh");
    }

    #[test]
    fn the_end_of_a_login_is_seen_coming() {
        let url = Url::parse("https://m.example.com/").expect("url");
        let session = session("https://m.example.com", "sso=a; __cf_bm=b");
        session.learn(Ok(()), true);
        session.adopt(
            &url,
            ["__cf_bm=c; Max-Age=1800", "other=1; Max-Age=60", "sso=b; Max-Age=9999999"].into_iter(),
        );
        assert_eq!(session.state(), State::Ok);
        session.adopt(&url, ["sso=c; Max-Age=3600"].into_iter());
        assert_eq!(session.state(), State::Expiring);
        session.learn(Err(&Error::new(Kind::UpstreamAuthExpired, "no")), true);
        assert_eq!(session.state(), State::Expired);
        session.learn(Ok(()), false);
        assert_eq!(session.state(), State::Expired);
    }
}
