//! The last calls of this process, for the owner: as a list, and as they come.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, get};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::http::body;
use crate::http::draining::Draining;
use crate::http::failure::Failure;
use crate::http::keep_alive::{self, EventStream, Heartbeat};
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody, retry_after_seconds};
use crate::traffic::{Call, Failure as CallFailure, Filter, Traffic};

/// Calls on a page where the request does not say how many.
const PAGE: usize = 50;

/// The longest that a stream of calls goes on, in seconds. Who follows asks again then, with a key that may
/// have changed.
const LONGEST: u64 = 600;

/// What comes within this time of a change is told with it.
const TOGETHER: Duration = Duration::from_millis(200);

/// How often it is looked whether the stream is to end.
const LOOK: Duration = Duration::from_secs(1);

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(list_calls).service(follow_calls);
}

/// Which calls.
#[derive(Deserialize, IntoParams, Default)]
#[into_params(parameter_in = Query)]
pub struct CallFilter {
    /// Those of the key with this name.
    key: Option<String>,
    /// Those that asked this model.
    model: Option<String>,
    /// Those that ended so: `answered`, `failed`, `stopped` (their callers left), a code of a failure; or
    /// `running`.
    result: Option<String>,
}

/// Which page of them.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// The `id` of the last call of the page before this one.
    before: Option<u64>,
    /// Those that have ended since: the `ended` of an answer before.
    since: Option<u64>,
    /// How many, 50 where it is left out, at most 550.
    limit: Option<usize>,
}

/// For how long.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LiveQuery {
    /// When the stream ends, in seconds: 600 where it is left out, and at most.
    seconds: Option<u64>,
}

/// One call, in names and numbers: never a text of a question or an answer.
#[derive(Serialize, ToSchema)]
pub struct CallBody {
    /// Its place in the order in which calls have come to this process.
    #[schema(example = 128)]
    id: u64,
    /// `running`, `answered`, `failed`, or `stopped` where the caller left before the end.
    #[schema(example = "failed")]
    state: &'static str,
    /// When it came, in milliseconds since 1970.
    #[schema(example = 1_795_000_000_000_i64)]
    at: i64,
    /// The key's name; null where it had none of this service's.
    #[schema(required = true, example = "dify")]
    key: Option<String>,
    /// The operation's id; over MCP that of the tool; null where nothing is known at the path.
    #[schema(required = true, example = "chat")]
    operation: Option<&'static str>,
    /// The path, without its query.
    #[schema(example = "/api/chat")]
    path: String,
    /// The model, where one was asked.
    #[schema(required = true, example = "gpt-4o")]
    model: Option<String>,
    /// The upstream that was asked last.
    #[schema(required = true, example = "https://mirror.example.com")]
    upstream: Option<String>,
    /// The status that the caller had; 499 where it left before.
    #[schema(required = true, example = 424)]
    status: Option<u16>,
    /// The status with which the upstream answered.
    #[schema(required = true, example = 429)]
    upstream_status: Option<u16>,
    /// The code of the failure.
    #[schema(required = true, example = "upstream_rate_limited")]
    code: Option<String>,
    /// What happened, as the log has it.
    #[schema(required = true, example = "the upstream limits how often it is asked (HTTP 429)")]
    message: Option<String>,
    /// What to do about it.
    #[schema(required = true, example = "wait, ask less often, or use another account")]
    hint: Option<String>,
    /// When the caller was told to try again.
    #[schema(required = true, example = 28)]
    retry_after_seconds: Option<u64>,
    /// From the question to the first piece of its answer.
    #[schema(required = true, example = 780)]
    first_token_ms: Option<u64>,
    /// From the call to the end of its answer.
    #[schema(required = true, example = 3_100)]
    total_ms: Option<u64>,
    /// Tokens of the question.
    #[schema(required = true, example = 512)]
    prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[schema(required = true, example = 128)]
    completion_tokens: Option<u64>,
    /// Whether the tokens are estimated, because the upstream gave none.
    #[schema(example = false)]
    estimated: bool,
    /// Bytes of the call's body.
    #[schema(example = 1_800)]
    received_bytes: u64,
    /// Bytes of the answer's body.
    #[schema(example = 200)]
    sent_bytes: u64,
    /// The id that the service's log has it under.
    #[schema(example = "5f0c2b9e8a7d4c31")]
    request_id: String,
}

/// The last calls.
#[derive(Serialize, ToSchema)]
pub struct CallsResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The calls, the latest first.
    calls: Vec<CallBody>,
    /// How many calls are known in all.
    #[schema(example = 500)]
    known: usize,
    /// How many calls to this process have ended.
    #[schema(example = 1_204)]
    ended: u64,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

impl From<CallFilter> for Filter {
    fn from(CallFilter { key, model, result }: CallFilter) -> Self {
        Filter { key, model, result }
    }
}

