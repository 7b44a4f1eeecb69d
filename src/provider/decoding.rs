//! From an answer's bytes to its pieces: what every protocol's decoder is, and how a body is read
//! through one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{LocalBoxStream, Stream, StreamExt};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::body::{Body, broken, empty};
use super::framing::{LineTooLong, holds_json};
use super::reason::Reason;
use super::report;
use super::transport::Transport;
use crate::domain::answer::Delta;
use crate::domain::error::{Error, Kind};
use crate::request;
use crate::telemetry::mending::{Mending, Mendings};

/// After how much silence an answer that may be complete is: some upstreams tell why they stopped with
/// each piece, and some leave the connection open after the last.
const SETTLED_SILENCE: Duration = Duration::from_secs(15);

/// One answer, piece by piece. The stream ends after an error; without one, the answer is complete.
pub struct Deltas {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The headers that tell its caller of the account behind the gateway.
    pub headers: Vec<(String, String)>,
    stream: Pieces,
}

/// The pieces of an answer.
pub(super) type Pieces = LocalBoxStream<'static, Result<Delta, Error>>;

impl Deltas {
    /// An answer of which all is there.
    pub(super) fn whole(body: &Body, delta: Delta) -> Self {
        let headers = report::account_headers(body.response().headers());
        let stream = futures_util::stream::iter([Ok(delta)]);
        Deltas { status: body.status(), headers, stream: Box::pin(stream) }
    }

    /// The same answer with its pieces led through something else.
    pub(super) fn wrapped(self, wrap: impl FnOnce(Pieces) -> Pieces) -> Self {
        Deltas { stream: wrap(self.stream), ..self }
    }

    /// The next piece, or `None` at the answer's end.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delta, Error>>> {
        self.stream.poll_next_unpin(context)
    }

    /// As [`Deltas::poll_next`].
    pub async fn next(&mut self) -> Option<Result<Delta, Error>> {
        self.stream.next().await
    }
}

/// How far an answer has come, by its protocol's own signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More must follow.
    Open,
    /// All that matters may be here; more may follow.
    Settled,
    /// Nothing follows that belongs to the answer.
    Done,
}

/// How much of a web page is read, in bytes: what it is stands at its beginning.
const MAX_PAGE: usize = 16 << 10;

/// Why an answer's bytes are no good answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The upstream reports a failure.
    Reported(Box<Reason>),
    /// The answer is a web page, which begins so.
    Html(Vec<u8>),
    /// The answer is text of no protocol, which begins so.
    Foreign(Vec<u8>),
    /// Anything else.
    Error(Error),
}

