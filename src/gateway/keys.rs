//! The owner's use cases: keys, what all of them use, and the audit trail.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::{Gateway, Shared};
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::{self, GatewayKey};
use crate::domain::limits::KeyLimits;
use crate::store::{DayOfUse, Deed, StoredKey};

/// What a key has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Tokens of questions and answers today, in UTC.
    pub tokens_of_day: u64,
    /// The same in this month.
    pub tokens_of_month: u64,
    /// Bytes of conversations and answers that are kept for it.
    pub kept_bytes: u64,
}

impl Shared {
    /// Reads the keys of the store, and lets their limits hold; gives them for whoever looks at keys.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn read_keys(&self) -> Result<Vec<GatewayKey>, Error> {
        let stored = self.store.keys().await?;
        let keys: Vec<_> = stored.into_iter().filter_map(StoredKey::into_key).collect();
        self.renew_keys(&keys);
        Ok(keys)
    }
}

impl Gateway {
    /// As [`Shared::read_keys`].
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn read_keys(&self) -> Result<Vec<GatewayKey>, Error> {
        self.shared.read_keys().await
    }

    /// The keys of the store, the owner's left out, each with when it was last used, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keys(&self) -> Result<Vec<(StoredKey, Option<i64>)>, Error> {
        self.shared.settle_usage().await?;
        let last = self.shared.store.last_uses().await?;
        let keys = self.shared.store.keys().await?.into_iter().filter(|key| key.name != keys::OWNERS_KEY);
        let with_last = |key: StoredKey| {
            let used_at = last.get(&key.owner).copied();
            (key, used_at)
        };
        Ok(keys.map(with_last).collect())
    }

    /// What each key has used, of those that have used anything this month or for which something is kept.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn uses(&self) -> Result<HashMap<Owner, Use>, Error> {
        let today = OffsetDateTime::now_utc();
        let (day, of_month) = (today.unix_timestamp().div_euclid(86_400), u32::from(today.day()));
        let mut uses: HashMap<Owner, Use> = HashMap::new();
        for used in self.usage_of_all(of_month).await? {
            let tokens = used.tally.prompt_tokens + used.tally.completion_tokens;
            let of_key = uses.entry(used.owner).or_default();
            of_key.tokens_of_month += tokens;
            of_key.tokens_of_day += if used.day == day { tokens } else { 0 };
        }
        for (owner, kept) in self.shared.store.bytes_of_all().await? {
            uses.entry(owner).or_default().kept_bytes = kept;
        }
        Ok(uses)
    }

    /// `KEY_STORAGE_BYTES`: how many bytes are kept for a key without a limit of its own; `None` for any number.
    pub fn usual_storage(&self) -> Option<u64> {
        self.shared.quota.usual()
    }

    /// Makes a key; gives its text, which is kept nowhere.
    ///
    /// # Errors
    /// When there is a key of this name, or the store cannot be used.
    pub async fn new_key(&self, name: &str, limits: KeyLimits) -> Result<String, Error> {
        self.shared.store.make_key(name, limits).await
    }

    /// Gives a key other limits.
    ///
    /// # Errors
    /// When there is none of this name, or the store cannot be used.
    pub async fn limit_key(&self, name: &str, limits: &KeyLimits) -> Result<(), Error> {
        self.shared.store.limit_key(name, limits).await
    }

    /// Gives a key another text, and what it owns stays; the new text is kept nowhere.
    ///
    /// # Errors
    /// As [`Gateway::limit_key`].
    pub async fn rotate_key(&self, name: &str) -> Result<String, Error> {
        self.shared.store.rotate_key(name).await
    }

    /// Takes a key back; what is being answered for it ends.
    ///
    /// # Errors
    /// As [`Gateway::limit_key`].
    pub async fn revoke_key(&self, name: &str) -> Result<(), Error> {
        self.shared.store.remove_key(name).await
    }

    /// What all keys used in the last days, by day, key and model.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn usage_of_all(&self, days: u32) -> Result<Vec<DayOfUse>, Error> {
        self.shared.settle_usage().await?;
        self.shared.store.usage_by_day(days).await
    }

    /// How a key stands to its limits: name, limit, what is left, and the seconds until more of it is there.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn limit_states(&self, owner: &Owner) -> Result<Vec<super::LimitState>, Error> {
        match self.shared.callers.limits(owner).filter(|limits| limits.are_counted()) {
            Some(limits) => self.shared.allowances.states(owner, &limits).await,
            None => Ok(Vec::new()),
        }
    }

    /// Notes in the audit trail what was done at one of the owner's doors. It was done already, so a failure
    /// is only logged.
    pub async fn note_deed(&self, deed: Deed) {
        if let Err(error) = self.shared.store.note_deed(&deed).await {
            let action = deed.action;
            log::warn!(error = error.kind.code(), action; "the audit trail cannot be written: {}", error.message);
        }
    }

    /// What was done at the owner's doors, the latest first, before a time in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn deeds(&self, before: Option<i64>, most: usize) -> Result<Vec<(i64, Deed)>, Error> {
        self.shared.store.deeds(before, most).await
    }
}

/// Sees that a name can be a new key's.
///
/// # Errors
/// That it cannot.
pub fn check_name(name: &str) -> Result<(), Error> {
    // One of dots alone is no place in an address: clients take it away before they send it.
    if keys::is_name(name) && name != keys::OWNER && name.bytes().any(|byte| byte != b'.') {
        return Ok(());
    }
    let what =
        format!("a key's name has up to 40 letters, digits, `-`, `_` and `.`, and is not `{}`", keys::OWNER);
    Err(Error::new(Kind::InvalidRequest, what).hinted("choose a name such as `my-dify`"))
}
