//! One turn of a conversation at a time: a lock within this process, and a lease in the
//! conversation's row where several processes share it.
//!
//! The lease is taken by the statement that reads the conversation, and let go by the one that keeps
//! the turn; it is held under the turn's own id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex as TurnMutex, OwnedMutexGuard};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::database::Database;
use super::statement::{Statement, Text, text};
use crate::domain::chat::{ConversationId, Owner};
use crate::domain::error::Error;
use crate::request;

/// How long a lease lasts, and how often it is renewed.
pub const LEASE: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_secs(3);

const EXTEND: &Text =
    text!["UPDATE conversations SET lease_until = " now " + $1 WHERE owner = $2 AND id = $3 AND lease = $4"];

type Key = (Owner, ConversationId);

/// The open turns of this process, one lock a conversation.
#[derive(Default)]
pub struct TurnLocks(Mutex<HashMap<Key, Weak<TurnMutex<()>>>>);

impl TurnLocks {
    /// Waits for the conversation's other turns in this process.
    pub async fn lock(&self, key: Key) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > 1024 {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            let lock = locks.get(&key).and_then(Weak::upgrade).unwrap_or_default();
            locks.insert(key, Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

/// A conversation that this process has taken; let go when it is dropped, unless the turn was kept.
pub struct Lease {
    claim: Claim,
    renewal: AbortHandle,
    handle: Handle,
    is_over: bool,
}

#[derive(Clone)]
struct Claim {
    database: Arc<Database>,
    owner: Owner,
    id: ConversationId,
    turn: String,
}

impl Lease {
    /// Renews a lease that a turn has just taken, for as long as it is held.
    pub fn hold(database: &Arc<Database>, handle: Handle, key: Key, turn: &str) -> Self {
        let claim = Claim { database: Arc::clone(database), owner: key.0, id: key.1, turn: turn.to_string() };
        let renewing = claim.clone();
        let renewal = handle.spawn(request::carried(async move {
            loop {
                sleep(RENEWAL).await;
                if let Err(error) = renewing.extend(LEASE).await {
                    log::warn!(error = error.kind.code(); "a conversation's lease could not be renewed: {}", error.message);
                }
            }
        }));
        Lease { claim, renewal: renewal.abort_handle(), handle, is_over: false }
    }

    /// Ends it where the database has let it go already.
    pub fn end(mut self) {
        self.is_over = true;
    }
}

impl Claim {
    async fn extend(&self, time: Duration) -> Result<(), Error> {
        let values = [
            time.into(),
            self.owner.0.as_ref().into(),
            self.id.to_string().into(),
            self.turn.as_str().into(),
        ];
        self.database.write([Statement::new(EXTEND, values)].into()).await.map(drop).map_err(Error::from)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.is_over {
            return;
        }
        let claim = self.claim.clone();
        self.handle.spawn(async move {
            // If this fails, the lease runs out by itself.
            let _ = claim.extend(Duration::ZERO).await;
        });
    }
}
