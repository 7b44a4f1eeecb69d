//! What is wrong with a configuration, for a person.

use std::fmt;

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting.
    pub setting: String,
    /// What is wrong with it; never a secret value.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// Whether the value is understood and refused because it would be unsafe.
    pub unsafe_value: bool,
}

/// All mistakes in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The process's exit code: 2, or 78 (`EX_CONFIG` of sysexits.h) when a good value is refused
    /// because it would leave the service open.
    pub fn exit_code(&self) -> u8 {
        if self.0.iter().all(|problem| problem.unsafe_value) { 78 } else { 2 }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "error: {count} problem{} in the configuration", if count == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            writeln!(f, "\n  {}: {}", problem.setting, problem.what)?;
            writeln!(f, "    hint: {}", problem.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
