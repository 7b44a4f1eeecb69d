//! What keys with limits have used of them: one row a key, which replicas change one after the other.

use super::Store;
use super::statement::{Statement, Text, text};
use crate::domain::chat::Owner;
use crate::domain::error::Error;

const READ: &Text = text!["SELECT version, state, " now " FROM allowances WHERE owner = $1"];
const WRITE: &Text = text![
    "INSERT INTO allowances (owner, version, state) VALUES ($1, CAST($2 AS BIGINT) + 1, $3) \
     ON CONFLICT (owner) DO UPDATE SET version = excluded.version, state = excluded.state \
     WHERE allowances.version = CAST($2 AS BIGINT)"
];
// A question that ends after its key was revoked is counted once more, so this is not done with the key.
const FORGET: &Text = text![
    "DELETE FROM allowances WHERE owner NOT IN (SELECT COALESCE(owner, SUBSTR(digest, 1, 32)) FROM gateway_keys)"
];

/// What is kept, and when that was by the store's clock, in milliseconds since 1970.
pub struct KeptAllowance {
    /// The condition of the next change; 0 where nothing is kept.
    pub version: i64,
    /// The state in the words of whoever wrote it; empty where nothing is kept.
    pub state: String,
    /// The time.
    pub now: i64,
}

impl Store {
    /// Reads what a key has used.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn allowance(&self, owner: &Owner) -> Result<KeptAllowance, Error> {
        let query = Statement::new(READ, [owner.0.as_ref().into()]);
        match self.read(query).await?.pop() {
            Some(mut row) => {
                Ok(KeptAllowance { version: row.integer(0)?, state: row.text(1)?, now: row.integer(2)? })
            }
            None => Ok(KeptAllowance { version: 0, state: String::new(), now: self.clock().await? }),
        }
    }

    /// Writes what a key has used over the version that was read. Says whether it did: not, where another
    /// process was first.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn set_allowance(&self, owner: &Owner, version: i64, state: String) -> Result<bool, Error> {
        self.changes(Statement::new(WRITE, [owner.0.as_ref().into(), version.into(), state.into()])).await
    }

    /// Forgets what keys have used that are no more.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn forget_allowances(&self) -> Result<(), Error> {
        self.changes(Statement::new(FORGET, [])).await.map(drop)
    }
}
