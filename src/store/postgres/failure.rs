//! What a failure of PostgreSQL means. What the server says may quote values, so only its kind is told.

use tokio_postgres::error::SqlState;

use crate::domain::error::Error;
use crate::store::unavailable;

/// Why statements failed, and what that leaves open.
pub struct Failure {
    pub error: Error,
    /// Whether they may have been kept all the same.
    pub undecided: bool,
    /// Whether the database undid them for the sake of others, so that they may be tried again.
    pub is_put_off: bool,
    pub ends_connection: bool,
}

impl Failure {
    /// Of a statement before the commit, without which nothing is kept.
    pub fn before_commit(error: tokio_postgres::Error) -> Self {
        Failure { undecided: false, ..Failure::of_commit(error) }
    }

    /// Of a commit, or of a statement that is a transaction by itself.
    pub fn of_commit(error: tokio_postgres::Error) -> Self {
        let code = error.code();
        let is_put_off =
            matches!(code, Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED));
        let undecided = code.is_none_or(ends_session);
        // A server that was a primary before a failover stays read-only: a new connection finds the new one.
        let ends_connection = undecided || code == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
        Failure { undecided, is_put_off, ends_connection, error: failed(&error) }
    }
}

/// Whether a server that says this is gone or going, or does not know itself what was kept.
fn ends_session(code: &SqlState) -> bool {
    code.code().starts_with("57P") || code.code().starts_with("08") || code.code() == "40003"
}

/// The error for a failed statement or connection.
pub fn failed(error: &tokio_postgres::Error) -> Error {
    let Some(code) = error.code() else {
        let text = error.to_string();
        return match text.as_str() {
            text if text.contains("TLS") => unavailable("TLS with it failed").hinted(
                "see `sslmode` in `DATABASE_URL`: a server without TLS takes `disable`, one with a certificate of its own `require`",
            ),
            text if text.contains("channel binding") => {
                unavailable("it offers no channel binding, which `DATABASE_URL` asks for")
                    .hinted("remove `channel_binding=require` from `DATABASE_URL`: a pooler often has none")
            }
            text if text.contains("connecting to server") => unavailable("no connection to it can be made"),
            _ => unavailable("the connection to it failed"),
        };
    };
    match *code {
        SqlState::READ_ONLY_SQL_TRANSACTION => unavailable("it is read-only, as a standby or a full one is"),
        SqlState::DISK_FULL => unavailable("its disk is full"),
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            unavailable("it does not accept the user or the password of `DATABASE_URL`")
        }
        SqlState::INVALID_CATALOG_NAME => unavailable("it has no database of the name in `DATABASE_URL`"),
        SqlState::TOO_MANY_CONNECTIONS => unavailable("it takes no more connections")
            .hinted("lower `DATABASE_POOL_SIZE`, or take the address of the database's pooler"),
        SqlState::CANNOT_CONNECT_NOW => unavailable("it is starting or stopping"),
        _ => unavailable(format_args!("it reports an error (code {})", code.code())),
    }
}
