//! Chat: a question for the model, and its answer.

use std::time::Duration;

use actix_web::web::{Data, ReqData};
use actix_web::{HttpRequest, HttpResponse, post};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Tool, loose, wrapper};
use crate::domain::chat::Usage;
use crate::domain::error::{Error, Kind};
use crate::gateway::{Failed, Gateway, Question, Reply, Turn};
use crate::http::auth::Caller;
use crate::http::body::JsonBody;
use crate::http::failure::Failure;
use crate::http::keep_alive::{self, Heartbeat};
use crate::http::log_fields::LogFields;
use crate::http::reply::{ErrorBody, Form, Prepared};

pub(super) const TOOL: Tool = Tool {
    name: "chat",
    needs_long_answers: false,
    answers_in_json: true,
    route: |config| {
        config.service(chat);
    },
    call: |call| {
        let asked = call.arguments();
        let outcome = answered(call.gateway, call.caller, asked);
        Box::pin(async move { prepared(outcome.await, LogFields::of(TOOL.name), &call.request) })
    },
};

/// A question for the model.
#[derive(Deserialize, ToSchema)]
pub struct ChatRequest {
    /// The question or instruction for the model, in any language.
    #[serde(default)]
    #[schema(required = true, example = "Explain in two sentences what an OpenAPI document is.")]
    message: String,
    /// What Ollama's clients send to a path of this name.
    #[schema(ignore)]
    messages: Option<IgnoredAny>,
    /// Name of the model that answers, one of those that list_models returns. Leave it empty for the default model.
    #[serde(default, deserialize_with = "loose::text")]
    #[schema(value_type = Option<String>, default = "", example = "")]
    model: Option<String>,
    /// Instructions that set the role, tone or format of the answer. Leave it empty for none.
    #[serde(default, deserialize_with = "loose::text")]
    #[schema(value_type = Option<String>, default = "", example = "Answer briefly.")]
    system: Option<String>,
    /// To continue a conversation: the conversation_id that its last answer returned, or a name of your own of at most 200 characters, whose first use begins it. Leave it empty to start a new one.
    #[serde(default, deserialize_with = "loose::text")]
    #[schema(value_type = Option<String>, default = "", example = "")]
    conversation_id: Option<String>,
    /// The same under the name that it has in ask.
    #[serde(default, deserialize_with = "loose::text")]
    #[schema(ignore)]
    conversation: Option<String>,
    /// Randomness of the answer as a decimal number from 0 (focused) to 2 (varied), such as 0.7. Leave it empty for the model's own choice.
    #[serde(default, deserialize_with = "loose::number")]
    #[schema(value_type = Option<String>, default = "", example = "0.7")]
    temperature: Option<f64>,
    /// The most tokens to generate, as a whole number such as 1000. Leave it empty for no limit of its own.
    #[serde(default, deserialize_with = "loose::number")]
    #[schema(value_type = Option<String>, default = "", example = "1000")]
    max_tokens: Option<f64>,
    /// How many seconds to wait for the answer, as a number such as 50. When it takes longer it goes on, and get_answer returns it later. Leave it empty to wait as long as possible.
    #[serde(default, deserialize_with = "loose::number")]
    #[schema(value_type = Option<String>, default = "", example = "50")]
    wait_seconds: Option<f64>,
}

impl ChatRequest {
    /// How long the caller wants to wait.
    fn wait(&self) -> Result<Option<Duration>, Error> {
        match self.wait_seconds {
            Some(seconds) if !(0.0..=86_400.0).contains(&seconds) => {
                Err(Error::new(Kind::InvalidRequest, "`wait_seconds` is out of range")
                    .hinted("send a number of seconds such as 50, or leave it empty"))
            }
            seconds => Ok(seconds.map(Duration::from_secs_f64)),
        }
    }

    /// The model and the turn that a valid request asks for.
    fn turn(self) -> Result<(Option<String>, Turn), Error> {
        let invalid = |message: &str, hint: &str| Err(Error::new(Kind::InvalidRequest, message).hinted(hint));
        if self.message.trim().is_empty() && self.messages.is_some() {
            return invalid(
                "`messages` is not taken here",
                "send them to POST /v1/chat/completions, or the newest one's text in `message`",
            );
        }
        if self.message.trim().is_empty() {
            return invalid("`message` is empty", "send the question in `message`");
        }
        if self.temperature.is_some_and(|value| !(0.0..=2.0).contains(&value)) {
            return invalid("`temperature` is out of range", "send a number from 0 to 2, or leave it empty");
        }
        let max_tokens = match self.max_tokens {
            Some(value) if value.fract() != 0.0 || !(1.0..=f64::from(i32::MAX)).contains(&value) => {
                return invalid(
                    "`max_tokens` is not a whole number above 0",
                    "send a number such as 1000, or leave it empty",
                );
            }
            value => value.map(|value| value as u32),
        };
        let conversation = self.conversation_id.or(self.conversation);
        let conversation = conversation.as_deref().map(str::parse).transpose()?;
        let (system, message, temperature) = (self.system, self.message, self.temperature);
        Ok((self.model, Turn { conversation, system, message, temperature, max_tokens }))
    }
}

