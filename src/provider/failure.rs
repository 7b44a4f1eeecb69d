//! What an upstream's failure means: the table from statuses, error bodies and broken connections
//! to our own error kinds.

mod rules;

use std::io;
use std::time::{Duration, SystemTime};

use actix_http::error::ParseError;
use awc::error::{ConnectError, SendRequestError};
use awc::http::StatusCode;
use awc::http::header::{self, HeaderMap};

use super::page::Page;
use super::reason::Reason;
use super::report::clean;
use crate::domain::error::{Error, Kind};
use rules::{CHALLENGE, CLOUDFLARE_BLOCKS, NO_CREDIT, REJECTED, RULES, Rule};

/// Where in the upstream's protocol a failure happened.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Whether the login is a browser's.
    pub browser_login: bool,
    /// Whether the call goes on with one of the upstream's own conversations.
    pub in_conversation: bool,
    /// Whether the call surely needed the login, so that a good answer says that it is good.
    pub needs_login: bool,
}

/// The statuses with which a question is refused whole, before any work on it.
const REFUSALS: [u16; 7] = [401, 402, 403, 404, 429, 503, 529];

/// The error for an answer with a status of 400 or more.
pub fn from_status(place: Place, status: StatusCode, headers: &HeaderMap, reason: Option<&Reason>) -> Error {
    let code = status.as_u16();
    let is_challenge = headers.get("cf-mitigated").is_some();
    let error = told_apart(place, Some(code), is_challenge, reason).retry_after(retry_after(headers));
    if REFUSALS.contains(&code) { error.unworked() } else { error }
}

/// The error that an answer with a good status carries in its body.
pub fn from_reason(place: Place, reason: &Reason) -> Error {
    // The number may be the status that was meant.
    let status = reason.number.and_then(|number| u16::try_from(number).ok());
    told_apart(place, status.filter(|status| (400..600).contains(status)), false, Some(reason))
}

/// Whether the words alone say which failure they report.
pub fn is_told_by_words(reason: &Reason) -> bool {
    let says = |rule: &Rule| reason.says(rule.phrases) || reason.says(rule.loose);
    reason.says(CHALLENGE) || RULES.iter().any(says)
}

/// The error for a failure with this status, if it has one, and what the upstream says of it.
fn told_apart(place: Place, status: Option<u16>, is_challenge: bool, reason: Option<&Reason>) -> Error {
    let nothing = Reason::default();
    let said = reason.unwrap_or(&nothing);
    let is_challenge = is_challenge
        || said.says(CHALLENGE)
        || said.number == Some(CLOUDFLARE_BLOCKS)
        || said.has_code(&["error-1020"]);
    let (kind, what) = if is_challenge {
        (Kind::UpstreamChallenge, "asks for a browser check")
    } else {
        // Elsewhere such a number means something of the upstream's own.
        let number = said.number.filter(|_| place.browser_login);
        let by_code = |rule: &&Rule| said.has_code(rule.codes) || rule.grpc.is_some() && rule.grpc == number;
        let by_words = |rule: &&Rule| said.says(rule.phrases);
        let by_loose_words = |rule: &&Rule| said.says(rule.loose);
        let named = |rule: &Rule| (rule.kind, rule.what);
        let lost = place.in_conversation && (number == Some(5) || said.says(&["conversation not found"]));
        let lost = lost.then_some((Kind::UpstreamConversationLost, "no longer knows the conversation"));
        let unknown = said.names_no_model().then_some((Kind::ModelNotFound, "does not know the model"));
        lost.or_else(|| RULES.iter().find(by_code).map(named))
            .or_else(|| Some(&NO_CREDIT).filter(by_words).map(named))
            .or_else(|| status.and_then(|status| decided_by(place, status)))
            .or(unknown)
            .or_else(|| RULES.iter().find(by_words).map(named))
            .or_else(|| Some(&REJECTED).filter(by_code).map(named))
            .or_else(|| RULES.iter().chain([&REJECTED]).find(by_loose_words).map(named))
            .or_else(|| status.map(|status| left_to(place, status, reason)))
            .unwrap_or((Kind::UpstreamError, "reports an error"))
    };
    let message = match status {
        Some(status) => format!("the upstream {what} (HTTP {status})"),
        None => format!("the upstream {what}"),
    };
    let error = Error::new(kind, message);
    let error = status.map_or(error.clone(), |status| error.upstream_status(status));
    // A key that is said to be wrong in other ways may be wrong for this one model or place alone.
    let ends_the_login =
        status == Some(401) || place.browser_login && said.number == Some(16) || reason.is_none();
    if ends_the_login { error } else { error.sparing_session() }
}

