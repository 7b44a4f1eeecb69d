//! One call, in names and numbers.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::chat::Usage;
use crate::domain::error::Error;

/// Stands in the place of an error's code where the caller left before the end.
pub const CALLER_LEFT: &str = "caller_left";

/// What a call is counted under. A name that is not known, or means nothing for it, is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Combination {
    /// The name of the key.
    pub key: Arc<str>,
    /// The model.
    pub model: String,
    /// The name of the upstream that was asked last.
    pub upstream: Arc<str>,
    /// The code of the failure, or [`CALLER_LEFT`]; empty where it was answered.
    pub code: Cow<'static, str>,
}

/// A call, running or ended.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Its place in the order in which calls have begun.
    pub number: u64,
    /// When it began, in milliseconds since 1970.
    pub at: i64,
    /// Who asked what of whom, and how it ended.
    pub of: Combination,
    /// The operation's id, where the path has one and the call has ended.
    pub operation: Option<&'static str>,
    /// The operation as which the question was put, where it is one: over MCP that of the tool.
    pub asked: Option<&'static str>,
    /// The path.
    pub path: String,
    /// Whether it was sent as a POST.
    pub is_post: bool,
    /// The status that the caller had; none while it runs.
    pub status: Option<u16>,
    /// The status with which the upstream answered.
    pub upstream_status: Option<u16>,
    /// What happened, where it failed.
    pub failure: Option<Box<Failure>>,
    /// From the question to the first piece of its answer.
    pub first_token: Option<Duration>,
    /// From the call to the end of its answer.
    pub total: Option<Duration>,
    /// What it came to.
    pub usage: Option<Usage>,
    /// Bytes of the call's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// The id that the log has it under.
    pub request_id: Arc<str>,
}

/// A failure as the owner reads it: as the log may have it, without an upstream's own words.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let (message, hint) = (error.message.clone(), error.hint().to_string());
        Failure { message, hint, retry_after: error.retry_after }
    }
}

impl Call {
    /// How it stands, in one word.
    pub fn state(&self, is_running: bool) -> &'static str {
        if is_running {
            "running"
        } else if self.has_failed() {
            "failed"
        } else if self.of.code == CALLER_LEFT {
            "stopped"
        } else {
            "answered"
        }
    }

    /// Whether it ended with a failure.
    pub fn has_failed(&self) -> bool {
        !self.of.code.is_empty() && self.of.code != CALLER_LEFT
    }

    /// Whether it counts in the statistics: questions do, and what was meant as one and refused before. Who
    /// only looks, such as a monitor, does not.
    pub(super) fn is_counted(&self) -> bool {
        self.asked.is_some() || self.is_post && self.has_failed()
    }
}

/// Which calls somebody wants to see. What is empty does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The name of their key.
    pub key: Option<String>,
    /// Their model.
    pub model: Option<String>,
    /// How they stand, as [`Call::state`] says it, or the code of their failure.
    pub result: Option<String>,
}

impl Filter {
    /// Whether a call is one of them.
    pub fn takes(&self, call: &Call, state: &str) -> bool {
        let is = |wanted: &Option<String>, word: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == word)
        };
        is(&self.key, &call.of.key)
            && is(&self.model, &call.of.model)
            && (is(&self.result, state) || is(&self.result, &call.of.code))
    }
}
