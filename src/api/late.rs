//! Answers that come late.
//!
//! Dify gives a call up after 60 seconds of silence. JSON may be preceded by blanks (RFC 8259,
//! section 2), so a late answer is announced by one every few seconds. From then on the status is
//! 200 whatever comes, and a failure shows in the envelope alone.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;
use futures_util::stream;
use tokio::time::timeout;

use super::note::RequestId;
use super::reply::Prepared;
use super::{access_log, python_json};

/// When the blanks begin, and how far apart they are; `None` switches them off.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// From the call to the first one.
    pub after: Option<Duration>,
    /// From one to the next.
    pub every: Duration,
}

/// The response of some work for `request`: at once when it is done in time, else after blanks.
pub async fn respond<B: serde::Serialize + 'static>(
    request: &HttpRequest,
    heartbeat: Heartbeat,
    mut work: LocalBoxFuture<'static, Prepared<B>>,
) -> HttpResponse {
    let Some(after) = heartbeat.after else { return work.await.response() };
    match timeout(after, &mut work).await {
        Ok(prepared) => prepared.response(),
        Err(_) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .streaming(blanks_before(RequestId::of(request.extensions()), heartbeat, work)),
    }
}

/// A blank now, more of them while the work goes on, and its result at last.
fn blanks_before<B: serde::Serialize + 'static>(
    request_id: String,
    heartbeat: Heartbeat,
    work: LocalBoxFuture<'static, Prepared<B>>,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(Some((work, request_id, Duration::ZERO)), move |state| async move {
        let (mut work, request_id, wait) = state?;
        match timeout(wait, &mut work).await {
            Ok(prepared) => {
                access_log::late(&request_id, &prepared.note);
                Some((Ok(Bytes::from(python_json::to_vec(&prepared.body))), None))
            }
            Err(_) => Some((Ok(Bytes::from_static(b" ")), Some((work, request_id, heartbeat.every)))),
        }
    })
}
