//! Calls that their callers may send again under an `Idempotency-Key`, each with its answer once that
//! is there.

use std::time::Duration;

use super::Store;
use super::statement::{Statement, Text, Value, text};
use crate::domain::chat::Owner;
use crate::domain::error::Error;

const CLAIM: &Text = text![
    "INSERT INTO calls (owner, path, name, holder, digest, alive_until, created_at) \
     VALUES ($1, $2, $3, $4, $5, " now " + $6, " now ") ON CONFLICT (owner, path, name) DO UPDATE SET \
     holder = excluded.holder, digest = excluded.digest, answer = NULL, alive_until = excluded.alive_until, \
     created_at = excluded.created_at WHERE calls.created_at < " now " - $7"
];
const READ: &Text = text![
    "SELECT digest, answer, alive_until - " now " FROM calls WHERE owner = $1 AND path = $2 AND name = $3"
];
const VOUCH: &Text = text![
    "UPDATE calls SET alive_until = " now " + $5 WHERE owner = $1 AND path = $2 AND name = $3 AND holder = $4"
];
const FINISH: &Text =
    text!["UPDATE calls SET answer = $5 WHERE owner = $1 AND path = $2 AND name = $3 AND holder = $4"];
const RELEASE: &Text =
    text!["DELETE FROM calls WHERE owner = $1 AND path = $2 AND name = $3 AND holder = $4"];
const EXPIRE: &Text = text!["DELETE FROM calls WHERE created_at < " now " - $1"];

const DROP_OLDEST: &Text = text![
    "DELETE FROM calls WHERE owner = $1 AND answer IS NOT NULL AND created_at < (SELECT created_at \
     FROM calls WHERE owner = $1 ORDER BY created_at DESC LIMIT 1 OFFSET $2)"
];

/// The most answers that are kept for one owner.
const MAX_CALLS: i64 = 1000;

/// What tells a call from all others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// Whose it is.
    pub owner: Owner,
    /// Where it goes.
    pub path: String,
    /// What its caller calls it.
    pub name: String,
}

/// What is known of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCall {
    /// The digest of its request.
    pub digest: String,
    /// Its answer, as the service wrote it, once that is there.
    pub answer: Option<String>,
    /// Whether some process is at work on it.
    pub alive: bool,
}

impl CallKey {
    fn values(&self) -> Vec<Value> {
        vec![self.owner.0.as_ref().into(), self.path.as_str().into(), self.name.as_str().into()]
    }

    fn held(&self, holder: &str) -> Vec<Value> {
        let mut values = self.values();
        values.push(holder.into());
        values
    }
}

impl Store {
    /// Takes a call for a process, which vouches for it for this long. Gives what is known of the call
    /// where it was taken within `kept` before.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn claim_call(
        &self,
        key: &CallKey,
        holder: &str,
        digest: &str,
        [vouched, kept]: [Duration; 2],
    ) -> Result<Option<KeptCall>, Error> {
        let mut values = key.held(holder);
        values.extend([digest.into(), vouched.into(), kept.into()]);
        if self.changes(Statement::new(CLAIM, values)).await? {
            return Ok(None);
        }
        match self.read(Statement::new(READ, key.values())).await?.pop() {
            Some(mut row) => Ok(Some(KeptCall {
                digest: row.text(0)?,
                answer: row.optional_text(1)?,
                alive: row.integer(2)? > 0,
            })),
            // It was let go between the two: the next look takes it.
            None => Ok(Some(KeptCall { digest: digest.into(), answer: None, alive: true })),
        }
    }

    /// Vouches for a call for this much longer.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn vouch_for_call(&self, key: &CallKey, holder: &str, time: Duration) -> Result<(), Error> {
        let mut values = key.held(holder);
        values.push(time.into());
        self.changes(Statement::new(VOUCH, values)).await.map(drop)
    }

    /// Keeps the answer of a call, in the place of its owner's oldest of too many.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn finish_call(&self, key: &CallKey, holder: &str, answer: String) -> Result<(), Error> {
        let mut values = key.held(holder);
        values.push(answer.into());
        let drop_oldest = Statement::new(DROP_OLDEST, [key.owner.0.as_ref().into(), (MAX_CALLS - 1).into()]);
        self.write([Statement::new(FINISH, values), drop_oldest]).await.map(drop)
    }

    /// Forgets a call, which may then be made anew.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn release_call(&self, key: &CallKey, holder: &str) -> Result<(), Error> {
        self.changes(Statement::new(RELEASE, key.held(holder))).await.map(drop)
    }

    /// Deletes calls that are older than this.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire_calls(&self, after: Duration) -> Result<(), Error> {
        self.changes(Statement::new(EXPIRE, [after.into()])).await.map(drop)
    }
}
