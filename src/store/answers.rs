//! Answers that go on after their caller was told to come back: one text each, with how long some
//! process vouches for being at work on it.

use std::time::Duration;

use super::Store;
use super::statement::{Statement, Text, Value, text};
use crate::domain::chat::{AnswerId, ConversationId, Owner};
use crate::domain::error::Error;

/// The most finished answers that are kept for one owner.
const MAX_ANSWERS: i64 = 1000;

const BEGIN: &Text = text![
    "INSERT INTO answers (owner, id, record, finished, alive_until, conversation, created_at) \
     VALUES ($1, $2, $3, $4, " now " + $5, $6, " now ")"
];
/// One that was deleted meanwhile, with its conversation, stays deleted.
const GO_ON: &Text = text![
    "UPDATE answers SET record = $3, finished = $4, alive_until = " now " + $5, \
     conversation = COALESCE($6, conversation) WHERE owner = $1 AND id = $2"
];
const DROP_OLDEST: &Text = text![
    "DELETE FROM answers WHERE owner = $1 AND finished = 1 AND created_at < (SELECT created_at \
     FROM answers WHERE owner = $1 ORDER BY created_at DESC LIMIT 1 OFFSET $2)"
];
const READ: &Text = text![
    "SELECT record, finished, alive_until - " now " FROM answers WHERE owner = $1 AND id = $2"
];
const EXPIRE: &Text = text!["DELETE FROM answers WHERE created_at < " now " - $1"];
const INTERRUPT: &Text = text!["UPDATE answers SET alive_until = 0 WHERE finished = 0"];

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

/// What is known of an answer.
#[derive(Debug, Clone)]
pub struct Known {
    /// As the service writes it.
    pub record: String,
    /// The conversation that it belongs to, with which it is deleted.
    pub conversation: Option<ConversationId>,
}

fn values(owner: &Owner, id: AnswerId, known: Known, alive: Option<Duration>) -> [Value; 6] {
    [
        owner.0.as_ref().into(),
        id.to_string().into(),
        known.record.into(),
        i64::from(alive.is_none()).into(),
        alive.unwrap_or_default().into(),
        known.conversation.map(|id| id.to_string()).into(),
    ]
}

impl Store {
    /// Begins to keep what is known of an answer. It counts as being worked on for so long from now.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn begin_answer(
        &self,
        owner: &Owner,
        id: AnswerId,
        known: Known,
        alive: Duration,
    ) -> Result<(), Error> {
        self.write([Statement::new(BEGIN, values(owner, id, known, Some(alive)))]).await.map(drop)
    }

    /// Keeps what is known of an answer by now. Without a time for which it counts as being worked on it
    /// is finished, and takes the place of its owner's oldest of too many.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_answer(
        &self,
        owner: &Owner,
        id: AnswerId,
        known: Known,
        alive: Option<Duration>,
    ) -> Result<(), Error> {
        let mut batch = vec![Statement::new(GO_ON, values(owner, id, known, alive))];
        if alive.is_none() {
            batch.push(Statement::new(DROP_OLDEST, [owner.0.as_ref().into(), (MAX_ANSWERS - 1).into()]));
        }
        self.write(batch).await.map(drop)
    }

    /// A kept answer, if the owner has one with this id.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn answer(&self, owner: &Owner, id: AnswerId) -> Result<Option<KeptAnswer>, Error> {
        let query = Statement::new(READ, [owner.0.as_ref().into(), id.to_string().into()]);
        let Some(mut row) = self.read(query).await?.pop() else { return Ok(None) };
        Ok(Some(KeptAnswer {
            record: row.text(0)?,
            finished: row.integer(1)? != 0,
            alive: row.integer(2)? > 0,
        }))
    }

    /// Deletes answers that are older than this.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire_answers(&self, after: Duration) -> Result<(), Error> {
        self.write(vec![Statement::new(EXPIRE, [after.into()])]).await.map(drop)
    }

    /// Tells that no process is at work on any answer: at the start of the only one on a database.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn interrupt_answers(&self) -> Result<(), Error> {
        if self.database.shared().is_some() {
            return Ok(());
        }
        self.write([Statement::new(INTERRUPT, [])]).await.map(drop)
    }
}