/// The tokens that an answer cost.
#[derive(Serialize, ToSchema)]
pub struct UsageBody {
    /// Tokens of the question.
    #[schema(example = 12)]
    prompt_tokens: u64,
    /// Tokens of the answer.
    #[schema(example = 34)]
    completion_tokens: u64,
    /// Both.
    #[schema(example = 46)]
    total_tokens: u64,
    /// Whether the numbers are an estimate, because the upstream gave none.
    #[schema(example = false)]
    estimated: bool,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        UsageBody {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens,
            estimated: usage.estimated,
        }
    }
}

/// The model's answer, or why there is none.
#[derive(Serialize, ToSchema)]
pub struct ChatResult {
    /// Whether the answer is complete.
    #[schema(example = true)]
    success: bool,
    /// The answer. After a failure, the part that came, or nothing.
    #[schema(
        required = false,
        example = "An OpenAPI document describes an HTTP API so that programs can use it."
    )]
    answer: String,
    /// Send it with the next question to continue this conversation: its id, or the name that was sent.
    #[schema(required = false, example = "conv_0f8fad5bd9cb469fa16570867728950e")]
    conversation_id: Option<String>,
    /// The upstream's id of the answer.
    #[schema(required = false, example = "chatcmpl-123")]
    response_id: Option<String>,
    /// The model that answered.
    #[schema(required = false, example = "gpt-4o")]
    model: Option<String>,
    /// The upstream that answered, where there are several: its name, or its scheme, host and port.
    #[schema(required = false, example = "https://mirror.example.com")]
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    /// Why the model stopped: `stop`, `length` or another word of the upstream's.
    #[schema(required = false, example = "stop")]
    finish_reason: Option<String>,
    /// What the answer cost.
    #[schema(required = false)]
    usage: Option<UsageBody>,
    /// Null, or why the call failed and what to do.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

impl ChatResult {
    fn new(reply: Reply, error: Option<ErrorBody>) -> Self {
        let answer = reply.answer;
        ChatResult {
            success: error.is_none(),
            answer: answer.text,
            conversation_id: reply.conversation.map(|conversation| conversation.to_string()),
            response_id: answer.names.response,
            model: answer.names.model,
            upstream: answer.upstream,
            finish_reason: answer.finish_reason,
            usage: answer.usage.map(UsageBody::from),
            error,
        }
    }
}