/// What some statuses say whatever comes with them.
fn decided_by(place: Place, status: u16) -> Option<(Kind, &'static str)> {
    Some(match status {
        401 => (Kind::UpstreamAuthExpired, "does not accept the credentials"),
        402 => (Kind::UpstreamRefused, "refuses: payment or another plan is required"),
        404 | 410 if place.in_conversation => {
            (Kind::UpstreamConversationLost, "no longer knows the conversation")
        }
        429 => (Kind::UpstreamRateLimited, "limits the rate of requests"),
        408 | 409 | 425 => (Kind::UpstreamError, "could not serve the request now"),
        500.. if status != 501 => (Kind::UpstreamError, "failed"),
        _ => return None,
    })
}

/// What the other statuses say where nothing else told more.
fn left_to(place: Place, status: u16, reason: Option<&Reason>) -> (Kind, &'static str) {
    match status {
        403 if place.browser_login && reason.is_none() => {
            (Kind::UpstreamAuthExpired, "does not accept the session")
        }
        403 => (Kind::UpstreamRefused, "refuses to serve this account or model"),
        404 | 405 | 410 | 501 => (Kind::UpstreamNotFound, "has nothing at this address"),
        _ => (Kind::UpstreamRejected, "rejects the request"),
    }
}

/// The error for a redirect, which is never followed: credentials belong to one address.
/// The `secrets` are kept out of what it says.
pub fn from_redirect(place: Place, status: StatusCode, location: Option<&str>, secrets: &[String]) -> Error {
    let location = location.unwrap_or_default();
    // The query may carry tokens, and is of no use to the reader.
    let target = location.split(['?', '#']).next().unwrap_or_default();
    let lower = target.to_ascii_lowercase();
    let to_login = ["login", "log-in", "signin", "sign-in", "sign_in", "/auth", "/sso", "accounts.", "oauth"]
        .iter()
        .any(|word| lower.contains(word));
    let code = status.as_u16();
    let error = if to_login {
        let kind = if place.browser_login { Kind::UpstreamAuthExpired } else { Kind::UpstreamRedirect };
        Error::new(kind, format!("the upstream redirects to a login page (HTTP {code})"))
    } else {
        Error::new(Kind::UpstreamRedirect, format!("the upstream redirects (HTTP {code})"))
            .detail(clean(target, secrets))
    };
    error.upstream_status(code)
}

/// The error for an answer that is a web page although its status is good.
///
/// Only a page that asks for a login says that the session has ended.
pub fn from_html(place: Place, status: StatusCode, headers: &HeaderMap, page: &[u8]) -> Error {
    let page = Page::of(&String::from_utf8_lossy(page));
    let is_challenge = page.title.is_some_and(|title| Reason::of_words(title).says(CHALLENGE));
    let error = if headers.get("cf-mitigated").is_some() || is_challenge {
        Error::new(Kind::UpstreamChallenge, "the upstream asks for a browser check")
    } else if place.browser_login && page.is_login {
        Error::new(
            Kind::UpstreamAuthExpired,
            "the upstream answers with a web page instead of the chat: the session has expired",
        )
    } else {
        Error::new(Kind::UpstreamHtml, "the upstream answers with a web page instead of JSON")
    };
    error.upstream_status(status.as_u16())
}

