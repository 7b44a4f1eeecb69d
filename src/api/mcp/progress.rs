//! A late answer as an event stream: a progress notification every few seconds, then the answer. A
//! client that sent a `progressToken` waits on as long as they come.
//!
//! Source: <https://modelcontextprotocol.io/specification/2025-11-25/basic/utilities/progress>.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::message::{Id, Params};
use crate::domain::error::Error;
use crate::http::keep_alive::Announcement;
use crate::http::reply::Prepared;

/// The progress of a call, which can be told by its time alone.
pub struct Progress {
    token: Id,
    begun: Instant,
}

impl Progress {
    /// What a client wants to be told of, if it reads event streams.
    pub fn asked(request: &HttpRequest, params: &Params) -> Option<Self> {
        let mut accepted = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
        let token = params.meta.get("progressToken").and_then(|token| Id::deserialize(token).ok())?;
        let takes_events = accepted.any(|accepted| accepted.contains("text/event-stream"));
        takes_events.then(|| Progress { token, begun: Instant::now() })
    }
}

impl Announcement for Progress {
    fn media_type(&self) -> HeaderValue {
        HeaderValue::from_static("text/event-stream")
    }

    fn next(&mut self) -> Bytes {
        let seconds = self.begun.elapsed().as_secs_f64();
        event(&json!({
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {
                "progressToken": self.token,
                "progress": seconds,
                "message": format!("the answer is not complete after {seconds:.0} seconds"),
            },
        }))
    }

    fn answer(&self, prepared: Prepared) -> Result<Bytes, Box<Error>> {
        Ok([b"data: ", &*prepared.late_body()?, b"\n\n"].concat().into())
    }
}

fn event(message: &Value) -> Bytes {
    format!("data: {message}\n\n").into()
}
