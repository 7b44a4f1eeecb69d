//! The faces: each translates between a wire format and the use cases, and decides nothing.

pub mod access_log;
pub mod answers;
pub mod auth;
pub mod base_url;
pub mod body;
pub mod budget;
pub mod conversations;
mod depth;
pub mod docs;
pub mod doctor;
pub mod failure;
pub mod home;
pub mod late;
pub mod live;
pub mod mcp;
pub mod metrics;
pub mod note;
pub mod openai;
pub mod origin;
mod python_json;
pub mod reply;
pub mod session;
pub mod tools;
pub mod usage;

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::error::{Error, Kind};
use docs::Documents;
use failure::Failure;

/// Every operation, served and documented.
pub fn routes(config: &mut ServiceConfig) {
    tools::routes(config);
    // Before those that are found by a pattern: most requests come here.
    openai::routes(config);
    answers::routes(config);
    mcp::routes(config);
    conversations::routes(config);
    usage::routes(config);
    session::routes(config);
    doctor::routes(config);
    home::routes(config);
    live::routes(config);
    metrics::routes(config);
    docs::routes(config);
}

/// What is served beside the operations: the files of the page, Swagger UI, and the answer where
/// nothing else does.
pub fn pages(config: &mut web::ServiceConfig) {
    openai::pages(config);
    docs::pages(config);
    home::assets(config);
    config.default_service(web::to(not_found));
}

/// The documents of [`routes`]; with `long_answers`, importers learn of answers to come back for.
pub fn documents(long_answers: bool) -> Documents {
    if long_answers {
        let tools = |config: &mut ServiceConfig| {
            tools::routes(config);
            answers::routes(config);
        };
        Documents::new(tools, routes, &["upstream"])
    } else {
        Documents::new(tools::routes, routes, &["upstream", "wait_seconds"])
    }
}

/// 405 where another method would be answered, else 404.
async fn not_found(request: HttpRequest, documents: Data<Documents>) -> Result<HttpResponse, Failure> {
    let allowed = documents.methods(request.path());
    Err(if allowed.is_empty() {
        Failure::new(&request, Error::new(Kind::NotFound, "there is nothing at this path"))
    } else {
        Failure::method(&request, allowed.join(", "))
    })
}

/// The status of a failure on `/api/*` and on every path without a face of its own.
///
/// Dify throws the body of 429, 500, 502, 503 and 504 away, and with it the hint. So whatever is
/// not the caller's fault is 424 Failed Dependency (RFC 4918, section 11.4).
pub fn tool_status(kind: Kind) -> StatusCode {
    match kind {
        // Nothing has failed: the answer goes on.
        Kind::StillRunning => StatusCode::OK,
        Kind::InvalidJson => StatusCode::BAD_REQUEST,
        Kind::KeyMissing | Kind::KeyWrong | Kind::KeyGuessing => StatusCode::UNAUTHORIZED,
        Kind::OriginNotAllowed => StatusCode::FORBIDDEN,
        Kind::NotFound | Kind::ConversationNotFound | Kind::AnswerNotFound => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Kind::InvalidRequest | Kind::ModelNotFound => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::ModelsUnknown
        | Kind::UpstreamUnreachable
        | Kind::UpstreamDisconnected
        | Kind::UpstreamTimeout
        | Kind::UpstreamStalled
        | Kind::UpstreamDeadline
        | Kind::UpstreamAuthExpired
        | Kind::UpstreamRefused
        | Kind::UpstreamChallenge
        | Kind::UpstreamRateLimited
        | Kind::UpstreamRejected
        | Kind::UpstreamNotFound
        | Kind::UpstreamError
        | Kind::UpstreamRedirect
        | Kind::UpstreamHtml
        | Kind::UpstreamTruncated
        | Kind::UpstreamEmpty
        | Kind::UpstreamEncoding
        | Kind::UpstreamInformational
        | Kind::UpstreamInvalid
        | Kind::UpstreamTooLarge
        | Kind::UpstreamConversationLost
        | Kind::ConversationBusy
        | Kind::AnswerInterrupted
        | Kind::StorageUnavailable
        | Kind::StorageNewer
        | Kind::Overloaded
        | Kind::RateLimited
        | Kind::ShuttingDown
        | Kind::Internal => StatusCode::FAILED_DEPENDENCY,
    }
}

/// `Retry-After` in whole seconds, rounded up: RFC 9110, section 10.2.3.
pub fn retry_after_seconds(after: Duration) -> u64 {
    after.as_secs() + u64::from(after.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_status_is_one_whose_body_dify_throws_away() {
        for kind in Kind::ALL {
            let status = tool_status(*kind).as_u16();
            assert!(![429, 500, 502, 503, 504].contains(&status), "{}", kind.code());
        }
    }
}
