//! One error, told apart by cause.
//!
//! Every failure a caller can see is a [`Kind`]: a row of the table below with a stable code,
//! whether trying again can help, and what to do about it. The faces under `api` turn a kind into
//! a status and a body from one table each; nothing here knows about HTTP frameworks.

use std::fmt;
use std::time::Duration;

macro_rules! kinds {
    ($( $(#[$doc:meta])* $name:ident { code: $code:literal, retryable: $retryable:literal, hint: $hint:literal, } )*) => {
        /// The cause of a failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $( $(#[$doc])* $name, )*
        }

        impl Kind {
            /// Every kind, for tables and tests.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The stable code that callers may branch on.
            pub fn code(self) -> &'static str {
                match self { $( Kind::$name => $code, )* }
            }

            /// What to do about it, naming the setting where one decides.
            pub fn hint(self) -> &'static str {
                match self { $( Kind::$name => $hint, )* }
            }

            /// Whether the same request can succeed later without anything being changed.
            pub fn retryable(self) -> bool {
                match self { $( Kind::$name => $retryable, )* }
            }
        }
    };
}

kinds! {
    /// The request body is not JSON.
    InvalidJson {
        code: "invalid_json",
        retryable: false,
        hint: "send one JSON object, such as {\"message\": \"Hello\"}, in UTF-8 without a byte order mark",
    }
    /// The request body is JSON, but not a request that the operation understands.
    InvalidRequest {
        code: "invalid_request",
        retryable: false,
        hint: "compare the request with the document at `/openapi.json`",
    }
    /// No gateway key was presented.
    KeyMissing {
        code: "gateway_key_missing",
        retryable: false,
        hint: "send the gateway key as `Authorization: Bearer KEY` (in Dify: Authorization type Header, called API Key in older versions, Auth Type Bearer); it is one of `GATEWAY_API_KEYS`, or the key printed at the first start",
    }
    /// A gateway key was presented and is not one of ours.
    KeyWrong {
        code: "gateway_key_wrong",
        retryable: false,
        hint: "check the key against `GATEWAY_API_KEYS`, or against the key printed at the first start; `mirrorgate key new NAME` makes another",
    }
    /// Too many wrong gateway keys came from this address.
    KeyGuessing {
        code: "too_many_wrong_keys",
        retryable: true,
        hint: "wait for the time in `Retry-After`, then send the right key; a right key is accepted at once",
    }
    /// A page of a foreign origin calls, or the service was called by a foreign name.
    OriginNotAllowed {
        code: "origin_not_allowed",
        retryable: false,
        hint: "set `PUBLIC_URL` to the URL that is called, and name other origins that may call in `CORS_ALLOWED_ORIGINS`",
    }
    /// No such path.
    NotFound {
        code: "not_found",
        retryable: false,
        hint: "the endpoints are listed at `/docs`; Dify imports `/openapi.json`",
    }
    /// The path exists, the method does not.
    MethodNotAllowed {
        code: "method_not_allowed",
        retryable: false,
        hint: "use a method named in the `Allow` header",
    }
    /// The caller took too long to send its body.
    BodyTimeout {
        code: "body_timeout",
        retryable: true,
        hint: "send the whole body without pauses, or raise `BODY_IDLE_TIMEOUT_SECONDS` and `BODY_TIMEOUT_SECONDS`",
    }
    /// The request body is larger than the limit.
    BodyTooLarge {
        code: "body_too_large",
        retryable: false,
        hint: "shorten the message, or raise `MAX_BODY_BYTES`",
    }
    /// The request body is not declared as JSON.
    UnsupportedMediaType {
        code: "unsupported_media_type",
        retryable: false,
        hint: "send the header `Content-Type: application/json`",
    }
    /// No conversation of this key has the given id.
    ConversationNotFound {
        code: "conversation_not_found",
        retryable: false,
        hint: "leave `conversation_id` out to start a new conversation; an id is valid only with the key that started it",
    }
    /// The answer takes longer than its caller waits, and goes on.
    StillRunning {
        code: "still_running",
        retryable: true,
        hint: "wait a little, then call GET /api/answers/{response_id} (get_answer) with the `response_id` of this answer, until it is complete; asking again would ask twice",
    }
    /// An answer that went on without its caller ended with the process.
    AnswerInterrupted {
        code: "answer_interrupted",
        retryable: false,
        hint: "ask again; `answer` holds the part that had come",
    }
    /// No answer of this key has the given id.
    AnswerNotFound {
        code: "answer_not_found",
        retryable: false,
        hint: "use the `response_id` of a `still_running` answer, with the key that asked; answers are kept for 24 hours",
    }
    /// The upstream does not know the model.
    ModelNotFound {
        code: "model_not_found",
        retryable: false,
        hint: "call list_models for the names (`MODELS` bounds them where it is set), or leave `model` out to use `DEFAULT_MODEL`",
    }
    /// Neither the upstream nor the settings name a model.
    ModelsUnknown {
        code: "models_unknown",
        retryable: false,
        hint: "set `MODELS` to a comma-separated list of model names: this kind of upstream cannot be asked for one",
    }
    /// The upstream cannot be connected to: name, address, port or TLS.
    UpstreamUnreachable {
        code: "upstream_unreachable",
        retryable: true,
        hint: "check `UPSTREAM_URL` (host, port, http or https) and that the mirror runs and can be reached from this machine",
    }
    /// The upstream hung up before it answered.
    UpstreamDisconnected {
        code: "upstream_disconnected",
        retryable: true,
        hint: "try again; if it stays, look into the mirror's own log, and check that `UPSTREAM_URL` uses the right one of http and https",
    }
    /// The upstream sent no answer within the first-byte limit.
    UpstreamTimeout {
        code: "upstream_timeout",
        retryable: true,
        hint: "try again, ask for less, or raise `FIRST_BYTE_TIMEOUT_SECONDS`",
    }
    /// The upstream fell silent in the middle of its answer.
    UpstreamStalled {
        code: "upstream_stalled",
        retryable: true,
        hint: "try again, or raise `IDLE_TIMEOUT_SECONDS`",
    }
    /// The whole answer took longer than its limit.
    UpstreamDeadline {
        code: "upstream_deadline",
        retryable: true,
        hint: "ask for a shorter answer, or raise `REQUEST_TIMEOUT_SECONDS`",
    }
    /// The upstream does not accept the credentials any more, or never did.
    UpstreamAuthExpired {
        code: "upstream_auth_expired",
        retryable: false,
        hint: "log in to the mirror again and set `UPSTREAM_COOKIE` (web chat) or `UPSTREAM_API_KEY` to the new value, or hand it over without a restart: `mirrorgate session set`, or PUT /api/session",
    }
    /// The upstream knows the account and refuses: plan, region, permission.
    UpstreamRefused {
        code: "upstream_refused",
        retryable: false,
        hint: "check in the mirror's own web page that the account, its plan and its region may use this model, or choose another `DEFAULT_MODEL`",
    }
    /// The upstream asks for a browser check.
    UpstreamChallenge {
        code: "upstream_challenge",
        retryable: false,
        hint: "open the mirror in your browser and pass the check there, then copy `UPSTREAM_COOKIE` and the User-Agent (in `UPSTREAM_HEADERS`) anew; mirrorgate solves no such checks",
    }
    /// The upstream's rate limit was reached.
    UpstreamRateLimited {
        code: "upstream_rate_limited",
        retryable: true,
        hint: "wait for the time in `Retry-After` (if given) and send fewer requests, or use a plan with a higher limit",
    }
    /// The upstream rejects the request as invalid.
    UpstreamRejected {
        code: "upstream_rejected",
        retryable: false,
        hint: "check the values sent (model, temperature, max_tokens) and, for a web chat, the switches in `UPSTREAM_BODY`",
    }
    /// The upstream's address leads somewhere where the protocol is not spoken.
    UpstreamNotFound {
        code: "upstream_not_found",
        retryable: false,
        hint: "check the path in `UPSTREAM_URL`, and `UPSTREAM_PROTOCOL`: `openai` or `web-chat`",
    }
    /// The upstream failed by its own account.
    UpstreamError {
        code: "upstream_error",
        retryable: true,
        hint: "try again; if it stays, look into the mirror's own log",
    }
    /// The upstream redirects.
    UpstreamRedirect {
        code: "upstream_redirect",
        retryable: false,
        hint: "set `UPSTREAM_URL` to the final address (https, host, path); if it leads to a login page, renew `UPSTREAM_COOKIE` or `UPSTREAM_API_KEY`",
    }
    /// The upstream answers with a web page.
    UpstreamHtml {
        code: "upstream_html",
        retryable: false,
        hint: "check that `UPSTREAM_URL` is the address of the API and not of a web page, and that `UPSTREAM_API_KEY` or `UPSTREAM_COOKIE` is still valid",
    }
    /// The upstream's answer ended before it was complete.
    UpstreamTruncated {
        code: "upstream_truncated",
        retryable: true,
        hint: "try again; if it stays, a proxy in front of the mirror may cut long answers: raise its limits or ask for a shorter answer",
    }
    /// The upstream's answer has no body.
    UpstreamEmpty {
        code: "upstream_empty",
        retryable: true,
        hint: "try again; if it stays, check the path in `UPSTREAM_URL`, and that the mirror sends Content-Length or chunked answers",
    }
    /// The upstream's answer is encoded in a way that was not asked for.
    UpstreamEncoding {
        code: "upstream_encoding",
        retryable: false,
        hint: "switch compression off in the mirror or in the proxy before it (mirrorgate asks for `Accept-Encoding: identity`), and remove Accept-Encoding from `UPSTREAM_HEADERS`",
    }
    /// The upstream's answer is an interim one where a final one was due.
    UpstreamInformational {
        code: "upstream_informational",
        retryable: false,
        hint: "switch off early hints and `100 Continue` in the mirror or in the proxy before it",
    }
    /// The upstream's answer is not of the protocol.
    UpstreamInvalid {
        code: "upstream_invalid",
        retryable: false,
        hint: "check `UPSTREAM_PROTOCOL` (`openai` or `web-chat`) and that `UPSTREAM_URL` is the address of the mirror's API",
    }
    /// The upstream's answer is larger than the limit.
    UpstreamTooLarge {
        code: "upstream_too_large",
        retryable: false,
        hint: "ask for a shorter answer, or raise `MAX_ANSWER_BYTES` or `MAX_LINE_BYTES`",
    }
    /// The upstream no longer knows the conversation.
    UpstreamConversationLost {
        code: "upstream_conversation_lost",
        retryable: false,
        hint: "start a new conversation by leaving `conversation_id` out: the mirror has deleted this one or the account in `UPSTREAM_COOKIE` has changed",
    }
    /// Another call went on with the conversation meanwhile.
    ConversationBusy {
        code: "conversation_busy",
        retryable: true,
        hint: "read the conversation back with GET /api/conversations/{id}, then ask again",
    }
    /// The store cannot be used now.
    StorageUnavailable {
        code: "storage_unavailable",
        retryable: true,
        hint: "look into the service's log and at `DATABASE_URL` or the disk under `DATA_DIR`; it goes on by itself when the store is back",
    }
    /// The store was changed by a newer program.
    StorageNewer {
        code: "storage_newer",
        retryable: false,
        hint: "run the newer version of mirrorgate again, or point `DATABASE_URL` or `DATA_DIR` to another place",
    }
    /// The gateway carries as much as it can.
    Overloaded {
        code: "overloaded",
        retryable: true,
        hint: "try again after the time in `Retry-After`",
    }
    /// The key sends more requests a minute than it may.
    RateLimited {
        code: "rate_limited",
        retryable: true,
        hint: "wait for the time in `Retry-After` and send fewer requests, or raise `RATE_LIMIT_PER_MINUTE`",
    }
    /// The service stops, and its time for running answers is over.
    ShuttingDown {
        code: "shutting_down",
        retryable: true,
        hint: "ask again after the time in `Retry-After`: the service is being stopped or restarted; `answer` holds the part that came",
    }
    /// A defect of this program.
    Internal {
        code: "internal_error",
        retryable: true,
        hint: "try again; if it stays, report it with the request id and the log lines around it",
    }
}

