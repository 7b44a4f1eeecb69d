//! Conversations, turn by turn.
//!
//! A turn is opened before the upstream is asked and committed when its answer is there. While it
//! is open, other turns of the same conversation wait: in this process behind a lock, in other
//! processes on the same database behind a lease that is renewed as long as this one lives.

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::sleep;

use super::lease::{LEASE, Lease};
use super::statement::{Row, Statement, Text, Value, text};
use super::{Store, not_found};
use crate::domain::chat::{ConversationId, Message, Owner, Role, Thread, TurnId};
use crate::domain::conversations::{ConversationName, ConversationRef};
use crate::domain::error::Error;

/// The most conversations that are deleted in one transaction, for which turns wait.
const EXPIRED_AT_ONCE: usize = 20;

/// How often one looks whether another process has let a conversation go: soon at first.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_millis(150);

/// The kinds of rows that [`OPEN`] gives.
const HEAD: i64 = 0;
const TURN: i64 = 1;

/// The conversation's own row, and where no upstream has the conversation its latest turns within
/// bounds, as rows of the kinds above. PostgreSQL takes the lease with it; of a conversation that is
/// another's now it gives a row of a third kind. A lease may be lost with the server, so nobody waits
/// until it is durable.
const OPEN: &Text = &Text {
    sqlite: text![
    "SELECT 0, turns, system, upstream_conversation, upstream_response, upstream FROM conversations \
     WHERE owner = $1 AND id = $2 AND turns > 0 \
     UNION ALL SELECT 1, number, question, answer, NULL, NULL FROM turns WHERE owner = $1 AND id = $2 \
     AND (SELECT upstream_conversation FROM conversations WHERE owner = $1 AND id = $2) IS NULL \
     AND number >= (SELECT MIN(number) FROM (SELECT number, \
     SUM(size) OVER (ORDER BY number DESC) AS total FROM (SELECT number, octet_length(question) + octet_length(answer) AS size \
     FROM turns WHERE owner = $1 AND id = $2 ORDER BY number DESC LIMIT $3) AS sizes) AS totals WHERE total <= $4)"
    ]
    .sqlite,
    postgres: text![
        "WITH taken AS (UPDATE conversations SET lease = $5, lease_until = " now " + $6 \
         WHERE owner = $1 AND id = $2 AND turns > 0 AND lease_until <= " now " \
         RETURNING turns, system, upstream_conversation, upstream_response, upstream) \
         SELECT CAST(0 AS BIGINT), turns, system, upstream_conversation, upstream_response, upstream, \
         set_config('synchronous_commit', 'off', true) FROM taken \
         UNION ALL SELECT 1, number, question, answer, NULL, NULL, NULL FROM turns WHERE owner = $1 AND id = $2 \
         AND EXISTS (SELECT 1 FROM taken WHERE upstream_conversation IS NULL) \
         AND number >= (SELECT MIN(number) FROM (SELECT number, \
     SUM(size) OVER (ORDER BY number DESC) AS total FROM (SELECT number, octet_length(question) + octet_length(answer) AS size \
     FROM turns WHERE owner = $1 AND id = $2 ORDER BY number DESC LIMIT $3) AS sizes) AS totals WHERE total <= $4) \
         UNION ALL SELECT 2, turns, NULL, NULL, NULL, NULL, NULL FROM conversations \
         WHERE owner = $1 AND id = $2 AND turns > 0 AND NOT EXISTS (SELECT 1 FROM taken)"
    ]
    .postgres,
};

/// Takes the lease of a conversation that begins under a name, so that another process which begins it
/// too waits for its first turn. Until that is kept, a row without turns stands for it, which nobody sees.
const CLAIM: &Text = text![
    "INSERT INTO conversations (owner, id, turns, lease, lease_until, created_at, used_at) \
     VALUES ($1, $2, 0, $3, " now " + $4, " now ", " now ") ON CONFLICT (owner, id) DO UPDATE SET \
     lease = excluded.lease, lease_until = excluded.lease_until, used_at = excluded.used_at \
     WHERE conversations.turns = 0 AND conversations.lease_until <= " now
];

