//! One error, told apart by cause.
//!
//! Every failure a caller can see has a [`Kind`]. What follows from a kind, from its code to its
//! place in the log, stands in one table; nobody else tells kinds apart to work it out.

mod columns;
mod kinds;

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

pub use columns::{Cure, Health, Session};
pub use kinds::Kind;

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
    /// Whether it says nothing of the login, though a kind of failure that else ends it.
    pub spares_session: bool,
    /// What the upstream told of it in the fields of its own protocol.
    pub report: Option<Box<Report>>,
    hint: Option<String>,
}

/// A failure in an upstream's own fields, for callers whose protocol has the same: by allow-lists, and
/// with secrets masked. Like [`Error::detail`], it never goes into a log.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Its words.
    pub message: Option<String>,
    /// The other fields of its error, as they came.
    pub fields: Map<String, Value>,
    /// The headers that say when and whether to ask again, and how much may be asked.
    pub headers: Vec<(String, String)>,
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
            spares_session: false,
            report: None,
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

    /// Adds what the upstream told in the fields of its own protocol.
    pub fn reported(mut self, report: Report) -> Self {
        self.report = Some(Box::new(report));
        self
    }

    /// Whether the upstream refused the request by its status, before it worked: a failure of its own, or one
    /// within a good answer, may have been paid.
    pub fn is_refusal(&self) -> bool {
        self.upstream_status.is_some_and(|status| (400..500).contains(&status))
    }

    /// Says that the login may be good all the same.
    pub fn sparing_session(mut self) -> Self {
        self.spares_session = true;
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
