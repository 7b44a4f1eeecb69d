//! What awc is shown, of answers cut and framed in every way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use actix_http::ResponseHead;
use actix_http::h1::{ClientCodec, MessageType};
use proptest::prelude::*;
use tokio_util::codec::Decoder;

use super::*;

/// A server's side: what it sends after each request, cut as the test says.
#[derive(Debug, Default)]
struct Server {
    answers: VecDeque<Vec<Vec<u8>>>,
    sending: VecDeque<Vec<u8>>,
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.sending.pop_front() {
            Some(mut piece) => {
                let rest = piece.split_off(piece.len().min(out.remaining()));
                if !rest.is_empty() {
                    self.sending.push_front(rest);
                }
                out.put_slice(&piece);
                Poll::Ready(Ok(()))
            }
            None if self.answers.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let answer = self.answers.pop_front().unwrap_or_default();
        self.sending.extend(answer);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What awc is shown after a request of this method to a server that sends these pieces.
struct Exchanges(Heads<Server>);

impl Exchanges {
    fn with(answers: impl IntoIterator<Item = Vec<Vec<u8>>>) -> Self {
        let server = Server { answers: answers.into_iter().collect(), ..Server::default() };
        Exchanges(Heads::new(server, "x".into(), Watch::new(Rc::new(Cell::new(Duration::MAX)))))
    }

    fn ask(&mut self, method: &str) {
        let request = format!("{method} / HTTP/1.1\r\n\r\n");
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut self.0).poll_write(&mut context, request.as_bytes()).is_ready());
    }

    /// All that comes, read into buffers with so much room, and how it ends.
    fn read(&mut self, room: usize) -> (Vec<u8>, Poll<io::Result<()>>) {
        let (mut all, mut context) = (Vec::new(), Context::from_waker(Waker::noop()));
        loop {
            let mut space = vec![0; room];
            let mut out = ReadBuf::new(&mut space);
            match Pin::new(&mut self.0).poll_read(&mut context, &mut out) {
                Poll::Ready(Ok(())) if !out.filled().is_empty() => all.extend_from_slice(out.filled()),
                end => return (all, end),
            }
        }
    }
}

fn shown(method: &str, wire: &str) -> String {
    let mut exchanges = Exchanges::with([vec![wire.into()]]);
    exchanges.ask(method);
    String::from_utf8(exchanges.read(8192).0).expect("the bytes of the test")
}

/// The bytes in pieces of these sizes, over and over.
fn cut(mut bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
        pieces.push(piece.to_vec());
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    pieces
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
const GOES_ON: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const FRAMED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const UNFRAMED: &str = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\nHTTP/1.1 100 is no head here\r\n\r\n";

#[test]
fn interim_heads_are_left_out_and_unframed_answers_are_of_the_older_version() {
    let older = UNFRAMED.replacen("1.1", "1.0", 1);
    assert_eq!(shown("POST", UNFRAMED), older);
    assert_eq!(shown("POST", &[HINTS, GOES_ON, HINTS, UNFRAMED].concat()), older);
    assert_eq!(shown("GET", &[HINTS, FRAMED].concat()), FRAMED);
    for untouched in [FRAMED, &FRAMED.replace("1.1", "1.0"), "", "HTTP/1.1 200 OK\r\nServ", "SSH-2.0\r\n\r\n"]
    {
        assert_eq!(shown("POST", untouched), untouched);
    }
    assert_eq!(shown("HEAD", UNFRAMED), UNFRAMED, "an answer to HEAD has no body");
}

#[test]
fn a_connection_that_ends_among_chunks_is_an_error_and_else_an_end() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel";
    for (wire, is_error) in [(chunked, true), (FRAMED, false), (UNFRAMED, false), (HINTS, false)] {
        let mut exchanges = Exchanges::with([vec![wire.into()]]);
        exchanges.ask("POST");
        let end = exchanges.read(100).1;
        let failed = matches!(&end, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof);
        assert_eq!(failed, is_error, "{wire:?}: {end:?}");
    }
}

#[test]
fn heads_without_end_pass_as_they_are_and_spoil_the_connection() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(2 * MAX_HEAD_BYTES));
    let many = HINTS.repeat(2 * MAX_HEAD_BYTES / HINTS.len());
    for (wire, passes) in [(long, MAX_HEAD_BYTES..MAX_HEAD_BYTES + 1000), (many, 1..1000)] {
        let mut exchanges = Exchanges::with([cut(wire.as_bytes(), &[1000])]);
        exchanges.ask("POST");
        let (all, end) = exchanges.read(8192);
        assert!(passes.contains(&all.len()) && all.starts_with(b"HTTP/1.1 "), "{} bytes", all.len());
        assert!(matches!(end, Poll::Ready(Ok(()))), "it ends: {end:?}");
    }
    let limit = MAX_HEAD_BYTES - FRAMED.len();
    let longest = FRAMED.replace("\r\n\r\n", &format!("\r\nX: {}\r\n\r\n", "y".repeat(limit - 100)));
    assert_eq!(shown("POST", &longest), longest);
}

