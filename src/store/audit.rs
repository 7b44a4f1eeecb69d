//! What was done at the owner's doors.

use std::borrow::Cow;
use std::time::Duration;

use super::Store;
use super::statement::{Row, Statement, Text, text};
use crate::domain::error::Error;
use crate::domain::keys;

const NOTE: &Text = text![
    "INSERT INTO audit (id, created_at, actor, address, action, target) VALUES ($1, " now ", $2, $3, $4, $5)"
];
const READ: &Text = text![
    "SELECT created_at, actor, address, action, target FROM audit WHERE created_at < $1 AND created_at >= \
     (SELECT coalesce(min(created_at), 0) FROM \
     (SELECT created_at FROM audit WHERE created_at < $1 ORDER BY created_at DESC LIMIT $2) AS page) \
     ORDER BY created_at DESC, id"
];
const EXPIRE: &Text = text!["DELETE FROM audit WHERE created_at < " now " - $1"];

/// Something that was done at one of the owner's doors. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// The name of the key with which it was done, or `terminal`.
    pub actor: String,
    /// The address that it came from; empty where it came from this machine's terminal.
    pub address: String,
    /// What was done, such as `key.new`.
    pub action: Cow<'static, str>,
    /// To what, by its name.
    pub target: String,
}

impl Store {
    /// Notes a deed.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn note_deed(&self, deed: &Deed) -> Result<(), Error> {
        let id = keys::hex(&crate::random::bytes::<16>()?);
        let values = [id.as_str(), &deed.actor, &deed.address, &deed.action, &deed.target];
        self.write([Statement::new(NOTE, values.map(Into::into))]).await.map(drop)
    }

    /// So many deeds before a time in milliseconds since 1970, the latest first, each with its time; and those
    /// of the same moment as the last one, which would stand on no page else.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn deeds(&self, before: Option<i64>, most: usize) -> Result<Vec<(i64, Deed)>, Error> {
        let query = Statement::new(READ, [before.unwrap_or(i64::MAX).into(), (most as i64).into()]);
        let deed = |mut row: Row| {
            let deed = Deed {
                actor: row.text(1)?,
                address: row.text(2)?,
                action: row.text(3)?.into(),
                target: row.text(4)?,
            };
            Ok((row.integer(0)?, deed))
        };
        self.read(query).await?.into_iter().map(deed).collect()
    }

    /// Forgets the deeds that are older than that.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire_deeds(&self, after: Duration) -> Result<(), Error> {
        self.write([Statement::new(EXPIRE, [after.into()])]).await.map(drop)
    }
}
