//! Gateway keys in the store, as digests.

use super::Store;
use super::statement::{Row, Statement, Text, Value, text};
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::{self, GatewayKey};
use crate::domain::limits::KeyLimits;

const ADD: &Text = text![
    "INSERT INTO gateway_keys (name, digest, owner, limits, created_at) VALUES ($1, $2, $3, $4, " now ") \
     ON CONFLICT (name) DO NOTHING"
];
// Keys of earlier versions have no owner of their own.
const READ: &Text = text![
    "SELECT name, digest, COALESCE(owner, SUBSTR(digest, 1, 32)), created_at, limits FROM gateway_keys ORDER BY name"
];
const REPLACE: &Text = text![
    "UPDATE gateway_keys SET digest = $2, owner = COALESCE(owner, SUBSTR(digest, 1, 32)) WHERE name = $1"
];
const LIMIT: &Text = text!["UPDATE gateway_keys SET limits = $2 WHERE name = $1"];
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
    /// What it may.
    pub limits: KeyLimits,
}

impl StoredKey {
    /// The key as it is looked up; `None` for one whose digest cannot be read.
    pub fn into_key(self) -> Option<GatewayKey> {
        GatewayKey::kept(self.name, &self.digest, self.owner, self.limits)
    }
}

impl Store {
    /// Makes a key and keeps it under a name; gives its text, which is kept nowhere.
    ///
    /// # Errors
    /// When the name is taken, or the store cannot be used.
    pub async fn make_key(&self, name: &str, limits: KeyLimits) -> Result<String, Error> {
        let text = keys::generate()?;
        let key = GatewayKey::new(name, &text).limited(limits);
        if self.add_key(&key).await? { Ok(text) } else { Err(keys::taken(name)) }
    }

    /// Gives the key of a name, which may be the owner's, another text; gives that, which is kept nowhere.
    ///
    /// # Errors
    /// As [`Store::remove_key`].
    pub async fn rotate_key(&self, name: &str) -> Result<String, Error> {
        let (name, text) = match name {
            keys::OWNER => (keys::OWNERS_KEY, keys::generate_owners()?),
            _ => (name, keys::generate()?),
        };
        self.replace_key(name, &GatewayKey::new(name, &text)).await?;
        Ok(text)
    }

    /// Keeps a key under a name, unless the name is taken. Says whether it did.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn add_key(&self, key: &GatewayKey) -> Result<bool, Error> {
        let name = if key.is_owners() { keys::OWNERS_KEY } else { &key.name };
        let values = [name.into(), key.digest().into(), key.owner.0.as_ref().into(), written(&key.limits)?];
        self.changes(Statement::new(ADD, values)).await
    }

    /// Gives the key of a name another text; its owner and its limits stay.
    ///
    /// # Errors
    /// As [`Store::remove_key`].
    pub async fn replace_key(&self, name: &str, key: &GatewayKey) -> Result<(), Error> {
        let changed = self.changes(Statement::new(REPLACE, [name.into(), key.digest().into()])).await?;
        if changed { Ok(()) } else { Err(no_key(name)) }
    }

    /// Gives the key of a name other limits.
    ///
    /// # Errors
    /// As [`Store::remove_key`].
    pub async fn limit_key(&self, name: &str, limits: &KeyLimits) -> Result<(), Error> {
        let changed = self.changes(Statement::new(LIMIT, [name.into(), written(limits)?])).await?;
        if changed { Ok(()) } else { Err(no_key(name)) }
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
                owner: Owner(row.text(2)?.into()),
                created_at: row.integer(3)?,
                limits: row.optional_text(4)?.map_or_else(KeyLimits::default, |text| {
                    // A key whose limits a newer version wrote in other words opens nothing here.
                    serde_json::from_str(&text)
                        .unwrap_or_else(|_| KeyLimits { expires_at: Some(0), ..KeyLimits::default() })
                }),
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
        Err(no_key(name))
    }
}

fn no_key(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no key `{name}`"))
        .hinted("`mirrorgate key list` shows the names; keys of GATEWAY_API_KEYS are changed there")
}

fn written(limits: &KeyLimits) -> Result<Value, Error> {
    let text =
        serde_json::to_string(limits).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    Ok(Some(text).filter(|_| *limits != KeyLimits::default()).into())
}
