//! The shape in which people's own FastAPI wrappers around a mirror answer, for workflows that were
//! built on one: their HTTP nodes and Code nodes go on working when the address is changed to
//! `/api/chat?shape=wrapper`.
//!
//! A failure is 200 with `success: false`, as theirs was: Dify's HTTP node asks again after any other
//! status, and the question would be paid again. A wrong key stays 401, for nothing was asked with it.
//! Their `parent_response_id` is accepted; where a conversation goes on is known by its own id here.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::Query;
use serde::{Deserialize, Serialize};

use crate::domain::error::{Error, Kind};
use crate::gateway::{Failed, Reply};
use crate::http::log_fields::LogFields;
use crate::http::reply::{Prepared, one_line};

/// Whether a request asks for this shape.
///
/// # Errors
/// When it asks for one that there is not.
pub fn is_asked(request: &HttpRequest) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        shape: String,
    }
    let asked = Query::<Asked>::from_query(request.query_string()).map(|query| query.into_inner().shape);
    match asked.unwrap_or_default().trim() {
        "" => Ok(false),
        "wrapper" => Ok(true),
        _ => Err(Error::new(Kind::InvalidRequest, "there is no such `shape`")
            .hinted("leave `shape` out for the envelope, or give `wrapper`")),
    }
}

/// An answer, or why there is none.
#[derive(Serialize)]
struct WrapperResult {
    success: bool,
    data: WrapperData,
    error: Option<String>,
}

#[derive(Serialize)]
struct WrapperData {
    response: String,
    conversation_id: Option<String>,
    response_id: Option<String>,
}

/// An answer in this shape; of one that failed the part that came.
pub fn prepared(outcome: Result<Reply, Failed>, log_fields: LogFields) -> Prepared {
    let (reply, error) = match outcome {
        Ok(reply) => (reply, None),
        Err(Failed { error, partial }) => (*partial, Some(error)),
    };
    let log_fields = log_fields.answered(&reply.answer);
    let upstream = reply.answer.upstream.unwrap_or_default();
    let body = WrapperResult {
        success: error.is_none(),
        data: WrapperData {
            response: reply.answer.text,
            conversation_id: reply.conversation.map(|conversation| conversation.to_string()),
            response_id: reply.answer.names.response,
        },
        error: error.as_ref().map(one_line),
    };
    let prepared = match &error {
        None => Prepared::result(&body, log_fields),
        Some(error) => Prepared { status: StatusCode::OK, ..Prepared::failure(error, &body, log_fields) },
    };
    prepared.from_upstream(&upstream)
}