#[derive(Debug, Clone)]
struct Plan {
    interim: usize,
    framed: bool,
    sizes: Vec<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let sizes = prop::collection::vec(1usize..60, 1..6);
    (0usize..3, any::<bool>(), sizes).prop_map(|(interim, framed, sizes)| Plan { interim, framed, sizes })
}

/// What awc makes of a head: status, how many fields, and how a body follows; or that it is none.
fn decoded(bytes: &[u8]) -> Option<(u16, usize, MessageType)> {
    let (mut codec, mut bytes) = (ClientCodec::default(), BytesMut::from(bytes));
    let head: ResponseHead = codec.decode(&mut bytes).ok().flatten()?;
    Some((head.status.as_u16(), head.headers().len(), codec.message_type()))
}

proptest! {
    #[test]
    fn neither_cuts_nor_what_came_before_on_the_connection_matter(
        plans in prop::collection::vec(plan(), 1..4),
        room in 1usize..200,
    ) {
        let wire = |plan: &Plan| {
            [HINTS.repeat(plan.interim).as_str(), if plan.framed { FRAMED } else { UNFRAMED }].concat()
        };
        let answers = plans.iter().map(|plan| cut(wire(plan).as_bytes(), &plan.sizes));
        let mut exchanges = Exchanges::with(answers);
        for plan in &plans {
            exchanges.ask("POST");
            let expected = if plan.framed { FRAMED.into() } else { UNFRAMED.replacen("1.1", "1.0", 1) };
            prop_assert_eq!(String::from_utf8(exchanges.read(room).0), Ok(expected));
        }
    }
}

#[test]
fn hostile_heads_mean_the_same_to_awc_but_for_bodies_that_it_would_not_see() {
    let start = prop::sample::select(vec![
        "HTTP/1.1 200 OK",
        "HTTP/1.1 404",
        "HTTP/1.1 204 No",
        "HTTP/1.0 200 OK",
        "\r\n\nHTTP/1.1 500 X",
        "HTTP/1.1  200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1 101 Switching",
        "HTTP/1.12 200 OK",
    ]);
    let field = prop::sample::select(vec![
        "Content-Length: 5",
        "content-length : 7",
        "Content-Length: +5",
        "Transfer-Encoding: chunked",
        "transfer-encoding: Identity",
        "Transfer-Encoding: gzip",
        "X: y",
        " folded: 1",
        "no colon",
        "Content-Length",
        ": 5",
        "Content-Length:5\rX: y",
        "Connection: keep-alive",
        "Upgrade: websocket",
        "Connection: upgrade",
        "X: \u{e9}",
        "X\0: y",
        "Te: trailers",
        "",
    ]);
    let fields = prop::collection::vec(field, 0..5);
    let ends = prop::collection::vec(prop::sample::select(vec!["\r\n", "\n"]), 7);
    // awc's codec has a clock, which runs in a runtime of actix.
    actix_rt::System::new().block_on(async {
        proptest!(|(start in start, fields in fields, ends in ends)| {
            let lines = std::iter::once(&start).chain(&fields).chain([&""]);
            let wire: String = lines.zip(&ends).map(|(line, end)| [*line, *end].concat()).collect();
            let (plain, wrapped) = (decoded(wire.as_bytes()), decoded(shown("GET", &wire).as_bytes()));
            match (&plain, &wrapped) {
                (Some((status, count, MessageType::None)), Some((shown, counted, body))) => {
                    prop_assert_eq!((status, count), (shown, counted));
                    // awc overlooks a length beside an upgrade.
                    let mut head = fields.iter().take_while(|field| !field.is_empty());
                    let has_length = head.any(|field| field.starts_with(['C', 'c']) && field.contains(['5', '7']));
                    let may_have = !matches!(status, 204 | 304) && !has_length;
                    prop_assert_eq!(matches!(body, MessageType::Payload), may_have, "{:?}", wire);
                }
                _ => prop_assert_eq!(format!("{plain:?}"), format!("{wrapped:?}"), "{:?}", wire),
            }
        });
    });
}
