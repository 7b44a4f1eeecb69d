//! Keeping a turn, and finding out whether it is kept where no answer to that came.
//!
//! A turn is one statement and one durable commit. What a caller is told of it is true: that it is
//! kept, or that it surely is not and never will be; where neither can be known, that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::conversations::{Turn, key};
use super::statement::{Statement, Text, Unwritten, Value, text};
use super::{Store, not_found};
use crate::domain::chat::Thread;
use crate::domain::error::{Error, Kind};

/// For how long, and after which pauses, it is looked whether a turn is kept.
const LOOKING: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

// The number of turns is compared, so that no process writes over another's turn, whatever became of
// its lease; a conversation that was deleted meanwhile stays deleted; and a turn that was given up
// stays so.

/// Where a new conversation begins; of one with a name a row without turns may be there. SQLite keeps the
/// first turn by [`TURN`] in the same transaction.
const BEGIN: &Text = &Text {
    sqlite: text![
        "INSERT INTO conversations (owner, id, system, upstream_conversation, upstream_response, upstream, bytes, name, turns, created_at, used_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $10, 1, " now ", " now ") ON CONFLICT (owner, id) DO UPDATE SET \
         system = excluded.system, upstream_conversation = excluded.upstream_conversation, upstream_response = excluded.upstream_response, \
         upstream = excluded.upstream, bytes = excluded.bytes, name = excluded.name, turns = 1, \
         created_at = excluded.created_at, used_at = excluded.used_at \
         WHERE conversations.turns = 0 AND (conversations.revoked IS NULL OR conversations.revoked <> $9)"
    ]
    .sqlite,
    postgres: text![
        "WITH head AS (INSERT INTO conversations (owner, id, system, upstream_conversation, upstream_response, upstream, bytes, name, turns, created_at, used_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $10, 1, " now ", " now ") ON CONFLICT (owner, id) DO UPDATE SET \
         system = excluded.system, upstream_conversation = excluded.upstream_conversation, upstream_response = excluded.upstream_response, \
         upstream = excluded.upstream, bytes = excluded.bytes, name = excluded.name, turns = 1, \
         created_at = excluded.created_at, used_at = excluded.used_at, \
         lease_until = CASE WHEN conversations.lease = $9 THEN 0 ELSE conversations.lease_until END \
         WHERE conversations.turns = 0 AND (conversations.revoked IS NULL OR conversations.revoked <> $9) RETURNING turns) \
         INSERT INTO turns (owner, id, number, question, answer, partial, turn_id, created_at) \
         SELECT $1, $2, turns, $11, $12, $13, $9, " now " FROM head"
    ]
    .postgres,
};

/// Where a conversation goes on.
const GO_ON: &Text = &Text {
    sqlite: text![
        "UPDATE conversations SET system = $3, upstream_conversation = $4, upstream_response = $5, upstream = $6, \
         bytes = bytes + $7, turns = turns + 1, used_at = " now " WHERE owner = $1 AND id = $2 AND turns = $8 \
         AND (revoked IS NULL OR revoked <> $9)"
    ]
    .sqlite,
    postgres: text![
        "WITH head AS (UPDATE conversations SET system = $3, upstream_conversation = $4, upstream_response = $5, upstream = $6, \
         bytes = bytes + $7, turns = turns + 1, used_at = " now ", lease_until = CASE WHEN lease = $9 THEN 0 ELSE lease_until END \
         WHERE owner = $1 AND id = $2 AND turns = $8 AND (revoked IS NULL OR revoked <> $9) RETURNING turns) \
         INSERT INTO turns (owner, id, number, question, answer, partial, turn_id, created_at) \
         SELECT $1, $2, turns, $11, $12, $13, $9, " now " FROM head"
    ]
    .postgres,
};

/// For SQLite alone, which has no such statements.
const TURN: &Text = text![
    "INSERT INTO turns (owner, id, number, question, answer, partial, turn_id, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, " now ")"
];

/// Gives a turn up. Where the conversation is new, what stands for it is a row without turns, which
/// nobody sees.
const REVOKE_FIRST: &Text = text![
    "INSERT INTO conversations (owner, id, turns, revoked, created_at, used_at) \
     VALUES ($1, $2, 0, $3, " now ", " now ") ON CONFLICT (owner, id) DO UPDATE SET revoked = excluded.revoked"
];
const REVOKE: &Text = text!["UPDATE conversations SET revoked = $3 WHERE owner = $1 AND id = $2"];

const TURNS: &Text = text!["SELECT turns FROM conversations WHERE owner = $1 AND id = $2 AND turns > 0"];
const TURN_ID: &Text = text!["SELECT turn_id FROM turns WHERE owner = $1 AND id = $2 AND number = $3"];

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

