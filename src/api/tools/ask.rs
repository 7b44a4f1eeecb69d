//! Ask: a question for the model, and its answer alone as plain text, for workflows that would else
//! have to take it out of an envelope, and for agents that give a tool one text.
//!
//! A failure is a status with one line of text. Once blanks have announced a late answer the status is
//! gone: then a failure breaks the connection off, so that no caller takes its text for an answer.

use actix_web::web::{Data, ReqData};
use actix_web::{HttpResponse, post};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Tool, loose};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Failed, Gateway, Question, Turn};
use crate::http::auth::Caller;
use crate::http::body::JsonBody;
use crate::http::failure::ErrorRenderer;
use crate::http::keep_alive::{self, Heartbeat};
use crate::http::log_fields::LogFields;
use crate::http::reply::{Form, Prepared};

const PATH: &str = "/api/ask";

pub(super) const TOOL: Tool = Tool {
    name: "ask",
    needs_long_answers: false,
    answers_in_json: false,
    route: |config| {
        config.service(ask);
    },
    call: |call| {
        let asked = call.arguments();
        Box::pin(answered(call.gateway, call.caller, asked))
    },
};

/// A question that is answered in plain text.
#[derive(Deserialize, ToSchema)]
pub struct AskRequest {
    /// The question or instruction for the model, in any language.
    #[serde(default)]
    #[schema(required = true, example = "Explain in two sentences what an OpenAPI document is.")]
    message: String,
    /// A name of your own for the conversation, of at most 200 characters: calls with the same name continue one conversation. Leave it empty for a single question.
    #[serde(default, deserialize_with = "loose::text")]
    #[schema(value_type = Option<String>, default = "", example = "")]
    conversation: Option<String>,
    /// The same under the name that it has in chat.
    #[serde(default, deserialize_with = "loose::text")]
    #[schema(ignore)]
    conversation_id: Option<String>,
}

impl AskRequest {
    fn turn(self) -> Result<Turn, Error> {
        if self.message.trim().is_empty() {
            return Err(Error::new(Kind::InvalidRequest, "`message` is empty")
                .hinted("send the question in `message`"));
        }
        let conversation = self.conversation.or(self.conversation_id);
        let conversation = conversation.as_deref().map(str::parse).transpose()?;
        Ok(Turn { conversation, message: self.message, ..Turn::default() })
    }
}

/// Ask the model and get plain text
///
/// Sends a message to the connected language model and returns its answer alone, as plain text. Use it
/// when only the words of the answer are needed. Pass the same conversation name again to continue a
/// conversation.
#[utoipa::path(
    tag = "tools",
    request_body(content = AskRequest, description = "The question"),
    responses(
        (status = 200, description = "The answer", body = String, content_type = "text/plain", example = json!("An OpenAPI document describes an HTTP API so that programs can use it.")),
        (status = "default", description = "What went wrong and what to do about it, in one line", body = String, content_type = "text/plain", example = json!("the upstream does not accept the credentials (HTTP 401); log in to the mirror again and set `UPSTREAM_COOKIE` to the new value")),
    ),
    security(("bearer" = [])),
    extensions(("x-openai-isConsequential" = json!(false))),
)]
#[post("/api/ask")]
async fn ask(
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    heartbeat: Data<Heartbeat>,
    body: JsonBody<AskRequest>,
) -> HttpResponse {
    let work = answered(gateway, caller.into_inner(), Ok(body.0));
    keep_alive::respond(**heartbeat, Form::Text, Box::pin(work)).await
}

/// What ask answers, also to a request that was not understood.
async fn answered(gateway: Data<Gateway>, caller: Caller, asked: Result<AskRequest, Error>) -> Prepared {
    let outcome = match asked.and_then(AskRequest::turn) {
        Ok(turn) => {
            let question =
                Question { operation: TOOL.name, model: None, turn, wait: None, comes_back: false };
            gateway.into_inner().ask(caller.owner, question).await
        }
        Err(error) => Err(Failed::from(error)),
    };
    let log_fields = LogFields::of(TOOL.name);
    match outcome {
        Ok(reply) => {
            let upstream = reply.answer.upstream.clone().unwrap_or_default();
            let log_fields = log_fields.answered(&reply.answer);
            let usage = reply.answer.usage;
            Prepared::text(reply.answer.text, log_fields).costing(usage).from_upstream(&upstream)
        }
        Err(Failed { error, partial }) => {
            let log_fields = log_fields.answered(&partial.answer);
            Prepared::text_failure(&error, log_fields).costing(partial.answer.usage)
        }
    }
}

/// Writes what keeps a call from the tool in plain text as well.
pub struct Renderer;

impl ErrorRenderer for Renderer {
    fn covers(&self, path: &str) -> bool {
        path == PATH
    }

    fn render(&self, error: &Error, _: &str, log_fields: LogFields) -> Prepared {
        Prepared::text_failure(error, log_fields)
    }
}
