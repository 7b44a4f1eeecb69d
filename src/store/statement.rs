//! What is asked of a database, and what it gives back, in the same words for every database.

use std::time::Duration;

use super::unavailable;
use crate::domain::error::Error;

/// The text of a statement for each database. Its values stand in it as `$1`, `$2` and so on.
pub struct Text {
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

/// The text of a statement for both databases: literals, and `now` for the database's own clock in
/// milliseconds since 1970, since replicas' clocks differ.
macro_rules! text {
    (@sqlite now) => { "CAST(unixepoch('subsec') * 1000 AS BIGINT)" };
    (@postgres now) => { "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)" };
    (@$database:ident $literal:literal) => { $literal };
    ($($part:tt)*) => {
        &$crate::store::statement::Text {
            sqlite: concat!($($crate::store::statement::text!(@sqlite $part)),*),
            postgres: concat!($($crate::store::statement::text!(@postgres $part)),*),
        }
    };
}
pub(super) use text;

/// One value, of the few types that both databases have alike.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Integer(number)
    }
}

impl From<Duration> for Value {
    /// In milliseconds.
    fn from(time: Duration) -> Self {
        i64::try_from(time.as_millis()).unwrap_or(i64::MAX).into()
    }
}

impl From<String> for Value {
    /// PostgreSQL takes every character but NUL.
    fn from(text: String) -> Self {
        Value::Text(if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_string().into()
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// A statement with its values.
pub struct Statement {
    pub text: &'static Text,
    pub values: Vec<Value>,
    /// Whether the statements after it are done only if this one changed something.
    pub is_required: bool,
}

impl Statement {
    pub fn new(text: &'static Text, values: impl Into<Vec<Value>>) -> Self {
        Statement { text, values: values.into(), is_required: false }
    }

    /// The same, on whose changing something the statements after it depend.
    pub fn required(self) -> Self {
        Statement { is_required: true, ..self }
    }
}

/// What a statement did.
#[derive(Debug, Default)]
pub struct Done {
    /// How many rows it changed.
    pub changed: u64,
    pub rows: Vec<Row>,
}

/// Whether the statements after this one are left out.
pub fn ends_batch(statement: &Statement, done: &Done) -> bool {
    statement.is_required && done.changed == 0
}

/// A row of a result. Each value is taken out of it once.
#[derive(Debug)]
pub struct Row(pub Vec<Value>);

impl Row {
    pub fn integer(&self, column: usize) -> Result<i64, Error> {
        match self.0.get(column) {
            Some(Value::Integer(number)) => Ok(*number),
            _ => Err(unexpected(column)),
        }
    }

    pub fn text(&mut self, column: usize) -> Result<String, Error> {
        self.optional_text(column)?.ok_or_else(|| unexpected(column))
    }

    pub fn optional_text(&mut self, column: usize) -> Result<Option<String>, Error> {
        match self.0.get_mut(column).map(|value| std::mem::replace(value, Value::Null)) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            _ => Err(unexpected(column)),
        }
    }
}

fn unexpected(column: usize) -> Error {
    unavailable(format_args!("column {column} of a row is not what this program keeps there"))
}

/// Why something was not written.
#[derive(Debug)]
pub struct Unwritten {
    pub error: Error,
    /// Whether it may have been written all the same, or may yet be.
    pub undecided: bool,
}

impl From<Error> for Unwritten {
    fn from(error: Error) -> Self {
        Unwritten { error, undecided: false }
    }
}

impl From<Unwritten> for Error {
    fn from(unwritten: Unwritten) -> Self {
        unwritten.error
    }
}
