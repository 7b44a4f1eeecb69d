//! Sums of what was asked of whom, by the hour and by five minutes: rows that each process writes for itself.
//! Times are those of the processes' machines.

use super::Store;
use super::statement::{Row, Statement, Text, text};
use crate::domain::error::Error;

const KEEP: &Text = text![
    "INSERT INTO statistics (span, begins_at, writer, counts) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (span, begins_at, writer) DO UPDATE SET counts = excluded.counts"
];
const READ: &Text =
    text!["SELECT begins_at, counts FROM statistics WHERE span = $1 AND begins_at >= $2 ORDER BY begins_at"];
const EXPIRE: &Text = text!["DELETE FROM statistics WHERE span = $1 AND begins_at < " now " - $2"];

/// What was counted from a time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRow {
    /// How long that time is, in milliseconds.
    pub span: i64,
    /// When it begins, in milliseconds since 1970.
    pub begins_at: i64,
    /// The counts, as who counts them writes them.
    pub counts: String,
}

impl Store {
    /// Keeps what a process has counted, in the place of what it kept of the same times before.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_statistics(&self, writer: &str, rows: Vec<SlotRow>) -> Result<(), Error> {
        let keep = |row: SlotRow| {
            Statement::new(KEEP, [row.span.into(), row.begins_at.into(), writer.into(), row.counts.into()])
        };
        self.write(rows.into_iter().map(keep).collect::<Vec<_>>()).await.map(drop)
    }

    /// What all processes counted in times of this length since then.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn statistics(&self, span: i64, since: i64) -> Result<Vec<SlotRow>, Error> {
        let row = |mut row: Row| Ok(SlotRow { span, begins_at: row.integer(0)?, counts: row.text(1)? });
        let query = Statement::new(READ, [span.into(), since.into()]);
        self.read(query).await?.into_iter().map(row).collect()
    }

    /// Forgets times of this length that began so many milliseconds ago.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire_statistics(&self, span: i64, after: i64) -> Result<(), Error> {
        self.write([Statement::new(EXPIRE, [span.into(), after.into()])]).await.map(drop)
    }
}
