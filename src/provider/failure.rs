//! What an upstream's failure means: the table from statuses, error bodies and broken connections
//! to our own error kinds.

use std::io;
use std::time::{Duration, SystemTime};

use actix_http::error::ParseError;
use awc::error::{ConnectError, SendRequestError};
use awc::http::StatusCode;
use awc::http::header::{self, HeaderMap};
use serde_json::Value;

use crate::domain::error::{Error, Kind};

/// The most characters of an upstream's own words that a caller is shown.
const MAX_DETAIL_CHARS: usize = 300;

/// What an upstream says about its failure, in JSON.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// Its words.
    pub message: Option<String>,
    /// Its code and type, in lower case, joined by a blank.
    code: String,
    /// Its code, when that is a number.
    number: Option<i64>,
}

impl Reason {
    /// Reads the error that a JSON value carries: `{"error": {"message", "code", "type"}}`,
    /// `{"error": "…"}`, `{"message": …}` or `{"detail": …}`.
    pub fn of(value: &Value) -> Option<Self> {
        let inner = match value.get("error").filter(|error| !error.is_null()) {
            Some(error) => error,
            None => value,
        };
        let text = |key: &str| inner.get(key).and_then(Value::as_str).map(String::from);
        let message = inner
            .as_str()
            .map(String::from)
            .or_else(|| text("message"))
            .or_else(|| text("detail"))
            .or_else(|| text("error_description"));
        let codes = [inner.get("code"), inner.get("type")];
        let code = codes
            .iter()
            .filter_map(|code| code.and_then(Value::as_str))
            .collect::<Vec<_>>()
            .join(" ")
            .to_ascii_lowercase();
        let number = inner
            .get("code")
            .and_then(|code| code.as_i64().or_else(|| code.as_str().and_then(|text| text.parse().ok())));
        let reason = Reason { message, code, number };
        (reason != Reason::default()).then_some(reason)
    }

    fn says(&self, words: &[&str]) -> bool {
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        words.iter().any(|word| self.code.contains(word) || message.contains(word))
    }

    fn blames_the_model(&self) -> bool {
        self.code.contains("model_not_found")
            || self.says(&["model"])
                && self.says(&[
                    "not found",
                    "not exist",
                    "no such",
                    "unknown model",
                    "invalid model",
                    "not supported",
                    "unsupported",
                    "not available",
                    "not_found",
                ])
    }
}

/// Where in the upstream's protocol a failure happened.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Whether the login is a browser's.
    pub browser_login: bool,
    /// Whether the call goes on with one of the upstream's own conversations.
    pub in_conversation: bool,
}

/// The statuses with which a question is refused whole, before any work on it.
const REFUSALS: [u16; 7] = [401, 402, 403, 404, 429, 503, 529];

/// The error for an answer with a status of 400 or more.
pub fn from_status(place: Place, status: StatusCode, headers: &HeaderMap, reason: Option<&Reason>) -> Error {
    let error = of_status(place, status, headers, reason);
    if REFUSALS.contains(&status.as_u16()) { error.unworked() } else { error }
}

/// What a status of 400 or more means, be it that of an answer or one told in its body.
fn of_status(place: Place, status: StatusCode, headers: &HeaderMap, reason: Option<&Reason>) -> Error {
    let code = status.as_u16();
    let answered = |kind, what: &str| Error::new(kind, format!("the upstream {what} (HTTP {code})"));
    let blames_model = reason.is_some_and(Reason::blames_the_model);
    let error = match code {
        401 => answered(Kind::UpstreamAuthExpired, "does not accept the credentials"),
        402 => answered(Kind::UpstreamRefused, "refuses: payment or another plan is required"),
        403 if headers.get("cf-mitigated").is_some() => {
            answered(Kind::UpstreamChallenge, "asks for a browser check")
        }
        403 if place.browser_login && reason.is_none_or(Reason::is_about_login) => {
            answered(Kind::UpstreamAuthExpired, "does not accept the session")
        }
        403 => answered(Kind::UpstreamRefused, "refuses to serve this account or model"),
        400 | 404 | 422 if blames_model => answered(Kind::ModelNotFound, "does not know the model"),
        404 | 410 if place.in_conversation => {
            answered(Kind::UpstreamConversationLost, "no longer knows the conversation")
        }
        404 | 405 | 410 | 501 => answered(Kind::UpstreamNotFound, "has nothing at this address"),
        429 => answered(Kind::UpstreamRateLimited, "limits the rate of requests"),
        408 | 409 | 425 => answered(Kind::UpstreamError, "could not serve the request now"),
        400..=499 => answered(Kind::UpstreamRejected, "rejects the request"),
        _ => answered(Kind::UpstreamError, "failed"),
    };
    error.upstream_status(code).retry_after(retry_after(headers))
}