/// The error for a request that got no answer's head.
pub fn from_send(error: &SendRequestError, origin: &str) -> Error {
    let unreachable = |what: &str| Error::new(Kind::UpstreamUnreachable, format!("{what}: {origin}"));
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) => {
            Error::new(Kind::UpstreamDisconnected, "the upstream hung up before it answered")
        }
        SendRequestError::Connect(ConnectError::Timeout) => {
            unreachable("the connection to the upstream took too long")
                .hinted("check `UPSTREAM_URL`, a firewall between, or raise `CONNECT_TIMEOUT_SECONDS`")
        }
        SendRequestError::Connect(ConnectError::Resolver(_) | ConnectError::NoRecords) => {
            unreachable("the upstream's host name has no address")
        }
        SendRequestError::Connect(ConnectError::Io(error)) => unreachable(connect_trouble(error)),
        SendRequestError::Connect(_) => unreachable("no connection to the upstream"),
        SendRequestError::Timeout => from_silence(),
        SendRequestError::Send(_) => {
            Error::new(Kind::UpstreamDisconnected, "the upstream hung up while the request was sent")
        }
        SendRequestError::Response(ParseError::Io(_) | ParseError::Incomplete) => {
            Error::new(Kind::UpstreamDisconnected, "the upstream hung up before it answered")
        }
        SendRequestError::Response(ParseError::TooLarge) => {
            Error::new(Kind::UpstreamTooLarge, "the head of the upstream's answer is too large")
        }
        SendRequestError::Response(_) => {
            Error::new(Kind::UpstreamInvalid, "the upstream's answer is not HTTP")
                .hinted("check the port and the scheme (http or https) in `UPSTREAM_URL`")
        }
        _ => Error::new(Kind::UpstreamDisconnected, "the request to the upstream failed"),
    }
}

/// The error for an upstream that sent nothing within the first-byte limit.
pub fn from_silence() -> Error {
    Error::new(Kind::UpstreamTimeout, "the upstream did not answer in time")
}

fn connect_trouble(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens at the upstream's address",
        io::ErrorKind::InvalidData => {
            "TLS with the upstream failed, its certificate or protocol is not accepted"
        }
        io::ErrorKind::UnexpectedEof => "the upstream hung up during the TLS handshake",
        io::ErrorKind::TimedOut => "the connection to the upstream took too long",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no route to the upstream",
        _ => "no connection to the upstream",
    }
}

