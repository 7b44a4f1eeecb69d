//! Conversations read back page by page, listed, and deleted together.

use std::collections::HashMap;

use super::conversations::{in_order, key, take_head};
use super::statement::{Row, Statement, Text, text};
use super::{Store, not_found};
use crate::domain::chat::{ConversationId, Owner};
use crate::domain::error::Error;

/// The most bytes of one page, which has one turn at least.
const PAGE_BYTES: i64 = 4 << 20;

/// How many conversations are looked up at once to be deleted.
const DELETED_AT_ONCE: i64 = 20;

const PAGE: &Text = text![
    "SELECT CAST(0 AS BIGINT), turns, system, name, created_at, used_at FROM conversations \
     WHERE owner = $1 AND id = $2 AND turns > 0 \
     UNION ALL SELECT 1, number, question, answer, partial, 0 FROM turns WHERE owner = $1 AND id = $2 AND number < $3 \
     AND number >= (SELECT MIN(number) FROM (SELECT number, SUM(size) OVER (ORDER BY number DESC) - size AS newer \
     FROM (SELECT number, octet_length(question) + octet_length(answer) AS size FROM turns \
     WHERE owner = $1 AND id = $2 AND number < $3 ORDER BY number DESC LIMIT $4) AS sizes) AS totals WHERE newer < $5)"
];

const LIST: &Text = text![
    "SELECT id, turns, bytes, created_at, used_at, name FROM conversations WHERE owner = $1 AND turns > 0 \
     AND (used_at < $2 OR used_at = $2 AND id < $3) ORDER BY used_at DESC, id DESC LIMIT $4"
];

const SOME: &Text = text!["SELECT id FROM conversations WHERE owner = $1 AND turns > 0 LIMIT $2"];

const BYTES: &Text = text![
    "SELECT CAST(COALESCE((SELECT SUM(bytes) FROM conversations WHERE owner = $1), 0) \
     + COALESCE((SELECT SUM(octet_length(answer)) FROM calls WHERE owner = $1), 0) AS BIGINT)"
];

const BYTES_OF_ALL: &Text = text![
    "SELECT owner, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM (SELECT owner, bytes FROM conversations \
     UNION ALL SELECT owner, octet_length(answer) FROM calls) AS kept GROUP BY owner"
];

const KEPT: &Text = text![
    "SELECT owner, COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM conversations WHERE turns > 0 \
     GROUP BY owner ORDER BY bytes DESC, owner"
];

/// What is kept for an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOf {
    /// Whose.
    pub owner: Owner,
    /// Conversations.
    pub conversations: u64,
    /// The bytes of their questions and answers.
    pub bytes: u64,
}

/// A part of a conversation, to be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The name under which the conversation was begun, if it was.
    pub name: Option<String>,
    /// The instructions for the model.
    pub system: Option<String>,
    /// Questions and answers, the oldest first, each with whether the answer broke off.
    pub turns: Vec<(String, String, bool)>,
    /// The number of the first of these turns, where there are others before it.
    pub next_before: Option<i64>,
    /// When it began, in milliseconds since 1970.
    pub created_at: i64,
    /// When it was last gone on with, in milliseconds since 1970.
    pub used_at: i64,
}

/// A conversation in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// The name under which it was begun, if it was.
    pub name: Option<String>,
    /// How many turns it has.
    pub turns: i64,
    /// The bytes of its questions and answers.
    pub bytes: i64,
    /// When it began, in milliseconds since 1970.
    pub created_at: i64,
    /// When it was last gone on with, in milliseconds since 1970.
    pub used_at: i64,
}

impl Store {
    /// How many bytes of conversations, and of answers under an `Idempotency-Key`, are kept for an owner.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn bytes_of(&self, owner: &Owner) -> Result<u64, Error> {
        let rows = self.read(Statement::new(BYTES, [owner.0.as_ref().into()])).await?;
        Ok(rows.first().map_or(Ok(0), |row| row.integer(0))?.max(0) as u64)
    }

    /// What is kept for each owner, the most bytes first.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn kept_of_all(&self) -> Result<Vec<KeptOf>, Error> {
        let kept = |mut row: Row| {
            let [conversations, bytes] =
                [row.integer(1)?, row.integer(2)?].map(|number| number.max(0) as u64);
            Ok(KeptOf { owner: Owner(row.text(0)?.into()), conversations, bytes })
        };
        self.read(Statement::new(KEPT, [])).await?.into_iter().map(kept).collect()
    }

    /// As [`Store::bytes_of`], for each owner for whom something is kept.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn bytes_of_all(&self) -> Result<HashMap<Owner, u64>, Error> {
        let bytes = |mut row: Row| Ok((Owner(row.text(0)?.into()), row.integer(1)?.max(0) as u64));
        self.read(Statement::new(BYTES_OF_ALL, [])).await?.into_iter().map(bytes).collect()
    }

    /// Reads the latest turns of a conversation back, at most so many; with `before`, of those alone that
    /// come before the turn of this number.
    ///
    /// # Errors
    /// [`Kind::ConversationNotFound`](crate::domain::error::Kind::ConversationNotFound) when the owner has no conversation with this id; when the store
    /// cannot be used.
    pub async fn transcript(
        &self,
        owner: &Owner,
        id: ConversationId,
        before: Option<i64>,
        most: usize,
    ) -> Result<Transcript, Error> {
        let mut values = key(owner, id);
        values.extend([before.unwrap_or(i64::MAX).into(), (most as i64).into(), PAGE_BYTES.into()]);
        let mut rows = self.read(Statement::new(PAGE, values)).await?;
        let (_, mut head) = take_head(&mut rows)?.ok_or_else(not_found)?;
        let rows = in_order(rows)?;
        let first = rows.first().map(|row| row.integer(1)).transpose()?;
        let turn = |mut row: Row| Ok((row.text(2)?, row.text(3)?, row.integer(4)? != 0));
        Ok(Transcript {
            name: head.optional_text(3)?,
            system: head.optional_text(2)?,
            turns: rows.into_iter().map(turn).collect::<Result<_, Error>>()?,
            next_before: first.filter(|first| *first > 1),
            created_at: head.integer(4)?,
            used_at: head.integer(5)?,
        })
    }

    /// An owner's conversations, the latest first, at most so many, after the one that was last used then
    /// and has this id.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn conversations(
        &self,
        owner: &Owner,
        (used_at, id): (i64, &str),
        most: usize,
    ) -> Result<Vec<Listed>, Error> {
        let values = [owner.0.as_ref().into(), used_at.into(), id.into(), (most as i64).into()];
        let listed = |mut row: Row| {
            Ok(Listed {
                id: row.text(0)?,
                turns: row.integer(1)?,
                bytes: row.integer(2)?,
                created_at: row.integer(3)?,
                used_at: row.integer(4)?,
                name: row.optional_text(5)?,
            })
        };
        self.read(Statement::new(LIST, values)).await?.into_iter().map(listed).collect()
    }

    /// Deletes all conversations of an owner; says how many.
    ///
    /// # Errors
    /// When the store cannot be used: then some may be gone.
    pub async fn delete_all(&self, owner: &Owner) -> Result<u64, Error> {
        let mut count = 0;
        loop {
            let some = Statement::new(SOME, [owner.0.as_ref().into(), DELETED_AT_ONCE.into()]);
            let rows = self.read(some).await?;
            if rows.is_empty() {
                return Ok(count);
            }
            for mut row in rows {
                let Ok(id) = row.text(0)?.parse() else { continue };
                count += u64::from(self.remove(owner, id).await?);
            }
        }
    }
}
