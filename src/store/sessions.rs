//! The upstreams' sessions in the store: for each one sealed text, with a version that rises.

use super::Store;
use super::statement::{Statement, Text, text};
use crate::domain::error::Error;

const READ: &Text = text!["SELECT version, sealed FROM upstream_sessions WHERE name = $1"];
const KEEP: &Text = text![
    "INSERT INTO upstream_sessions (name, version, sealed, changed_at) VALUES ($1, $3 + 1, $2, " now ") \
     ON CONFLICT (name) DO UPDATE SET version = upstream_sessions.version + 1, \
     sealed = excluded.sealed, changed_at = excluded.changed_at WHERE upstream_sessions.version = $3 RETURNING version"
];
const COPY: &Text = text![
    "INSERT INTO upstream_sessions (name, version, sealed, changed_at) \
     SELECT $1, version + 1, sealed, changed_at FROM upstream_sessions WHERE name = $2 AND version = $3 \
     ON CONFLICT (name) DO UPDATE SET version = upstream_sessions.version + 1, \
     sealed = excluded.sealed, changed_at = excluded.changed_at \
     WHERE excluded.changed_at > upstream_sessions.changed_at"
];
const REMOVE: &Text = text!["DELETE FROM upstream_sessions WHERE name = $1 AND version = $2"];

impl Store {
    /// The kept session of this name and its version.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn session(&self, name: &str) -> Result<Option<(i64, String)>, Error> {
        let Some(mut row) = self.read(Statement::new(READ, [name.into()])).await?.pop() else {
            return Ok(None);
        };
        Ok(Some((row.integer(0)?, row.text(1)?)))
    }

    /// Keeps a session over the one of this version, 0 where there was none, and gives its own. `None` when
    /// another has been kept meanwhile, which then stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_session(&self, name: &str, sealed: String, version: i64) -> Result<Option<i64>, Error> {
        let statement = Statement::new(KEEP, [name.into(), sealed.into(), version.into()]);
        let done = self.write([statement]).await?;
        done.first().and_then(|done| done.rows.first()).map(|row| row.integer(0)).transpose()
    }

    /// Gives a kept session of this version another name. A later session under that name stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn rename_session(&self, from: &str, version: i64, to: &str) -> Result<(), Error> {
        let copy = Statement::new(COPY, [to.into(), from.into(), version.into()]);
        let remove = Statement::new(REMOVE, [from.into(), version.into()]);
        self.write([copy, remove]).await.map(drop)
    }
}
