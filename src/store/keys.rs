//! Gateway keys in the store, as digests.

use super::Store;
use super::statement::{Row, Statement, Text, text};
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};

const ADD: &Text = text![
    "INSERT INTO gateway_keys (name, digest, owner, created_at) VALUES ($1, $2, $3, " now ") ON CONFLICT (name) DO NOTHING"
];
// Keys of earlier versions have no owner of their own.
const READ: &Text = text![
    "SELECT name, digest, COALESCE(owner, SUBSTR(digest, 1, 32)), created_at FROM gateway_keys ORDER BY name"
];
const REMOVE: &Text = text!["DELETE FROM gateway_keys WHERE name = $1"];

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Its name, which no other key has.
    pub name: String,
    /// Its SHA-256 digest in hexadecimal.
    pub digest: String,
    /// Who owns what is kept for it: that stays when the key itself is replaced.
    pub owner: Owner,
    /// When it was made, in milliseconds since 1970.
    pub created_at: i64,
}

impl Store {
    /// Keeps a key under a name, unless the name is taken. Says whether it did.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn add_key(&self, name: &str, digest: &str, owner: &Owner) -> Result<bool, Error> {
        self.changes(Statement::new(ADD, [name.into(), digest.into(), owner.0.as_str().into()])).await
    }

    /// All keys, by name.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keys(&self) -> Result<Vec<StoredKey>, Error> {
        let key = |mut row: Row| {
            Ok(StoredKey {
                name: row.text(0)?,
                digest: row.text(1)?,
                owner: Owner(row.text(2)?),
                created_at: row.integer(3)?,
            })
        };
        self.read(Statement::new(READ, [])).await?.into_iter().map(key).collect()
    }

    /// Forgets the key of a name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none, or when the store cannot be used.
    pub async fn remove_key(&self, name: &str) -> Result<(), Error> {
        if self.changes(Statement::new(REMOVE, [name.into()])).await? {
            return Ok(());
        }
        Err(Error::new(Kind::NotFound, format!("there is no key `{name}`"))
            .hinted("`mirrorgate key list` shows the names; keys of GATEWAY_API_KEYS are removed there"))
    }
}
