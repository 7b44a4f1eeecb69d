//! Conversations, turn by turn.
//!
//! A turn is opened before the upstream is asked and committed when its answer is there. While it
//! is open, other turns of the same conversation wait: in this process behind a lock, in other
//! processes on the same database behind a lease that is renewed as long as this one lives.

use std::sync::Arc;
use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row};
use tokio::sync::OwnedMutexGuard;

use super::database::Database;
use super::lease::Lease;
use super::operation::{Statement, failed};
use super::{Store, not_found};
use crate::domain::chat::{ConversationId, Message, Owner, Role, Thread};
use crate::domain::error::{Error, Kind};

/// The most turns that are read back at once.
const MAX_TURNS_READ: usize = 10_000;

/// The most conversations that are deleted in one transaction, for which turns wait.
const EXPIRED_AT_ONCE: u64 = 100;

/// A conversation as far as it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The instructions for the model.
    pub system: Option<String>,
    /// The latest questions and answers in turn, the oldest first.
    pub messages: Vec<Message>,
    /// Where an upstream that keeps conversations itself goes on.
    pub thread: Option<Thread>,
}

/// What a turn adds to its conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The instructions from now on.
    pub system: Option<String>,
    /// Where the upstream goes on from now on.
    pub thread: Option<Thread>,
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: String,
    /// Whether the answer broke off.
    pub partial: bool,
}

/// A whole conversation, to be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The instructions for the model.
    pub system: Option<String>,
    /// Questions and answers, the oldest first, each with whether the answer broke off.
    pub turns: Vec<(String, String, bool)>,
    /// When it began, in milliseconds since 1970.
    pub created_at: i64,
    /// When it was last gone on with, in milliseconds since 1970.
    pub used_at: i64,
}

/// One turn of a conversation, from before the question to after the answer.
pub struct Turn {
    /// The conversation's id.
    pub id: ConversationId,
    owner: Owner,
    conversation: Conversation,
    /// The number of turns before this one.
    before: i64,
    _lease: Option<Lease>,
    _lock: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// The conversation before this turn.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }
}

impl Store {
    /// Opens a turn: of the conversation with this id, or of a new one. `history` bounds the
    /// messages that are read.
    ///
    /// # Errors
    /// [`Kind::ConversationNotFound`] when the owner has no conversation with this id, whether or
    /// not another has; [`Kind::StorageUnavailable`] when a turn could not be kept now.
    pub async fn open(
        &self,
        owner: &Owner,
        id: Option<ConversationId>,
        history: usize,
    ) -> Result<Turn, Error> {
        let owner = owner.clone();
        let Some(id) = id else {
            self.prepare().await?;
            let id = ConversationId::random()?;
            return Ok(Turn {
                id,
                owner,
                conversation: Conversation::default(),
                before: 0,
                _lease: None,
                _lock: None,
            });
        };
        let lock = self.locks.lock((owner.clone(), id)).await;
        let lease = if self.database.is_shared() { Some(self.lease(&owner, id).await?) } else { None };
        let of = owner.clone();
        let load = |database: Arc<Database>| async move {
            database.check_room()?;
            let one_text = !database.is_shared();
            database.read(move |connection| Box::pin(load(connection, one_text, of, id, history))).await
        };
        let (conversation, before) = self.run(load).await?;
        Ok(Turn { id, owner, conversation, before, _lease: lease, _lock: Some(lock) })
    }

    /// Keeps what a turn adds to its conversation; when this returns, it is durable.
    ///
    /// # Errors
    /// [`Kind::StorageUnavailable`]; [`Kind::ConversationBusy`] when another process went on with
    /// the conversation because this one seemed to have died.
    pub async fn commit(&self, turn: Turn, exchange: Exchange) -> Result<(), Error> {
        self.run(|database| async move {
            let Turn { id, owner, before, _lease, _lock, .. } = turn;
            // The lease and the lock are let go after the commit, and on this thread.
            if database.write_text(keep(&database, &owner, id, before, exchange)).await? > 0 {
                return Ok(());
            }
            database
                .read(move |connection| Box::pin(async move { head(connection, &owner, id).await }))
                .await?;
            Err(Error::new(Kind::ConversationBusy, "another call went on with this conversation meanwhile"))
        })
        .await
    }

