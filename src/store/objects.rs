//! Who made what the upstream keeps under an id.

use std::time::Duration;

use super::Store;
use super::statement::{Statement, Text, text};
use crate::domain::chat::Owner;
use crate::domain::error::Error;

const KEEP: &Text = text![
    "INSERT INTO upstream_objects (id, owner, created_at) VALUES ($1, $2, " now ") ON CONFLICT (id) DO NOTHING"
];
const FIND: &Text = text!["SELECT created_at FROM upstream_objects WHERE id = $1 AND owner = $2"];
const EXPIRE: &Text = text!["DELETE FROM upstream_objects WHERE created_at < " now " - $1"];

impl Store {
    /// Keeps who made what has these ids; whoever was first stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep_objects(&self, owner: &Owner, ids: &[String]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let keep = |id: &String| Statement::new(KEEP, [id.as_str().into(), owner.0.as_ref().into()]);
        self.write(ids.iter().map(keep).collect::<Vec<_>>()).await.map(drop)
    }

    /// Whether this owner made what has this id.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn made_object(&self, owner: &Owner, id: &str) -> Result<bool, Error> {
        let query = Statement::new(FIND, [id.into(), owner.0.as_ref().into()]);
        Ok(!self.read(query).await?.is_empty())
    }

    /// Forgets who made what is older than that.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire_objects(&self, after: Duration) -> Result<(), Error> {
        self.write([Statement::new(EXPIRE, [after.into()])]).await.map(drop)
    }
}
