//! The cookies of one upstream, within the limits of RFC 6265, section 6.1: an upstream that sets a new
//! cookie with each answer fills neither the memory nor the request's head.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use cookie_store::{Cookie, CookieExpiration, CookieStore, RawCookie};
use url::Url;

/// The most cookies that are kept for one domain.
const MAX_COOKIES: usize = 50;

/// The longest cookie that an upstream may set, its name and its value together, in bytes.
const MAX_COOKIE_BYTES: usize = 4096;

/// The longest `Cookie` header, in bytes. Common servers refuse a head beyond 8 KiB. What a person gave
/// is sent whatever its length.
const MAX_HEADER_BYTES: usize = 8 << 10;

/// Cookies of protection services, which live for minutes and say nothing about a login.
const ROLLING: [&str; 2] = ["__cf_bm", "_cfuvid"];

/// Domain, path and name, which together tell a cookie from all others.
type Place = (String, String, String);

/// Cookies, of which some were given by a person and others set by the upstream.
#[derive(Clone, Default)]
pub struct Jar {
    cookies: CookieStore,
    /// The names in the line that a person gave: the login is among them.
    given: HashSet<String>,
    /// When each of the others was last set: in which place among all that were set.
    set: HashMap<Place, u64>,
    count: u64,
}

impl Jar {
    /// A jar with the cookies of a `Cookie` header line, as a person copied it from a browser at `base`.
    pub fn given(base: &Url, line: &str) -> Self {
        let secure = base.scheme() == "https";
        let mut jar = Jar::default();
        for pair in line.split(';') {
            if let Some((name, value)) = pair.trim().split_once('=') {
                let (name, value) = (name.trim().to_string(), value.trim().to_string());
                let cookie = RawCookie::build((name.clone(), value)).path("/").secure(secure).build();
                // A cookie that the store refuses would be refused by a browser as well.
                if jar.cookies.insert_raw(&cookie, base).is_ok() {
                    jar.given.insert(name);
                }
            }
        }
        jar
    }

    /// The `Cookie` header for a request to `url`: first what a person gave, then the newest.
    pub fn header(&self, url: &Url) -> Option<String> {
        let mut cookies = self.cookies.matches(url);
        cookies.sort_by_key(|cookie| (!self.is_given(cookie), Reverse(self.set.get(&place(cookie)))));
        let mut line = String::new();
        for cookie in cookies {
            let pair = format!("{}={}", cookie.name(), cookie.value());
            if line.len() + 2 + pair.len() > MAX_HEADER_BYTES && !self.is_given(cookie) {
                continue;
            }
            if !line.is_empty() {
                line.push_str("; ");
            }
            line.push_str(&pair);
        }
        (!line.is_empty()).then_some(line)
    }

