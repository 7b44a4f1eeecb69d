//! What a check found: how bad it is, what was seen, and what to do.

use std::borrow::Cow;

use crate::domain::error::Error;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// It works, or may, and something speaks against it.
    Warning,
    /// It does not work.
    Broken,
}

impl Level {
    /// The word for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Broken => "broken",
        }
    }

    /// The level of this name; a name that is not known is nothing good.
    pub fn named(name: &str) -> Self {
        match name {
            "ok" => Level::Ok,
            "warning" => Level::Warning,
            _ => Level::Broken,
        }
    }

    /// The worst of some findings; nothing found is nothing bad.
    pub fn worst(findings: &[Finding]) -> Self {
        findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

/// One finding. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was checked, such as `upstream.tls`.
    pub check: Cow<'static, str>,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub seen: String,
    /// What to do; nothing where all is well.
    pub advice: Option<String>,
    /// The code of the error that was met, where it was one.
    pub code: Option<&'static str>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Finding { check: check.into(), level: Level::Ok, seen: seen.into(), advice: None, code: None }
    }

    /// It works, or may.
    pub fn warning(check: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding {
            check: check.into(),
            level: Level::Warning,
            seen: seen.into(),
            advice: Some(advice.into()),
            code: None,
        }
    }

    /// It does not work.
    pub fn broken(check: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding {
            check: check.into(),
            level: Level::Broken,
            seen: seen.into(),
            advice: Some(advice.into()),
            code: None,
        }
    }

    /// It does not work, for the reason that an error gives.
    pub fn failed(check: &'static str, error: &Error) -> Self {
        let seen = format!("{} ({})", error.caller_message(), error.kind.code());
        Finding { code: Some(error.kind.code()), ..Finding::broken(check, seen, error.hint()) }
    }
}
