//! One HTTP exchange with the upstream: credentials, timers, and the checks that the client
//! library leaves out.
//!
//! awc 3.11 reports a body cut short as complete, an interim status as final and an answer without
//! framing as empty, and its own timeout ends with the head. So the length is counted here, each
//! such head is an error, and every wait has a timer. Redirects are never followed and no
//! connection uses HTTP/2.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{io, iter};

use actix_http::body::SizedStream;
use actix_http::error::ParseError;
use awc::error::{ConnectError, InvalidUrl, SendRequestError};
use awc::http::header::{self, HeaderMap, HeaderValue};
use awc::http::{Method, StatusCode, Uri, Version};
use awc::{Client, ClientResponse};
use bytes::Bytes;
use futures_util::stream;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::body::{self, Body, Bounds};
use super::failure::{self, Place};
use super::reason::Reason;
use super::report;
use super::session::Session;
use super::{Protocol, base};
use crate::config;
use crate::domain::error::{Error, Kind};
use crate::outbound::client::{self, CONNECTED, KEEP_ALIVE};

/// The client copies what it is given at once: a long body is given to it in pieces of so many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// A connection of an earlier request that breaks within this time, or within two round trips where
/// those take longer, had been closed before the request was sent: no work can have begun.
const LEAST_CLOSING: Duration = Duration::from_millis(10);

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const MIRRORGATE: HeaderValue = HeaderValue::from_static(concat!("mirrorgate/", env!("CARGO_PKG_VERSION")));