/// The latest turns within bounds alone, as [`OPEN`] gives them.
const LATEST: &Text = text![
    "SELECT CAST(1 AS BIGINT), number, question, answer FROM turns WHERE owner = $1 AND id = $2 \
     AND number >= (SELECT MIN(number) FROM (SELECT number, \
     SUM(size) OVER (ORDER BY number DESC) AS total FROM (SELECT number, octet_length(question) + octet_length(answer) AS size \
     FROM turns WHERE owner = $1 AND id = $2 ORDER BY number DESC LIMIT $3) AS sizes) AS totals WHERE total <= $4)"
];

const DELETE: &Text = text!["DELETE FROM conversations WHERE owner = $1 AND id = $2 AND turns > 0"];
const DELETE_TURNS: &Text = text![
    "DELETE FROM turns WHERE owner = $1 AND id = $2 \
     AND NOT EXISTS (SELECT 1 FROM conversations WHERE owner = $1 AND id = $2)"
];
const DELETE_ANSWERS: &Text = text!["DELETE FROM answers WHERE owner = $1 AND conversation = $2"];
const OLD: &Text =
    text!["SELECT owner, id FROM conversations WHERE used_at < " now " - $1 ORDER BY used_at LIMIT $2"];
// The age is looked at once more, since a turn may be committed between the two looks.
const DELETE_OLD: &Text =
    text!["DELETE FROM conversations WHERE owner = $1 AND id = $2 AND used_at < " now " - $3"];
const CLOCK: &Text = text!["SELECT " now];

/// A conversation as far as it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The instructions for the model.
    pub system: Option<String>,
    /// The latest questions and answers in turn, the oldest first; `None` where an upstream has the
    /// conversation, so that they were not read. See [`Store::history`].
    pub messages: Option<Vec<Message>>,
    /// Where an upstream that keeps conversations itself goes on.
    pub thread: Option<Thread>,
}

impl Conversation {
    /// One that begins, of which there is nothing to read.
    fn beginning() -> Self {
        Conversation { messages: Some(Vec::new()), ..Conversation::default() }
    }
}

/// What is read of a conversation's past: its latest turns within both bounds.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// The most turns.
    pub turns: usize,
    /// The most bytes of questions and answers.
    pub bytes: usize,
}

impl History {
    fn values(self) -> [Value; 2] {
        [self.turns, self.bytes].map(|most| i64::try_from(most).unwrap_or(i64::MAX).into())
    }
}

/// One turn of a conversation, from before the question to after the answer.
pub struct Turn {
    /// The conversation's id.
    pub id: ConversationId,
    /// Its name, where it begins under one.
    pub(super) name: Option<ConversationName>,
    pub(super) owner: Owner,
    /// The turn's own id.
    pub(super) turn: String,
    pub(super) conversation: Conversation,
    history: History,
    /// The number of turns before this one.
    pub(super) before: i64,
    pub(super) lease: Option<Lease>,
    pub(super) _lock: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// The conversation before this turn.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// How many turns the conversation has before this one.
    pub fn turns_before(&self) -> usize {
        usize::try_from(self.before).unwrap_or_default()
    }
}