impl Fault {
    /// Takes more of a web page in, and fails when enough of it is there to tell it from others.
    pub(super) fn page(begun: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Fault> {
        begun.extend_from_slice(bytes);
        if begun.len() < MAX_PAGE { Ok(()) } else { Err(Fault::Html(std::mem::take(begun))) }
    }

    /// Fails with what an answer, or an event of one, reports.
    pub(super) fn check(value: &Value) -> Result<(), Fault> {
        Reason::in_answer(value).map_or(Ok(()), |reason| Err(Fault::Reported(Box::new(reason))))
    }

    /// Fails with what an event that is no object reports, if it is a list with an error, and where words may
    /// be lost with it: the `last` one, which nothing ends, may break off.
    pub(super) fn check_odd(text: &[u8], last: bool, event: usize) -> Result<(), Fault> {
        if text.starts_with(b"[") {
            Fault::check(&serde_json::from_slice(text).unwrap_or_default())?;
        }
        if !last && holds_json(text) { Err(Fault::broken(Some(event))) } else { Ok(()) }
    }

    /// The error for bytes that end before the protocol's own end: of another protocol when nothing
    /// was understood and something skipped, unless that is a `last` line that breaks off.
    pub(super) fn unfinished(understood: bool, skipped: usize, last: &[u8]) -> Fault {
        let breaks_off = || serde_json::from_slice::<IgnoredAny>(last).is_err_and(|error| error.is_eof());
        Fault::Error(if understood || skipped == 0 || (!last.is_empty() && breaks_off()) {
            Error::new(Kind::UpstreamTruncated, "the upstream's answer ended before it was complete")
        } else {
            Error::new(Kind::UpstreamInvalid, "the upstream's answer is not of the protocol")
        })
    }

    /// A part of a stream that cannot be read, so that words may be missing: an event, by its number from
    /// 1, or a line between events.
    pub(super) fn broken(event: Option<usize>) -> Fault {
        let what = event.map_or_else(|| "a line".into(), |number| format!("event {number}"));
        Error::new(Kind::UpstreamInvalid, format!("{what} of the upstream's stream is broken"))
            .hinted("try again; if it stays, look into the mirror's own log")
            .into()
    }

    /// A whole answer with a part that cannot be read, so that words may be missing.
    pub(super) fn unreadable() -> Fault {
        let error = Error::new(Kind::UpstreamInvalid, "a part of the upstream's answer is of no known form");
        error.hinted("try again; if it stays, look into the mirror's own log").into()
    }

    /// An answer without anything in it.
    pub(super) fn empty() -> Fault {
        empty().into()
    }

    /// Text that should be JSON and is none.
    pub(super) fn not_json(error: &serde_json::Error) -> Fault {
        Fault::Error(if error.is_eof() {
            Error::new(Kind::UpstreamTruncated, "the upstream's JSON ended before it was complete")
        } else {
            Error::new(Kind::UpstreamInvalid, "the upstream's answer is not JSON of the protocol")
        })
    }

    /// The error that it is, of an answer with this body.
    pub(super) fn into_error(self, transport: &Transport, body: &Body) -> Error {
        match self {
            Fault::Reported(reason) => transport.reported(body, &reason),
            Fault::Html(page) => transport.page(body, &page),
            Fault::Foreign(text) => transport.foreign(body, &text),
            Fault::Error(error) => error,
        }
    }
}

#[cfg(test)]
impl Fault {
    /// The kind of error that it becomes before any upstream has explained itself.
    pub(super) fn kind(self) -> Kind {
        match self {
            Fault::Error(error) => error.kind,
            Fault::Html(_) => Kind::UpstreamHtml,
            Fault::Foreign(_) => Kind::UpstreamInvalid,
            Fault::Reported(_) => Kind::UpstreamError,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Error(error)
    }
}

impl From<LineTooLong> for Fault {
    fn from(LineTooLong(most): LineTooLong) -> Self {
        Fault::Error(
            Error::new(
                Kind::UpstreamTooLarge,
                format!("a line of the upstream's answer is longer than {most} bytes"),
            )
            .hinted("ask for a shorter answer, or raise `MAX_ANSWER_BYTES`"),
        )
    }
}

/// A protocol's way from bytes to pieces. It does no input or output, and what it gives does not
/// depend on how the bytes are cut.
pub(super) trait Decoder {
    /// Whether the bytes say themselves where they end; else only HTTP does.
    const HAS_END: bool = true;

    /// Takes bytes in.
    fn feed(&mut self, bytes: &[u8], deltas: &mut VecDeque<Delta>) -> Result<(), Fault>;

    /// How far the answer has come.
    fn progress(&self) -> Progress;

    /// How many parts came so far, of those that show that the upstream is at work on the answer.
    fn heard(&self) -> usize {
        0
    }

