//! One HTTP exchange with the upstream: credentials, timers, and the checks that the client
//! library leaves out.
//!
//! awc 3.11 reports a body shorter than its announced length as complete, and its own timeout ends with
//! the head. So the length is counted here, and every wait has a timer. Redirects are never followed and
//! no connection uses HTTP/2.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use awc::ClientRequest;
use awc::http::header::{self, HeaderMap, HeaderValue};
use awc::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::body::{self, Body, Bounds};
use super::coding::Coding;
use super::failure::{self, Place};
use super::reason::Reason;
use super::report;
use super::session::Session;
use super::{Protocol, base};
use crate::config;
use crate::domain::error::{Error, Kind};
use crate::outbound::client::{Client, Unanswered};
use crate::request;
use crate::telemetry::mending::{self, Mending};

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const MIRRORGATE: HeaderValue = HeaderValue::from_static(concat!("mirrorgate/", env!("CARGO_PKG_VERSION")));

/// Sends requests to one upstream.
pub struct Transport {
    client: Client,
    /// Where the protocol's paths begin.
    base: Url,
    /// Where the latest call went, since most go to the same place.
    latest: RefCell<Option<Rc<Target>>>,
    settings: Rc<config::Upstream>,
    session: Arc<Session>,
    protocol: &'static Protocol,
}

/// Where a call goes.
struct Target {
    path: Vec<String>,
    query: Option<String>,
    url: Url,
    /// The same for the client.
    uri: Uri,
}

/// One request.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// The path under the base, in segments.
    pub path: &'a [&'a str],
    /// The query, encoded.
    pub query: Option<&'a str>,
    /// The `Accept` header.
    pub accept: &'a str,
    /// Further headers.
    pub headers: &'a [(&'static str, String)],
    /// The body and its media type.
    pub body: Option<(&'a str, Bytes)>,
    /// Whether it goes on with one of the upstream's own conversations.
    pub in_conversation: bool,
    /// Whether an answer without a body is a good one, as a transcript of silence is.
    pub may_be_empty: bool,
    /// The longest that the whole answer may take; by default the configured time.
    pub total: Option<Duration>,
}

impl<'a> Call<'a> {
    /// A GET of JSON.
    pub fn get(path: &'a [&'a str]) -> Self {
        Call {
            method: Method::GET,
            path,
            query: None,
            accept: "application/json",
            headers: &[],
            body: None,
            in_conversation: false,
            may_be_empty: false,
            total: None,
        }
    }

    /// A POST of JSON.
    pub fn post(path: &'a [&'a str], accept: &'a str, json: impl Into<Bytes>) -> Self {
        let body = Some(("application/json", json.into()));
        Call { method: Method::POST, accept, body, ..Call::get(path) }
    }
}

impl Transport {
    /// A transport with connections of its own; it stays on the thread that made it.
    pub(super) fn new(
        base: Url,
        settings: Rc<config::Upstream>,
        session: Arc<Session>,
        protocol: &'static Protocol,
    ) -> Self {
        Transport {
            client: Client::new(&base, settings.timeouts.connect),
            base,
            latest: RefCell::default(),
            settings,
            session,
            protocol,
        }
    }

