//! Where a conversation goes on that its caller sends whole each time.

use sqlx::Row;

use super::Store;
use super::conversations::storable;
use super::operation::failed;
use crate::domain::chat::{Owner, Thread};
use crate::domain::error::Error;

impl Store {
    /// Where the upstream's own conversation goes on after messages with this digest.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn continuation(&self, owner: &Owner, prefix: &str) -> Result<Option<Thread>, Error> {
        let (owner, prefix) = (owner.0.clone(), prefix.to_string());
        self.read(|connection| Box::pin(async move {
            let row = sqlx::query(
                "SELECT upstream, upstream_conversation, upstream_response FROM continuations WHERE owner = $1 AND prefix = $2",
            )
            .bind(owner)
            .bind(prefix)
            .fetch_optional(connection)
            .await
            .map_err(failed)?;
            let read = |row: sqlx::any::AnyRow| {
                Ok(Thread {
                    upstream: row.try_get(0)?,
                    conversation: row.try_get(1)?,
                    last_response: row.try_get(2)?,
                })
            };
            row.map(read).transpose().map_err(failed)
        }))
        .await
    }

    /// Keeps where the upstream's own conversation goes on after messages with this digest.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_continuation(&self, owner: &Owner, prefix: &str, thread: Thread) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO continuations (owner, prefix, upstream, upstream_conversation, upstream_response, used_at) \
             VALUES ($1, $2, $3, $4, $5, {}) ON CONFLICT (owner, prefix) DO UPDATE SET \
             upstream = excluded.upstream, upstream_conversation = excluded.upstream_conversation, \
             upstream_response = excluded.upstream_response, used_at = excluded.used_at",
            self.database.now()
        );
        let statement = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(owner.0.clone())
            .bind(prefix.to_string())
            .bind(thread.upstream)
            .bind(storable(thread.conversation))
            .bind(storable(thread.last_response));
        self.execute(statement).await.map(drop)
    }
}
