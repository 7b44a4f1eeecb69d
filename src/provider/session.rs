//! The upstream's session: the cookies and the key that stand for the login.
//!
//! Seeded from the settings, kept up to date from each answer's `Set-Cookie`, swapped without a
//! restart, and shared by all workers. It also remembers how the upstream last took it. Keeping it
//! beyond the process is not done here: it only tells when it has changed.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use awc::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use url::Url;

use super::breaker::Breaker;
use super::jar::Jar;
use crate::config;
use crate::domain::error::{self, Error};
use crate::domain::keys::hex;

/// A login that ends sooner than this is told of beforehand.
const EXPIRING: Duration = Duration::from_secs(24 * 3600);

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
    /// Whether the upstream gives what costs nothing to those alone who have a login; empty until it said so.
    guards: OnceLock<bool>,
    breaker: Breaker,
    changed: Notify,
    expired: Notify,
}

#[derive(Clone)]
struct Inner {
    login: Login,
    jar: Jar,
    api_key: Option<ApiKey>,
    state: State,
    since: Option<SystemTime>,
}

/// Which login it is, counted from the one of the settings, which is 0. What an answer brings to an
/// earlier one than the present is of no use any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Login(u64);

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
    /// Absent in what version 0.1 kept.
    #[serde(default)]
    login: Login,
    cookies: String,
    given: HashSet<String>,
    api_key: Option<String>,
    #[serde(default)]
    since: Option<SystemTime>,
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
        let cookies = settings.cookie.as_ref().map(|line| Jar::given(base, line.expose_secret()));
        let inner = Inner {
            login: Login::default(),
            jar: cookies.unwrap_or_default(),
            api_key: settings.api_key.clone().and_then(ApiKey::new),
            state: State::Unknown,
            since: None,
        };
        let seed = hex(&seed.finalize());
        Session::of(base.clone(), seed, inner)
    }

    /// Whether it began with the credentials and at the address with which another did.
    pub fn begins_like(&self, other: &Session) -> bool {
        self.seed == other.seed
    }

    /// A copy of this session with other credentials, to try them.
    pub fn with(&self, credentials: &Credentials) -> Self {
        let mut inner = self.lock().clone();
        inner.state = State::Unknown;
        if let Some(line) = &credentials.cookie {
            inner.jar = Jar::given(&self.base, line.expose_secret());
        }
        if let Some(key) = &credentials.api_key {
            inner.api_key = ApiKey::new(key.clone());
        }
        Session::of(self.base.clone(), self.seed.clone(), inner)
    }

    /// A copy of this session without its login, to see whether that makes a difference.
    pub fn without_login(&self) -> Self {
        let (login, jar) = (Login::default(), Jar::default());
        let inner = Inner { login, jar, api_key: None, state: State::Unknown, since: None };
        Session::of(self.base.clone(), self.seed.clone(), inner)
    }

    fn of(base: Url, seed: String, inner: Inner) -> Self {
        Session {
            base,
            seed,
            inner: Mutex::new(inner),
            guards: OnceLock::new(),
            breaker: Breaker::default(),
            changed: Notify::new(),
            expired: Notify::new(),
        }
    }

    /// Takes over what another session has become, as a login of its own.
    pub fn replace(&self, other: &Session) {
        let other = other.lock().clone();
        let mut inner = self.lock();
        *inner = Inner { login: Login(inner.login.0 + 1), since: Some(SystemTime::now()), ..other };
        self.changed.notify_one();
    }

    /// The Cookie header's value for a request to `url`.
    pub fn cookie_header(&self, url: &Url) -> Option<String> {
        self.lock().jar.header(url)
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
        inner.jar.values().chain(inner.key()).collect()
    }

    /// Which login it is now.
    pub fn login(&self) -> Login {
        self.lock().login
    }

    /// Takes in the `Set-Cookie` lines of an answer from `url` to a request of this login; nothing when
    /// another has come since.
    pub fn adopt<'a>(&self, url: &Url, lines: impl Iterator<Item = &'a str>, login: Login) {
        let mut inner = self.lock();
        if inner.login == login && inner.jar.adopt(url, lines) {
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
        self.lock().jar.ends()
    }

    /// Says that its login comes into use now, one that was never in use before.
    pub fn begin(&self) {
        self.lock().since = Some(SystemTime::now());
        self.changed.notify_one();
    }

    /// Since when its login is in use. The settings do not tell that of theirs.
    pub fn since(&self) -> Option<SystemTime> {
        self.lock().since
    }

    /// Whether there is a login at all.
    pub fn has_login(&self) -> bool {
        let inner = self.lock();
        inner.api_key.is_some() || inner.jar.values().next().is_some()
    }

    /// Whether a good answer to a request that costs nothing shows that the login is accepted; `None` while
    /// that was not tried.
    pub fn guards(&self) -> Option<bool> {
        self.guards.get().copied()
    }

    /// Learns whether it does.
    pub fn learn_guards(&self, guards: bool) {
        let _ = self.guards.set(guards);
    }

    /// Learns from how an exchange ended. A good answer that is not `conclusive`, since it may not have
    /// needed the login, says nothing of one that is expired or was not tried yet.
    pub fn learn(&self, outcome: Result<(), &Error>, conclusive: bool) {
        self.breaker.learn(outcome.map_err(|error| error.kind));
        let state = match outcome {
            Ok(()) if !conclusive && matches!(self.lock().state, State::Unknown | State::Expired) => return,
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
        let (cookies, given) = inner.jar.snapshot();
        let (seed, login, api_key, since) = (self.seed.clone(), inner.login, inner.key(), inner.since);
        let snapshot = Snapshot { seed, login, cookies, given, api_key, since };
        serde_json::to_string(&snapshot).unwrap_or_default()
    }

    /// Takes over a kept text, unless the settings have changed since: then those hold. Says
    /// whether it did.
    pub fn restore(&self, text: &str) -> bool {
        let kept = self.read(text);
        kept.map(|kept| *self.lock() = kept).is_some()
    }

    /// Takes over a kept text if it is of a later login than this session's. Says whether it did.
    pub fn restore_later(&self, text: &str) -> bool {
        let Some(kept) = self.read(text) else { return false };
        let mut inner = self.lock();
        let is_later = kept.login > inner.login;
        if is_later {
            *inner = kept;
        }
        is_later
    }

    /// What a kept text holds, if it is of these settings.
    fn read(&self, text: &str) -> Option<Inner> {
        let snapshot: Snapshot = serde_json::from_str(text).ok()?;
        let jar = Jar::restored(&snapshot.cookies, snapshot.given)?;
        (snapshot.seed == self.seed).then(|| Inner {
            login: snapshot.login,
            jar,
            api_key: snapshot.api_key.map(SecretString::from).and_then(ApiKey::new),
            state: State::Unknown,
            since: snapshot.since,
        })
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

    fn is_expiring(&self) -> bool {
        self.jar.ends().is_some_and(|ends| ends < SystemTime::now() + EXPIRING)
    }
}
