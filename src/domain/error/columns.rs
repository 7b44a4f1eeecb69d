//! The columns of the table of kinds, and the questions that it answers.

use log::Level;

use super::Kind;

/// All that follows from a failure of one kind. No column has a default: a new row does not
/// compile before each question is answered.
pub(super) struct Row {
    /// The stable code that callers may branch on.
    pub code: &'static str,
    /// The status on `/api/*`, on `/mcp`, and on every path without a face of its own.
    ///
    /// Dify throws the body of 429, 500, 502, 503 and 504 away, and with it the hint. So whatever
    /// is not the caller's fault is 424 Failed Dependency (RFC 4918, section 11.4).
    pub api: u16,
    /// The status on `/v1/*`, where OpenAI's own are kept to:
    /// <https://platform.openai.com/docs/guides/error-codes>.
    pub v1: u16,
    /// The code of a request to `/mcp` that fails before its method is known: JSON-RPC 2.0,
    /// section 5.1.
    pub json_rpc: i32,
    /// Whether the same request can succeed later without anything being changed.
    pub retryable: bool,
    /// The level in the access log.
    pub log: Level,
    /// What it says of the upstream.
    pub upstream: Upstream,
    /// Where the owner can do something about it.
    pub cure: Cure,
    /// What to do about it, naming the setting where one decides.
    pub hint: &'static str,
}

/// Where the owner can do something about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// At the caller alone.
    Caller,
    /// At the caller's key: another one, or other limits.
    Key,
    /// At the login of the upstream.
    Login,
    /// At the service, its settings, or the upstream: the doctor tells more.
    Service,
}

/// What a failure says of the upstream.
pub(super) enum Upstream {
    /// Nothing: the failure arose before it, or beside it.
    NotAsked,
    /// It was asked, and failed so.
    Asked {
        /// Whether it counts towards passing the upstream over. Most do not: an upstream that
        /// answers is there, even if not as its caller would like.
        trips_breaker: bool,
        session: Session,
        health: Health,
        /// Whether this answer to the request for its models means that it has no list of them.
        lists_no_models: bool,
    },
}

/// What a failure says of the login at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It is not accepted any more.
    Expired,
    /// It is accepted, and what was asked is refused.
    Refused,
    /// Nothing.
    Same,
}

/// The health of an upstream that fails so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It is there, and a person has to do something, or to wait.
    Degraded,
    /// It cannot be used.
    Down,
}

impl Kind {
    /// The stable code that callers may branch on.
    pub fn code(self) -> &'static str {
        self.row().code
    }

    /// The status on `/api/*` and on every path without a face of its own.
    pub fn api_status(self) -> u16 {
        self.row().api
    }

    /// The status on `/v1/*`.
    pub fn v1_status(self) -> u16 {
        self.row().v1
    }

    /// The code in JSON-RPC.
    pub fn json_rpc_code(self) -> i32 {
        self.row().json_rpc
    }

    /// Whether the same request can succeed later without anything being changed.
    pub fn retryable(self) -> bool {
        self.row().retryable
    }

    /// The level in the access log.
    pub fn log_level(self) -> Level {
        self.row().log
    }

    /// What to do about it, naming the setting where one decides.
    pub fn hint(self) -> &'static str {
        self.row().hint
    }

    /// The kind with this code.
    pub fn of_code(code: &str) -> Option<Kind> {
        Kind::ALL.iter().find(|kind| kind.code() == code).copied()
    }

    /// Where the owner can do something about it.
    pub fn cure(self) -> Cure {
        self.row().cure
    }

    /// Whether the upstream was asked.
    pub fn asked_upstream(self) -> bool {
        matches!(self.row().upstream, Upstream::Asked { .. })
    }

    /// Whether it counts towards passing the upstream over.
    pub fn trips_breaker(self) -> bool {
        matches!(self.row().upstream, Upstream::Asked { trips_breaker: true, .. })
    }

    /// What it says of the login at the upstream.
    pub fn session(self) -> Session {
        match self.row().upstream {
            Upstream::Asked { session, .. } => session,
            Upstream::NotAsked => Session::Same,
        }
    }

    /// The health of an upstream whose probe ends so. One that could not be asked is not known to
    /// be there.
    pub fn health(self) -> Health {
        match self.row().upstream {
            Upstream::Asked { health, .. } => health,
            Upstream::NotAsked => Health::Down,
        }
    }

    /// Whether an upstream that answers so to the request for its models has no list of them.
    pub fn lists_no_models(self) -> bool {
        matches!(self.row().upstream, Upstream::Asked { lists_no_models: true, .. })
    }
}

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

    #[test]
    fn no_status_is_one_whose_body_dify_throws_away() {
        for kind in Kind::ALL {
            assert!(![429, 500, 502, 503, 504].contains(&kind.api_status()), "{}", kind.code());
        }
    }

    #[test]
    fn every_status_is_one_of_http() {
        for kind in Kind::ALL {
            assert!((200..600).contains(&kind.api_status()), "{}", kind.code());
            assert!((400..600).contains(&kind.v1_status()), "{}", kind.code());
        }
    }
}
