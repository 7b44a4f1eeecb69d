//! What is kept for each key: conversations counted, read out whole, and the store as one file. For the owner.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Gateway;
use crate::domain::chat::Owner;
use crate::domain::error::Error;
use crate::store::{KeptOf, Listed, Snapshot, Store, Transcript};

/// Conversations that are looked up at once.
const AT_ONCE: usize = 100;

/// Turns that are read at once.
const PAGE: usize = 1000;

impl Gateway {
    /// How many conversations are kept for each owner, the most bytes first.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn kept_of_all(&self) -> Result<Vec<KeptOf>, Error> {
        self.shared.store.kept_of_all().await
    }

    /// All conversations of an owner, to be read one after the other.
    pub fn export(&self, owner: Owner) -> Export {
        let store = Arc::clone(&self.shared.store);
        Export { store, owner, after: (i64::MAX, String::new()), listed: VecDeque::new(), before: None }
    }

    /// A snapshot of the store.
    ///
    /// # Errors
    /// When it is no SQLite file, or cannot be read or written.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.shared.store.snapshot().await
    }
}

/// The conversations of an owner, which are read as somebody takes them.
pub struct Export {
    store: Arc<Store>,
    owner: Owner,
    after: (i64, String),
    listed: VecDeque<Listed>,
    /// Where the page before begins in the conversation that comes next.
    before: Option<i64>,
}

impl Export {
    /// The next conversation, or an earlier part of it; the number of its first turn stands before.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn next(&mut self) -> Result<Option<(Listed, i64, Transcript)>, Error> {
        loop {
            let Some(next) = self.listed.front().cloned() else {
                let (used_at, id) = &self.after;
                let listed = self.store.conversations(&self.owner, (*used_at, id), AT_ONCE).await?;
                let Some(last) = listed.last() else { return Ok(None) };
                self.after = (last.used_at, last.id.clone());
                self.listed = listed.into();
                continue;
            };
            let read = match next.id.parse() {
                Ok(id) => self.store.transcript(&self.owner, id, self.before, PAGE).await.ok(),
                Err(_) => None,
            };
            self.before = read.as_ref().and_then(|page| page.next_before);
            if self.before.is_none() {
                self.listed.pop_front();
            }
            // One that was deleted meanwhile is left out.
            if let Some(page) = read {
                return Ok(Some((next, page.next_before.unwrap_or(1), page)));
            }
        }
    }
}