    /// Scheme, host and port of the upstream.
    pub fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// Where the protocol's paths begin.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The protocol that the upstream speaks.
    pub(super) fn protocol(&self) -> &'static Protocol {
        self.protocol
    }

    /// The longest line of a streamed answer, in bytes: an image comes in one.
    pub fn line_bytes(&self) -> usize {
        usize::try_from(self.settings.answer_bytes).unwrap_or(usize::MAX)
    }

    /// How the upstream is configured.
    pub fn settings(&self) -> &config::Upstream {
        &self.settings
    }

    /// The upstream's session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Sends a request and checks the head of the answer.
    ///
    /// # Errors
    /// Everything that keeps the answer from being a good one of the protocol, except what only
    /// its body shows.
    pub async fn open(&self, call: Call<'_>) -> Result<Body, Error> {
        // A web page in place of an answer tells of the end of a browser's login.
        let browser_login = self.protocol.capabilities.browser_login;
        // Many an upstream gives its list of models to anyone.
        let needs_login = call.body.is_some() || !self.session.has_login();
        let place = Place { browser_login, in_conversation: call.in_conversation, needs_login };
        let outcome = self.exchange(&call, place).await;
        if call.body.is_some() && outcome.as_ref().err().is_none_or(|error| !error.unworked) {
            request::pay();
        }
        if let Err(error) = &outcome {
            self.learn(place, Err(error));
        }
        outcome
    }

    /// Learns how an answer ended: its head alone says nothing good, since failures stand in good answers.
    pub fn learn(&self, place: Place, outcome: Result<(), &Error>) {
        self.session.learn(outcome, place.needs_login);
    }

    /// The error that an upstream reports in an answer, in words fit for a caller.
    pub fn reported(&self, body: &Body, reason: &Reason) -> Error {
        let error = failure::from_reason(body.place, reason);
        self.told(error, body.place, Some(reason), body.response().headers())
    }

    /// The error for an answer that turns out to be a web page, which begins so.
    pub fn page(&self, body: &Body, page: &[u8]) -> Error {
        failure::from_html(body.place, body.response().status(), body.response().headers(), page)
    }

    /// The error for an answer that is text of no protocol, which begins so: where its words say which
    /// failure they report, that one.
    pub fn foreign(&self, body: &Body, text: &[u8]) -> Error {
        let reason = Reason::of_words(String::from_utf8_lossy(text));
        let error = self.reported(body, &reason);
        if failure::is_told_by_words(&reason) {
            return error;
        }
        let invalid = Error::new(Kind::UpstreamInvalid, "the upstream's answer is not of the protocol");
        invalid.detail(error.detail)
    }

    /// Adds what the upstream says of a failure. Behind a browser's login its fields are of no protocol
    /// that a caller speaks.
    fn told(&self, error: Error, place: Place, reason: Option<&Reason>, headers: &HeaderMap) -> Error {
        let secrets = self.secrets();
        let words = reason.and_then(|reason| reason.message.as_deref());
        let detail = words.and_then(|words| report::clean(words, &secrets));
        let reason = reason.filter(|_| !place.browser_login);
        error.detail(detail).reported(report::of(reason, headers, &secrets))
    }

    /// The texts that must not reach a caller, even when the upstream quotes them. Short ones are
    /// left out: they are no secrets, and replacing them would garble the words around.
    fn secrets(&self) -> Vec<String> {
        let headers = self.settings.headers.iter().map(|(_, value)| value.expose_secret().to_string());
        let mut secrets: Vec<String> =
            headers.chain(self.session.secrets()).filter(|secret| secret.len() >= 8).collect();
        // The longest first, so that none leaves a part of another behind.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets
    }

    async fn exchange(&self, call: &Call<'_>, place: Place) -> Result<Body, Error> {
        let start = Instant::now();
        let timeouts = self.settings.timeouts;
        let deadline = start + call.total.unwrap_or(timeouts.total);
        let target = self.target(call)?;
        let login = self.session.login();
        let first_byte = (start + timeouts.first_byte).min(deadline);
        let body = call.body.as_ref().map(|(_, body)| body);
        let dress = |request| self.dress(request, &target, call);
        let sent = self.client.send(&call.method, &target.uri, body, dress);
        let response = match timeout_at(first_byte, sent).await {
            Err(_) if first_byte == deadline => return Err(body::over_deadline()),
            Err(_) => return Err(failure::from_silence()),
            Ok(Err(Unanswered { error, is_unsent })) => {
                let error = failure::from_send(&error, &self.origin());
                return Err(if is_unsent { error.unworked() } else { error });
            }
            Ok(Ok(response)) => response,
        };
        let set_cookies = response.headers().get_all(header::SET_COOKIE);
        self.session.adopt(&target.url, set_cookies.filter_map(|line| line.to_str().ok()), login);

        let status = response.status();
        if status.is_informational() {
            return Err(Error::new(
                Kind::UpstreamInformational,
                format!(
                    "the upstream sends an interim answer where the final one was due (HTTP {})",
                    status.as_u16()
                ),
            )
            .upstream_status(status.as_u16()));
        }
        if status.is_redirection() {
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            return Err(failure::from_redirect(place, status, location, &self.secrets()));
        }
        if status.is_success() {
            let coding = Coding::of(response.headers());
            let coding = coding.map_err(|error| error.upstream_status(status.as_u16()))?;
            if coding.is_some() {
                mending::tell(Mending::Decompressed, &self.settings.name, 1);
            }
            let expected = content_length(response.headers());
            if !call.may_be_empty && (expected == Some(0) || status == StatusCode::NO_CONTENT) {
                return Err(body::empty().upstream_status(status.as_u16()));
            }
            let bounds = Bounds { most: self.settings.answer_bytes, idle: timeouts.idle, deadline };
            return Ok(Body::new(response, place, expected, coding, bounds));
        }
        let headers = response.headers().clone();
        let excerpt = body::error_excerpt(response, deadline).await;
        let reason = excerpt.as_ref().ok().and_then(|excerpt| Reason::in_error(excerpt));
        let error = failure::from_status(place, status, &headers, reason.as_ref());
        let error = self.told(error, place, reason.as_ref(), &headers);
        Err(match excerpt {
            Ok(_) => error,
            Err(coding) => error.detail(Some(coding.caller_message())),
        })
    }

    fn target(&self, call: &Call<'_>) -> Result<Rc<Target>, Error> {
        let mut latest = self.latest.borrow_mut();
        match &*latest {
            Some(target) if target.path == call.path && target.query.as_deref() == call.query => {
                Ok(Rc::clone(target))
            }
            _ => {
                let mut url = base::under(&self.base, call.path);
                url.set_query(call.query);
                let uri = self.client.uri(&url);
                let uri = uri.map_err(|error| failure::from_send(&error, &self.origin()))?;
                let path = call.path.iter().copied().map(String::from).collect();
                let target = Rc::new(Target { path, query: call.query.map(String::from), url, uri });
                Ok(Rc::clone(latest.insert(target)))
            }
        }
    }

    /// The request with its headers.
    fn dress(&self, request: ClientRequest, target: &Target, call: &Call<'_>) -> ClientRequest {
        let mut request = request
            .insert_header((header::ACCEPT, call.accept))
            .insert_header((header::ACCEPT_ENCODING, IDENTITY))
            .insert_header((header::USER_AGENT, MIRRORGATE));
        if let Some((media_type, _)) = &call.body {
            request = request.insert_header((header::CONTENT_TYPE, *media_type));
        }
        for header in self.protocol.headers {
            request = request.insert_header(*header);
        }
        if let Some(header) = self.session.key_header(self.protocol.key_header) {
            request = request.insert_header(header);
        }
        if let Some(cookies) = self.session.cookie_header(&target.url) {
            request = request.insert_header((header::COOKIE, cookies));
        }
        for (name, value) in call.headers {
            request = request.insert_header((*name, value.as_str()));
        }
        for (name, value) in &self.settings.headers {
            let value = match value.expose_secret() {
                value if value.contains("{uuid}") => {
                    value.replace("{uuid}", &uuid::Uuid::new_v4().to_string())
                }
                value => value.to_string(),
            };
            request = request.insert_header((name.as_str(), value));
        }
        request
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