/// `Retry-After` as a duration: seconds or a date, RFC 9110, section 10.2.3; or `retry-after-ms`, which
/// OpenAI's servers send.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    if let Some(milliseconds) = text("retry-after-ms").filter(|number| (0.0..=86_400_000.0).contains(number))
    {
        return Some(Duration::from_secs_f64(milliseconds / 1000.0));
    }
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(86_400)));
    }
    let date = text.parse::<awc::http::header::HttpDate>().ok()?;
    SystemTime::from(date).duration_since(SystemTime::now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CHAT: Place = Place { browser_login: true, in_conversation: false, needs_login: true };
    const TURN: Place = Place { browser_login: true, in_conversation: true, needs_login: true };
    const API: Place = Place { browser_login: false, in_conversation: false, needs_login: true };

    #[test]
    fn statuses_and_reasons_are_told_apart() {
        let cases = [
            (CHAT, 401, json!(null), Kind::UpstreamAuthExpired),
            (CHAT, 403, json!(null), Kind::UpstreamAuthExpired),
            (CHAT, 403, json!({"error": {"message": "upgrade your plan"}}), Kind::UpstreamRefused),
            (CHAT, 403, json!({"error": {"code": 16, "message": "no"}}), Kind::UpstreamAuthExpired),
            (CHAT, 402, json!({"detail": "plan"}), Kind::UpstreamRefused),
            (CHAT, 404, json!(null), Kind::UpstreamNotFound),
            (TURN, 404, json!(null), Kind::UpstreamConversationLost),
            (API, 403, json!(null), Kind::UpstreamRefused),
            (API, 404, json!({"error": {"message": "The model `x` does not exist"}}), Kind::ModelNotFound),
            (API, 404, json!({"error": {"message": "no route"}}), Kind::UpstreamNotFound),
            (API, 400, json!({"error": {"code": "model_not_found"}}), Kind::ModelNotFound),
            (API, 400, json!({"error": "bad temperature"}), Kind::UpstreamRejected),
            (
                API,
                400,
                json!({"error": {"type": "invalid_request_error", "message": "rate limit, your subscription: unauthorized"}}),
                Kind::UpstreamRejected,
            ),
            (
                API,
                422,
                json!({"error": {"message": "an unauthorized subscription field"}}),
                Kind::UpstreamRejected,
            ),
            (API, 400, json!({"error": {"code": 16, "message": "no"}}), Kind::UpstreamRejected),
            (
                API,
                400,
                json!({"error": {"message": "Incorrect API key", "type": "invalid_request_error"}}),
                Kind::UpstreamAuthExpired,
            ),
            (API, 429, json!(null), Kind::UpstreamRateLimited),
            (API, 503, json!(null), Kind::UpstreamError),
        ];
        for (place, status, body, kind) in cases {
            let reason = Reason::in_error(body.to_string().as_bytes());
            let status = StatusCode::from_u16(status).expect("status");
            let error = from_status(place, status, &HeaderMap::new(), reason.as_ref());
            assert_eq!(error.kind, kind, "{place:?} {status} {body}");
        }
    }

    #[test]
    fn errors_in_good_answers_are_told_apart() {
        let anthropic =
            |kind: &str, message: &str| json!({"type": "error", "error": {"type": kind, "message": message}});
        let cases = [
            (CHAT, json!({"error": {"code": 8, "message": "Too many requests"}}), Kind::UpstreamRateLimited),
            (CHAT, json!({"error": {"code": 16, "message": "no"}}), Kind::UpstreamAuthExpired),
            (CHAT, json!({"error": {"code": 7, "message": "no"}}), Kind::UpstreamRefused),
            (TURN, json!({"error": {"code": 5, "message": "no"}}), Kind::UpstreamConversationLost),
            (CHAT, json!({"error": {"code": 13, "message": "oops"}}), Kind::UpstreamError),
            (API, json!({"error": {"type": "rate_limit_exceeded", "code": null}}), Kind::UpstreamRateLimited),
            (API, json!({"error": {"code": 401, "message": "x"}}), Kind::UpstreamAuthExpired),
            (API, json!({"error": {"code": "429", "message": "x"}}), Kind::UpstreamRateLimited),
            (API, json!({"error": "boom"}), Kind::UpstreamError),
            (API, json!({"error": {"code": 8, "message": "x"}}), Kind::UpstreamError),
            (API, json!({"error": {"code": 16, "message": "x"}}), Kind::UpstreamError),
            (API, anthropic("overloaded_error", "Overloaded"), Kind::UpstreamError),
            (API, anthropic("api_error", "Internal server error"), Kind::UpstreamError),
            (API, anthropic("rate_limit_error", "Slow down"), Kind::UpstreamRateLimited),
            (API, anthropic("authentication_error", "invalid x-api-key"), Kind::UpstreamAuthExpired),
            (API, anthropic("permission_error", "no"), Kind::UpstreamRefused),
            (API, anthropic("billing_error", "no"), Kind::UpstreamRefused),
            (API, anthropic("not_found_error", "model: claude-x"), Kind::ModelNotFound),
            (API, anthropic("request_too_large", "no"), Kind::UpstreamRejected),
            (API, anthropic("invalid_request_error", "no"), Kind::UpstreamRejected),
        ];
        for (place, body, kind) in cases {
            let reason = Reason::in_answer(&body).expect("a reason");
            assert_eq!(from_reason(place, &reason).kind, kind, "{body}");
        }
    }

    #[test]
    fn redirects_to_a_login_page_are_an_expired_session_of_a_web_chat() {
        for (place, location, kind) in [
            (CHAT, "https://accounts.example.com/sign-in?next=x", Kind::UpstreamAuthExpired),
            (CHAT, "https://www.example.com/sekret-token/x", Kind::UpstreamRedirect),
            (API, "/login", Kind::UpstreamRedirect),
        ] {
            let error = from_redirect(place, StatusCode::FOUND, Some(location), &["sekret-token".into()]);
            assert_eq!(error.kind, kind);
            assert!(!error.caller_message().contains("next="));
            assert!(!error.caller_message().contains("sekret"));
        }
    }
}
