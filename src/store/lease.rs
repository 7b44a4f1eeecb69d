//! One turn of a conversation at a time: a lock within this process, and a lease in the database
//! where several processes share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::AnyConnection;
use tokio::sync::{Mutex as TurnMutex, OwnedMutexGuard};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::database::Database;
use super::operation::failed;
use super::{Store, not_found};
use crate::domain::chat::{ConversationId, Owner};
use crate::domain::error::Error;
use crate::request;

/// How long a lease lasts, how often it is renewed, and how often a waiting process looks again.
const LEASE: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(150);

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

impl Store {
    /// Waits until no other process has the conversation, and takes it.
    pub(super) async fn lease(&self, owner: &Owner, id: ConversationId) -> Result<Lease, Error> {
        let holder = ConversationId::random()?.to_string();
        loop {
            let (owner, holder) = (owner.clone(), holder.clone());
            let now = self.database.now();
            let taken =
                self.write(move |connection| Box::pin(take_lease(connection, now, owner, id, holder)));
            if taken.await? {
                break;
            }
            sleep(LOOK_AGAIN).await;
        }
        let claim = Claim { database: Arc::clone(&self.database), owner: owner.clone(), id, holder };
        let renewing = claim.clone();
        let renewal = self.runtime().spawn(request::carried(async move {
            loop {
                sleep(RENEWAL).await;
                if let Err(error) = renewing.extend(LEASE).await {
                    log::warn!(error = error.kind.code(); "a conversation's lease could not be renewed: {}", error.message);
                }
            }
        }));
        Ok(Lease { claim, renewal: renewal.abort_handle(), runtime: self.runtime().handle().clone() })
    }
}

/// A conversation that this process has taken; let go when it is dropped.
pub struct Lease {
    claim: Claim,
    renewal: AbortHandle,
    runtime: tokio::runtime::Handle,
}

#[derive(Clone)]
struct Claim {
    database: Arc<Database>,
    owner: Owner,
    id: ConversationId,
    holder: String,
}

impl Claim {
    async fn extend(&self, time: Duration) -> Result<(), Error> {
        let text = format!(
            "UPDATE conversations SET lease_until = {} + $1 WHERE owner = $2 AND id = $3 AND lease = $4",
            self.database.now()
        );
        let statement = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(time.as_millis() as i64)
            .bind(self.owner.0.clone())
            .bind(self.id.to_string())
            .bind(self.holder.clone());
        self.database.execute(statement).await.map(drop)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        let claim = self.claim.clone();
        self.runtime.spawn(async move {
            // If this fails, the lease runs out by itself.
            let _ = claim.extend(Duration::ZERO).await;
        });
    }
}

async fn take_lease(
    connection: &mut AnyConnection,
    now: &str,
    owner: Owner,
    id: ConversationId,
    holder: String,
) -> Result<bool, Error> {
    let text = format!(
        "UPDATE conversations SET lease = $1, lease_until = {now} + $2 WHERE owner = $3 AND id = $4 AND lease_until <= {now}"
    );
    let taken = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(holder)
        .bind(LEASE.as_millis() as i64)
        .bind(&owner.0)
        .bind(id.to_string())
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    if taken.rows_affected() > 0 {
        return Ok(true);
    }
    let held = sqlx::query("SELECT 1 FROM conversations WHERE owner = $1 AND id = $2")
        .bind(&owner.0)
        .bind(id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    if held.is_some() { Ok(false) } else { Err(not_found()) }
}
