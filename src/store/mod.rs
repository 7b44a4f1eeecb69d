//! What the gateway keeps between calls: conversations, each owned by the key that started it, and
//! the gateway keys themselves.
//!
//! Two databases serve: SQLite, in a file or in memory, and PostgreSQL. What is kept is said in
//! statements with a text for each; `database` has them done by the one or the other. Every write
//! runs to its end, also when its caller has left.

mod allowances;
mod answers;
mod audit;
mod calls;
mod commit;
mod continuations;
mod conversations;
mod database;
mod keys;
mod kept_upstream;
mod lease;
mod migrations;
mod objects;
mod postgres;
mod sessions;
mod sqlite;
mod snapshots;
mod statement;
mod statistics;
mod transcripts;
#[cfg(test)]
mod tests;
mod usage;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use answers::{KeptAnswer, Known};
pub use audit::Deed;
pub use calls::{CallKey, KeptCall};
pub use commit::Exchange;
pub use conversations::{Conversation, History, Turn};
use database::Database;
pub use keys::StoredKey;
use lease::TurnLocks;
pub use snapshots::Snapshot;
pub use sqlite::{NoLock, ServiceLock, snapshot};
use statement::{Done, Row, Statement};
pub use statistics::SlotRow;
pub use transcripts::{KeptOf, Listed, Transcript};
pub use usage::DayOfUse;

use crate::config::Location;
use crate::domain::conversations::not_found;
use crate::domain::error::{Error, Kind};
use crate::metrics::Counter;

/// How long an operation may take before the store counts as unavailable.
const OPERATION_TIME: Duration = Duration::from_secs(5);

/// The store.
pub struct Store {
    location: Location,
    database: Arc<Database>,
    locks: Arc<TurnLocks>,
    failures: Counter,
}

impl Store {
    /// A store at a location. Nothing is connected to yet: see [`Store::prepare`].
    ///
    /// # Errors
    /// When the store's threads cannot start, or the location is not understood.
    pub fn new(location: Location) -> Result<Self, Error> {
        let database = Arc::new(Database::new(&location)?);
        Ok(Store { location, database, locks: Arc::default(), failures: Counter::default() })
    }

    /// Connects, brings the schema up to date, and sees that the database can be written now.
    ///
    /// # Errors
    /// [`Kind::StorageUnavailable`] when the database cannot be reached or written now, which heals
    /// by itself; [`Kind::StorageNewer`] when a newer program has changed its schema.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.counted(self.database.probe().await)
    }

    /// Sees that a turn could be kept now; what was written just now tells it for SQLite.
    ///
    /// # Errors
    /// As [`Store::prepare`].
    async fn expect_room(&self) -> Result<(), Error> {
        match self.database.glance() {
            Some(()) => Ok(()),
            None => self.prepare().await,
        }
    }

    /// Ends all connections; a SQLite file then holds everything in itself.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// Where it is, for a person.
    pub fn place(&self) -> String {
        self.location.describe()
    }

    /// The SQLite file that it is, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match &self.location {
            Location::File(path) => Some(path),
            Location::Postgres { .. } | Location::Memory => None,
        }
    }

    /// Whether what it keeps outlives the process.
    pub fn lasts(&self) -> bool {
        !matches!(self.location, Location::Memory)
    }

    /// The count of operations that failed because the store could not be used.
    pub fn failures(&self) -> Counter {
        self.failures.clone()
    }

    /// As [`Database::read`], and counts its failure.
    async fn read(&self, statement: Statement) -> Result<Vec<Row>, Error> {
        self.counted(self.database.read(statement).await)
    }

    /// As [`Database::write`], and counts its failure.
    async fn write(&self, batch: impl Into<Arc<[Statement]>>) -> Result<Vec<Done>, Error> {
        self.counted(self.database.write(batch.into()).await.map_err(Error::from))
    }

    /// Does one statement, as [`Store::write`]; says whether it changed anything.
    async fn changes(&self, statement: Statement) -> Result<bool, Error> {
        Ok(self.write([statement]).await?.iter().any(|done| done.changed > 0))
    }

    fn counted<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.as_ref().is_err_and(|error| error.kind == Kind::StorageUnavailable) {
            self.failures.inc();
        }
        outcome
    }
}

/// The error for a store that cannot be used now.
fn unavailable(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::StorageUnavailable, format!("the store cannot be used: {why}"))
        .retry_after(Some(Duration::from_secs(5)))
}
