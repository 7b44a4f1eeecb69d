//! What is done to the database, and how its failure is told.

use futures_util::future::BoxFuture;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Execute};

use super::unavailable;
use crate::domain::error::Error;

/// A statement with its values.
pub type Statement = Query<'static, Any, AnyArguments>;

/// Statements with others before and after them, in one text. SQLite alone takes such a text.
pub fn between(before: &str, mut statements: Statement, after: &str) -> Statement {
    // Both are there until the statement is executed, and encoding texts and numbers does not fail.
    let arguments = statements.take_arguments().ok().flatten().unwrap_or_default();
    let text = format!("{before}; {}{after}", statements.sql().as_str());
    sqlx::query_with(AssertSqlSafe(text), arguments)
}

/// What is done over a connection.
pub trait Operation<T>:
    for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static
{
}

impl<T, F> Operation<T> for F where
    F: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static
{
}

/// The error for a failed statement. What a driver says may quote values, so only its kind is told.
pub fn failed(error: sqlx::Error) -> Error {
    match error {
        sqlx::Error::PoolTimedOut => unavailable("no connection to it is free, or it is down"),
        sqlx::Error::Io(error) => unavailable(format_args!("the connection to it failed ({})", error.kind())),
        sqlx::Error::Tls(_) => unavailable("TLS with it failed"),
        sqlx::Error::Database(error) => unavailable(format_args!(
            "it reports an error (code {})",
            error.code().unwrap_or_else(|| "unknown".into())
        )),
        _ => unavailable("a statement failed"),
    }
}