    /// Reads a conversation back.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn transcript(&self, owner: &Owner, id: ConversationId) -> Result<Transcript, Error> {
        let owner = owner.clone();
        let one_text = !self.database.is_shared();
        self.read(move |connection| Box::pin(transcript(connection, one_text, owner, id))).await
    }

    /// Deletes a conversation.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn delete(&self, owner: &Owner, id: ConversationId) -> Result<(), Error> {
        let owner = owner.clone();
        self.transact(move |connection| {
            Box::pin(async move {
                let deleted = sqlx::query("DELETE FROM conversations WHERE owner = $1 AND id = $2")
                    .bind(&owner.0)
                    .bind(id.to_string())
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                match deleted.rows_affected() {
                    0 => Err(not_found()),
                    _ => delete_turns(connection, &owner.0, &id.to_string()).await,
                }
            })
        })
        .await
    }

    /// Deletes the conversations that nobody went on with for this long; says how many.
    ///
    /// # Errors
    /// [`Kind::StorageUnavailable`]
    pub async fn expire(&self, after: Duration) -> Result<u64, Error> {
        let age = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let now = self.database.now();
        let mut all = 0;
        loop {
            let deleted = self.transact(move |connection| Box::pin(expire(connection, now, age))).await?;
            all += deleted;
            if deleted < EXPIRED_AT_ONCE {
                break;
            }
        }
        loop {
            let text = format!(
                "DELETE FROM continuations WHERE (owner, prefix) IN \
                 (SELECT owner, prefix FROM continuations WHERE used_at < {now} - $1 LIMIT $2)"
            );
            let statement = sqlx::query(AssertSqlSafe(text)).bind(age).bind(EXPIRED_AT_ONCE as i64);
            if self.execute(statement).await? < EXPIRED_AT_ONCE {
                return Ok(all);
            }
        }
    }

    /// The database's clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Kind::StorageUnavailable`]
    pub async fn clock(&self) -> Result<i64, Error> {
        let query = sqlx::query(AssertSqlSafe(format!("SELECT {}", self.database.now())));
        self.read(|connection| {
            Box::pin(async {
                query.fetch_one(connection).await.and_then(|row| row.try_get(0)).map_err(failed)
            })
        })
        .await
    }
}

/// The conversation's own row.
const HEAD: &str = "SELECT system, upstream_conversation, upstream_response, turns, created_at, used_at, upstream \
                    FROM conversations WHERE owner = $1 AND id = $2";

/// Its latest turns, the latest first.
const TURNS: &str = "SELECT question, answer, partial FROM turns WHERE owner = $1 AND id = $2 \
                     ORDER BY number DESC LIMIT $3";

async fn head(connection: &mut AnyConnection, owner: &Owner, id: ConversationId) -> Result<AnyRow, Error> {
    let query = sqlx::query(HEAD).bind(owner.0.clone()).bind(id.to_string());
    query.fetch_optional(connection).await.map_err(failed)?.ok_or_else(not_found)
}

/// The conversation's own row, and its latest turns, the oldest of them first. SQLite is asked for
/// both in one text.
async fn whole(
    connection: &mut AnyConnection,
    one_text: bool,
    owner: &Owner,
    id: ConversationId,
    most: usize,
) -> Result<(AnyRow, Vec<(String, String, bool)>), Error> {
    let ask = |text| sqlx::query(text).bind(owner.0.clone()).bind(id.to_string()).bind(most as i64);
    let (head, turns): (AnyRow, Vec<AnyRow>) = if one_text {
        let rows = ask(AssertSqlSafe(format!("{HEAD}; {TURNS}"))).fetch_all(connection).await;
        let mut rows = rows.map_err(failed)?.into_iter();
        (rows.next().ok_or_else(not_found)?, rows.rev().collect())
    } else {
        let head = head(&mut *connection, owner, id).await?;
        let mut turns = ask(AssertSqlSafe(TURNS.to_string())).fetch_all(connection).await.map_err(failed)?;
        turns.reverse();
        (head, turns)
    };
    let turn = |row: &AnyRow| -> Result<(String, String, bool), sqlx::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get::<i64, _>(2)? != 0))
    };
    Ok((head, turns.iter().map(turn).collect::<Result<_, _>>().map_err(failed)?))
}

