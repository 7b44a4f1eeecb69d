//! The database under the store, whichever it is: what the store's files say in statements is done
//! here by SQLite or by PostgreSQL.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::statement::{Done, Row, Statement, Unwritten};
use crate::config::Location;
use crate::domain::error::Error;

/// The database, connected to when it is first used.
pub enum Database {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Database {
    pub fn new(location: &Location) -> Result<Self, Error> {
        Ok(match location {
            Location::File(path) => Database::Sqlite(Sqlite::new(Some(path.clone()))?),
            Location::Memory => Database::Sqlite(Sqlite::new(None)?),
            Location::Postgres { url, connections } => Database::Postgres(Postgres::new(url, *connections)?),
        })
    }

    /// Does what changes nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn read(&self, statement: Statement) -> Result<Vec<Row>, Error> {
        match self {
            Database::Sqlite(sqlite) => sqlite.read(statement).await,
            Database::Postgres(postgres) => postgres.read(statement).await,
        }
    }

    /// Does statements of which all are kept or none, to their end, also when the caller leaves. What
    /// they changed is durable when this returns. Says what each did that was done.
    ///
    /// # Errors
    /// When they are not kept, or may not be.
    pub async fn write(&self, batch: Arc<[Statement]>) -> Result<Vec<Done>, Unwritten> {
        match self {
            Database::Sqlite(sqlite) => sqlite.write(batch).await,
            Database::Postgres(postgres) => postgres.write(batch).await,
        }
    }

    /// Connects, brings the schema up to date, and sees that the database can be written now.
    pub async fn probe(&self) -> Result<(), Error> {
        match self {
            Database::Sqlite(sqlite) => sqlite.probe().await,
            Database::Postgres(postgres) => postgres.probe().await,
        }
    }

    /// That a turn could be kept now, where that is known without a wait.
    pub fn glance(&self) -> Option<()> {
        match self {
            Database::Sqlite(sqlite) => sqlite.glance(),
            Database::Postgres(_) => None,
        }
    }

    /// Whether several processes may share it, so that turns must be ordered in it; then, where work
    /// goes on that no caller waits for.
    pub fn shared(&self) -> Option<Handle> {
        match self {
            Database::Sqlite(_) => None,
            Database::Postgres(postgres) => Some(postgres.handle()),
        }
    }

    /// Ends all connections; a SQLite file then holds everything in itself.
    pub async fn close(&self) {
        match self {
            Database::Sqlite(sqlite) => sqlite.close().await,
            Database::Postgres(postgres) => postgres.close(),
        }
    }
}
