//! Answers that come late.
//!
//! Dify gives a call up after 60 seconds of silence. JSON may be preceded by blanks (RFC 8259,
//! section 2), so a late answer is announced by one every few seconds. From then on the status is
//! 200 whatever comes, and a failure shows in the body alone, or breaks plain text off. An event stream begins with its head
//! and comments instead, and has a comment in every silence.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, LocalBoxStream, Stream, StreamExt};
use tokio::time::{Instant, timeout};

use super::failure::{ErrorRenderer, ErrorRenderers};
use super::log_fields::{LogFields, RequestId, SharedLogFields};
use super::reply::{Form, Prepared};
use crate::domain::error::Error;
use crate::outbound::timer::Timer;

/// nginx would hold small pieces back: <https://nginx.org/en/docs/http/ngx_http_proxy_module.html>.
const UNBUFFERED: (&str, &str) = ("x-accel-buffering", "no");

/// A comment: an event of its own that means nothing.
const COMMENT: &[u8] = b": ping\n\n";

/// When the blanks begin, and how far apart they and the comments are.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// From the call to the first blank; `None` sends no blanks.
    pub after: Option<Duration>,
    /// The same on `/v1`, whose clients wait longer.
    pub v1_after: Option<Duration>,
    /// From one to the next; `None` sends neither blanks nor comments.
    pub every: Option<Duration>,
}

impl Heartbeat {
    /// That of `/v1`.
    pub fn on_v1(self) -> Self {
        Heartbeat { after: self.v1_after, ..self }
    }
}

/// How a late answer is announced.
pub trait Announcement {
    /// What the response is then written in.
    fn media_type(&self) -> HeaderValue;

    /// What is sent while the answer is not there.
    fn next(&mut self) -> Bytes;

    /// The answer after that.
    ///
    /// # Errors
    /// When the connection is to break off.
    fn answer(&self, prepared: Prepared) -> Result<Bytes, Box<Error>>;
}

impl Announcement for Form {
    fn media_type(&self) -> HeaderValue {
        Form::media_type(*self)
    }

    fn next(&mut self) -> Bytes {
        Bytes::from_static(self.blank())
    }

    fn answer(&self, prepared: Prepared) -> Result<Bytes, Box<Error>> {
        prepared.late_body()
    }
}

/// The response of some work: at once when it is done in time, else announced.
pub async fn respond(
    heartbeat: Heartbeat,
    announcement: impl Announcement + 'static,
    mut work: LocalBoxFuture<'static, Prepared>,
) -> HttpResponse {
    let Some((after, every)) = heartbeat.after.zip(heartbeat.every) else { return work.await.response() };
    match timeout(after, &mut work).await {
        Ok(prepared) => prepared.response(),
        Err(_) => {
            let log_fields = SharedLogFields::default();
            let mut response = HttpResponse::Ok()
                .insert_header((header::CONTENT_TYPE, announcement.media_type()))
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .insert_header(UNBUFFERED)
                .streaming(announced(work, announcement, every, log_fields.clone()));
            response.extensions_mut().insert(log_fields);
            response
        }
    }
}

/// An announcement now, more of them while the work goes on, and its result at last.
fn announced(
    work: LocalBoxFuture<'static, Prepared>,
    announcement: impl Announcement,
    every: Duration,
    log_fields: SharedLogFields,
) -> impl Stream<Item = Result<Bytes, Box<Error>>> {
    stream::unfold(Some((work, announcement, Duration::ZERO)), move |state| {
        let log_fields = log_fields.clone();
        async move {
            let (mut work, mut announcement, wait) = state?;
            match timeout(wait, &mut work).await {
                Ok(prepared) => {
                    log_fields.set(prepared.log_fields.clone());
                    Some((announcement.answer(prepared), None))
                }
                Err(_) => Some((Ok(announcement.next()), Some((work, announcement, every)))),
            }
        }
    })
}

/// Lines of JSON as they come, with a blank before the next one in every silence: it is a part of none of them.
pub fn lines(
    lines: impl Stream<Item = Bytes> + 'static,
    every: Option<Duration>,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(lines.boxed_local(), move |mut lines| async move {
        let piece = match every {
            Some(every) => timeout(every, lines.next()).await.unwrap_or(Some(Bytes::from_static(b" "))),
            None => lines.next().await,
        };
        piece.map(|piece| (Ok(piece), lines))
    })
}

