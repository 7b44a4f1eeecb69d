//! How many bytes are kept for a key, and whether more may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;

use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys;
use crate::domain::limits::KeyLimits;
use crate::store::Store;

/// How long a sum is good enough for a key that has so many bytes left as it cannot fill meanwhile.
const FRESH: Duration = Duration::from_secs(5);
const MARGIN: u64 = 4 << 20;

/// How many times as long as it took to find a sum is good enough for all others, and at most how long: many
/// small conversations are summed up slowly, and who asks again and again must not keep the store at it.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How many sums are remembered.
const REMEMBERED: usize = 10_000;

/// The bytes that are kept for each key.
pub struct Quota {
    /// `KEY_STORAGE_BYTES`: what holds for keys without a limit of their own; 0 for any number.
    usual: u64,
    /// Whoever holds a key's lock finds the sum for all who wait for it.
    sums: Mutex<HashMap<Owner, Place>>,
}

type Place = Arc<AsyncMutex<Option<Sum>>>;

/// What is kept for a key, or why that is not known.
#[derive(Clone)]
struct Sum {
    at: Instant,
    took: Duration,
    bytes: Result<u64, Error>,
}

impl Sum {
    /// Whether it is good enough for a question that came then.
    fn is_good(&self, most: u64, came: Instant) -> bool {
        if self.at >= came {
            return true;
        }
        let Ok(bytes) = self.bytes else { return false };
        let is_far = bytes.saturating_add(MARGIN) < most;
        let rest = (self.took * REST).min(LONGEST_REST);
        self.at.elapsed() < if is_far { FRESH.max(rest) } else { rest }
    }
}

impl Quota {
    /// So many bytes for keys without a limit of their own.
    pub fn new(usual: u64) -> Self {
        Quota { usual, sums: Mutex::default() }
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
        if most == 0 || keys::open_all(owner) {
            return Ok(());
        }
        let (place, came) = (self.place(owner), Instant::now());
        let mut known = place.lock().await;
        let bytes = match known.as_ref().filter(|sum| sum.is_good(most, came)) {
            Some(sum) => sum.bytes.clone()?,
            None => {
                let begun = Instant::now();
                let bytes = store.bytes_of(owner).await;
                known.insert(Sum { at: Instant::now(), took: begun.elapsed(), bytes }).bytes.clone()?
            }
        };
        if bytes < most {
            return Ok(());
        }
        let what = format!("{bytes} bytes are kept for this key, and {most} may be");
        Err(Error::new(Kind::KeyStorageFull, what))
    }

    /// Forgets what is known of an owner, of whose bytes some were deleted.
    pub fn forget(&self, owner: &Owner) {
        self.sums().remove(owner);
    }

    fn place(&self, owner: &Owner) -> Place {
        let mut sums = self.sums();
        if let Some(place) = sums.get(owner) {
            return Arc::clone(place);
        }
        if sums.len() >= REMEMBERED {
            sums.clear();
        }
        Arc::clone(sums.entry(owner.clone()).or_default())
    }

    fn sums(&self) -> MutexGuard<'_, HashMap<Owner, Place>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_was_slow_to_find_is_good_for_longer() {
        let now = Instant::now();
        let is_good = |ago: u64, took: u64, bytes: Result<u64, Error>| {
            let (at, took) = (now - Duration::from_millis(ago), Duration::from_millis(took));
            Sum { at, took, bytes }.is_good(3 * MARGIN, now)
        };
        let (far, full) = (|| Ok(MARGIN), || Ok(3 * MARGIN));
        assert!(is_good(4_000, 1, far()) && !is_good(6_000, 1, far()));
        assert!(is_good(10, 1, full()) && !is_good(500, 1, full()));
        assert!(is_good(9_000, 500, full()) && !is_good(11_000, 500, full()));
        assert!(!is_good(31_000, 5_000, full()));
        // Those who waited for it share a failure; nobody else does.
        let failure = || Err(Error::new(Kind::StorageUnavailable, "x"));
        assert!(is_good(0, 10_000, failure()) && !is_good(1, 10_000, failure()));
    }
}
