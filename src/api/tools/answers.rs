//! An answer that takes longer than its caller waits, read later.

use actix_web::web::{Data, Path, ReqData};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Deserialize;

use super::Tool;
use super::chat::{self, ChatResult};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Failed, Gateway};
use crate::http::auth::Caller;
use crate::http::log_fields::LogFields;
use crate::http::reply::Prepared;

pub(super) const TOOL: Tool = Tool {
    name: "get_answer",
    needs_long_answers: true,
    answers_in_json: true,
    route: |config| {
        config.service(get_answer);
    },
    call: |call| {
        let which = call.arguments().map(|Which { response_id }| response_id);
        Box::pin(read(call.gateway, call.caller, which, call.request))
    },
};

/// What get_answer takes as one object.
#[derive(Deserialize)]
struct Which {
    response_id: String,
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
    gateway: Data<Gateway>,
    response_id: Path<String>,
) -> HttpResponse {
    read(gateway, caller.into_inner(), Ok(response_id.into_inner()), request).await.response()
}

/// What get_answer answers, also to a request that was not understood.
async fn read(
    gateway: Data<Gateway>,
    caller: Caller,
    response_id: Result<String, Error>,
    request: HttpRequest,
) -> Prepared {
    let missing = |()| Error::new(Kind::AnswerNotFound, "there is no such answer, or it was forgotten");
    let outcome = match response_id.and_then(|id| id.trim().parse().map_err(missing)) {
        Ok(id) => gateway.answer_of(&caller.owner, id).await,
        Err(error) => Err(Failed::from(error)),
    };
    chat::prepared(outcome, LogFields::of("get_answer"), &request)
}
