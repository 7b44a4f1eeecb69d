//! The upstream that the owner has set while the service runs: one sealed text with a generation that rises
//! with every change, also when it is taken away.

use super::Store;
use super::statement::{Statement, Text, text};
use crate::domain::error::Error;

/// There is one. The name leaves room for others.
const NAME: &str = "upstream";

const READ: &Text = text!["SELECT generation, sealed FROM kept_upstream WHERE name = $1"];
const KEEP: &Text = text![
    "INSERT INTO kept_upstream (name, generation, sealed, changed_at) VALUES ($1, $3 + 1, $2, " now ") \
     ON CONFLICT (name) DO UPDATE SET generation = kept_upstream.generation + 1, \
     sealed = excluded.sealed, changed_at = excluded.changed_at WHERE kept_upstream.generation = $3 RETURNING generation"
];

impl Store {
    /// The generation of the kept upstream, 0 where none was ever kept, and its sealed text; `None` where it
    /// was taken away.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn kept_upstream(&self) -> Result<(i64, Option<String>), Error> {
        match self.read(Statement::new(READ, [NAME.into()])).await?.pop() {
            Some(mut row) => Ok((row.integer(0)?, row.optional_text(1)?)),
            None => Ok((0, None)),
        }
    }

    /// Keeps an upstream over that of this generation, or takes it away, and gives the new generation. `None`
    /// when another change came between, which then stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_upstream(&self, sealed: Option<String>, generation: i64) -> Result<Option<i64>, Error> {
        let statement = Statement::new(KEEP, [NAME.into(), sealed.into(), generation.into()]);
        let done = self.write([statement]).await?;
        done.first().and_then(|done| done.rows.first()).map(|row| row.integer(0)).transpose()
    }
}
