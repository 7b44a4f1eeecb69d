//! Reading a JSON request body: declared as JSON, bounded in size and time, parsed into a type.

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::web::{Bytes, BytesMut, Data, Query};
use actix_web::{FromRequest, HttpRequest};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::{Instant, timeout_at};

use super::depth;
use super::failure::Failure;
use crate::config::Limits;
use crate::domain::error::{Error, Kind};
use crate::request;

/// A request body of type `T`.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for JsonBody<T> {
    type Error = Failure;
    type Future = LocalBoxFuture<'static, Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let read = async {
                check_media_type(&request)?;
                let bytes = read(&request, payload, |limits| limits.body_bytes).await?;
                check_depth(&bytes)?;
                // What is parsed is as large again.
                request::take(bytes.len())?;
                Ok(JsonBody(parse(&bytes)?))
            };
            read.await.map_err(|error| Failure::new(&request, error))
        })
    }
}

/// What a request's query says.
///
/// # Errors
/// When it is not understood.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Error> {
    Query::from_query(request.query_string()).map(Query::into_inner).map_err(|error| {
        Error::new(Kind::InvalidRequest, "the query is not understood").detail(Some(error.to_string()))
    })
}

/// Reads a body within its limits. The mark that some editors put before a text's first byte is left out.
///
/// # Errors
/// When it is too large or too slow, or the memory budget is used up.
pub async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    limit: fn(&Limits) -> usize,
) -> Result<Bytes, Error> {
    let limits = request.app_data::<Data<Limits>>().expect("the application holds the limits");
    let limit = limit(limits);
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    let deadline = Instant::now() + limits.body_time;
    let mut bytes = BytesMut::new();
    let mut first: Option<Bytes> = None;
    loop {
        let chunk = timeout_at(deadline.min(Instant::now() + limits.body_idle), payload.next()).await;
        if let Ok(Some(Ok(chunk))) = &chunk {
            request::take(chunk.len())?;
        }
        match chunk {
            Err(_) => return Err(Error::new(Kind::BodyTimeout, "the request body did not arrive in time")),
            Ok(None) => {
                let bytes = first.unwrap_or_else(|| bytes.freeze());
                if let Some(call) = request::call() {
                    call.receives(bytes.len());
                }
                let mark = "\u{feff}".as_bytes();
                return Ok(if bytes.starts_with(mark) { bytes.slice(mark.len()..) } else { bytes });
            }
            Ok(Some(Err(_))) => return Err(Error::new(Kind::InvalidJson, "the request body broke off")),
            Ok(Some(Ok(chunk))) if first.as_ref().map_or(bytes.len(), Bytes::len) + chunk.len() > limit => {
                return Err(too_large(limit));
            }
            // Most bodies come in one piece, which need not be copied.
            Ok(Some(Ok(chunk))) if bytes.is_empty() && first.is_none() => first = Some(chunk),
            Ok(Some(Ok(chunk))) => {
                bytes.extend_from_slice(&first.take().unwrap_or_default());
                bytes.extend_from_slice(&chunk);
            }
        }
    }
}

fn too_large(limit: usize) -> Error {
    Error::new(Kind::BodyTooLarge, format!("the request body is larger than {limit} bytes"))
}

/// What a body is declared as, with its parameters.
fn declared(request: &HttpRequest) -> &str {
    request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What a body is declared as, without parameters.
pub fn media_type(request: &HttpRequest) -> &str {
    declared(request).split(';').next().unwrap_or_default().trim()
}

/// Whether a media type in lower case is JSON by its name, RFC 6839, section 3.1.
pub fn is_json(media: &str) -> bool {
    media == "application/json" || media.contains('/') && media.ends_with("+json")
}

/// JSON must be declared as such, RFC 8259: then no form of a foreign page can send it.
///
/// # Errors
/// When it is not, or is compressed.
pub fn check_media_type(request: &HttpRequest) -> Result<(), Error> {
    check_coding(request)?;
    if media_type(request).eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(not_declared()) }
}

/// Whoever reads a body after us must read the same in it.
///
/// # Errors
/// When it is compressed, or its text is in another coding than UTF-8.
pub fn check_coding(request: &HttpRequest) -> Result<(), Error> {
    let is_utf8 = declared(request).split(';').skip(1).all(|parameter| {
        let charset = parameter.trim().to_ascii_lowercase();
        charset
            .strip_prefix("charset=")
            .is_none_or(|name| matches!(name.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"))
    });
    let coding = request.headers().get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        Err(Error::new(Kind::UnsupportedMediaType, "the request body is compressed")
            .hinted("send the body as it is, without `Content-Encoding`"))
    } else if is_utf8 {
        Ok(())
    } else {
        Err(not_declared())
    }
}

fn not_declared() -> Error {
    Error::new(Kind::UnsupportedMediaType, "the request body is not declared as JSON in UTF-8")
}

/// Refuses what nests so deep that a parser would run out of stack.
///
/// # Errors
/// When it does.
pub fn check_depth(bytes: &[u8]) -> Result<(), Error> {
    if depth::is_too_deep(bytes) {
        let what = format!("the request body nests deeper than {} levels", depth::MAX_DEPTH);
        return Err(Error::new(Kind::InvalidJson, what).hinted("send a request without such nesting"));
    }
    Ok(())
}

/// Reads a JSON object.
///
/// # Errors
/// When the bytes are no JSON, or no object of this type; then with the place that does not fit.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.is_empty() {
        return Err(Error::new(Kind::InvalidJson, "the request body is empty"));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::InvalidJson, "the request body is not UTF-8"))?;
    if !text.trim_ascii_start().starts_with('{') {
        // serde would take a list for an object, by position.
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Error::new(Kind::InvalidRequest, "the request body is JSON, but not an object"),
            Err(error) => not_json(&error),
        });
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() {
            // serde quotes what it found, which may be the prompt: for the caller, not the log.
            let field = if path == "." { "the request".to_string() } else { format!("`{path}`") };
            Error::new(Kind::InvalidRequest, format!("{field} is not understood"))
                .detail(Some(without_place(&error)))
        } else {
            not_json(&error)
        }
    })?;
    reader.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    Error::new(Kind::InvalidJson, format!("the request body is not JSON, see line {line}, column {column}"))
}

fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn malformed_and_misfit_are_told_apart() {
        for text in ["", "{", "{\"a\":}", "[1,", "nul", "\u{feff}{}", "{\"a\":\"\u{1}\"}"] {
            assert_eq!(parse::<Value>(text.as_bytes()).expect_err(text).kind, Kind::InvalidJson, "{text:?}");
        }
        assert_eq!(parse::<Value>(b"\"\xff\"").expect_err("not UTF-8").kind, Kind::InvalidJson);
        let deep = "[".repeat(10_000);
        assert_eq!(parse::<Value>(deep.as_bytes()).expect_err("deep").kind, Kind::InvalidJson);
        assert_eq!(parse::<Value>(b"[]").expect_err("misfit").kind, Kind::InvalidRequest);
    }
}
