//! What the head of a failure says: its status, and when to come back.

use std::time::Duration;

use actix_web::http::StatusCode;

use crate::domain::error::Kind;

/// The status of a failure in the envelope.
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
