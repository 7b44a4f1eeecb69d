//! The upstream's session: the cookies that stand for the login.
//!
//! Seeded from the Cookie line that the user copied, kept up to date from each answer's
//! `Set-Cookie`, and shared by all workers. It also remembers how the upstream last took it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cookie_store::{CookieStore, RawCookie};
use url::Url;

use crate::error::Kind;

/// How the upstream last took the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was asked yet.
    Unknown,
    /// Accepted.
    Ok,
    /// Not accepted: log in again.
    Expired,
    /// Accepted, and refused what was asked.
    Refused,
}

impl State {
    /// The word for callers.
    pub fn name(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Ok => "ok",
            State::Expired => "expired",
            State::Refused => "refused",
        }
    }
}

/// Cookies and state of one upstream.
pub struct Session(Mutex<Inner>);

struct Inner {
    cookies: CookieStore,
    state: State,
}

impl Session {
    /// A session that starts with the cookies of a Cookie header line for `base`.
    pub fn new(base: &Url, line: Option<&str>) -> Self {
        let mut cookies = CookieStore::default();
        let secure = base.scheme() == "https";
        for pair in line.unwrap_or_default().split(';') {
            if let Some((name, value)) = pair.trim().split_once('=') {
                let cookie = RawCookie::build((name.trim().to_string(), value.trim().to_string()))
                    .path("/")
                    .secure(secure)
                    .build();
                // A cookie that the store refuses would be refused by a browser as well.
                let _ = cookies.insert_raw(&cookie, base);
            }
        }
        Session(Mutex::new(Inner { cookies, state: State::Unknown }))
    }

    /// The Cookie header's value for a request to `url`.
    pub fn cookie_header(&self, url: &Url) -> Option<String> {
        let inner = self.lock();
        let pairs: Vec<String> =
            inner.cookies.get_request_values(url).map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// Takes in the `Set-Cookie` lines of an answer from `url`.
    pub fn adopt<'a>(&self, url: &Url, lines: impl Iterator<Item = &'a str>) {
        let cookies = lines.filter_map(|line| RawCookie::parse(line).ok().map(RawCookie::into_owned));
        let mut cookies = cookies.peekable();
        if cookies.peek().is_some() {
            self.lock().cookies.store_response_cookies(cookies, url);
        }
    }

    /// The values of all cookies.
    pub fn values(&self) -> Vec<String> {
        self.lock().cookies.iter_any().map(|cookie| cookie.value().to_string()).collect()
    }

    /// How the upstream last took the credentials.
    pub fn state(&self) -> State {
        self.lock().state
    }

    /// Learns from how an exchange ended.
    pub fn learn(&self, outcome: Result<(), Kind>) {
        let state = match outcome {
            Ok(()) => State::Ok,
            Err(Kind::UpstreamAuthExpired) => State::Expired,
            Err(Kind::UpstreamRefused | Kind::UpstreamChallenge) => State::Refused,
            Err(_) => return,
        };
        self.lock().state = state;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_seeded_adopted_replaced_and_kept_to_their_host() {
        let base = Url::parse("https://mirror.example.com/x").expect("url");
        let session = Session::new(&base, Some("sso=old; theme=dark=1; ; broken"));
        let url = Url::parse("https://mirror.example.com/rest/app-chat/conversations/new").expect("url");
        let sorted = |session: &Session, url: &Url| {
            let mut pairs: Vec<String> =
                session.cookie_header(url).unwrap_or_default().split("; ").map(String::from).collect();
            pairs.sort();
            pairs.join("; ")
        };
        assert_eq!(sorted(&session, &url), "sso=old; theme=dark=1");
        session.adopt(
            &url,
            ["sso=new; Path=/; Secure; HttpOnly", "theme=; Max-Age=0; Path=/", "evil=1; Domain=example.org"]
                .into_iter(),
        );
        assert_eq!(sorted(&session, &url), "sso=new");
        assert_eq!(session.cookie_header(&Url::parse("https://other.example.com/").expect("url")), None);
        assert_eq!(session.cookie_header(&Url::parse("http://mirror.example.com/").expect("url")), None);
    }
}
