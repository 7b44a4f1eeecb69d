//! The table by which failures that an upstream reports are told apart.

use crate::domain::error::Kind;

/// What failures are told apart by. Codes decide before prose, and prose only by phrases that say one
/// thing. The first rule that fits holds.
pub struct Rule {
    /// Which error it is.
    pub kind: Kind,
    /// What the upstream does, for a person.
    pub what: &'static str,
    /// Parts of its codes, in lower case.
    pub codes: &'static [&'static str],
    /// gRPC's number for it, which web chats hand through: <https://grpc.io/docs/guides/status-codes/>.
    pub grpc: Option<i64>,
    /// Phrases of its words, in lower case: they say one thing, whatever the codes are.
    pub phrases: &'static [&'static str],
    /// Phrases that say it only where no code says anything.
    pub loose: &'static [&'static str],
}

/// Phrases of a browser check.
pub const CHALLENGE: &[&str] = &[
    "anti-bot",
    "just a moment",
    "error code: 1020",
    "error 1020",
    "used cloudflare to restrict access",
    "attention required! | cloudflare",
];

/// Cloudflare's number for a caller whom a rule of its firewall keeps out:
/// <https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors/>.
pub const CLOUDFLARE_BLOCKS: i64 = 1020;

/// That the account's credit is used up, which no waiting helps, also where the status is that of a limit.
pub const NO_CREDIT: Rule = Rule {
    kind: Kind::UpstreamRefused,
    what: "says that the account's credit is used up",
    codes: &[
        "insufficient_quota",
        "insufficient_user_quota",
        "exceeded_current_quota",
        "insufficient_balance",
        "budget_exceeded",
        "free_tier_only",
        "overdue",
        "arrear",
        "billing",
    ],
    grpc: None,
    phrases: &[
        "exceeded your current quota",
        "check your plan and billing",
        "insufficient balance",
        "budget has been exceeded",
        "额度已用尽",
        "额度不足",
        "credit balance is too low",
        "in arrears",
        "欠费",
        "欠費",
        "余额不足",
        "餘額不足",
    ],
    loose: &[],
};

/// The rules, in the order in which they hold.
pub const RULES: &[Rule] = &[
    NO_CREDIT,
    Rule {
        kind: Kind::ModelNotFound,
        what: "does not know the model",
        codes: &["model_not_found", "model_not_exist", "deployment_not_found", "model_decommissioned"],
        grpc: None,
        phrases: &[
            "no such model",
            "unknown model",
            "invalid model",
            "no available channel for model",
            "no endpoints found for",
            "not found the model",
            "model not exist",
            "模型不存在",
            "is not a valid model",
        ],
        loose: &[],
    },
    Rule {
        kind: Kind::UpstreamAuthExpired,
        what: "does not accept the credentials",
        codes: &["invalid_api_key", "authentication", "unauthenticated", "unauthorized", "token_expired"],
        grpc: Some(16),
        phrases: &["incorrect api key", "invalid api key", "api key not valid"],
        loose: &[
            "not logged in",
            "login fail",
            "access token invalid",
            "please log in",
            "login required",
            "session expired",
            "session has expired",
            "expired session",
            "invalid session",
            "^unauthenticated",
            "^unauthorized",
        ],
    },
    Rule {
        kind: Kind::UpstreamRateLimited,
        what: "limits the rate of requests",
        codes: &[
            "rate_limit",
            "ratelimit",
            "too_many_requests",
            "toomanyrequests",
            "resource_exhausted",
            "throttl",
        ],
        grpc: Some(8),
        phrases: &[],
        loose: &["rate limit", "too many requests", "usage limit", "requests per minute"],
    },
    Rule {
        kind: Kind::UpstreamError,
        what: "is overloaded",
        codes: &["overloaded", "unavailable", "server_busy"],
        grpc: Some(14),
        phrases: &[],
        loose: &["overloaded", "not available right now", "temporarily unavailable"],
    },
    Rule {
        kind: Kind::UpstreamRefused,
        what: "refuses to serve this account or model",
        codes: &["permission", "forbidden", "access_denied"],
        grpc: Some(7),
        phrases: &[],
        loose: &[
            "upgrade your plan",
            "requires a subscription",
            "your subscription",
            "not available in your",
        ],
    },
];

/// That a request is invalid says less than anything else.
pub const REJECTED: Rule = Rule {
    kind: Kind::UpstreamRejected,
    what: "rejects the request",
    codes: &[
        "invalid_request",
        "request_too_large",
        "invalid_argument",
        "invalid_parameter",
        "unsupported_parameter",
        "context_length",
        "content_filter",
        "badrequest",
        "data_inspection",
        "datainspection",
        "moderation",
    ],
    grpc: Some(3),
    phrases: &[],
    loose: &["invalid params", "invalid parameter", "new_sensitive"],
};
