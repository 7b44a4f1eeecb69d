//! Answers that go on after their caller was told to come back: one text each, with how long some
//! process vouches for being at work on it.

use std::time::Duration;

use sqlx::Row;

use super::Store;
use super::conversations::storable;
use super::operation::failed;
use crate::domain::chat::{AnswerId, Owner};
use crate::domain::error::Error;

/// The most finished answers that are kept for one owner.
const MAX_ANSWERS: i64 = 1000;

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// What is known of it, as the service wrote it.
    pub record: String,
    /// Whether it is finished.
    pub finished: bool,
    /// Whether some process is at work on it.
    pub alive: bool,
}

impl Store {
    /// Keeps what is known of an answer; one that is not finished counts as being worked on for
    /// this long from now, and one that is takes the place of its owner's oldest of too many.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_answer(
        &self,
        owner: &Owner,
        id: AnswerId,
        record: String,
        alive: Option<Duration>,
    ) -> Result<(), Error> {
        let now = self.database.now();
        let text = format!(
            "INSERT INTO answers (owner, id, record, finished, alive_until, created_at) \
             VALUES ($1, $2, $3, $4, {now} + $5, {now}) ON CONFLICT (owner, id) DO UPDATE SET \
             record = excluded.record, finished = excluded.finished, alive_until = excluded.alive_until"
        );
        let statement = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(owner.0.clone())
            .bind(id.to_string())
            .bind(storable(record))
            .bind(i64::from(alive.is_none()))
            .bind(alive.unwrap_or_default().as_millis() as i64);
        if alive.is_some() {
            return self.execute(statement).await.map(drop);
        }
        let owner = owner.0.clone();
        self.transact(|connection| {
            Box::pin(async move {
                statement.execute(&mut *connection).await.map_err(failed)?;
                let old = sqlx::query(
                    "DELETE FROM answers WHERE owner = $1 AND finished = 1 AND created_at < (SELECT created_at \
                     FROM answers WHERE owner = $1 ORDER BY created_at DESC LIMIT 1 OFFSET $2)",
                );
                old.bind(owner).bind(MAX_ANSWERS - 1).execute(connection).await.map(drop).map_err(failed)
            })
        })
        .await
    }

    /// A kept answer, if the owner has one with this id.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn answer(&self, owner: &Owner, id: AnswerId) -> Result<Option<KeptAnswer>, Error> {
        let owner = owner.0.clone();
        let now = self.database.now();
        self.read(move |connection| {
            Box::pin(async move {
                let text = format!(
                    "SELECT record, finished, alive_until - {now} FROM answers WHERE owner = $1 AND id = $2"
                );
                let row = sqlx::query(sqlx::AssertSqlSafe(text))
                    .bind(owner)
                    .bind(id.to_string())
                    .fetch_optional(connection)
                    .await
                    .map_err(failed)?;
                let read = |row: sqlx::any::AnyRow| {
                    Ok(KeptAnswer {
                        record: row.try_get(0)?,
                        finished: row.try_get::<i64, _>(1)? != 0,
                        alive: row.try_get::<i64, _>(2)? > 0,
                    })
                };
                row.map(read).transpose().map_err(failed)
            })
        })
        .await
    }

    /// Deletes answers that are older than this.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire_answers(&self, after: Duration) -> Result<(), Error> {
        let text = format!("DELETE FROM answers WHERE created_at < {} - $1", self.database.now());
        let statement = sqlx::query(sqlx::AssertSqlSafe(text)).bind(after.as_millis() as i64);
        self.execute(statement).await.map(drop)
    }

    /// Tells that no process is at work on any answer: at the start of the only one on a database.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn interrupt_answers(&self) -> Result<(), Error> {
        if self.database.is_shared() {
            return Ok(());
        }
        self.execute(sqlx::query("UPDATE answers SET alive_until = 0 WHERE finished = 0")).await.map(drop)
    }
}
