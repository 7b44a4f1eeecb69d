//! Where a conversation goes on that its caller sends whole each time.

use std::time::Duration;

use super::Store;
use super::statement::{Statement, Text, text};
use crate::domain::chat::{Owner, Thread};
use crate::domain::error::Error;

/// The most that are deleted in one transaction, for which turns wait.
const EXPIRED_AT_ONCE: u64 = 100;

const READ: &Text = text![
    "SELECT upstream, upstream_conversation, upstream_response FROM continuations WHERE owner = $1 AND prefix = $2"
];
const KEEP: &Text = text![
    "INSERT INTO continuations (owner, prefix, upstream, upstream_conversation, upstream_response, used_at) \
     VALUES ($1, $2, $3, $4, $5, " now ") ON CONFLICT (owner, prefix) DO UPDATE SET \
     upstream = excluded.upstream, upstream_conversation = excluded.upstream_conversation, \
     upstream_response = excluded.upstream_response, used_at = excluded.used_at"
];
const EXPIRE: &Text = text![
    "DELETE FROM continuations WHERE (owner, prefix) IN \
     (SELECT owner, prefix FROM continuations WHERE used_at < " now " - $1 LIMIT $2)"
];

impl Store {
    /// Where the upstream's own conversation goes on after messages with this digest.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn continuation(&self, owner: &Owner, prefix: &str) -> Result<Option<Thread>, Error> {
        let query = Statement::new(READ, [owner.0.as_ref().into(), prefix.into()]);
        let Some(mut row) = self.read(query).await?.pop() else { return Ok(None) };
        Ok(Some(Thread { upstream: row.text(0)?, conversation: row.text(1)?, last_response: row.text(2)? }))
    }

    /// Keeps where the upstream's own conversation goes on after messages with this digest.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_continuation(&self, owner: &Owner, prefix: &str, thread: Thread) -> Result<(), Error> {
        let values = [
            owner.0.as_ref().into(),
            prefix.into(),
            thread.upstream.into(),
            thread.conversation.into(),
            thread.last_response.into(),
        ];
        self.write([Statement::new(KEEP, values)]).await.map(drop)
    }

    /// Deletes those that were not used for this long.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub(super) async fn expire_continuations(&self, after: Duration) -> Result<(), Error> {
        loop {
            let values = [after.into(), (EXPIRED_AT_ONCE as i64).into()];
            let done = self.write([Statement::new(EXPIRE, values)]).await?;
            if done.iter().map(|done| done.changed).sum::<u64>() < EXPIRED_AT_ONCE {
                return Ok(());
            }
        }
    }
}