impl CallBody {
    fn new(call: Call, state: &'static str) -> Self {
        let named = |name: &str| Some(name.to_string()).filter(|name| !name.is_empty());
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let has_failed = call.has_failed();
        let (message, hint, retry_after) = match call.failure {
            Some(failure) => {
                let CallFailure { message, hint, retry_after } = *failure;
                (Some(message), Some(hint), retry_after)
            }
            None => (None, None, None),
        };
        CallBody {
            id: call.number,
            state,
            at: call.at,
            key: named(&call.of.key),
            operation: call.asked.or(call.operation),
            path: call.path,
            model: named(&call.of.model),
            upstream: named(&call.of.upstream),
            status: call.status,
            upstream_status: call.upstream_status,
            code: Some(call.of.code.into_owned()).filter(|_| has_failed),
            message,
            hint,
            retry_after_seconds: retry_after.map(retry_after_seconds),
            first_token_ms: call.first_token.map(milliseconds),
            total_ms: call.total.map(milliseconds),
            prompt_tokens: call.usage.map(|usage| usage.prompt_tokens),
            completion_tokens: call.usage.map(|usage| usage.completion_tokens),
            estimated: call.usage.is_some_and(|usage| usage.estimated),
            received_bytes: call.received,
            sent_bytes: call.sent,
            request_id: call.request_id.to_string(),
        }
    }
}

/// Read the last calls
///
/// The last 500 calls to this process and those that are running, for the service's owner: who asked what of
/// whom, how it ended, how long it took and what it cost. Texts are not kept.
#[utoipa::path(
    tag = "operations",
    params(CallFilter, PageQuery),
    responses(
        (status = 200, description = "The calls", body = CallsResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/calls")]
async fn list_calls(request: HttpRequest, traffic: Data<Traffic>) -> Result<HttpResponse, Failure> {
    let asked = || Ok((body::query::<CallFilter>(&request)?, body::query::<PageQuery>(&request)?));
    let (filter, page) = asked().map_err(|error| Failure::new(&request, error))?;
    let filter = Filter::from(filter);
    let (all, ended) = traffic.calls(page.since.unwrap_or_default());
    let known = all.len();
    let calls = all.into_iter().filter(|(call, _)| page.before.is_none_or(|before| call.number < before));
    let calls = calls.map(|(call, is_running)| {
        let state = call.state(is_running);
        (call, state)
    });
    let calls = calls.filter(|(call, state)| filter.takes(call, state));
    let calls =
        calls.take(page.limit.unwrap_or(PAGE)).map(|(call, state)| CallBody::new(call, state)).collect();
    let body = CallsResult { success: true, calls, known, ended, error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("list_calls")))
}

/// Follow the calls
///
/// A stream of events named `call`, each a call as GET /api/calls lists it: those that are running now, each
/// that begins, when the first piece of its answer comes, and when it has ended. For the service's owner.
#[utoipa::path(
    tag = "operations",
    params(CallFilter, LiveQuery),
    responses(
        (status = 200, description = "The events", content((String = "text/event-stream"))),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/calls/live")]
async fn follow_calls(
    request: HttpRequest,
    traffic: Data<Traffic>,
    draining: Data<Draining>,
    heartbeat: Data<Heartbeat>,
) -> Result<HttpResponse, Failure> {
    let asked = || Ok((body::query::<CallFilter>(&request)?, body::query::<LiveQuery>(&request)?));
    let (filter, LiveQuery { seconds }) = asked().map_err(|error| Failure::new(&request, error))?;
    let traffic = traffic.into_inner();
    let (.., ended) = traffic.since(u64::MAX);
    let follower = Follower {
        traffic,
        draining: draining.into_inner(),
        filter: filter.into(),
        until: Instant::now() + Duration::from_secs(seconds.unwrap_or(LONGEST).min(LONGEST)),
        ended,
        running: HashMap::new(),
        events: VecDeque::new(),
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    let log_fields = LogFields::of("follow_calls");
    let begun = async { Ok(EventStream { events: Box::pin(events), log_fields, headers: Vec::new() }) };
    Ok(keep_alive::stream(&request, heartbeat.every, Box::pin(begun)).await)
}

/// Who follows the calls.
struct Follower {
    traffic: Arc<Traffic>,
    draining: Arc<Draining>,
    filter: Filter,
    until: Instant,
    /// How many calls had ended when this was last looked at.
    ended: u64,
    /// The running calls that were told, and whether their answers had begun.
    running: HashMap<u64, bool>,
    /// What is to be told.
    events: VecDeque<Bytes>,
}

impl Follower {
    /// The next event, unless the stream is to end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.look();
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.draining.has_begun() || Instant::now() >= self.until {
                return None;
            }
            if timeout(LOOK, self.traffic.changed()).await.is_ok() {
                sleep(TOGETHER).await;
            }
        }
    }

    /// Looks at what has changed.
    fn look(&mut self) {
        let (running, calls, ended) = self.traffic.since(self.ended);
        self.ended = ended;
        for call in calls {
            self.running.remove(&call.number);
            let state = call.state(false);
            self.tell(call, state);
        }
        for call in running {
            let has_begun = call.first_token.is_some();
            if self.running.insert(call.number, has_begun) != Some(has_begun) {
                self.tell(call, "running");
            }
        }
    }

    fn tell(&mut self, call: Call, state: &'static str) {
        if self.filter.takes(&call, state) {
            let body = serde_json::to_string(&CallBody::new(call, state)).expect("texts and numbers");
            self.events.push_back(format!("event: call\ndata: {body}\n\n").into());
        }
    }
}