impl Store {
    /// Opens a turn: of the conversation that is meant, or of a new one. `history` bounds what is read of it.
    ///
    /// # Errors
    /// [`Kind::ConversationNotFound`](crate::domain::error::Kind::ConversationNotFound) when the owner
    /// has no conversation with this id, whether or not another has;
    /// [`Kind::StorageUnavailable`](crate::domain::error::Kind::StorageUnavailable) when a turn could
    /// not be kept now.
    pub async fn open(
        &self,
        owner: &Owner,
        meant: Option<ConversationRef>,
        history: History,
    ) -> Result<Turn, Error> {
        let (owner, turn) = (owner.clone(), TurnId::random()?.to_string());
        let Some(meant) = meant else {
            self.expect_room().await?;
            let (id, conversation) = (ConversationId::random()?, Conversation::beginning());
            let (name, lease, _lock) = (None, None, None);
            return Ok(Turn { id, name, owner, turn, conversation, history, before: 0, lease, _lock });
        };
        let id = meant.id();
        let shared = self.database.shared();
        if shared.is_none() {
            // Where there is a lease to take, that tells it.
            self.expect_room().await?;
        }
        let lock = self.locks.lock((owner.clone(), id)).await;
        let (before, conversation) = self.load(&owner, &meant, &turn, history).await?;
        let lease = shared.map(|handle| Lease::hold(&self.database, handle, (owner.clone(), id), &turn));
        let name = match meant {
            ConversationRef::Named(name) if before == 0 => Some(name),
            ConversationRef::Named(_) | ConversationRef::Known(_) => None,
        };
        Ok(Turn { id, name, owner, turn, conversation, history, before, lease, _lock: Some(lock) })
    }

    /// Reads a conversation, of which the latest turns, and takes its lease as soon as it can be had. One
    /// that is named and not there begins.
    async fn load(
        &self,
        owner: &Owner,
        meant: &ConversationRef,
        turn: &str,
        history: History,
    ) -> Result<(i64, Conversation), Error> {
        let id = meant.id();
        let mut pause = LOOK_AGAIN;
        loop {
            let mut values = key(owner, id);
            values.extend(history.values());
            let latest = Statement::new(LATEST, values.clone());
            let mut rows = if self.database.shared().is_some() {
                values.extend([turn.into(), LEASE.into()]);
                let done = self.write([Statement::new(OPEN, values)]).await?;
                done.into_iter().flat_map(|done| done.rows).collect()
            } else {
                self.read(Statement::new(OPEN, values)).await?
            };
            match take_head(&mut rows)? {
                Some((HEAD, mut head)) => {
                    let before = head.integer(1)?;
                    let (system, thread) = (head.optional_text(2)?, thread(&mut head)?);
                    // A statement that waited for another's commit has seen the head after it, and the
                    // turns before it.
                    if thread.is_none() && before > newest(&rows)? {
                        rows = self.read(latest).await?;
                    }
                    let messages = thread.is_none().then(|| messages(rows)).transpose()?;
                    return Ok((before, Conversation { system, messages, thread }));
                }
                Some(_) => sleep(pause).await,
                None => match meant {
                    ConversationRef::Known(_) => return Err(not_found()),
                    ConversationRef::Named(_) if self.claim(owner, id, turn).await? => {
                        return Ok((0, Conversation::beginning()));
                    }
                    ConversationRef::Named(_) => sleep(pause).await,
                },
            }
            pause = (pause * 2).min(LOOK_AGAIN_AT_MOST);
        }
    }

    /// Takes a conversation that is to begin for this turn; says whether it could be had. Within a process
    /// its lock is enough.
    async fn claim(&self, owner: &Owner, id: ConversationId, turn: &str) -> Result<bool, Error> {
        if self.database.shared().is_none() {
            return Ok(true);
        }
        let mut values = key(owner, id);
        values.extend([turn.into(), LEASE.into()]);
        self.changes(Statement::new(CLAIM, values)).await
    }

