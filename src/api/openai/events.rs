//! An answer as a stream of server-sent events: in the upstream's bytes where it speaks this protocol,
//! else written from what it means.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::web::Bytes;
use futures_util::Stream;

use super::answer::{self, DONE, Writer};
use crate::domain::answer::Delta;
use crate::domain::error::Error;
use crate::gateway::{Failed, InFlight};

/// A stream of events.
pub struct Events {
    in_flight: InFlight,
    form: Form,
    /// An event that is to go out before all others.
    first: Option<Bytes>,
    ended: bool,
}

/// What the pieces are on the wire.
enum Form {
    /// Chunks that need the frame of an event alone.
    Chunks,
    /// Chunks that are written here, with a last one for what the answer cost if that is asked for.
    Written(Writer, bool),
    /// Whole events, or bytes that are none.
    Blocks,
}

impl Events {
    /// The chunks of a completion.
    pub fn chunks(in_flight: InFlight, include_usage: bool) -> Self {
        let form = if in_flight.is_verbatim() {
            Form::Chunks
        } else {
            Form::Written(Writer::new(in_flight.answer().names.model.as_deref()), include_usage)
        };
        Events { in_flight, form, first: None, ended: false }
    }

    /// An answer whose pieces go on as they are.
    pub fn blocks(in_flight: InFlight) -> Self {
        Events { in_flight, form: Form::Blocks, first: None, ended: false }
    }

    /// The stream once its first event is there, so that a failure before it has a status of its own.
    pub async fn begun(mut self) -> Result<Self, Failed> {
        self.first = poll_fn(|context| self.poll(context)).await.transpose()?;
        Ok(self)
    }

    /// The next event, why the answer breaks off, or `None` at its end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failed>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let event = match ready!(self.in_flight.poll_next(context)) {
                Some(Ok(delta)) => self.event(delta),
                Some(Err(failed)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(failed)));
                }
                None => {
                    self.ended = true;
                    self.last()
                }
            };
            if let Some(event) = event {
                return Poll::Ready(Some(Ok(event)));
            }
        }
    }

    fn event(&mut self, delta: Delta) -> Option<Bytes> {
        match &mut self.form {
            Form::Chunks => delta.wire.as_deref().map(answer::event),
            Form::Written(writer, _) => writer.step(&delta),
            Form::Blocks => delta.wire,
        }
    }

    fn last(&mut self) -> Option<Bytes> {
        match &mut self.form {
            Form::Chunks => Some(DONE),
            Form::Written(writer, include_usage) => {
                Some(writer.end(&self.in_flight.answer(), *include_usage))
            }
            Form::Blocks => None,
        }
    }
}

impl Stream for Events {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => this.poll(context).map(|event| event.map(|event| event.map_err(|failed| failed.error))),
        }
    }
}
