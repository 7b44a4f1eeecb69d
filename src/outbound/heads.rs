//! The stream under awc, which shows it each answer's head so that it reads the body rightly.
//!
//! awc 3.11 takes an interim answer (RFC 9110, section 15.2) for the answer itself, reads nothing of an
//! HTTP/1.1 answer that ends with its connection, and takes chunks that break off for complete. So
//! interim heads are left out here, an unframed answer is shown as one of HTTP/1.0, whose body awc does
//! read to the end, and a connection that ends among chunks is an error. All else passes untouched, and
//! only while a head is due are bytes looked at. TLS is below: what passes here is plain.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_rt::net::{ActixStream, Ready};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchange::Watch;
use super::head::{OLDER, Scan, Seen};
use crate::telemetry::mending::{self, Mending};

/// The most bytes of heads before an answer's body: awc itself refuses a head that is longer.
const MAX_HEAD_BYTES: usize = 128 << 10;

/// A stream between awc and a server, one exchange after the other.
#[derive(Debug)]
pub struct Heads<S> {
    io: S,
    /// The server's name, for the log.
    host: Rc<str>,
    phase: Phase,
    /// Bytes that were read and that awc has not taken.
    held: BytesMut,
    watch: Watch,
}

#[derive(Debug)]
enum Phase {
    /// A request is on its way, and the head of its answer is due.
    Head {
        scan: Scan,
        /// How many bytes of interim heads were left out.
        interim: usize,
        /// Whether the method is one whose answers have no body.
        bodiless: bool,
    },
    /// The head has passed. A body may follow, `chunked` or not, or nothing until the next request.
    Body { chunked: bool },
    /// Whatever follows belongs to no answer: the connection must not be used again.
    Spoiled,
}

/// What becomes of bytes that begin with a head.
enum Step {
    /// More must come before anything passes.
    Wait,
    /// So many bytes are left out; what follows them is looked at anew.
    Skip(usize),
    /// All of them pass.
    Pass,
}

impl<S> Heads<S> {
    /// Wraps a connection that has just been opened.
    pub fn new(io: S, host: Rc<str>, watch: Watch) -> Self {
        Heads { io, host, phase: Phase::Body { chunked: false }, held: BytesMut::new(), watch }
    }

    /// Hands over what is held, as far as there is room.
    fn hand_over(&mut self, out: &mut ReadBuf<'_>) {
        let size = out.remaining().min(self.held.len());
        out.put_slice(&self.held[..size]);
        self.held.advance(size);
        if self.held.is_empty() {
            // A connection lives long, and its next head most likely comes in one piece.
            self.held = BytesMut::new();
        }
    }

    /// Gives up on a head: awc takes the bytes as they are, and nothing after them.
    fn give_up(&mut self) -> Step {
        self.phase = Phase::Spoiled;
        Step::Pass
    }

    /// Looks at bytes that came while a head is due, from its beginning on.
    fn look(&mut self, bytes: &mut [u8]) -> Step {
        let Phase::Head { scan, interim, bodiless } = &mut self.phase else { return Step::Pass };
        let head = match scan.look(bytes) {
            Seen::Part if bytes.len() < MAX_HEAD_BYTES => return Step::Wait,
            Seen::Part | Seen::Foreign => return self.give_up(),
            Seen::Whole(head) => head,
        };
        if head.is_interim {
            *interim += head.size;
            *scan = Scan::default();
            if *interim > MAX_HEAD_BYTES {
                return self.give_up();
            }
            mending::tell(Mending::InterimLeftOut, &self.host, 1);
            return Step::Skip(head.size);
        }
        if let Some(minor) = head.minor.filter(|_| head.is_unframed && !*bodiless) {
            bytes[minor] = OLDER;
        }
        self.phase = Phase::Body { chunked: head.is_coded };
        Step::Pass
    }

    /// Looks at all that is held.
    fn look_at_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        while !held.is_empty()
            && let Step::Skip(size) = self.look(&mut held)
        {
            held.advance(size);
        }
        self.held = held;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let is_due = matches!(this.phase, Phase::Head { .. });
            if !is_due && !this.held.is_empty() {
                this.hand_over(out);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.phase, Phase::Spoiled) {
                return Poll::Ready(Ok(()));
            }
            let before = out.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(context, out))?;
            let bytes = &mut out.filled_mut()[before..];
            match (is_due, bytes.is_empty()) {
                (false, true) if matches!(this.phase, Phase::Body { chunked: true }) => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                (false, _) => return Poll::Ready(Ok(())),
                (true, true) => this.phase = Phase::Spoiled,
                (true, false) => {
                    this.watch.heard();
                    // Most heads come in one piece, which needs no copy.
                    let step = if this.held.is_empty() { this.look(bytes) } else { Step::Wait };
                    let from = match step {
                        Step::Pass => return Poll::Ready(Ok(())),
                        Step::Skip(size) => size,
                        Step::Wait => 0,
                    };
                    this.held.extend_from_slice(&bytes[from..]);
                    out.set_filled(before);
                    this.look_at_held();
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // awc reads nothing before a request is written, so the first write after a head is the next one.
        if matches!(this.phase, Phase::Body { .. }) {
            let bodiless = bytes.starts_with(b"HEAD ");
            this.phase = Phase::Head { scan: Scan::default(), interim: 0, bodiless };
            this.watch.begin();
        }
        let written = ready!(Pin::new(&mut this.io).poll_write(context, bytes))?;
        this.watch.sent();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

/// awc wants these of a connector's streams and calls neither: it reads and writes to find out.
impl<S: AsyncRead + AsyncWrite + Unpin> ActixStream for Heads<S> {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        Poll::Ready(Ok(Ready::READABLE))
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        Poll::Ready(Ok(Ready::WRITABLE))
    }
}

#[cfg(test)]
mod tests;
