//! Any other request of the OpenAI protocol, passed through: embeddings, responses, images, audio.
//!
//! The gateway knows only what it must: who may be asked, which headers go on, and what an answer's
//! end looks like. JSON is read whole, so that one cut short is never taken for good; an event
//! stream goes on event by event, in its own words; all else goes on as the bytes come.

mod events;

use std::collections::VecDeque;
use std::rc::Rc;

use awc::http::Method;
use awc::http::header::{self, HeaderMap};
use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::body::Body;
use super::decoding::{Decoder, Deltas, Fault, Progress, decode, first_byte};
use super::reason::Reason;
use super::tolerant;
use super::transport::{Call, Transport};
use crate::domain::answer::Delta;
use crate::domain::chat::Usage;
use crate::domain::error::{Error, Kind};
use crate::telemetry::mending::{self, Mending};
pub(super) use events::EventBlocks;

/// A request to pass through.
#[derive(Debug, Clone)]
pub struct Request {
    /// The HTTP method.
    pub method: String,
    /// The path under `/v1`, in decoded segments.
    pub path: Vec<String>,
    /// The query, encoded, without the gateway's own key.
    pub query: Option<String>,
    /// The `Accept` header.
    pub accept: Option<String>,
    /// The `Content-Type` header.
    pub media_type: Option<String>,
    /// The headers of the caller's that the upstream is to see, by an allow-list.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
    /// The model that the body names, if it names one and no other.
    pub model: Option<String>,
}

/// The answer to it.
pub struct Relayed {
    /// The headers that go on, beside those of any answer.
    pub headers: Vec<(&'static str, String)>,
    /// How the body comes.
    pub form: Form,
    /// The body.
    pub deltas: Deltas,
}

/// How the body of an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON, all of it in one piece.
    Whole,
    /// Server-sent events, each with the blank line that ends it.
    Events,
    /// Anything else, in pieces.
    Bytes,
}

pub(super) async fn relay(transport: &Rc<Transport>, request: &Request) -> Result<Relayed, Error> {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| Error::new(Kind::MethodNotAllowed, "the method is none of HTTP's"))?;
    let media_type = request.media_type.as_deref().unwrap_or("application/json");
    let mut body = transport
        .open(Call {
            method,
            query: request.query.as_deref(),
            accept: request.accept.as_deref().unwrap_or("*/*"),
            headers: &request.headers,
            body: (!request.body.is_empty()).then(|| (media_type, request.body.clone())),
            may_be_empty: true,
            ..Call::get(&path)
        })
        .await?;
    let mut headers = passed(body.response().headers());
    let mut form = match form(&mut body).await {
        Ok(form) => form,
        Err(fault) => {
            let error = fault.into_error(transport, &body);
            transport.learn(body.place, Err(&error));
            return Err(error);
        }
    };
    let is_text = body.is_text();
    let deltas = match form {
        Form::Whole => {
            let bytes = body.whole().await.map_err(Fault::from);
            let looked = bytes.and_then(|bytes| match whole(bytes.clone(), &transport.settings().name) {
                // It only began like JSON.
                Err(Fault::Error(_)) if is_text => {
                    form = Form::Bytes;
                    Ok(Delta { wire: Some(bytes), ..Delta::default() })
                }
                looked => looked,
            });
            let looked = looked.map_err(|fault| fault.into_error(transport, &body));
            transport.learn(body.place, looked.as_ref().map(drop));
            Deltas::whole(&body, looked?)
        }
        Form::Events => decode(Rc::clone(transport), body, EventBlocks::new(transport.line_bytes())),
        Form::Bytes => decode(Rc::clone(transport), body, Untouched),
    };
    if is_text && form != Form::Bytes {
        let right = if form == Form::Whole { "application/json" } else { "text/event-stream" };
        headers.retain(|(name, _)| *name != "content-type");
        headers.push(("content-type", right.into()));
        if form == Form::Whole {
            mending::tell(Mending::MediaType, &transport.settings().name, 1);
        }
    }
    Ok(Relayed { headers, form, deltas })
}

