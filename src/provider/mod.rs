//! The mirrors that the gateway talks to: one file a protocol, one way in for the service.
//!
//! A protocol turns a prompt into a request and an answer's bytes into events; all else is shared:
//! `client` holds the connections, `transport` makes the exchange, `body` reads the answer under
//! its limits, `framing` cuts bytes into lines, `mould` knows a piece by the one before, `failure`
//! names what went wrong, `session` keeps the login.

mod body;
pub mod breaker;
pub mod failure;
pub mod framing;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod intake;
mod template;
pub mod openai;
pub mod passthrough;
pub mod relay;
pub mod session;
mod transport;
pub mod web_chat;
pub mod webhook;

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{LocalBoxStream, Stream, StreamExt};
use serde::de::IgnoredAny;
use serde_json::Value;
use url::Url;

use crate::config::{self, Protocol};
use crate::domain::chat::{Event, Model, Prompt};
use crate::domain::error::{Error, Kind};
use body::{Body, empty};
pub use passthrough::Completion;
use session::Session;
use transport::Transport;

/// How long an answer that is complete in itself is listened to for what may still belong to it.
const GRACE: Duration = Duration::from_secs(2);

/// One answer, piece by piece. The stream ends after an error; without one, the answer is complete.
pub struct Pieces<T> {
    /// The HTTP status of the answer.
    pub status: u16,
    stream: LocalBoxStream<'static, Result<T, Error>>,
}

impl<T> Pieces<T> {
    /// The next piece, or `None` at the answer's end.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        self.stream.poll_next_unpin(context)
    }

    /// As [`Pieces::poll_next`].
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        self.stream.next().await
    }
}

/// An answer as what it means.
pub type Events = Pieces<Event>;

/// One upstream, with connections of its own: it stays on the thread that made it.
pub enum Upstream {
    /// Speaks the OpenAI protocol.
    OpenAi(openai::Mirror),
    /// Speaks a web chat's protocol.
    WebChat(web_chat::Mirror),
}

impl Upstream {
    /// The upstream at `base` as it is configured, sharing `session` with the other threads.
    pub fn new(base: Url, settings: &config::Upstream, session: Arc<Session>) -> Self {
        let settings = Rc::new(settings.clone());
        let transport = Rc::new(Transport::new(base, Rc::clone(&settings), session));
        match settings.protocol {
            Protocol::OpenAi => Upstream::OpenAi(openai::Mirror::new(transport)),
            Protocol::WebChat => Upstream::WebChat(web_chat::Mirror::new(transport, settings.body.clone())),
        }
    }

    /// The same upstream with connections and a session of their own.
    pub fn with_session(&self, session: Arc<Session>) -> Self {
        let transport = self.transport();
        Upstream::new(transport.base().clone(), transport.settings(), session)
    }

    /// Asks and gives the answer's events as they come, for as long as `total`, by default
    /// `REQUEST_TIMEOUT_SECONDS`.
    ///
    /// # Errors
    /// What keeps the answer from beginning; later failures come in the stream.
    pub async fn ask(&self, prompt: &Prompt, total: Option<Duration>) -> Result<Events, Error> {
        match self {
            Upstream::OpenAi(mirror) => mirror.ask(prompt, total).await,
            Upstream::WebChat(mirror) => mirror.ask(prompt, total).await,
        }
    }

    /// Whether a completion can go through as its caller wrote it.
    pub fn passes_through(&self) -> bool {
        matches!(self, Upstream::OpenAi(_))
    }

    /// Asks for a completion in its caller's own words, JSON of the OpenAI protocol.
    ///
    /// # Errors
    /// What keeps the answer from beginning, and what keeps a whole one from being complete.
    pub async fn complete(&self, body: Bytes, stream: bool, choices: usize) -> Result<Completion, Error> {
        passthrough::complete(self.openai()?, body, stream, choices).await
    }

    /// Passes a request of the OpenAI protocol through.
    ///
    /// # Errors
    /// As [`Upstream::complete`].
    pub async fn relay(&self, request: &relay::Request) -> Result<relay::Relayed, Error> {
        relay::relay(self.openai()?, request).await
    }

    fn openai(&self) -> Result<&Rc<Transport>, Error> {
        match self {
            Upstream::OpenAi(mirror) => Ok(mirror.transport()),
            Upstream::WebChat(_) => Err(Error::new(Kind::NotFound, "a web chat has nothing at this path")
                .hinted("use /v1/chat/completions or /v1/models: `UPSTREAM_PROTOCOL` is web-chat")),
        }
    }

    /// The models that the upstream offers; `None` when its protocol cannot say.
    ///
    /// # Errors
    /// When the upstream fails.
    pub async fn models(&self) -> Result<Option<Vec<Model>>, Error> {
        match self {
            Upstream::OpenAi(mirror) => mirror.models().await.map(Some),
            Upstream::WebChat(_) => Ok(None),
        }
    }

    /// Asks for something that costs no tokens and needs the credentials.
    ///
    /// # Errors
    /// What the upstream fails with.
    pub async fn probe(&self) -> Result<(), Error> {
        match self {
            Upstream::OpenAi(mirror) => mirror.models().await.map(drop),
            Upstream::WebChat(mirror) => mirror.probe().await,
        }
    }

    /// Whether the upstream keeps conversations itself, so that a prompt needs the new message only.
    pub fn keeps_conversations(&self) -> bool {
        matches!(self, Upstream::WebChat(_))
    }

    /// Scheme, host and port of the upstream.
    pub fn origin(&self) -> String {
        self.transport().origin()
    }

    /// The upstream's session.
    pub fn session(&self) -> &Arc<Session> {
        self.transport().session()
    }