impl Reason {
    fn is_about_login(&self) -> bool {
        self.number == Some(16)
            || self.says(&[
                "unauthenticated",
                "unauthorized",
                "not logged in",
                "login",
                "log in",
                "session expired",
                "expired session",
                "invalid session",
            ])
    }
}

/// The error that an answer with a good status carries in its body.
pub fn from_reason(place: Place, reason: &Reason) -> Error {
    let said = |kind, what: &str| Error::new(kind, format!("the upstream {what}"));
    if reason.blames_the_model() {
        return said(Kind::ModelNotFound, "does not know the model");
    }
    if let Some(status) = reason.number.and_then(|number| u16::try_from(number).ok())
        && (400..600).contains(&status)
        && let Ok(status) = StatusCode::from_u16(status)
    {
        return of_status(place, status, &HeaderMap::new(), Some(reason));
    }
    // Small numbers are gRPC's codes, which web chats hand through:
    // https://grpc.io/docs/guides/status-codes/
    let number = reason.number.unwrap_or_default();
    if number == 16 || reason.is_about_login() || reason.says(&["invalid_api_key", "authentication"]) {
        said(Kind::UpstreamAuthExpired, "does not accept the credentials")
    } else if number == 8
        || reason.says(&[
            "rate_limit",
            "rate limit",
            "too many requests",
            "resource_exhausted",
            "usage limit",
            "quota",
        ])
    {
        said(Kind::UpstreamRateLimited, "limits the rate of requests")
    } else if number == 7
        || reason.says(&["permission", "forbidden", "subscription", "upgrade", "billing_error"])
    {
        said(Kind::UpstreamRefused, "refuses to serve this account or model")
    } else if place.in_conversation && (number == 5 || reason.says(&["not_found", "conversation not found"]))
    {
        said(Kind::UpstreamConversationLost, "no longer knows the conversation")
    } else if number == 3 || reason.says(&["invalid_request", "invalid_argument", "request_too_large"]) {
        said(Kind::UpstreamRejected, "rejects the request")
    } else {
        said(Kind::UpstreamError, "reports an error")
    }
}

/// The error for a redirect, which is never followed: credentials belong to one address.
pub fn from_redirect(place: Place, status: StatusCode, location: Option<&str>) -> Error {
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
            .detail(clean(target, &[]))
    };
    error.upstream_status(code)
}

/// The error for an answer that is a web page although its status is good.
pub fn from_html(place: Place, status: StatusCode, headers: &HeaderMap) -> Error {
    let error = if headers.get("cf-mitigated").is_some() {
        Error::new(Kind::UpstreamChallenge, "the upstream asks for a browser check")
    } else if place.browser_login {
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
    // Without a connection nothing of the question was sent.
    let unreachable =
        |what: &str| Error::new(Kind::UpstreamUnreachable, format!("{what}: {origin}")).unworked();
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

/// `Retry-After` as a duration: seconds or a date, RFC 9110, section 10.2.3.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(86_400)));
    }
    let date = text.parse::<awc::http::header::HttpDate>().ok()?;
    SystemTime::from(date).duration_since(SystemTime::now()).ok()
}

/// An upstream's words, made fit for a caller: one line, short, without any of our secrets.
pub fn clean(text: &str, secrets: &[String]) -> Option<String> {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), "[redacted]");
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = text.chars().take(MAX_DETAIL_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    (!short.is_empty()).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CHAT: Place = Place { browser_login: true, in_conversation: false };
    const TURN: Place = Place { browser_login: true, in_conversation: true };
    const API: Place = Place { browser_login: false, in_conversation: false };

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
            (API, 429, json!(null), Kind::UpstreamRateLimited),
            (API, 503, json!(null), Kind::UpstreamError),
        ];
        for (place, status, body, kind) in cases {
            let reason = Reason::of(&body);
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
            let reason = Reason::of(&body).expect("a reason");
            assert_eq!(from_reason(place, &reason).kind, kind, "{body}");
        }
    }

    #[test]
    fn redirects_to_a_login_page_are_an_expired_session_of_a_web_chat() {
        for (place, location, kind) in [
            (CHAT, "https://accounts.example.com/sign-in?next=x", Kind::UpstreamAuthExpired),
            (CHAT, "https://www.example.com/", Kind::UpstreamRedirect),
            (API, "/login", Kind::UpstreamRedirect),
        ] {
            let error = from_redirect(place, StatusCode::FOUND, Some(location));
            assert_eq!(error.kind, kind);
            assert!(!error.caller_message().contains("next="));
        }
    }

    #[test]
    fn words_are_cleaned_of_secrets_and_lines() {
        let secrets = ["sk-very-secret".to_string()];
        let text = format!("bad key\r\nsk-very-secret {}", "x".repeat(500));
        let clean = clean(&text, &secrets).expect("text");
        assert!(clean.starts_with("bad key [redacted] xxx") && clean.chars().count() == 301);
    }
}