/// Sends requests to one upstream.
pub struct Transport {
    client: RefCell<Client>,
    /// Never uses a connection twice.
    fresh: Client,
    /// Where the protocol's paths begin.
    base: Url,
    /// The shortest time that a connection took to open: about a round trip.
    round_trip: Cell<Duration>,
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
            client: RefCell::new(client::client(&settings.timeouts, KEEP_ALIVE)),
            fresh: client::client(&settings.timeouts, Duration::ZERO),
            base,
            round_trip: Cell::new(Duration::MAX),
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
        let place = Place { browser_login, in_conversation: call.in_conversation };
        let outcome = self.exchange(&call, place).await;
        // Behind a browser's login no request surely needs it but a question.
        let conclusive = call.body.is_some() || !browser_login;
        self.session.learn(outcome.as_ref().map(drop), conclusive);
        outcome
    }

    /// The error that an upstream reports in an answer, in words fit for a caller.
    pub fn reported(&self, body: &Body, reason: &Reason) -> Error {
        let error = failure::from_reason(body.place, reason);
        let error = self.told(error, body.place, Some(reason), body.response().headers());
        self.session.learn(Err(&error), true);
        error
    }

    /// The error for an answer that turns out to be a web page.
    pub fn page(&self, body: &Body) -> Error {
        let error = failure::from_html(body.place, body.response().status(), body.response().headers());
        self.session.learn(Err(&error), true);
        error
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
        let response = match timeout_at(first_byte, self.send(&target, call)).await {
            Err(_) if first_byte == deadline => return Err(body::over_deadline()),
            Err(_) => return Err(failure::from_silence()),
            Ok(Err(error)) => return Err(failure::from_send(&error, &self.origin())),
            Ok(Ok(response)) => response,
        };
        let set_cookies = response.headers().get_all(header::SET_COOKIE);
        self.session.adopt(&target.url, set_cookies.filter_map(|line| line.to_str().ok()), login);

        let status = response.status();
        if status.is_informational() {
            // awc takes it for the whole answer and has just put the connection back, with the real
            // answer still to come: the next question there would read that as its own. Nothing
            // was awaited since, so nobody has taken it up yet.
            self.client.replace(client::client(&timeouts, KEEP_ALIVE));
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
            check_encoding(status, response.headers())?;
            let expected = content_length(response.headers());
            check_framing(&response, expected)?;
            let bounds = Bounds { most: self.settings.answer_bytes, idle: timeouts.idle, deadline };
            return Ok(Body::new(response, place, expected, bounds));
        }
        let headers = response.headers().clone();
        let excerpt = body::error_excerpt(response, deadline).await;
        let reason = Reason::in_error(&excerpt);
        let error = failure::from_status(place, status, &headers, reason.as_ref());
        Err(self.told(error, place, reason.as_ref(), &headers))
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
                let uri = Uri::try_from(url.as_str()).map_err(|error| {
                    let error = InvalidUrl::HttpError(error.into());
                    failure::from_send(&SendRequestError::Url(error), &self.origin())
                })?;
                let path = call.path.iter().copied().map(String::from).collect();
                let target = Rc::new(Target { path, query: call.query.map(String::from), url, uri });
                Ok(Rc::clone(latest.insert(target)))
            }
        }
    }

    /// Sends the request. When it took up a connection of an earlier request and that breaks at once,
    /// before any byte of an answer, the upstream had closed it already, so the request is sent once
    /// more on a connection of its own. On a new connection, or when the upstream may have begun to
    /// work, it is never sent twice.
    async fn send(&self, target: &Target, call: &Call<'_>) -> Result<ClientResponse, SendRequestError> {
        let attempt = async {
            let outcome = {
                let request = self.request(&self.client.borrow(), target, call);
                send(request, call).await
            };
            (outcome, CONNECTED.with(Cell::get))
        };
        let begun = Instant::now();
        let (outcome, connected) = CONNECTED.scope(Cell::new(None), attempt).await;
        let round_trip = self.round_trip.get();
        self.round_trip.set(connected.map_or(round_trip, |time| round_trip.min(time)));
        let was_closed = || begun.elapsed() <= LEAST_CLOSING.max(round_trip.saturating_mul(2));
        match outcome {
            Err(error) if connected.is_none() && is_broken_connection(&error) && was_closed() => {
                log::info!("a connection that the upstream had closed is replaced by a new one");
                send(self.request(&self.fresh, target, call), call).await
            }
            outcome => outcome,
        }
    }

    fn request(&self, client: &Client, target: &Target, call: &Call<'_>) -> awc::ClientRequest {
        let mut request = client
            .request(call.method.clone(), target.uri.clone())
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

async fn send(request: awc::ClientRequest, call: &Call<'_>) -> Result<ClientResponse, SendRequestError> {
    match &call.body {
        Some((_, body)) if body.len() > PIECE_BYTES => {
            request.send_body(SizedStream::new(body.len() as u64, stream::iter(pieces(body.clone())))).await
        }
        Some((_, body)) => request.send_body(body.clone()).await,
        None => request.send().await,
    }
}

fn pieces(mut body: Bytes) -> impl Iterator<Item = Result<Bytes, Infallible>> {
    iter::from_fn(move || {
        let piece = body.split_to(body.len().min(PIECE_BYTES));
        (!piece.is_empty()).then_some(Ok(piece))
    })
}

/// Whether a connection broke before the head of an answer.
fn is_broken_connection(error: &SendRequestError) -> bool {
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) | SendRequestError::Send(_) => true,
        SendRequestError::Response(ParseError::Io(error)) => error.kind() == io::ErrorKind::ConnectionReset,
        _ => false,
    }
}

fn check_encoding(status: StatusCode, headers: &HeaderMap) -> Result<(), Error> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    if let Some(encoding) = encoding.filter(|encoding| !encoding.trim().eq_ignore_ascii_case("identity")) {
        return Err(Error::new(
            Kind::UpstreamEncoding,
            "the upstream's answer is compressed, which was not asked for",
        )
        .detail(report::clean(encoding, &[]))
        .upstream_status(status.as_u16()));
    }
    Ok(())
}

/// Refuses an answer whose body awc cannot see: HTTP/1.1 without a length and not chunked ends
/// with the connection (RFC 9112, section 6.3), and awc reads none of it.
fn check_framing(response: &ClientResponse, expected: Option<u64>) -> Result<(), Error> {
    let unframed = response.version() == Version::HTTP_11
        && expected.is_none()
        && !response.headers().contains_key(header::TRANSFER_ENCODING);
    if expected == Some(0) || response.status() == StatusCode::NO_CONTENT {
        Err(body::empty().upstream_status(response.status().as_u16()))
    } else if unframed {
        Err(Error::new(
            Kind::UpstreamEmpty,
            "the upstream's answer has neither a length nor chunks, so it cannot be read",
        )
        .upstream_status(response.status().as_u16()))
    } else {
        Ok(())
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
