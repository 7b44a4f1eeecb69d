//! The body of a request on `/v1`, which goes on as it came.

use actix_web::dev::Payload;
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::LocalBoxFuture;

use crate::domain::error::{Error, Kind};
use crate::http::body::{check_depth, check_media_type, read};
use crate::http::failure::Failure;

/// A request body on `/v1`, as it is.
pub struct V1Body(pub Bytes);

impl V1Body {
    /// The bytes of a body that is declared as JSON.
    ///
    /// # Errors
    /// When it is not, or nests too deep.
    pub fn json(self, request: &HttpRequest) -> Result<Bytes, Error> {
        check_media_type(request)?;
        check_depth(&self.0)?;
        Ok(self.0)
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
            let body = body.map(|(bytes, share)| share.bind(bytes));
            let hinted = |error: Error| match error.kind {
                Kind::BodyTooLarge => error.hinted("shorten the request, or raise `MAX_V1_BODY_BYTES`"),
                _ => error,
            };
            body.map(V1Body).map_err(|error| Failure::new(&request, hinted(error)))
        })
    }
}