async fn load(
    connection: &mut AnyConnection,
    one_text: bool,
    owner: Owner,
    id: ConversationId,
    history: usize,
) -> Result<(Conversation, i64), Error> {
    let (row, pairs) = whole(connection, one_text, &owner, id, history.div_ceil(2)).await?;
    let read = || -> Result<(Conversation, i64), sqlx::Error> {
        let ids = row.try_get::<Option<String>, _>(1)?.zip(row.try_get::<Option<String>, _>(2)?);
        let upstream: Option<String> = row.try_get(6)?;
        let upstream = upstream.unwrap_or_default();
        let thread =
            ids.map(|(conversation, last_response)| Thread { upstream, conversation, last_response });
        let messages = pairs.into_iter().flat_map(|(question, answer, _)| {
            [Message::new(Role::User, question), Message::new(Role::Assistant, answer)]
        });
        let conversation = Conversation { system: row.try_get(0)?, messages: messages.collect(), thread };
        Ok((conversation, row.try_get(3)?))
    };
    read().map_err(failed)
}

/// Deletes what a conversation has said.
async fn delete_turns(connection: &mut AnyConnection, owner: &str, id: &str) -> Result<(), Error> {
    let statement = sqlx::query("DELETE FROM turns WHERE owner = $1 AND id = $2").bind(owner).bind(id);
    statement.execute(connection).await.map(drop).map_err(failed)
}

/// Deletes some of the conversations that were not used for this many milliseconds; says how many.
async fn expire(connection: &mut AnyConnection, now: &str, age: i64) -> Result<u64, Error> {
    // The age is looked at once more, since a turn may be committed between the two looks.
    let text = format!(
        "DELETE FROM conversations WHERE used_at < {now} - $1 AND (owner, id) IN \
         (SELECT owner, id FROM conversations WHERE used_at < {now} - $1 LIMIT $2) RETURNING owner, id"
    );
    let expired = sqlx::query(AssertSqlSafe(text))
        .bind(age)
        .bind(EXPIRED_AT_ONCE as i64)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    for row in &expired {
        let (owner, id) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        delete_turns(&mut *connection, owner, id).await?;
    }
    Ok(expired.len() as u64)
}

/// What keeps a turn, and returns a row if it did.
fn keep(
    database: &Database,
    owner: &Owner,
    id: ConversationId,
    before: i64,
    exchange: Exchange,
) -> Statement {
    let (upstream, ids) =
        exchange.thread.map(|thread| (thread.upstream, (thread.conversation, thread.last_response))).unzip();
    let (conversation, response) = ids.unzip();
    let now = database.now();
    // The number of turns is compared, so that no process writes over another's turn, whatever
    // became of its lease; and a conversation that was deleted meanwhile stays deleted.
    let head = if before == 0 {
        format!(
            "INSERT INTO conversations (owner, id, system, upstream_conversation, upstream_response, turns, upstream, created_at, used_at) \
             VALUES ($1, $2, $3, $4, $5, $6 + 1, $7, {now}, {now}) ON CONFLICT (owner, id) DO NOTHING"
        )
    } else {
        format!(
            "UPDATE conversations SET system = $3, upstream_conversation = $4, upstream_response = $5, \
             upstream = $7, turns = turns + 1, used_at = {now} WHERE owner = $1 AND id = $2 AND turns = $6"
        )
    };
    let turn = format!(
        "INSERT INTO turns (owner, id, number, question, answer, partial, created_at) \
         SELECT owner, id, turns, $8, $9, $10, {now} FROM"
    );
    // In one text, so that neither database is gone to more than once.
    let text = if database.is_shared() {
        format!("WITH head AS ({head} RETURNING owner, id, turns) {turn} head RETURNING number")
    } else {
        format!(
            "{head}; {turn} conversations WHERE owner = $1 AND id = $2 AND turns = $6 + 1 \
             ON CONFLICT DO NOTHING RETURNING number"
        )
    };
    sqlx::query(AssertSqlSafe(text))
        .bind(owner.0.clone())
        .bind(id.to_string())
        .bind(exchange.system.map(storable))
        .bind(conversation.map(storable))
        .bind(response.map(storable))
        .bind(before)
        .bind(upstream)
        .bind(storable(exchange.question))
        .bind(storable(exchange.answer))
        .bind(i64::from(exchange.partial))
}

async fn transcript(
    connection: &mut AnyConnection,
    one_text: bool,
    owner: Owner,
    id: ConversationId,
) -> Result<Transcript, Error> {
    let (row, turns) = whole(connection, one_text, &owner, id, MAX_TURNS_READ).await?;
    let read = || -> Result<Transcript, sqlx::Error> {
        Ok(Transcript {
            system: row.try_get(0)?,
            turns,
            created_at: row.try_get(4)?,
            used_at: row.try_get(5)?,
        })
    };
    read().map_err(failed)
}

/// PostgreSQL takes every character but NUL.
pub fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}
