//! An answer's body: read piece by piece under timers and bounds, counted, and drained.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use awc::ClientResponse;
use awc::error::PayloadError;
use awc::http::header;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::coding::Coding;
use super::failure::Place;
use super::transport::Transport;
use crate::domain::error::{Error, Kind};
use crate::outbound::timer::Timer;
use crate::request;
use crate::telemetry::mending::{self, Mending};

/// The most that is read of an error's body, in bytes, and for how long.
const MAX_ERROR_BYTES: usize = 64 << 10;
const ERROR_BODY_TIME: Duration = Duration::from_secs(2);

/// What is left of an answer after its end is drained up to here, so that the connection can be
/// used again.
const MAX_DRAIN_BYTES: usize = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// What bounds the reading of a body.
pub struct Bounds {
    /// The most that is read of it, in bytes.
    pub most: u64,
    /// The longest silence.
    pub idle: Duration,
    /// When it must have ended.
    pub deadline: Instant,
}

/// A good answer's body, read piece by piece.
pub struct Body {
    response: ClientResponse,
    /// What was looked at and is still to be read.
    peeked: Option<Bytes>,
    /// Where the answer came from, for the errors in it.
    pub place: Place,
    expected: Option<u64>,
    coding: Option<Coding>,
    /// How many bytes came, and how many of text they are.
    received: u64,
    decoded: u64,
    /// Whether the connection ended where HTTP says that more must come.
    is_cut: bool,
    /// The most that is read of it.
    most: u64,
    idle: Duration,
    deadline: Instant,
    /// When it must have ended, which is not after the deadline.
    until: Instant,
    /// When the silence that goes on has lasted too long.
    silent_until: Option<Instant>,
    timer: Timer,
}

impl Body {
    /// The body of an answer with a good head; `expected` is its announced length in bytes.
    pub fn new(
        response: ClientResponse,
        place: Place,
        expected: Option<u64>,
        coding: Option<Coding>,
        Bounds { most, idle, deadline }: Bounds,
    ) -> Self {
        Body {
            response,
            peeked: None,
            place,
            expected,
            coding,
            received: 0,
            decoded: 0,
            is_cut: false,
            most,
            idle,
            deadline,
            until: deadline,
            silent_until: None,
            timer: Timer::default(),
        }
    }

    /// The head of the answer that it belongs to.
    pub fn response(&self) -> &ClientResponse {
        &self.response
    }