/// An event stream that has begun.
pub struct EventStream {
    /// Whole events, each with the blank line that ends it; the stream ends after an error.
    pub events: LocalBoxStream<'static, Result<Bytes, Error>>,
    /// What the access log is told, unless the stream fails.
    pub log_fields: LogFields,
    /// The headers beside those of every event stream; lost when they come after the first comment.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The response of an event stream: with the status of its failure when that shows before the
/// first comment is due, else with the failure as its last event.
pub async fn stream(
    request: &HttpRequest,
    every: Option<Duration>,
    mut begin: LocalBoxFuture<'static, Result<EventStream, Prepared>>,
) -> HttpResponse {
    let begun = match every {
        Some(every) => timeout(every, &mut begin).await.ok(),
        None => Some((&mut begin).await),
    };
    let log_fields = SharedLogFields::default();
    let (phase, headers) = match begun {
        Some(Err(prepared)) => return prepared.response(),
        Some(Ok(EventStream { events, log_fields: told, headers })) => {
            log_fields.set(told);
            (Phase::Running(events), headers)
        }
        None => (Phase::Late(begin), Vec::new()),
    };
    let body = KeepAliveStream {
        phase,
        every,
        comment_due: None,
        timer: Timer::default(),
        request_id: RequestId::of(request.extensions()),
        renderer: ErrorRenderers::of(request),
        log_fields: log_fields.clone(),
    };
    let mut response = HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(UNBUFFERED)
        .streaming(body);
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    response.extensions_mut().insert(log_fields);
    response
}

/// An event stream with comments in its silences.
struct KeepAliveStream {
    phase: Phase,
    every: Option<Duration>,
    /// When the silence that goes on is to be broken.
    comment_due: Option<Instant>,
    timer: Timer,
    request_id: String,
    renderer: &'static dyn ErrorRenderer,
    log_fields: SharedLogFields,
}

enum Phase {
    /// The head went out before the first comment.
    Late(LocalBoxFuture<'static, Result<EventStream, Prepared>>),
    /// As [`Phase::Late`], after the first comment.
    Waiting(LocalBoxFuture<'static, Result<EventStream, Prepared>>),
    Running(LocalBoxStream<'static, Result<Bytes, Error>>),
    Ended,
}

impl Stream for KeepAliveStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let bytes = ready!(this.poll_bytes(context));
        this.comment_due = None;
        Poll::Ready(bytes.map(Ok))
    }
}

impl KeepAliveStream {
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::Late(_) => {
                    if let Phase::Late(begin) = std::mem::replace(&mut self.phase, Phase::Ended) {
                        self.phase = Phase::Waiting(begin);
                    }
                    return Poll::Ready(Some(Bytes::from_static(COMMENT)));
                }
                Phase::Waiting(begin) => match begin.as_mut().poll(context) {
                    Poll::Pending => return self.poll_comment(context),
                    Poll::Ready(Ok(begun)) => {
                        self.log_fields.set(begun.log_fields);
                        self.phase = Phase::Running(begun.events);
                    }
                    Poll::Ready(Err(prepared)) => return Poll::Ready(Some(self.end(prepared))),
                },
                Phase::Running(events) => match events.poll_next_unpin(context) {
                    Poll::Pending => return self.poll_comment(context),
                    Poll::Ready(Some(Ok(event))) => return Poll::Ready(Some(event)),
                    Poll::Ready(Some(Err(error))) => {
                        let prepared = self.renderer.render(&error, &self.request_id, self.log_fields.get());
                        return Poll::Ready(Some(self.end(prepared)));
                    }
                    Poll::Ready(None) => self.phase = Phase::Ended,
                },
            }
        }
    }

    /// A comment, when one is due.
    fn poll_comment(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(every) = self.every else { return Poll::Pending };
        let due = *self.comment_due.get_or_insert_with(|| Instant::now() + every);
        self.timer.poll(context, due).map(|()| Some(Bytes::from_static(COMMENT)))
    }

    /// The last event of a stream that fails.
    fn end(&mut self, prepared: Prepared) -> Bytes {
        self.phase = Phase::Ended;
        self.log_fields.set(prepared.log_fields);
        self.renderer.last_event(&prepared.body)
    }
}
