//! Gateway keys in the store, as digests.

use sqlx::Row;

use super::Store;
use super::operation::failed;
use crate::domain::error::{Error, Kind};

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Its name, which no other key has.
    pub name: String,
    /// Its SHA-256 digest in hexadecimal.
    pub digest: String,
    /// When it was made, in milliseconds since 1970.
    pub created_at: i64,
}

impl Store {
    /// Keeps a key under a name, unless the name is taken. Says whether it did.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn add_key(&self, name: &str, digest: &str) -> Result<bool, Error> {
        let text = format!(
            "INSERT INTO gateway_keys (name, digest, created_at) VALUES ($1, $2, {}) ON CONFLICT (name) DO NOTHING",
            self.database.now()
        );
        let statement =
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(name.to_string()).bind(digest.to_string());
        Ok(self.execute(statement).await? > 0)
    }

    /// All keys, by name.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keys(&self) -> Result<Vec<StoredKey>, Error> {
        self.read(|connection| {
            Box::pin(async move {
                let rows = sqlx::query("SELECT name, digest, created_at FROM gateway_keys ORDER BY name")
                    .fetch_all(connection)
                    .await
                    .map_err(failed)?;
                let key = |row: &sqlx::any::AnyRow| -> Result<StoredKey, sqlx::Error> {
                    Ok(StoredKey {
                        name: row.try_get(0)?,
                        digest: row.try_get(1)?,
                        created_at: row.try_get(2)?,
                    })
                };
                rows.iter().map(key).collect::<Result<_, _>>().map_err(failed)
            })
        })
        .await
    }

    /// Forgets the key of a name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none, or when the store cannot be used.
    pub async fn remove_key(&self, name: &str) -> Result<(), Error> {
        let statement = sqlx::query("DELETE FROM gateway_keys WHERE name = $1").bind(name.to_string());
        match self.execute(statement).await? {
            0 => Err(Error::new(Kind::NotFound, format!("there is no key `{name}`"))
                .hinted("`mirrorgate key list` shows the names; keys of GATEWAY_API_KEYS are removed there")),
            _ => Ok(()),
        }
    }
}
