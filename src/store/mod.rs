//! What the gateway keeps between calls: conversations, each owned by the key that started it, and
//! the gateway keys themselves.
//!
//! One set of SQL texts serves three places: a SQLite file, PostgreSQL, and SQLite in memory. Every
//! operation runs on a thread of the store's own and to its end, also when its caller has left.

mod answers;
mod continuations;
mod conversations;
mod database;
mod keys;
mod lease;
mod operation;
mod sessions;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

pub use answers::KeptAnswer;
pub use conversations::{Conversation, Exchange, Transcript, Turn};
use database::Database;
pub use keys::StoredKey;
use lease::TurnLocks;
use operation::{Operation, Statement};

use crate::config::Location;
use crate::domain::error::{Error, Kind};
use crate::metrics::Counter;
use crate::request;

/// How long an operation may take before the store counts as unavailable.
const OPERATION_TIME: Duration = Duration::from_secs(5);

/// The store.
pub struct Store {
    database: Arc<Database>,
    locks: Arc<TurnLocks>,
    failures: Counter,
    /// `None` once it is being dropped, which may not happen within another runtime.
    runtime: Option<Runtime>,
}

impl Store {
    /// A store at a location. Nothing is connected to yet: see [`Store::prepare`].
    ///
    /// # Errors
    /// When the store's thread cannot start, or the location is not understood.
    pub fn new(location: Location) -> Result<Self, Error> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("store").enable_all().build().map_err(
                |error| Error::new(Kind::Internal, format!("the store's thread does not start: {error}")),
            )?;
        let database = {
            let _inside = runtime.enter();
            Arc::new(Database::new(location)?)
        };
        Ok(Store { database, locks: Arc::default(), failures: Counter::default(), runtime: Some(runtime) })
    }

    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// [`Kind::StorageUnavailable`] when the database cannot be reached or written now, which heals
    /// by itself; [`Kind::StorageNewer`] when a newer program has changed its schema.
    pub async fn prepare(&self) -> Result<(), Error> {
        if self.database.is_at_hand() {
            return Ok(());
        }
        self.run(|database| async move { database.probe().await }).await
    }

    /// Ends all connections; a SQLite file then holds everything in itself.
    pub async fn close(&self) {
        let _ = timeout(OPERATION_TIME, self.database.close()).await;
    }

    /// Where it is, for a person.
    pub fn place(&self) -> String {
        self.database.location().describe()
    }

    /// Whether what it keeps outlives the process.
    pub fn lasts(&self) -> bool {
        !matches!(self.database.location(), Location::Memory)
    }

    /// The count of operations that failed because the store could not be used.
    pub fn failures(&self) -> Counter {
        self.failures.clone()
    }

    /// Runs an operation to its end on the store's thread.
    async fn run<T, F>(&self, operation: impl FnOnce(Arc<Database>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let database = Arc::clone(&self.database);
        let operation = operation(Arc::clone(&database));
        let work = async move {
            let work = async {
                database.ensure().await?;
                operation.await
            };
            timeout(OPERATION_TIME, work)
                .await
                .unwrap_or_else(|_| Err(unavailable("it does not answer in time")))
        };
        let task = self.runtime().spawn(request::carried(work));
        let outcome = task.await.unwrap_or_else(|_| Err(unavailable("its thread has stopped")));
        if outcome.as_ref().is_err_and(|error| error.kind == Kind::StorageUnavailable) {
            self.failures.inc();
        }
        outcome
    }

    /// As [`Database::read`], to its end on the store's thread.
    async fn read<T: Send + 'static>(&self, operation: impl Operation<T>) -> Result<T, Error> {
        self.run(|database| async move { database.read(operation).await }).await
    }

    /// As [`Database::execute`], to its end on the store's thread.
    async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        self.run(|database| async move { database.execute(statement).await }).await
    }

    /// As [`Database::write`], to its end on the store's thread.
    async fn write<T: Send + 'static>(&self, operation: impl Operation<T>) -> Result<T, Error> {
        self.run(|database| async move { database.write(operation).await }).await
    }

    /// As [`Database::transact`], to its end on the store's thread.
    async fn transact<T: Send + 'static>(&self, operation: impl Operation<T>) -> Result<T, Error> {
        self.run(|database| async move { database.transact(operation).await }).await
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is there until the store is dropped")
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The error for a store that cannot be used now.
fn unavailable(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::StorageUnavailable, format!("the store cannot be used: {why}"))
        .retry_after(Some(Duration::from_secs(5)))
}

/// The error for a conversation that the owner does not have, whoever else may.
fn not_found() -> Error {
    Error::new(Kind::ConversationNotFound, "there is no such conversation, or it was forgotten")
}
