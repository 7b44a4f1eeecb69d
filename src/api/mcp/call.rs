//! Calls of tools: what the operation of that name does, and what it answers, failures too, as a
//! result.

use std::future::Future;

use actix_web::web::Data;
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::failure::Refusal;
use super::progress::Progress;
use super::running::Running;
use super::{Asked, Response};
use crate::api::tools::{self, TOOLS};
use crate::domain::error::{Error, Kind};
use crate::gateway::Gateway;
use crate::http::auth::Caller;
use crate::http::body;
use crate::http::keep_alive::{self, Heartbeat};
use crate::http::log_fields::RequestId;
use crate::http::python_json;
use crate::http::reply::{Form, Prepared};

/// Which tool is called, and with what.
#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
}

/// What a tool returned: as text for the model, and where it is one, as an object for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallResult {
    content: [Value; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_content: Option<Map<String, Value>>,
    is_error: bool,
}

/// Calls a tool, and answers when it has.
///
/// # Errors
/// When there is no such tool.
pub async fn respond(
    asked: Asked,
    request: HttpRequest,
    caller: Caller,
    gateway: Data<Gateway>,
    heartbeat: Heartbeat,
) -> Result<HttpResponse, (Asked, Refusal)> {
    let Call { name, arguments } = match body::parse(asked.params.text().as_bytes()) {
        Ok(call) => call,
        Err(error) => return Err(refused(asked, error)),
    };
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else {
        let error = Error::new(Kind::InvalidRequest, "there is no such tool");
        return Err(refused(asked, error.hinted("tools/list names the tools")));
    };
    let progress = Progress::asked(&request, &asked.params);
    let entry = Running::of(&request).enter(caller.owner.clone(), asked.id.clone());
    let request_id = RequestId::of(request.extensions());
    let work = (tool.call)(tools::Call { gateway, caller, request, arguments });
    let work = Box::pin(async move {
        match unless(entry.given_up(), work).await {
            Some(outcome) => result(asked, outcome),
            None => Refusal::given_up().prepared(asked.id, &request_id),
        }
    });
    Ok(match progress {
        // The head tells nothing that is not known yet, so it need not wait as long as for blanks.
        Some(progress) => {
            let heartbeat = Heartbeat { after: heartbeat.every, ..heartbeat };
            keep_alive::respond(heartbeat, progress, work).await
        }
        None => keep_alive::respond(heartbeat, Form::Json, work).await,
    })
}

fn refused(asked: Asked, error: Error) -> (Asked, Refusal) {
    let refusal = Refusal::params(asked.revision, error);
    (asked, refusal)
}

/// What comes of some work, unless it is given up before; then the work is dropped, as when its caller
/// leaves.
async fn unless<T>(given_up: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = given_up => None,
        outcome = work => Some(outcome),
    }
}

/// The answer to a call: what the operation would have answered, failures too.
fn result(asked: Asked, outcome: Prepared) -> Prepared {
    let text = std::str::from_utf8(&outcome.body).expect("an operation writes UTF-8");
    let structured_content = match outcome.form {
        Form::Json => Some(present(serde_json::from_str(text).expect("it is an object"))),
        Form::Text => None,
    };
    let text = match &structured_content {
        Some(object) => String::from_utf8(python_json::to_vec(object)).expect("JSON is UTF-8"),
        None => text.into(),
    };
    let result = CallResult {
        content: [json!({ "type": "text", "text": text })],
        structured_content,
        is_error: outcome.log_fields.error.is_some(),
    };
    let response = Response::new(asked, result).costing(outcome.usage);
    Prepared { headers: outcome.headers, ..response.prepared(outcome.log_fields) }
}

/// An envelope without the members that say nothing: in its schema nothing is null, since Dify's editor
/// breaks off on a type that may be.
fn present(mut envelope: Map<String, Value>) -> Map<String, Value> {
    envelope.retain(|_, value| !value.is_null());
    envelope
}
