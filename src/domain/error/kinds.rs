//! The table of kinds: a row says all that follows from a failure of its kind. What each column
//! means stands at `columns::Row`.

use Cure::{Caller, Key, Login, Service};
use Health::{Degraded, Down};
use Level::{Error, Warn};
use Session::{Expired, Refused, Same};
use Upstream::{Asked, NotAsked};
use log::Level;

use super::columns::{Cure, Health, Row, Session, Upstream};

macro_rules! kinds {
    ($( $(#[$doc:meta])* $name:ident { $($column:tt)* } )*) => {
        /// The cause of a failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $( $(#[$doc])* $name, )*
        }

        impl Kind {
            /// Every kind, for tables and tests.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            pub(super) const fn row(self) -> &'static Row {
                match self { $( Kind::$name => &Row { $($column)* }, )* }
            }
        }
    };
}

kinds! {
    /// The request body is not JSON.
    InvalidJson {
        code: "invalid_json",
        api: 400, v1: 400, json_rpc: -32700, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "send one JSON object, such as {\"message\": \"Hello\"}, in UTF-8 without a byte order mark",
    }
    /// The request body is JSON, but not a request that the operation understands.
    InvalidRequest {
        code: "invalid_request",
        api: 422, v1: 400, json_rpc: -32600, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "compare the request with what `/docs` shows, or with `/openapi/full.json`",
    }
    /// A parameter asks for what the upstream cannot do and what cannot be left out in silence.
    UnsupportedParameter {
        code: "unsupported_parameter",
        api: 422, v1: 400, json_rpc: -32600, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "leave the parameter out, or use an upstream with the openai protocol",
    }
    /// No gateway key was presented.
    KeyMissing {
        code: "gateway_key_missing",
        api: 401, v1: 401, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Key,
        hint: "send the gateway key as `Authorization: Bearer KEY` (in Dify: Authorization type Header, called API Key in older versions, Auth Type Bearer); it is one of `GATEWAY_API_KEYS`, or the key printed at the first start",
    }
    /// A gateway key was presented and is not one of ours.
    KeyWrong {
        code: "gateway_key_wrong",
        api: 401, v1: 401, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Key,
        hint: "check the key against `GATEWAY_API_KEYS`, or against the key printed at the first start; `mirrorgate key new NAME` makes another",
    }
    /// Too many wrong gateway keys came from this address.
    KeyGuessing {
        code: "too_many_wrong_keys",
        api: 401, v1: 401, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "wait for the time in `Retry-After`, then send the right key; a right key is accepted at once",
    }
    /// What the service's owner alone may do.
    OwnerOnly {
        code: "owner_only",
        api: 403, v1: 403, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "send the admin key in place of the gateway key: `ADMIN_KEY`, or the one printed at the first start; `mirrorgate key rotate owner` makes another",
    }
    /// The key has ended.
    KeyExpired {
        code: "gateway_key_expired",
        api: 401, v1: 401, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Key,
        hint: "ask the service's owner for a new key, or for a later end of this one: `mirrorgate key set NAME --expires 30d`",
    }
    /// The key does not open this path or model.
    NotAllowed {
        code: "not_allowed",
        api: 403, v1: 403, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Key,
        hint: "ask the service's owner to open it for this key: `mirrorgate key set NAME --models MODEL` or `--paths PATH`, or the console's page Keys",
    }
    /// Nothing is left of one of the key's limits.
    KeyLimit {
        code: "key_limit_reached",
        api: 424, v1: 429, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Key,
        hint: "wait for the time in `Retry-After`; what is left stands in the `x-mirrorgate-limit-*` headers and at GET /api/usage; the service's owner can raise it: on the console's page Keys, or by `mirrorgate key set NAME --rpm 60`",
    }
    /// As many bytes are kept for the key as may be.
    KeyStorageFull {
        code: "key_storage_full",
        api: 424, v1: 403, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Key,
        hint: "delete conversations: DELETE /api/conversations/{id} for one, DELETE /api/conversations for all of this key; GET /api/conversations lists them with their bytes. The service's owner can raise the limit: `mirrorgate key set NAME --storage 1GiB`, or `KEY_STORAGE_BYTES`",
    }
    /// A page of a foreign origin calls, or the service was called by a foreign name.
    OriginNotAllowed {
        code: "origin_not_allowed",
        api: 403, v1: 403, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Service,
        hint: "set `PUBLIC_URL` to the URL that is called, and name other origins that may call in `CORS_ALLOWED_ORIGINS`",
    }
    /// No such path.
    NotFound {
        code: "not_found",
        api: 404, v1: 404, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "the endpoints are listed at `/docs`; Dify imports `/openapi.json`",
    }
    /// The path exists, the method does not.
    MethodNotAllowed {
        code: "method_not_allowed",
        api: 405, v1: 405, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "use a method named in the `Allow` header",
    }
    /// The caller took too long to send its body.
    BodyTimeout {
        code: "body_timeout",
        api: 408, v1: 408, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "send the whole body without pauses, or raise `BODY_IDLE_TIMEOUT_SECONDS` and `BODY_TIMEOUT_SECONDS`",
    }
    /// The request body is larger than the limit.
    BodyTooLarge {
        code: "body_too_large",
        api: 413, v1: 413, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "shorten the message, or raise `MAX_BODY_BYTES`",
    }
    /// The request body is not declared as JSON.
    UnsupportedMediaType {
        code: "unsupported_media_type",
        api: 415, v1: 415, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "send the header `Content-Type: application/json`",
    }
    /// No conversation of this key has the given id.
    ConversationNotFound {
        code: "conversation_not_found",
        api: 404, v1: 404, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "leave `conversation_id` out to start a new conversation, or send a name of your own, which begins one; an id is valid only with the key that started it",
    }
    /// The answer takes longer than its caller waits, and goes on.
    StillRunning {
        code: "still_running",
        api: 200, v1: 504, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "wait a little, then call GET /api/answers/{response_id} (get_answer) with the `response_id` of this answer, until it is complete; asking again would ask twice",
    }
    /// An answer that went on without its caller ended with the process.
    AnswerInterrupted {
        code: "answer_interrupted",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "ask again; `answer` holds the part that had come",
    }
    /// The caller gave the call up while it ran.
    CallGivenUp {
        code: "call_given_up",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "call the tool again if its answer is wanted after all",
    }
    /// No answer of this key has the given id.
    AnswerNotFound {
        code: "answer_not_found",
        api: 404, v1: 404, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "use the `response_id` of a `still_running` answer, with the key that asked; answers are kept for 24 hours",
    }
    /// The upstream does not know the model.
    ModelNotFound {
        code: "model_not_found",
        api: 422, v1: 404, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Caller,
        hint: "call list_models, or GET /v1/models, for the names (`MODELS` bounds them where it is set), or leave `model` out to use `DEFAULT_MODEL`",
    }
    /// Neither the upstream nor the settings name a model.
    ModelsUnknown {
        code: "models_unknown",
        api: 424, v1: 404, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Service,
        hint: "set `MODELS` to a comma-separated list of model names: this kind of upstream cannot be asked for one",
    }
    /// The upstream cannot be connected to: name, address, port or TLS.
    UpstreamUnreachable {
        code: "upstream_unreachable",
        api: 424, v1: 502, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: true, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "check `UPSTREAM_URL` (host, port, http or https) and that the mirror runs and can be reached from this machine",
    }
    /// The upstream hung up before it answered.
    UpstreamDisconnected {
        code: "upstream_disconnected",
        api: 424, v1: 502, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: true, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "try again; if it stays, look into the mirror's own log, and check that `UPSTREAM_URL` uses the right one of http and https",
    }
    /// The upstream sent no answer within the first-byte limit.
    UpstreamTimeout {
        code: "upstream_timeout",
        api: 424, v1: 504, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: true, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "try again, ask for less, or raise `FIRST_BYTE_TIMEOUT_SECONDS`",
    }
    /// The upstream fell silent in the middle of its answer.
    UpstreamStalled {
        code: "upstream_stalled",
        api: 424, v1: 504, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "try again, or raise `IDLE_TIMEOUT_SECONDS`",
    }
    /// The whole answer took longer than its limit.
    UpstreamDeadline {
        code: "upstream_deadline",
        api: 424, v1: 504, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "ask for a shorter answer, or raise `REQUEST_TIMEOUT_SECONDS`",
    }
    /// The upstream does not accept the credentials any more, or never did.
    UpstreamAuthExpired {
        code: "upstream_auth_expired",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Expired, health: Degraded, lists_no_models: false },
        cure: Login,
        hint: "log in to the mirror again and set `UPSTREAM_COOKIE` (web chat) or `UPSTREAM_API_KEY` to the new value, or hand it over without a restart: `mirrorgate session set`, or PUT /api/session",
    }
    /// The upstream knows the account and refuses: plan, region, permission.
    UpstreamRefused {
        code: "upstream_refused",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Refused, health: Degraded, lists_no_models: false },
        cure: Service,
        hint: "check in the mirror's own web page that the account, its plan and its region may use this model, or choose another `DEFAULT_MODEL`",
    }
    /// The upstream asks for a browser check.
    UpstreamChallenge {
        code: "upstream_challenge",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Refused, health: Degraded, lists_no_models: false },
        cure: Login,
        hint: "open the mirror in your browser and pass the check there, then copy `UPSTREAM_COOKIE` and the User-Agent (in `UPSTREAM_HEADERS`) anew; mirrorgate solves no such checks",
    }
    /// The upstream's rate limit was reached.
    UpstreamRateLimited {
        code: "upstream_rate_limited",
        api: 424, v1: 429, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: false, session: Refused, health: Degraded, lists_no_models: false },
        cure: Key,
        hint: "wait for the time in `Retry-After` (if given) and send fewer requests, or use a plan with a higher limit",
    }
    /// The upstream rejects the request as invalid.
    UpstreamRejected {
        code: "upstream_rejected",
        api: 424, v1: 400, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Degraded, lists_no_models: true },
        cure: Service,
        hint: "check the values sent (model, temperature, max_tokens) and, for a web chat, the switches in `UPSTREAM_BODY`",
    }
    /// The upstream's address leads somewhere where the protocol is not spoken.
    UpstreamNotFound {
        code: "upstream_not_found",
        api: 424, v1: 404, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: true },
        cure: Service,
        hint: "check the path in `UPSTREAM_URL`, and `UPSTREAM_PROTOCOL`: `openai`, `web-chat` or `anthropic`",
    }
    /// The upstream failed by its own account.
    UpstreamError {
        code: "upstream_error",
        api: 424, v1: 502, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: true, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "try again; if it stays, look into the mirror's own log",
    }
    /// The upstream redirects.
    UpstreamRedirect {
        code: "upstream_redirect",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Login,
        hint: "set `UPSTREAM_URL` to the final address (https, host, path); if it leads to a login page, renew `UPSTREAM_COOKIE` or `UPSTREAM_API_KEY`",
    }
    /// The upstream answers with a web page.
    UpstreamHtml {
        code: "upstream_html",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: true },
        cure: Login,
        hint: "check that `UPSTREAM_URL` is the address of the API and not of a web page, and that `UPSTREAM_API_KEY` or `UPSTREAM_COOKIE` is still valid",
    }
    /// The upstream's answer ended before it was complete.
    UpstreamTruncated {
        code: "upstream_truncated",
        api: 424, v1: 502, json_rpc: -32000, retryable: true, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "try again; if it stays, a proxy in front of the mirror may cut long answers: raise its limits or ask for a shorter answer",
    }
    /// The upstream's answer has no body.
    UpstreamEmpty {
        code: "upstream_empty",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "try again; if it stays, check the path in `UPSTREAM_URL`, and the mirror's own log",
    }
    /// The upstream's answer is encoded in a way that was not asked for and cannot be decoded.
    UpstreamEncoding {
        code: "upstream_encoding",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "switch compression off in the mirror or in the proxy before it (mirrorgate asks for `Accept-Encoding: identity`), and remove Accept-Encoding from `UPSTREAM_HEADERS`",
    }
    /// The upstream's answer is an interim one where a final one was due.
    UpstreamInformational {
        code: "upstream_informational",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "check that `UPSTREAM_URL` is the address of the mirror's API; if it is, look at the proxy before it: answers such as `103 Early Hints` must be few, and followed by the final one",
    }
    /// The upstream's answer is not of the protocol.
    UpstreamInvalid {
        code: "upstream_invalid",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: true },
        cure: Service,
        hint: "check `UPSTREAM_PROTOCOL` (`openai`, `web-chat` or `anthropic`) and that `UPSTREAM_URL` is the address of the mirror's API",
    }
    /// The upstream's answer is larger than the limit.
    UpstreamTooLarge {
        code: "upstream_too_large",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Service,
        hint: "ask for a shorter answer, or raise `MAX_ANSWER_BYTES`",
    }
    /// The upstream no longer knows the conversation.
    UpstreamConversationLost {
        code: "upstream_conversation_lost",
        api: 424, v1: 502, json_rpc: -32000, retryable: false, log: Warn,
        upstream: Asked { trips_breaker: false, session: Same, health: Down, lists_no_models: false },
        cure: Caller,
        hint: "start a new conversation by leaving `conversation_id` out: the mirror has deleted this one or the account in `UPSTREAM_COOKIE` has changed",
    }
    /// Another call went on with the conversation meanwhile.
    ConversationBusy {
        code: "conversation_busy",
        api: 424, v1: 409, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Caller,
        hint: "read the conversation back with GET /api/conversations/{id}, then ask again",
    }
    /// The store cannot be used now.
    StorageUnavailable {
        code: "storage_unavailable",
        api: 424, v1: 503, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Service,
        hint: "look into the service's log and at `DATABASE_URL` or the disk under `DATA_DIR`; it goes on by itself when the store is back",
    }
    /// Whether the turn was kept cannot be known now.
    StorageUncertain {
        code: "storage_uncertain",
        api: 424, v1: 503, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Service,
        hint: "read the conversation back with GET /api/conversations/{id} when the store is back: if this answer is its last, the turn was kept",
    }
    /// The store's file is no database any more.
    StorageDamaged {
        code: "storage_damaged",
        api: 424, v1: 503, json_rpc: -32000, retryable: false, log: Error,
        upstream: NotAsked,
        cure: Service,
        hint: "stop the service and put a backup in the file's place with `mirrorgate restore FILE --force`, or move all `mirrorgate.db*` away to begin with an empty store; `sqlite3 mirrorgate.db .recover` may save what is in it",
    }
    /// The store was changed by a newer program.
    StorageNewer {
        code: "storage_newer",
        api: 424, v1: 503, json_rpc: -32000, retryable: false, log: Warn,
        upstream: NotAsked,
        cure: Service,
        hint: "run the newer version of mirrorgate again, or point `DATABASE_URL` or `DATA_DIR` to another place",
    }
    /// The gateway carries as much as it can.
    Overloaded {
        code: "overloaded",
        api: 424, v1: 503, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Service,
        hint: "try again after the time in `Retry-After`",
    }
    /// The key sends more requests a minute than it may.
    RateLimited {
        code: "rate_limited",
        api: 424, v1: 429, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Key,
        hint: "wait for the time in `Retry-After` and send fewer requests, or raise `RATE_LIMIT_PER_MINUTE`",
    }
    /// The service stops, and its time for running answers is over.
    ShuttingDown {
        code: "shutting_down",
        api: 424, v1: 503, json_rpc: -32000, retryable: true, log: Warn,
        upstream: NotAsked,
        cure: Service,
        hint: "ask again after the time in `Retry-After`: the service is being stopped or restarted; `answer` holds the part that came",
    }
    /// A defect of this program.
    Internal {
        code: "internal_error",
        api: 424, v1: 500, json_rpc: -32000, retryable: true, log: Error,
        upstream: NotAsked,
        cure: Service,
        hint: "try again; if it stays, report it with the request id and the log lines around it",
    }
}
