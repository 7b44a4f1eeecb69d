//! The one fake upstream in Rust: it reads requests from raw sockets, and sends what a script says. The
//! benchmark's upstream and that of `tests/api` are this with scripts of their own, so it is lean: a
//! request is parsed once, and each step is one write.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::http;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub head: String,
    pub body: String,
    /// How many requests came before on the same connection.
    pub earlier: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// What to do with a connection, step by step; without more steps it waits for the next request.
#[derive(Debug, Clone)]
pub enum Step<B = Vec<u8>> {
    Send(B),
    Pause(Duration),
    /// Keep the connection open and say nothing more.
    Hang,
    /// Send this over and over until the peer leaves.
    Endless(B),
    Close,
}

/// Serves for as long as it is polled. A connection that has said nothing for `idle` after an answer is
/// closed; `left` is called when a peer leaves in the middle of one.
pub async fn serve<S, I, B, L>(listener: TcpListener, idle: Option<Duration>, script: S, left: L)
where
    S: Fn(&Request) -> I + Send + Sync + 'static,
    I: IntoIterator<Item = Step<B>>,
    I::IntoIter: Send + 'static,
    B: AsRef<[u8]> + Send + Sync + 'static,
    L: Fn() + Send + Sync + 'static,
{
    let shared = Arc::new((script, left));
    while let Ok((mut stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut buffer = Vec::with_capacity(4096);
            let mut earlier = 0;
            while let Some(request) = next(&mut stream, &mut buffer, earlier, idle).await {
                earlier += 1;
                for step in shared.0(&request) {
                    match take(step, &mut stream, &mut buffer).await {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(_) => return shared.1(),
                    }
                }
            }
        });
    }
}

/// Whether the connection goes on; an error says that the peer has left.
async fn take<B: AsRef<[u8]>>(step: Step<B>, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<bool> {
    let gone = || Err(std::io::ErrorKind::ConnectionReset.into());
    match step {
        Step::Send(bytes) => stream.write_all(bytes.as_ref()).await?,
        Step::Pause(time) => {
            let end = Instant::now() + time;
            while let Ok(read) = timeout_at(end, stream.read_buf(buffer)).await {
                if read? == 0 {
                    return gone();
                }
            }
        }
        Step::Hang => {
            let _ = stream.read_buf(buffer).await;
            return gone();
        }
        Step::Endless(bytes) => loop {
            stream.write_all(bytes.as_ref()).await?;
        },
        Step::Close => return Ok(false),
    }
    Ok(true)
}

async fn next(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    earlier: usize,
    idle: Option<Duration>,
) -> Option<Request> {
    loop {
        if let Some((request, size)) = parse(buffer, earlier)? {
            buffer.drain(..size);
            return Some(request);
        }
        let read = match idle.filter(|_| earlier > 0 && buffer.is_empty()) {
            Some(idle) => timeout(idle, stream.read_buf(buffer)).await.ok()?,
            None => stream.read_buf(buffer).await,
        };
        if !matches!(read, Ok(1..)) {
            return None;
        }
    }
}

/// The first request in these bytes with its size, once it is whole; nothing when it is none.
fn parse(bytes: &[u8], earlier: usize) -> Option<Option<(Request, usize)>> {
    let Some(head) = http::head(bytes, false) else { return Some(None) };
    let mut body = Vec::new();
    let mut framing = head.body;
    let (taken, complete) = match framing {
        http::Body::Length(0) => (0, true),
        http::Body::Length(size) if bytes.len() < head.size + size => return Some(None),
        _ => framing.feed(&bytes[head.size..], |part| body.extend_from_slice(part))?,
    };
    let request = || Request {
        line: head.first.to_string(),
        head: String::from_utf8_lossy(&bytes[head.first.len()..head.size]).trim_start().to_string(),
        body: String::from_utf8_lossy(&body).into_owned(),
        earlier,
    };
    Some(complete.then(|| (request(), head.size + taken)))
}