    /// The next bytes, or `None` at the end.
    ///
    /// # Errors
    /// When the upstream falls silent, takes too long in all, sends too much, or ends too early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Body::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if let Some(bytes) = self.peeked.take() {
            return Poll::Ready(Ok(Some(bytes)));
        }
        loop {
            match self.response.poll_next_unpin(context) {
                Poll::Ready(chunk) => {
                    self.silent_until = None;
                    match self.take(chunk) {
                        // Compressed bytes may tell nothing before more come.
                        Ok(Some(bytes)) if bytes.is_empty() => {}
                        taken => return Poll::Ready(taken),
                    }
                }
                Poll::Pending => {
                    let silent_until = *self.silent_until.get_or_insert_with(|| Instant::now() + self.idle);
                    ready!(self.timer.poll(context, silent_until.min(self.until)));
                    let is_silent = silent_until < self.until;
                    return Poll::Ready(Err(if is_silent { self.stalled() } else { over_deadline() }));
                }
            }
        }
    }

    /// Gives what is left of it this much time in all, where it is given, and else its own.
    pub fn end_within(&mut self, most: Option<Duration>) {
        self.until = most.map_or(self.deadline, |most| self.deadline.min(Instant::now() + most));
    }

    fn stalled(&self) -> Error {
        Error::new(
            Kind::UpstreamStalled,
            format!(
                "the upstream fell silent in the middle of its answer, for {} seconds",
                self.idle.as_secs_f64()
            ),
        )
    }

    fn take(&mut self, chunk: Option<Result<Bytes, PayloadError>>) -> Result<Option<Bytes>, Error> {
        let chunk = match chunk {
            // Whether all is there can also be known by the bytes themselves.
            Some(Err(error)) if is_end(&error) => {
                self.is_cut = true;
                None
            }
            chunk => chunk.transpose().map_err(|error| cut(&error))?,
        };
        let Some(bytes) = chunk else {
            if self.expected.is_some_and(|expected| self.received < expected) {
                return Err(Error::new(
                    Kind::UpstreamTruncated,
                    "the upstream's answer ended before its announced length",
                ));
            }
            if let Some(coding) = &mut self.coding
                && !coding.is_complete()
            {
                if self.decoded == 0 && self.received > 0 {
                    return Err(coding.wrong());
                }
                self.is_cut = true;
            }
            return Ok(None);
        };
        self.received += bytes.len() as u64;
        let bytes = match &mut self.coding {
            None => bytes,
            Some(coding) => {
                let mut text = Vec::new();
                coding.decode(&bytes, self.most - self.decoded, &mut text)?;
                text.into()
            }
        };
        self.decoded += bytes.len() as u64;
        if self.decoded > self.most {
            return Err(Error::new(
                Kind::UpstreamTooLarge,
                format!("the upstream's answer is longer than {} bytes", self.most),
            )
            .hinted("ask for a shorter answer, or raise `MAX_ANSWER_BYTES`"));
        }
        Ok(Some(bytes))
    }

    /// All that is left of it.
    ///
    /// # Errors
    /// As [`Body::next`]; when it needs more than is left of the memory budget.
    pub async fn whole(&mut self) -> Result<Bytes, Error> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        request::take(first.len())?;
        let Some(second) = self.next().await? else { return Ok(first) };
        request::take(second.len())?;
        let mut bytes = BytesMut::from(first);
        bytes.extend_from_slice(&second);
        while let Some(chunk) = self.next().await? {
            request::take(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// What comes first of it, and is still to be read.
    ///
    /// # Errors
    /// As [`Body::next`].
    pub async fn peek(&mut self) -> Result<Bytes, Error> {
        self.peeked = self.next().await?;
        Ok(self.peeked.clone().unwrap_or_default())
    }

    /// The answer's HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// What it is declared as, without parameters. The bytes of an answer tell better what it is.
    pub fn media(&self) -> &str {
        let declared = self.response.headers().get(header::CONTENT_TYPE);
        let declared = declared.and_then(|value| value.to_str().ok()).unwrap_or_default();
        declared.split(';').next().unwrap_or_default().trim()
    }

    /// Whether it is declared as text for people, or a web page.
    pub fn is_text(&self) -> bool {
        let media = self.media();
        ["text/plain", "text/html", "application/xhtml+xml"]
            .iter()
            .any(|text| media.eq_ignore_ascii_case(text))
    }

    /// Tells that it was declared as text, and turned out to be none.
    pub fn tell_form(&self, transport: &Transport) {
        if self.is_text() {
            mending::tell(Mending::MediaType, &transport.settings().name, 1);
        }
    }

    /// Whether it has reached a limit: of its length or of its time.
    pub fn is_spent(&self) -> bool {
        self.decoded > self.most || Instant::now() >= self.deadline
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.decoded == 0
    }

    /// Whether it has ended where more must come by HTTP, so that only what the bytes say of their own
    /// end can make it complete.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Reads what is left in the background, so that the connection can be used again.
    pub fn drain(self) {
        tokio::task::spawn_local(request::carried(async move {
            excerpt(self.response, MAX_DRAIN_BYTES, DRAIN_TIME).await;
        }));
    }
}

/// The error for an answer without a body.
pub fn empty() -> Error {
    Error::new(Kind::UpstreamEmpty, "the upstream's answer is empty")
}

/// The error for an answer that is complete by its protocol, with this reason to finish, and says nothing.
pub fn silent(finish: Option<&str>, has_reasoned: bool) -> Error {
    let empty = |what: &str| Error::new(Kind::UpstreamEmpty, what);
    match finish.unwrap_or_default() {
        finish if is_filter(finish) => empty("the upstream's content filter withheld the answer")
            .hinted("put the question in other words"),
        finish if is_bound(finish) && has_reasoned => {
            empty("the model reached its bound of tokens while it was still reasoning")
                .hinted("raise `max_tokens`, or leave it empty")
        }
        finish if is_bound(finish) => empty("the model reached its bound of tokens before it said anything")
            .hinted("raise `max_tokens`, or leave it empty"),
        _ if has_reasoned => empty("the upstream's answer holds reasoning and no text"),
        _ => empty("the upstream's answer holds no text"),
    }
}

/// Whether a reason to finish is that the bound of tokens was reached.
pub fn is_bound(finish: &str) -> bool {
    let bounds =
        ["length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"];
    bounds.iter().any(|bound| finish.eq_ignore_ascii_case(bound))
}

/// Whether a reason to finish is a filter's: OpenAI's, Gemini's, Zhipu's or Bedrock's.
pub fn is_filter(finish: &str) -> bool {
    let finish = finish.to_ascii_lowercase();
    ["content_filter", "safety", "sensitive", "prohibited_content", "blocklist", "recitation", "guardrail"]
        .iter()
        .any(|filter| finish.contains(filter))
}

/// The error for an answer that takes too long in all.
pub fn over_deadline() -> Error {
    Error::new(Kind::UpstreamDeadline, "the upstream's answer took longer than allowed")
}

/// The error for an answer whose connection broke.
pub fn broken() -> Error {
    Error::new(Kind::UpstreamTruncated, "the connection to the upstream broke in the middle of its answer")
}

fn cut(error: &PayloadError) -> Error {
    match error {
        PayloadError::EncodingCorrupted => {
            Error::new(Kind::UpstreamInvalid, "the upstream's answer is framed wrongly")
        }
        _ => broken(),
    }
}

/// Whether the server has ended the connection, chunks and TLS without their own ends.
fn is_end(error: &PayloadError) -> bool {
    matches!(error, PayloadError::Io(error) | PayloadError::Incomplete(Some(error))
        if error.kind() == io::ErrorKind::UnexpectedEof)
}

/// As much of an error's body as is worth reading, and comes before the deadline.
///
/// # Errors
/// When it is in a coding that is not understood.
pub async fn error_excerpt(response: ClientResponse, deadline: Instant) -> Result<Vec<u8>, Error> {
    let coding = Coding::of(response.headers())?;
    let left = deadline.saturating_duration_since(Instant::now());
    let bytes = excerpt(response, MAX_ERROR_BYTES, ERROR_BODY_TIME.min(left)).await;
    let Some(mut coding) = coding else { return Ok(bytes) };
    let mut text = Vec::new();
    coding.decode(&bytes, MAX_ERROR_BYTES as u64, &mut text).map(|()| text)
}

/// As much of a body as comes within the bounds.
async fn excerpt<S>(body: S, max_bytes: usize, max_time: Duration) -> Vec<u8>
where
    S: Stream<Item = Result<Bytes, PayloadError>>,
{
    let deadline = Instant::now() + max_time;
    let mut body: Pin<Box<S>> = Box::pin(body);
    let mut bytes = Vec::new();
    while bytes.len() < max_bytes
        && let Ok(Some(Ok(chunk))) = timeout_at(deadline, body.next()).await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}