    /// Takes in that no more bytes come.
    fn finish(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault>;

    /// What was mended since this was last asked.
    fn mended(&mut self) -> Mendings {
        Mendings::default()
    }
}

/// Reads a body through a decoder.
pub(super) fn decode<D: Decoder + Unpin + 'static>(
    transport: Rc<Transport>,
    body: Body,
    decoder: D,
) -> Deltas {
    let (status, headers) = (body.status(), report::account_headers(body.response().headers()));
    let is_text = D::HAS_END && body.is_text();
    let (queue, body) = (VecDeque::new(), Some(body));
    let stream = Decoding { transport, body, is_text, decoder, queue, held: 0, failure: None };
    Deltas { status, headers, stream: Box::pin(stream) }
}

/// A body on its way through a decoder.
struct Decoding<D> {
    transport: Rc<Transport>,
    /// `None` after its end.
    body: Option<Body>,
    /// Whether it was declared as text, or a web page.
    is_text: bool,
    decoder: D,
    queue: VecDeque<Delta>,
    /// How many bytes came since there was last a piece: so many the decoder may hold.
    held: usize,
    failure: Option<Error>,
}

impl<D: Decoder + Unpin> Stream for Decoding<D> {
    type Item = Result<Delta, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(delta) = this.queue.pop_front() {
                return Poll::Ready(Some(Ok(delta)));
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
    /// Takes in one piece of the body.
    fn take(&mut self, chunk: Result<Option<Bytes>, Error>) {
        let Some(body) = &mut self.body else { return };
        let place = body.place;
        let settled = self.decoder.progress() == Progress::Settled;
        let heard = self.decoder.heard();
        let mut guessed = false;
        let ended = match chunk {
            Ok(Some(bytes)) => {
                let fed = self.decoder.feed(&bytes, &mut self.queue);
                fed.and_then(|()| Ok(count(&mut self.held, bytes.len(), self.queue.is_empty())?))
                    .map(|()| false)
            }
            Ok(None) if body.is_cut() && !D::HAS_END => Err(broken().into()),
            Ok(None) if body.is_empty() && D::HAS_END => Err(Fault::empty()),
            Ok(None) => self.decoder.finish(&mut self.queue).map(|()| true),
            // Silence, or a connection that breaks, can end an answer that is settled; a limit of ours cannot.
            Err(_) if settled && !body.is_spent() => {
                guessed = true;
                self.decoder.finish(&mut self.queue).map(|()| true)
            }
            Err(error) => Err(error.into()),
        };
        match (ended, self.decoder.progress()) {
            (Ok(false), Progress::Open) if settled => body.end_within(None),
            (Ok(false), Progress::Settled)
                if !settled || !self.queue.is_empty() || self.decoder.heard() > heard =>
            {
                body.end_within(Some(SETTLED_SILENCE));
            }
            (Ok(false), Progress::Open | Progress::Settled) => {}
            (Ok(false), Progress::Done) => self.body.take().into_iter().for_each(Body::drain),
            (Ok(true), _) => self.body = None,
            (Err(fault), _) => {
                self.failure = Some(fault.into_error(&self.transport, body));
                self.body = None;
            }
        }
        if self.body.is_none() {
            self.transport.learn(place, self.failure.as_ref().map_or(Ok(()), Err));
            let mut mended = self.decoder.mended();
            mended.add(Mending::EndGuessed, usize::from(guessed));
            mended.add(Mending::MediaType, usize::from(self.is_text && self.failure.is_none()));
            mended.tell(&self.transport.settings().name);
        }
    }
}

/// Counts what a decoder may hold.
fn count(held: &mut usize, more: usize, is_held: bool) -> Result<(), Error> {
    if is_held {
        request::take(more)?;
        *held += more;
    } else if *held > 0 {
        request::give(std::mem::take(held));
    }
    Ok(())
}

/// What `read` makes of a body that is there as a whole, unless that is nothing or a web page.
pub(super) async fn whole<T>(
    transport: &Transport,
    body: &mut Body,
    read: impl FnOnce(Bytes) -> Result<T, Fault>,
) -> Result<T, Error> {
    let value = match body.whole().await {
        Err(error) => Err(error.into()),
        Ok(bytes) => match first_byte(&bytes) {
            None => Err(Fault::empty()),
            Some(b'<') => Err(Fault::Html(bytes.to_vec())),
            Some(_) => read(bytes),
        },
    };
    let value = value.map_err(|fault: Fault| fault.into_error(transport, body));
    transport.learn(body.place, value.as_ref().map(drop));
    if value.is_ok() {
        body.tell_form(transport);
    }
    value
}

/// The first byte that is neither blank nor a byte order mark.
pub(super) fn first_byte(bytes: &[u8]) -> Option<u8> {
    let mark = "\u{feff}".as_bytes();
    // A cut may divide the mark: then nothing is known yet.
    let bytes = if mark.starts_with(bytes) { b"" } else { bytes.strip_prefix(mark).unwrap_or(bytes) };
    bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// An id for a tool call that the upstream did not name.
pub(super) fn new_call_id() -> String {
    format!("call_{}", uuid::Uuid::new_v4().simple())
}

/// What a decoder makes of bytes that come in these pieces, and how it ends: read as a body is.
pub(super) fn read(decoder: &mut impl Decoder, pieces: &[&[u8]]) -> (VecDeque<Delta>, Result<(), Fault>) {
    let mut deltas = VecDeque::new();
    for piece in pieces {
        let fed = decoder.feed(piece, &mut deltas);
        match (fed, decoder.progress()) {
            (Ok(()), Progress::Open | Progress::Settled) => {}
            (Ok(()), Progress::Done) => return (deltas, Ok(())),
            (Err(fault), _) => return (deltas, Err(fault)),
        }
    }
    let ended = decoder.finish(&mut deltas);
    (deltas, ended)
}

/// The bytes cut at these places, for tests that the cuts do not matter.
#[cfg(test)]
pub(super) fn pieces(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    let piece = |to: usize| &bytes[std::mem::replace(&mut from, to.min(bytes.len()))..to.min(bytes.len())];
    cuts.into_iter().map(piece).collect()
}
