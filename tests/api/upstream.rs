//! A fake upstream on a raw socket: it records requests and sends what the test says, cut where
//! the test says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// How many requests came before on the same connection.
    pub earlier: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the request's body is JSON")
    }
}

/// What to do with a connection, step by step.
#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    Pause(Duration),
    /// Keep the connection open and say nothing more.
    Hang,
    /// Send this over and over until the peer leaves.
    Endless(Vec<u8>),
    Close,
}

/// A script that sends bytes and keeps the connection.
pub fn send(bytes: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Step::Send(bytes.into())]
}

/// The bytes of an answer of known length.
pub fn response(status: &str, media_type: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The bytes of an answer in one chunk of the chunked coding.
pub fn chunked(media_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    )
}

/// The head of a stream of server-sent events.
pub fn stream_head() -> Step {
    Step::Send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
    )
}

/// A chunk with one event of a streamed completion.
pub fn chunk(text: &str, finish: Option<&str>) -> Step {
    let event =
        serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]});
    let event = format!("data: {event}\n\n");
    Step::Send(format!("{:x}\r\n{event}\r\n", event.len()).into_bytes())
}

/// The end of such a stream.
pub fn stream_end() -> Step {
    Step::Send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n".to_vec())
}

/// The running fake.
pub struct Fake {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    left: Arc<Notify>,
}

impl Fake {
    /// Starts a fake that answers each request by its script.
    pub async fn start(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let left = Arc::new(Notify::new());
        let (seen, gone) = (Arc::clone(&requests), Arc::clone(&left));
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen), Arc::clone(&gone)));
            }
        });
        Fake { url, requests, left }
    }

    /// Waits until the peer of a connection that hangs or never ends has left.
    pub async fn left(&self) {
        self.left.notified().await;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test panics with the lock").clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<impl Fn(&Request) -> Vec<Step>>,
    seen: Arc<Mutex<Vec<Request>>>,
    gone: Arc<Notify>,
) {
    let mut buffer = Vec::new();
    let mut earlier = 0;
    while let Some(mut request) = read(&mut stream, &mut buffer).await {
        request.earlier = earlier;
        earlier += 1;
        seen.lock().expect("no test panics with the lock").push(request.clone());
        let steps = script(&request);
        for step in steps {
            match step {
                Step::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Hang => {
                    let _ = stream.read(&mut [0]).await;
                    gone.notify_one();
                    return;
                }
                Step::Endless(bytes) => {
                    while stream.write_all(&bytes).await.is_ok() {}
                    gone.notify_one();
                    return;
                }
                Step::Close => return,
            }
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let line = lines.next()?.to_string();
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.trim().to_string(), value.trim().to_string()))
                .collect();
            let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a length"));
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8_lossy(&buffer[end + 4..end + 4 + length]).into_owned();
                buffer.drain(..end + 4 + length);
                return Some(Request { line, headers, body, earlier: 0 });
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
        }
    }
}
