//! The fake upstream of these tests: that of the benchmark, which records requests here and sends what the
//! test says, cut where the test says.

// The benchmark reads answers with it too.
#[allow(dead_code)]
#[path = "../../bench/src/http.rs"]
mod http;
#[path = "../../bench/src/upstream.rs"]
mod shared;

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::Notify;

pub use shared::{Request, Step};

impl Request {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the request's body is JSON")
    }
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
        let record = move |request: &Request| {
            seen.lock().expect("no test panics with the lock").push(request.clone());
            script(request)
        };
        tokio::spawn(shared::serve(listener, None, record, move || gone.notify_one()));
        Fake { url, requests, left }
    }

    /// Waits until a peer has left in the middle of an answer.
    pub async fn left(&self) {
        self.left.notified().await;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test panics with the lock").clone()
    }
}
