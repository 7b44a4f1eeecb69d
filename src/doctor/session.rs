//! The login's age and end, as its cookies and key tell them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::finding::Finding;
use crate::domain::error::Kind;
use crate::provider::Endpoint;
use crate::provider::session::State;

const CHECK: &str = "session";

/// A login that ends sooner than this is told of.
const SOON: Duration = Duration::from_secs(3 * 24 * 3600);

/// Looks at what the login says of itself; nothing is asked of the mirror.
pub fn check(mirror: &Endpoint) -> Finding {
    let session = &mirror.session;
    if session.state() == State::Expired {
        return Finding::broken(
            CHECK,
            "the mirror does not accept the login any more",
            Kind::UpstreamAuthExpired.hint(),
        );
    }
    let secrets = session.secrets();
    if secrets.is_empty() {
        return Finding::ok(CHECK, "there is no login: neither key nor cookie is set");
    }
    let tokens: Vec<Token> = secrets.iter().filter_map(|secret| Token::read(secret)).collect();
    let now = SystemTime::now();
    // The shortest-lived token is often renewed by the mirror; the login is over with the last.
    let ends = session.ends().into_iter().chain(tokens.iter().filter_map(|token| token.ends)).max();
    let age = tokens.iter().filter_map(|token| token.issued).min();
    let age = age.and_then(|issued| now.duration_since(issued).ok());
    let age = age.map_or(String::new(), |age| format!("it is {} old and ", span(age)));
    match ends.map(|ends| ends.duration_since(now)) {
        None => Finding::ok(CHECK, "key and cookies do not tell when they end"),
        Some(Ok(left)) if left > SOON => Finding::ok(CHECK, format!("{age}ends in {}", span(left))),
        Some(Ok(left)) => Finding::warning(
            CHECK,
            format!("{age}ends in {}", span(left)),
            "log in to the mirror again before, and hand it over: `mirrorgate session set --cookie -`",
        ),
        Some(Err(passed)) => Finding::broken(
            CHECK,
            format!("{age}ended {} ago, by its own date", span(passed.duration())),
            Kind::UpstreamAuthExpired.hint(),
        ),
    }
}

/// The dates in a JSON Web Token, RFC 7519, section 4.1.
struct Token {
    issued: Option<SystemTime>,
    ends: Option<SystemTime>,
}

impl Token {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let payload: Value = serde_json::from_slice(&payload).ok()?;
        let time = |key: &str| {
            let seconds =
                payload.get(key).and_then(Value::as_f64).filter(|time| (0.0..1e11).contains(time))?;
            Some(UNIX_EPOCH + Duration::from_secs(seconds as u64))
        };
        Some(Token { issued: time("iat"), ends: time("exp") })
    }
}

/// A length of time in its largest unit.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 2 * 86_400 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 2 * 3600 => format!("{} hours", seconds / 3600),
        seconds => format!("{} minutes", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use url::Url;

    use super::super::finding::Level;
    use super::*;
    use crate::config::Config;
    use crate::provider::session::Session;

    fn found(cookie: &str) -> Finding {
        let variables = [("UPSTREAM_URL", "https://m.example.com"), ("UPSTREAM_PROTOCOL", "web-chat")];
        let lookup = |name: &str| match name {
            "UPSTREAM_COOKIE" => Some(cookie.to_string()),
            _ => variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()),
        };
        let settings = Config::load(&lookup, std::iter::empty()).expect("good settings").upstream;
        let base = Url::parse("https://m.example.com").expect("a URL");
        let session = Arc::new(Session::new(&base, &settings));
        check(&Endpoint { settings, base, session })
    }

    #[test]
    fn the_dates_in_a_token_tell_the_age_and_the_end_of_a_login() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let token = |issued: u64, ends: u64| {
            let payload = URL_SAFE_NO_PAD.encode(format!("{{\"iat\":{issued},\"exp\":{ends}}}"));
            format!("sso=eyJhbGciOiJub25lIn0.{payload}.c2lnbmF0dXJl; theme=dark")
        };
        let day = 86_400;
        let good = found(&token(now - 10 * day, now + 20 * day + 60));
        assert_eq!((good.level, good.seen.as_str()), (Level::Ok, "it is 10 days old and ends in 20 days"));
        assert_eq!(found(&token(now - 10 * day, now + day)).level, Level::Warning);
        let ended = found(&token(now - 10 * day, now - 3 * day));
        assert_eq!(ended.level, Level::Broken);
        assert!(ended.seen.contains("ended 3 days ago"), "{}", ended.seen);
        assert_eq!(found("sso=opaque").level, Level::Ok);
    }
}
