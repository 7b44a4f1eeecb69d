//! The upstream's session in the store: one sealed text, with a version that rises.

use sqlx::Row;

use super::Store;
use super::database::failed;
use crate::error::Error;

/// There is one upstream, so there is one session.
const NAME: &str = "default";

impl Store {
    /// The kept session and its version.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn session(&self) -> Result<Option<(i64, String)>, Error> {
        self.run(|database| async move {
            let row = sqlx::query("SELECT version, sealed FROM upstream_sessions WHERE name = $1")
                .bind(NAME)
                .fetch_optional(&database.pool())
                .await
                .map_err(failed)?;
            let read = |row: sqlx::any::AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
            row.map(read).transpose().map_err(failed)
        })
        .await
    }

    /// Keeps a session and gives its version. Of two at the same time, the later stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_session(&self, sealed: String) -> Result<i64, Error> {
        self.run(|database| async move {
            let now = database.now();
            let text = format!(
                "INSERT INTO upstream_sessions (name, version, sealed, changed_at) VALUES ($1, 1, $2, {now}) \
                 ON CONFLICT (name) DO UPDATE SET version = upstream_sessions.version + 1, \
                 sealed = excluded.sealed, changed_at = excluded.changed_at RETURNING version"
            );
            let row = sqlx::query(sqlx::AssertSqlSafe(text))
                .bind(NAME)
                .bind(sealed)
                .fetch_one(&database.pool())
                .await
                .map_err(failed)?;
            row.try_get(0).map_err(failed)
        })
        .await
    }
}