/// How a body comes: as it is declared, unless that is text or a web page. Then its beginning tells; a
/// transcript is text, and may begin in any way.
async fn form(body: &mut Body) -> Result<Form, Fault> {
    let media = body.media().to_ascii_lowercase();
    if media == "application/json" || media.ends_with("+json") {
        return Ok(Form::Whole);
    } else if media == "text/event-stream" {
        return Ok(Form::Events);
    } else if !body.is_text() {
        return Ok(Form::Bytes);
    }
    let begun = body.peek().await?;
    Ok(match first_byte(&begun) {
        Some(b'<') if media != "text/plain" => return Err(Fault::Html(begun.to_vec())),
        Some(b'{') if begins_object(begun.trim_ascii_start()) => Form::Whole,
        _ if begins_events(&begun) => Form::Events,
        _ => Form::Bytes,
    })
}

/// Whether bytes begin as an object in JSON does.
fn begins_object(bytes: &[u8]) -> bool {
    matches!(bytes.strip_prefix(b"{").map(<[u8]>::trim_ascii_start), Some([b'"', ..]))
}

/// Whether bytes begin as an event with JSON does.
fn begins_events(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').skip_while(|line| line.starts_with(b"event:"));
    let data = lines.next().and_then(|line| line.strip_prefix(b"data:"));
    let is_whole = bytes.ends_with(b"\n");
    let is_json = |data: &[u8]| !is_whole || serde_json::from_slice::<IgnoredAny>(data).is_ok();
    data.map(<[u8]>::trim_ascii).is_some_and(|data| begins_object(data) && is_json(data))
}

/// The headers of an answer that concern its caller.
fn passed(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let names =
        [("content-type", header::CONTENT_TYPE), ("content-disposition", header::CONTENT_DISPOSITION)];
    let value = |name| Some(headers.get(name)?.to_str().ok()?.to_string());
    names.into_iter().filter_map(|(text, name)| Some((text, value(name)?))).collect()
}

/// An answer that is there as a whole, with what it says that it cost, unless it is a failure.
fn whole(json: Bytes, upstream: &str) -> Result<Delta, Fault> {
    if json.is_empty() {
        return Err(Fault::empty());
    }
    let (usage, json) = match look(&json) {
        Ok(usage) => (usage, json),
        Err(_) => {
            let value = tolerant::value(&json).map_err(|error| Fault::not_json(&error))?;
            mending::tell(Mending::PieceMended, upstream, 1);
            (None, value.to_string().into())
        }
    };
    if memmem::find(&json, b"error").is_some() {
        check(&json)?;
    }
    Ok(Delta { wire: Some(json), ..Delta::costing(usage) })
}

/// What an answer or event says that it cost, by either of the names that are used for it.
fn look(json: &[u8]) -> Result<Option<Usage>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Seen {
        usage: Option<Spent>,
        response: Option<Inner>,
    }
    #[derive(Deserialize)]
    struct Inner {
        usage: Option<Spent>,
    }
    #[derive(Deserialize)]
    struct Spent {
        #[serde(alias = "input_tokens")]
        prompt_tokens: Option<u64>,
        #[serde(alias = "output_tokens")]
        completion_tokens: Option<u64>,
    }
    let seen: Seen = match serde_json::from_slice(json) {
        Ok(seen) => seen,
        // Of another shape, which is fine, or no JSON.
        Err(_) => return serde_json::from_slice::<IgnoredAny>(json).map(|_| None),
    };
    let spent = seen.usage.or(seen.response.and_then(|inner| inner.usage));
    Ok(spent.and_then(|Spent { prompt_tokens, completion_tokens }| {
        Some(Usage::told(prompt_tokens?, completion_tokens.unwrap_or_default(), None))
    }))
}

/// Bytes as they come.
struct Untouched;

impl Decoder for Untouched {
    const HAS_END: bool = false;

    fn feed(&mut self, bytes: &[u8], pieces: &mut VecDeque<Delta>) -> Result<(), Fault> {
        pieces.push_back(Delta { wire: Some(Bytes::copy_from_slice(bytes)), ..Delta::default() });
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress::Open
    }

    fn finish(&mut self, _: &mut VecDeque<Delta>) -> Result<(), Fault> {
        Ok(())
    }
}

/// Fails with the error that JSON is, if it is one.
fn check(json: &[u8]) -> Result<(), Fault> {
    let value = serde_json::from_slice(json).unwrap_or_default();
    Reason::in_relayed(&value).map_or(Ok(()), |reason| Err(Fault::Reported(Box::new(reason))))
}