impl Store {
    /// Keeps a turn. When this returns, it is durable, and the conversation's next turn may begin.
    ///
    /// # Errors
    /// [`Kind::ConversationNotFound`] when the conversation was deleted meanwhile;
    /// [`Kind::ConversationBusy`] when another process went on with it, which the lease forbids as long
    /// as both processes and the database live; [`Kind::StorageUnavailable`] when the turn is not kept
    /// and never will be; [`Kind::StorageUncertain`] when that cannot be known.
    pub async fn commit(&self, mut turn: Turn, exchange: Exchange) -> Result<(), Error> {
        let batch: Arc<[Statement]> = self.keeping(&turn, exchange).into();
        // It keeps the turn once, however often it is done. SQLite has no connection to lose.
        let mut tries = if self.database.shared().is_some() { 2 } else { 1 };
        let mut may_be_kept = false;
        let outcome = loop {
            tries -= 1;
            match self.database.write(Arc::clone(&batch)).await {
                Ok(done) => break Ok(done.last().is_some_and(|done| done.changed > 0)),
                Err(Unwritten { error, undecided }) => {
                    may_be_kept |= undecided;
                    if !undecided || tries == 0 {
                        break Err(error);
                    }
                }
            }
        };
        match outcome {
            Ok(true) => {}
            Ok(false) if may_be_kept && self.is_kept(&turn).await? => {}
            Ok(false) => return Err(self.why_refused(&turn).await),
            Err(error) if may_be_kept => self.decide(&turn, error).await?,
            Err(error) => return self.counted(Err(error)),
        }
        if let Some(lease) = turn.lease.take() {
            lease.end();
        }
        Ok(())
    }

    /// What keeps a turn: the last of these changes something if it did.
    pub(super) fn keeping(&self, turn: &Turn, exchange: Exchange) -> Vec<Statement> {
        let (upstream, ids) = exchange
            .thread
            .map(|thread| (thread.upstream, (thread.conversation, thread.last_response)))
            .unzip();
        let (conversation, response) = ids.unzip();
        let text = if turn.before == 0 { BEGIN } else { GO_ON };
        let mut head = key(&turn.owner, turn.id);
        head.extend([exchange.system.into(), conversation.into(), response.into(), upstream.into()]);
        let bytes = exchange.question.len() + exchange.answer.len();
        let name = turn.name.as_ref().map(|name| name.text());
        head.extend([(bytes as i64).into(), turn.before.into(), turn.turn.as_str().into(), name.into()]);
        let pair: [Value; 3] =
            [exchange.question.into(), exchange.answer.into(), i64::from(exchange.partial).into()];
        if self.database.shared().is_some() {
            head.extend(pair);
            return vec![Statement::new(text, head)];
        }
        let mut values = key(&turn.owner, turn.id);
        values.push((turn.before + 1).into());
        values.extend(pair);
        values.push(turn.turn.as_str().into());
        vec![Statement::new(text, head).required(), Statement::new(TURN, values)]
    }

    /// Whether the turn stands where it was to be kept.
    async fn is_kept(&self, turn: &Turn) -> Result<bool, Error> {
        let mut place = key(&turn.owner, turn.id);
        place.push((turn.before + 1).into());
        let kept = self.read(Statement::new(TURN_ID, place)).await?.pop();
        let kept = kept.map(|mut row| row.optional_text(0)).transpose()?.flatten();
        Ok(kept.as_deref() == Some(&turn.turn))
    }

    /// Why a turn was not kept though the store could be written.
    async fn why_refused(&self, turn: &Turn) -> Error {
        match self.read(Statement::new(TURNS, key(&turn.owner, turn.id))).await {
            Ok(rows) if rows.is_empty() => not_found(),
            Ok(_) => {
                Error::new(Kind::ConversationBusy, "another call went on with this conversation meanwhile")
            }
            Err(error) => error,
        }
    }

    /// Finds out whether a turn is kept whose commit may have come through; one that has not is given
    /// up, so that it cannot come through later.
    pub(super) async fn decide(&self, turn: &Turn, error: Error) -> Result<(), Error> {
        log::warn!("it is not known whether a turn was kept: {}", error.message);
        let mut values = key(&turn.owner, turn.id);
        values.push(turn.turn.as_str().into());
        let text = if turn.before == 0 { REVOKE_FIRST } else { REVOKE };
        let begin = Instant::now();
        while begin.elapsed() < LOOKING {
            // This waits for a commit that is under way, and what is read after it is true then.
            if self.write([Statement::new(text, values.clone())]).await.is_ok()
                && let Ok(kept) = self.is_kept(turn).await
            {
                return if kept { Ok(()) } else { self.counted(Err(error)) };
            }
            sleep(LOOK_AGAIN).await;
        }
        Err(Error::new(
            Kind::StorageUncertain,
            format!("it is not known whether this turn was kept ({})", error.message),
        )
        .hinted(format!(
            "when the store is back, look with GET /api/conversations/{}: if this answer is its last, the \
             turn was kept; if it is not, or there is no such conversation, ask again",
            turn.id
        )))
    }
}