/// Ask the model a question
///
/// Sends a message to the connected language model and returns its answer as text. Use it whenever
/// you need the model to write, explain, translate, summarize or decide. Pass the conversation_id
/// of an earlier answer to continue that conversation.
#[utoipa::path(
    tag = "tools",
    params(("shape" = Option<String>, Query, description = "`wrapper` answers as FastAPI wrappers around a mirror do: `success`, `data` with `response`, `conversation_id` and `response_id`, and `error`, a text or null; failures too are 200")),
    request_body(content = ChatRequest, description = "The question and how to answer it"),
    responses(
        (status = 200, description = "The answer, or a failure that showed late", body = ChatResult, example = json!({"success": true, "answer": "An OpenAPI document describes an HTTP API so that programs can use it.", "conversation_id": "conv_0f8fad5bd9cb469fa16570867728950e", "response_id": "chatcmpl-123", "model": "gpt-4o", "finish_reason": "stop", "usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46, "estimated": false}, "error": null})),
        (status = "default", description = "A failure with what to do about it", body = ChatResult, example = json!({"success": false, "answer": "", "conversation_id": null, "response_id": null, "model": "gpt-4o", "finish_reason": null, "usage": null, "error": {"code": "upstream_auth_expired", "message": "the upstream does not accept the credentials (HTTP 401)", "hint": "log in to the mirror again and set `UPSTREAM_COOKIE` to the new value", "retryable": false, "request_id": "5f0c2b9e8a7d4c31"}})),
    ),
    security(("bearer" = [])),
    extensions(("x-openai-isConsequential" = json!(false))),
)]
#[post("/api/chat")]
async fn chat(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    heartbeat: Data<Heartbeat>,
    body: Result<JsonBody<ChatRequest>, Failure>,
) -> Result<HttpResponse, Failure> {
    let as_wrapper = wrapper::is_asked(&request).map_err(|error| Failure::new(&request, error))?;
    let asked = match body {
        Ok(body) => Ok(body.0),
        Err(failure) if as_wrapper => Err(failure.into_error()),
        Err(failure) => return Err(failure),
    };
    let outcome = answered(gateway, caller.into_inner(), asked);
    let work = async move {
        let (outcome, log_fields) = (outcome.await, LogFields::of(TOOL.name));
        if as_wrapper {
            wrapper::prepared(outcome, log_fields)
        } else {
            prepared(outcome, log_fields, &request)
        }
    };
    Ok(keep_alive::respond(**heartbeat, Form::Json, Box::pin(work)).await)
}

/// What comes of a question, also of one that was not understood.
async fn answered(
    gateway: Data<Gateway>,
    caller: Caller,
    asked: Result<ChatRequest, Error>,
) -> Result<Reply, Failed> {
    let asked = asked.and_then(|asked| Ok((asked.wait()?, asked.turn()?)));
    match asked {
        Ok((wait, (model, turn))) => {
            let question = Question { operation: TOOL.name, model, turn, wait, comes_back: true };
            gateway.into_inner().ask(caller.owner, question).await
        }
        Err(error) => Err(Failed::from(error)),
    }
}

/// An answer, or why there is none, as the callers of chat and get_answer read it.
pub fn prepared(outcome: Result<Reply, Failed>, log_fields: LogFields, request: &HttpRequest) -> Prepared {
    match outcome {
        Ok(reply) => {
            let log_fields = log_fields.answered(&reply.answer);
            let upstream = reply.answer.upstream.clone().unwrap_or_default();
            let usage = reply.answer.usage;
            let prepared = Prepared::result(&ChatResult::new(reply, None), log_fields);
            prepared.costing(usage).from_upstream(&upstream)
        }
        Err(Failed { error, partial }) => {
            let log_fields = log_fields.answered(&partial.answer);
            let usage = partial.answer.usage;
            let body = ChatResult::new(*partial, Some(ErrorBody::new(&error, request)));
            Prepared::failure(&error, &body, log_fields).costing(usage)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn question(body: serde_json::Value) -> Result<Turn, String> {
        let request: ChatRequest = serde_json::from_value(body).map_err(|error| error.to_string())?;
        request.turn().map(|(_, turn)| turn).map_err(|error| error.message)
    }

    #[test]
    fn numbers_come_as_text_or_number_and_empty_is_absent() {
        for (value, expected) in [
            (json!("0.7"), Some(0.7)),
            (json!(0.7), Some(0.7)),
            (json!(" 1 "), Some(1.0)),
            (json!(""), None),
            (json!("None"), None),
            (json!(null), None),
        ] {
            let asked = question(json!({"message": "x", "temperature": value})).expect("valid");
            assert_eq!(asked.temperature, expected);
        }
        for (value, expected) in
            [(json!("12.0"), Some(12)), (json!(12), Some(12)), (json!(12.0), Some(12)), (json!("  "), None)]
        {
            assert_eq!(
                question(json!({"message": "x", "max_tokens": value})).expect("valid").max_tokens,
                expected
            );
        }
        for absent in ["", " ", "None", "none", "null", "N/A", "n/a", " new ", "undefined"] {
            let asked = question(json!({
                "message": "x", "model": absent, "system": absent, "conversation_id": absent,
                "conversation": absent, "temperature": absent, "max_tokens": absent, "unknown": [1],
            }));
            let Turn { conversation, system, temperature, max_tokens, .. } = asked.expect("valid");
            assert!(conversation.is_none() && system.is_none(), "{absent:?}");
            assert!(temperature.is_none() && max_tokens.is_none(), "{absent:?}");
        }
    }

    #[test]
    fn misfit_values_are_refused() {
        for body in [
            json!({}),
            json!({"message": null}),
            json!({"message": " "}),
            json!({"message": 1}),
            json!({"message": "x", "model": 1}),
            json!({"message": "x", "temperature": "warm"}),
            json!({"message": "x", "temperature": "nan"}),
            json!({"message": "x", "temperature": 3}),
            json!({"message": "x", "temperature": true}),
            json!({"message": "x", "max_tokens": "1.5"}),
            json!({"message": "x", "max_tokens": 0}),
            json!({"message": "x", "max_tokens": "1e30"}),
            json!([]),
        ] {
            assert!(question(body.clone()).is_err(), "{body}");
        }
    }
}