/// A failure as the caller is told of it.
#[derive(Debug, Clone)]
pub struct Error {
    /// The cause.
    pub kind: Kind,
    /// What happened, for a person; no secrets, no upstream body.
    pub message: String,
    /// What the upstream says about it, shortened and cleaned. It goes to the caller and never
    /// into a log, since an upstream may quote the prompt.
    pub detail: Option<String>,
    /// When to try again, where that is known.
    pub retry_after: Option<Duration>,
    /// The upstream's HTTP status, where there was one.
    pub upstream_status: Option<u16>,
    /// Whether the upstream surely did no work: then another one may be asked. A question that may
    /// have been worked on is never sent again, since it may be paid for.
    pub unworked: bool,
    hint: Option<String>,
}

impl Error {
    /// An error of a kind with a message that says what happened.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            detail: None,
            retry_after: None,
            upstream_status: None,
            unworked: false,
            hint: None,
        }
    }

    /// Says when to try again.
    pub fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// Adds what the upstream says about it.
    pub fn detail(mut self, detail: Option<String>) -> Self {
        self.detail = detail;
        self
    }

    /// Adds the upstream's HTTP status.
    pub fn upstream_status(mut self, status: u16) -> Self {
        self.upstream_status = Some(status);
        self
    }

    /// Says that the upstream surely did no work.
    pub fn unworked(mut self) -> Self {
        self.unworked = true;
        self
    }

    /// Replaces the kind's own hint by one that fits the case better.
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What to do about it.
    pub fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or(self.kind.hint())
    }

    /// The message as the caller reads it, with the upstream's words where there are some.
    pub fn caller_message(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.kind.code())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_distinct_and_hints_end_without_full_stop() {
        let codes: HashSet<_> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert!(!kind.hint().is_empty() && !kind.hint().ends_with('.'), "{}", kind.code());
        }
    }
}