    fn transport(&self) -> &Transport {
        match self {
            Upstream::OpenAi(mirror) => mirror.transport(),
            Upstream::WebChat(mirror) => mirror.transport(),
        }
    }
}

/// How far an answer has come, by its protocol's own signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// More must follow.
    Open,
    /// All that matters may be here; more may follow.
    Settled,
    /// Nothing follows that belongs to the answer.
    Done,
}

/// Why an answer's bytes are no good answer.
#[derive(Debug)]
enum Fault {
    /// The upstream reports a failure, in this JSON.
    Reported(Value),
    /// The answer is a web page.
    Html,
    /// Anything else.
    Error(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Error(error)
    }
}

impl From<framing::LineTooLong> for Fault {
    fn from(framing::LineTooLong(most): framing::LineTooLong) -> Self {
        Fault::Error(
            Error::new(
                Kind::UpstreamTooLarge,
                format!("a line of the upstream's answer is longer than {most} bytes"),
            )
            .hinted("ask for a shorter answer, or raise `MAX_LINE_BYTES`"),
        )
    }
}

/// A protocol's way from bytes to events. It does no input or output, and what it gives does not
/// depend on how the bytes are cut.
trait Decoder {
    /// What comes out.
    type Piece;

    /// Takes bytes in.
    fn feed(&mut self, bytes: &[u8], pieces: &mut VecDeque<Self::Piece>) -> Result<(), Fault>;

    /// How far the answer has come.
    fn progress(&self) -> Progress;

    /// Takes in that no more bytes come.
    fn finish(&mut self, pieces: &mut VecDeque<Self::Piece>) -> Result<(), Fault>;
}

/// Reads a body through a decoder.
fn decode<D: Decoder + Unpin + 'static>(transport: Rc<Transport>, body: Body, decoder: D) -> Pieces<D::Piece>
where
    D::Piece: Unpin,
{
    let status = body.status();
    let stream = Decoding { transport, body: Some(body), decoder, queue: VecDeque::new(), failure: None };
    Pieces { status, stream: Box::pin(stream) }
}

/// A body on its way through a decoder.
struct Decoding<D: Decoder> {
    transport: Rc<Transport>,
    /// `None` after its end.
    body: Option<Body>,
    decoder: D,
    queue: VecDeque<D::Piece>,
    failure: Option<Error>,
}

impl<D: Decoder + Unpin> Stream for Decoding<D>
where
    D::Piece: Unpin,
{
    type Item = Result<D::Piece, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.queue.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if let Some(error) = this.failure.take() {
                return Poll::Ready(Some(Err(error)));
            }
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            let chunk = ready!(body.poll_next(context));
            this.take(chunk);
        }
    }
}

impl<D: Decoder> Decoding<D> {
    /// Takes in one piece of the body. What comes after an answer is settled can end it, not spoil it.
    fn take(&mut self, chunk: Result<Option<Bytes>, Error>) {
        let Some(body) = &mut self.body else { return };
        let settled = self.decoder.progress() == Progress::Settled;
        let ended = match chunk {
            Ok(Some(bytes)) => self.decoder.feed(&bytes, &mut self.queue).map(|()| false),
            Ok(None) if body.is_empty() => Err(empty().into()),
            Ok(None) => self.decoder.finish(&mut self.queue).map(|()| true),
            Err(error) => Err(error.into()),
        };
        match (ended, self.decoder.progress()) {
            (Ok(false), Progress::Open) if settled => body.end_within(None),
            (Ok(false), Progress::Settled) if !settled => body.end_within(Some(GRACE)),
            (Ok(false), Progress::Open | Progress::Settled) => {}
            (Ok(false), Progress::Done) => self.body.take().into_iter().for_each(Body::drain),
            (Ok(true), _) => self.body = None,
            (Err(_), _) if settled => {
                // What it held back for the end goes out all the same.
                let _ = self.decoder.finish(&mut self.queue);
                self.body = None;
            }
            (Err(fault), _) => {
                self.failure = Some(name(&self.transport, body, fault));
                self.body = None;
            }
        }
    }
}

/// The error that a fault is.
fn name(transport: &Transport, body: &Body, fault: Fault) -> Error {
    match fault {
        Fault::Reported(value) => transport.reported(body.place, &value),
        Fault::Html => transport.page(body),
        Fault::Error(error) => error,
    }
}

/// The error for bytes that end before the protocol's own end: of another protocol when nothing
/// was understood and something skipped, unless that is a `last` line that breaks off.
fn unfinished(understood: bool, skipped: usize, last: &[u8]) -> Fault {
    let breaks_off = || serde_json::from_slice::<IgnoredAny>(last).is_err_and(|error| error.is_eof());
    Fault::Error(if understood || skipped == 0 || (!last.is_empty() && breaks_off()) {
        Error::new(Kind::UpstreamTruncated, "the upstream's answer ended before it was complete")
    } else {
        Error::new(Kind::UpstreamInvalid, "the upstream's answer is not of the protocol")
    })
}

/// The first byte that is neither blank nor a byte order mark.
fn first_byte(bytes: &[u8]) -> Option<u8> {
    let mark = "\u{feff}".as_bytes();
    // A cut may divide the mark: then nothing is known yet.
    let bytes = if mark.starts_with(bytes) { b"" } else { bytes.strip_prefix(mark).unwrap_or(bytes) };
    bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// The bytes cut at these places, for tests that the cuts do not matter.
#[cfg(test)]
fn pieces(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    let piece = |to: usize| &bytes[std::mem::replace(&mut from, to.min(bytes.len()))..to.min(bytes.len())];
    cuts.into_iter().map(piece).collect()
}
