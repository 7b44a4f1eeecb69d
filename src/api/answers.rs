//! An answer that takes longer than its caller waits, read later.

use actix_web::web::{Data, Path, ReqData};
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa_actix_web::service_config::ServiceConfig;

use super::tools::{self, ChatResult};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Failed, Service};
use crate::http::auth::Caller;
use crate::http::log_fields::LogFields;
use crate::http::reply::Prepared;

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(get_answer);
}

/// Get an answer that was still running
///
/// Returns the answer of an earlier chat call that ended with the error code still_running. Pass the
/// response_id which that call returned. Repeat it after some seconds while the code is still_running.
#[utoipa::path(
    tag = "tools",
    params(("response_id" = String, Path, description = "The response_id that chat returned with the error code still_running", example = "resp_0f8fad5bd9cb469fa16570867728950e")),
    responses(
        (status = 200, description = "The answer, or that it is still running", body = ChatResult, example = json!({"success": false, "answer": "An OpenAPI document", "conversation_id": null, "response_id": "resp_0f8fad5bd9cb469fa16570867728950e", "model": "gpt-4o", "finish_reason": null, "usage": null, "error": {"code": "still_running", "message": "the answer is not complete yet and goes on", "hint": "wait a little, then call get_answer again", "retryable": true, "request_id": "5f0c2b9e8a7d4c31"}})),
        (status = "default", description = "A failure with what to do about it", body = ChatResult),
    ),
    security(("bearer" = [])),
    extensions(("x-openai-isConsequential" = json!(false))),
)]
#[get("/api/answers/{response_id}")]
async fn get_answer(
    request: HttpRequest,
    caller: ReqData<Caller>,
    service: Data<Service>,
    response_id: Path<String>,
) -> HttpResponse {
    read(service, caller.into_inner(), Ok(response_id.into_inner()), request).await.response()
}

/// What get_answer answers, also to a request that was not understood.
pub async fn read(
    service: Data<Service>,
    caller: Caller,
    response_id: Result<String, Error>,
    request: HttpRequest,
) -> Prepared {
    let missing = |()| Error::new(Kind::AnswerNotFound, "there is no such answer, or it was forgotten");
    let outcome = match response_id.and_then(|id| id.trim().parse().map_err(missing)) {
        Ok(id) => service.answer_of(&caller.owner, id).await,
        Err(error) => Err(Failed::from(error)),
    };
    tools::prepared(outcome, LogFields::of("get_answer"), &request)
}
