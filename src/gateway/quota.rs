//! How many bytes are kept for a key, and whether more may be.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys;
use crate::domain::limits::KeyLimits;
use crate::store::Store;

/// How long a sum is good enough for a key that has so many bytes left as it cannot fill meanwhile.
const FRESH: Duration = Duration::from_secs(5);
const MARGIN: u64 = 4 << 20;

/// How many sums are remembered.
const REMEMBERED: usize = 10_000;

/// The bytes that are kept for each key.
pub struct Quota {
    /// `KEY_STORAGE_BYTES`: what holds for keys without a limit of their own; 0 for any number.
    usual: u64,
    seen: Mutex<HashMap<Owner, (Instant, u64)>>,
}

impl Quota {
    /// So many bytes for keys without a limit of their own.
    pub fn new(usual: u64) -> Self {
        Quota { usual, seen: Mutex::default() }
    }

    /// What holds for keys without a limit of their own; `None` for any number.
    pub fn usual(&self) -> Option<u64> {
        Some(self.usual).filter(|usual| *usual > 0)
    }

    /// Sees that something more may be kept for an owner.
    ///
    /// # Errors
    /// That it may not, or that the store cannot be used.
    pub async fn expect_room(
        &self,
        store: &Store,
        owner: &Owner,
        limits: Option<&KeyLimits>,
    ) -> Result<(), Error> {
        let most = limits.and_then(|limits| limits.storage_bytes).unwrap_or(self.usual);
        if most == 0 || keys::open_all(owner) || self.is_far_from(owner, most) {
            return Ok(());
        }
        let kept = store.bytes_of(owner).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        seen.insert(owner.clone(), (Instant::now(), kept));
        if kept < most {
            return Ok(());
        }
        let what = format!("{kept} bytes are kept for this key, and {most} may be");
        Err(Error::new(Kind::KeyStorageFull, what))
    }

    fn is_far_from(&self, owner: &Owner, most: u64) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(owner).is_some_and(|(at, kept)| at.elapsed() < FRESH && kept.saturating_add(MARGIN) < most)
    }
}
