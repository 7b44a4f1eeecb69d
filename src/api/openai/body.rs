//! The body of a request on `/v1`, which goes on as it came.

use actix_web::dev::Payload;
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::LocalBoxFuture;

use crate::domain::error::{Error, Kind};
use crate::http::body::{check_coding, check_media_type, is_json, media_type, read};
use crate::http::failure::Failure;

/// A request body on `/v1`, as it is.
pub struct V1Body(pub Bytes);

impl V1Body {
    /// The bytes of a body that is declared as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(self, request: &HttpRequest) -> Result<Bytes, Error> {
        check_media_type(request)?;
        Ok(self.0)
    }

    /// The bytes of a body that is declared as JSON or as a form with files, or of none; and whether it is a form.
    ///
    /// # Errors
    /// When it is declared as anything else, or not at all: so could a page of any origin send it.
    pub fn json_or_form(self, request: &HttpRequest) -> Result<(Bytes, bool), Error> {
        if self.0.is_empty() {
            return Ok((self.0, false));
        }
        let media = media_type(request).to_ascii_lowercase();
        let is_form = media == "multipart/form-data";
        if is_form || is_json(&media) {
            check_coding(request)?;
            return Ok((self.0, is_form));
        }
        Err(Error::new(
            Kind::UnsupportedMediaType,
            "the request body is declared neither as JSON nor as multipart/form-data",
        )
        .hinted("send the header `Content-Type: application/json`, or files as `multipart/form-data`"))
    }
}

impl FromRequest for V1Body {
    type Error = Failure;
    type Future = LocalBoxFuture<'static, Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let body = read(&request, payload, |limits| limits.v1_body_bytes).await;
            let hinted = |error: Error| match error.kind {
                Kind::BodyTooLarge => error.hinted("shorten the request, or raise `MAX_V1_BODY_BYTES`"),
                _ => error,
            };
            body.map(V1Body).map_err(|error| Failure::new(&request, hinted(error)))
        })
    }
}
