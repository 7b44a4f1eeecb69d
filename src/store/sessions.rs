//! The upstream's session in the store: one sealed text, with a version that rises.

use sqlx::Row;

use super::Store;
use super::operation::failed;
use crate::domain::error::Error;

impl Store {
    /// The kept session of this name and its version.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn session(&self, name: &str) -> Result<Option<(i64, String)>, Error> {
        let name = name.to_string();
        self.read(|connection| {
            Box::pin(async move {
                let row = sqlx::query("SELECT version, sealed FROM upstream_sessions WHERE name = $1")
                    .bind(name)
                    .fetch_optional(connection)
                    .await
                    .map_err(failed)?;
                let read = |row: sqlx::any::AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
                row.map(read).transpose().map_err(failed)
            })
        })
        .await
    }

    /// Keeps a session and gives its version. Of two at the same time, the later stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_session(&self, name: &str, sealed: String) -> Result<i64, Error> {
        let name = name.to_string();
        let now = self.database.now();
        self.write(move |connection| Box::pin(async move {
            let text = format!(
                "INSERT INTO upstream_sessions (name, version, sealed, changed_at) VALUES ($1, 1, $2, {now}) \
                 ON CONFLICT (name) DO UPDATE SET version = upstream_sessions.version + 1, \
                 sealed = excluded.sealed, changed_at = excluded.changed_at RETURNING version"
            );
            let row = sqlx::query(sqlx::AssertSqlSafe(text))
                .bind(name)
                .bind(sealed)
                .fetch_one(connection)
                .await
                .map_err(failed)?;
            row.try_get(0).map_err(failed)
        }))
        .await
    }
}
