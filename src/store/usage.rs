//! What each gateway key has used.

use sqlx::Row;

use super::Store;
use super::operation::failed;
use crate::domain::chat::{Owner, Tally};
use crate::domain::error::Error;

impl Store {
    /// Adds to what keys have used, all or nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn add_usage(&self, tallies: Vec<(Owner, Tally)>) -> Result<(), Error> {
        let now = self.database.now();
        self.transact(move |connection| Box::pin(async move {
            let text = format!(
                "INSERT INTO key_usage (owner, requests, prompt_tokens, completion_tokens, estimated, created_at) \
                 VALUES ($1, $2, $3, $4, $5, {now}) ON CONFLICT (owner) DO UPDATE SET \
                 requests = key_usage.requests + excluded.requests, \
                 prompt_tokens = key_usage.prompt_tokens + excluded.prompt_tokens, \
                 completion_tokens = key_usage.completion_tokens + excluded.completion_tokens, \
                 estimated = key_usage.estimated + excluded.estimated"
            );
            for (owner, tally) in tallies {
                sqlx::query(sqlx::AssertSqlSafe(text.as_str()))
                    .bind(owner.0)
                    .bind(tally.requests as i64)
                    .bind(tally.prompt_tokens as i64)
                    .bind(tally.completion_tokens as i64)
                    .bind(tally.estimated as i64)
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
            }
            Ok(())
        }))
        .await
    }

    /// What a key has used, and since when, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn usage(&self, owner: &Owner) -> Result<(Tally, Option<i64>), Error> {
        let owner = owner.0.clone();
        self.read(|connection| Box::pin(async move {
            let row = sqlx::query(
                "SELECT requests, prompt_tokens, completion_tokens, estimated, created_at FROM key_usage WHERE owner = $1",
            )
            .bind(owner)
            .fetch_optional(connection)
            .await
            .map_err(failed)?;
            let number = |row: &sqlx::any::AnyRow, column| row.try_get::<i64, _>(column);
            let read = |row: sqlx::any::AnyRow| {
                let tally = Tally {
                    requests: number(&row, 0)? as u64,
                    prompt_tokens: number(&row, 1)? as u64,
                    completion_tokens: number(&row, 2)? as u64,
                    estimated: number(&row, 3)? as u64,
                };
                Ok((tally, Some(number(&row, 4)?)))
            };
            Ok(row.map(read).transpose().map_err(failed)?.unwrap_or_default())
        }))
        .await
    }
}