    /// Takes in the `Set-Cookie` lines of an answer from `url`. Says whether there was one to be taken.
    pub fn adopt<'a>(&mut self, url: &Url, lines: impl Iterator<Item = &'a str>) -> bool {
        let before = self.count;
        for line in lines {
            let Ok(raw) = RawCookie::parse(line.to_string()) else { continue };
            if raw.name().len() + raw.value().len() > MAX_COOKIE_BYTES {
                continue;
            }
            let Ok(cookie) = Cookie::try_from_raw_cookie(&raw, url).map(Cookie::into_owned) else { continue };
            let place = place(&cookie);
            if self.cookies.insert(cookie, url).is_ok() {
                self.count += 1;
                self.set.insert(place, self.count);
            }
        }
        if self.count == before {
            return false;
        }
        self.purge();
        true
    }

    /// Drops what has expired, and of each domain's cookies those beyond the limit: first what was set
    /// the longest ago, and never what a person gave.
    fn purge(&mut self) {
        let expired: Vec<Place> =
            self.cookies.iter_any().filter(|cookie| cookie.is_expired()).map(place).collect();
        expired.iter().for_each(|place| self.remove(place));
        let mut by_domain: HashMap<String, Vec<(u64, Place)>> = HashMap::new();
        for cookie in self.cookies.iter_any().filter(|cookie| !self.is_given(cookie)) {
            let place = place(cookie);
            let set = self.set.get(&place).copied().unwrap_or_default();
            by_domain.entry(place.0.clone()).or_default().push((set, place));
        }
        for mut cookies in by_domain.into_values() {
            cookies.sort_unstable_by_key(|(set, _)| Reverse(*set));
            cookies.iter().skip(MAX_COOKIES).for_each(|(_, place)| self.remove(place));
        }
    }

    fn remove(&mut self, place: &Place) {
        let (domain, path, name) = place;
        self.cookies.remove(domain, path, name);
        self.set.remove(place);
    }

    /// Whether a cookie is one that a person gave, or what the upstream has put in its stead.
    fn is_given(&self, cookie: &Cookie<'_>) -> bool {
        &*cookie.path == "/" && self.given.contains(cookie.name())
    }

    /// The values of all cookies.
    pub fn values(&self) -> impl Iterator<Item = String> {
        self.cookies.iter_any().map(|cookie| cookie.value().to_string())
    }

    /// When the first of the given cookies ends by its own date.
    pub fn ends(&self) -> Option<SystemTime> {
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

    /// The cookies as a text to be kept, and the names of those that a person gave.
    pub fn snapshot(&self) -> (String, HashSet<String>) {
        let mut cookies = Vec::new();
        // Writing to memory does not fail; what cannot be written is left out.
        let _ = cookie_store::serde::json::save_incl_expired_and_nonpersistent(&self.cookies, &mut cookies);
        (String::from_utf8_lossy(&cookies).into_owned(), self.given.clone())
    }

    /// The jar that a kept text holds; `None` where it cannot be read.
    pub fn restored(cookies: &str, given: HashSet<String>) -> Option<Self> {
        let cookies = cookie_store::serde::json::load_all(cookies.as_bytes()).ok()?;
        let mut jar = Jar { cookies, given, ..Jar::default() };
        jar.purge();
        Some(jar)
    }
}

fn place(cookie: &Cookie<'_>) -> Place {
    (String::from(&cookie.domain), String::from(&cookie.path), cookie.name().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        Url::parse("https://mirror.example.com/rest/app-chat/conversations/new").expect("a URL")
    }

    fn names(jar: &Jar) -> Vec<String> {
        let line = jar.header(&url()).unwrap_or_default();
        line.split("; ").filter_map(|pair| Some(pair.split_once('=')?.0.to_string())).collect()
    }

    #[test]
    fn a_cookie_with_each_answer_fills_neither_the_jar_nor_the_head() {
        let mut jar = Jar::given(&url(), "sso=login");
        for count in 0..300 {
            let line = format!("t{count}={}; Path=/; Max-Age=9999", "x".repeat(500));
            assert!(jar.adopt(&url(), std::iter::once(line.as_str())));
        }
        assert_eq!(jar.values().count(), 1 + MAX_COOKIES);
        assert!(jar.header(&url()).expect("cookies").len() <= MAX_HEADER_BYTES);
        let names = names(&jar);
        assert_eq!(names[..3], ["sso", "t299", "t298"]);
    }

    #[test]
    fn what_a_person_gave_is_sent_whatever_its_length() {
        let line: Vec<String> = (0..80).map(|count| format!("c{count}={}", "x".repeat(200))).collect();
        let mut jar = Jar::given(&url(), &line.join("; "));
        assert!(jar.adopt(&url(), std::iter::once("late=1; Path=/")));
        assert_eq!(names(&jar).len(), 80);
    }

    #[test]
    fn what_has_expired_goes_and_what_is_too_long_does_not_come() {
        let mut jar = Jar::given(&url(), "sso=login");
        let long = format!("long={}", "x".repeat(MAX_COOKIE_BYTES));
        assert!(!jar.adopt(&url(), [long.as_str(), "", "=;", "evil=1; Domain=example.org"].into_iter()));
        assert!(jar.adopt(&url(), ["a=1; Path=/", "sso=; Max-Age=0; Path=/"].into_iter()));
        assert!(jar.adopt(&url(), ["a=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"].into_iter()));
        assert_eq!(jar.values().count(), 0);
    }
}
