//! One HTTP request as an importer or a tool's caller makes it: bounded in time and size, redirects
//! not followed. It stands apart from the upstream's client, since it carries none of the
//! upstream's credentials and looks at what comes back with a stranger's eyes.

use std::time::{Duration, SystemTime};

use awc::ClientRequest;
use awc::http::Method;
use awc::http::header::HttpDate;
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::outbound::client::{Client, trouble};

/// The most that is read of an answer.
const MAX_BYTES: usize = 4 << 20;

/// What a browser calls itself; Dify's importer sends one as well.
pub const BROWSER: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";

/// A request.
pub struct Request<'a> {
    /// The whole address.
    pub url: &'a str,
    /// Headers beside those that every request carries.
    pub headers: &'a [(&'a str, String)],
    /// The JSON body of a POST; without one it is a GET.
    pub body: Option<String>,
    /// How long it may take, the whole answer.
    pub limit: Duration,
}

/// An answer, whatever its status.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub text: String,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Where a redirect leads, without the query, which may carry tokens.
    pub fn redirect(&self) -> Option<&str> {
        let location = self.header("location").filter(|_| (300..400).contains(&self.status))?;
        location.split(['?', '#']).next()
    }
}

/// Sends a request and reads the answer.
///
/// # Errors
/// Why there is none, in words.
pub async fn send(request: Request<'_>) -> Result<Answer, String> {
    let limit = request.limit;
    match timeout(limit, exchange(request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {} seconds", limit.as_secs())),
    }
}

/// A header's date, RFC 9110, section 5.6.7.
pub fn time(text: &str) -> Option<SystemTime> {
    text.parse::<HttpDate>().ok().map(SystemTime::from)
}

async fn exchange(request: Request<'_>) -> Result<Answer, String> {
    let start = Instant::now();
    let url = Url::parse(request.url).map_err(|_| "the address is no URL")?;
    let client = Client::new(&url, request.limit);
    let uri = client.uri(&url).map_err(|error| trouble(&error))?;
    let method = if request.body.is_some() { Method::POST } else { Method::GET };
    let body = request.body.map(Bytes::from);
    let dress = |mut sending: ClientRequest| {
        sending = sending.insert_header(("accept-encoding", "identity"));
        if body.is_some() {
            sending = sending.insert_header(("content-type", "application/json"));
        }
        request
            .headers
            .iter()
            .fold(sending, |sending, (name, value)| sending.insert_header((*name, value.as_str())))
    };
    let sent = client.send(&method, &uri, body.as_ref(), dress).await;
    let mut response = sent.map_err(|unanswered| trouble(&unanswered.error))?;
    let headers = response.headers().iter().map(|(name, value)| {
        (name.as_str().to_ascii_lowercase(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let headers = headers.collect();
    let status = response.status().as_u16();
    let body = response.body().limit(MAX_BYTES).await.map_err(|_| {
        format!("the answer (HTTP {status}) breaks off, or is longer than {} MiB", MAX_BYTES >> 20)
    })?;
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status, headers, text, took: start.elapsed() })
}