    /// The latest questions and answers before a turn, the oldest first, as far as they were asked for when
    /// it was opened.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn history(&self, turn: &Turn) -> Result<Vec<Message>, Error> {
        if let Some(messages) = &turn.conversation.messages {
            return Ok(messages.clone());
        }
        let mut values = key(&turn.owner, turn.id);
        values.extend(turn.history.values());
        messages(self.read(Statement::new(LATEST, values)).await?)
    }

    /// Deletes a conversation, and its answers that were to be come back for.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn delete(&self, owner: &Owner, id: ConversationId) -> Result<(), Error> {
        if self.remove(owner, id).await? { Ok(()) } else { Err(not_found()) }
    }

    /// Deletes a conversation, if it is there; says whether it was.
    pub(super) async fn remove(&self, owner: &Owner, id: ConversationId) -> Result<bool, Error> {
        let head = Statement::new(DELETE, key(owner, id)).required();
        let rest = [DELETE_TURNS, DELETE_ANSWERS].map(|text| Statement::new(text, key(owner, id)));
        let done = self.write(std::iter::once(head).chain(rest).collect::<Vec<_>>()).await?;
        Ok(done.first().is_some_and(|head| head.changed > 0))
    }

    /// Deletes the conversations that nobody went on with for this long; says how many.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire(&self, after: Duration) -> Result<u64, Error> {
        let age = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let mut all = 0;
        loop {
            let old = self.read(Statement::new(OLD, [age.into(), (EXPIRED_AT_ONCE as i64).into()])).await?;
            let mut batch = Vec::new();
            for mut row in old {
                let key = vec![row.text(0)?.into(), row.text(1)?.into()];
                let with_age = key.iter().cloned().chain([age.into()]).collect::<Vec<_>>();
                batch.extend([Statement::new(DELETE_OLD, with_age), Statement::new(DELETE_TURNS, key)]);
            }
            let is_last = batch.len() < 2 * EXPIRED_AT_ONCE;
            if !batch.is_empty() {
                all += self.write(batch).await?.iter().step_by(2).map(|done| done.changed).sum::<u64>();
            }
            if is_last {
                break;
            }
        }
        self.expire_continuations(after).await?;
        Ok(all)
    }

    /// The database's clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn clock(&self) -> Result<i64, Error> {
        let rows = self.read(Statement::new(CLOCK, [])).await?;
        rows.first().ok_or_else(|| super::unavailable("it does not tell the time"))?.integer(0)
    }
}

/// What finds a conversation: `$1` and `$2` of its statements.
pub(super) fn key(owner: &Owner, id: ConversationId) -> Vec<Value> {
    vec![owner.0.as_ref().into(), id.to_string().into()]
}

/// Takes the row that is no turn out of these, with its kind.
pub(super) fn take_head(rows: &mut Vec<Row>) -> Result<Option<(i64, Row)>, Error> {
    for index in 0..rows.len() {
        let kind = rows[index].integer(0)?;
        if kind != TURN {
            return Ok(Some((kind, rows.swap_remove(index))));
        }
    }
    Ok(None)
}

/// The number of the latest turn.
fn newest(turns: &[Row]) -> Result<i64, Error> {
    turns.iter().try_fold(0, |newest, row| Ok(row.integer(1)?.max(newest)))
}

/// Turns, the oldest first.
pub(super) fn in_order(mut turns: Vec<Row>) -> Result<Vec<Row>, Error> {
    newest(&turns)?;
    turns.sort_by_key(|row| row.integer(1).unwrap_or_default());
    Ok(turns)
}

/// Where an upstream that keeps conversations itself goes on.
fn thread(head: &mut Row) -> Result<Option<Thread>, Error> {
    let ids = head.optional_text(3)?.zip(head.optional_text(4)?);
    let upstream = head.optional_text(5)?.unwrap_or_default();
    Ok(ids.map(|(conversation, last_response)| Thread { upstream, conversation, last_response }))
}

fn messages(turns: Vec<Row>) -> Result<Vec<Message>, Error> {
    let mut messages = Vec::with_capacity(2 * turns.len());
    for mut row in in_order(turns)? {
        messages.push(Message::new(Role::User, row.text(2)?));
        messages.push(Message::new(Role::Assistant, row.text(3)?));
    }
    Ok(messages)
}
