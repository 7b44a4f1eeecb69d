//! The upstreams' sessions in the store: for each one sealed text, with a version that rises.

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

    /// Gives a kept session of this version another name. A later session under that name stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn rename_session(&self, from: &str, version: i64, to: &str) -> Result<(), Error> {
        let (from, to) = (from.to_string(), to.to_string());
        self.transact(move |connection| {
            Box::pin(async move {
                let copy = "INSERT INTO upstream_sessions (name, version, sealed, changed_at) \
                     SELECT $1, version + 1, sealed, changed_at FROM upstream_sessions \
                     WHERE name = $2 AND version = $3 \
                     ON CONFLICT (name) DO UPDATE SET version = upstream_sessions.version + 1, \
                     sealed = excluded.sealed, changed_at = excluded.changed_at \
                     WHERE excluded.changed_at > upstream_sessions.changed_at";
                let delete = "DELETE FROM upstream_sessions WHERE name = $1 AND version = $2";
                let copy = sqlx::query(copy).bind(to).bind(from.clone()).bind(version);
                copy.execute(&mut *connection).await.map_err(failed)?;
                let delete = sqlx::query(delete).bind(from).bind(version);
                delete.execute(connection).await.map_err(failed)?;
                Ok(())
            })
        })
        .await
    }
}
