//! The keys at a start: those of the environment and of the store, and those that a first start makes.

use super::StartError;
use crate::config::{self, Config};
use crate::domain::error::Error;
use crate::domain::keys::{self, GatewayKey};
use crate::gateway::Shared;
use crate::http::auth::Guard;
use crate::store::{Store, StoredKey};

/// The keys that a start has made, in clear text, to be shown once.
#[derive(Default)]
pub struct NewKeys {
    /// A caller's.
    pub caller: Option<String>,
    /// The owner's.
    pub owner: Option<String>,
}

impl NewKeys {
    /// The names of those that were made, as the store has them.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let caller = self.caller.as_ref().map(|_| keys::GENERATED);
        caller.into_iter().chain(self.owner.as_ref().map(|_| keys::OWNERS_KEY))
    }
}

/// Takes the store's keys in, and makes those that are lacking: one for callers where there is none at all,
/// and the owner's, also in a store of an earlier version. Of replicas that start together, one makes them.
///
/// # Errors
/// When there is no key for callers and none can be kept, or one key would be the owner's and a caller's.
pub async fn open(
    config: &Config,
    store: &Store,
    guard: &Guard,
    shared: &Shared,
) -> Result<NewKeys, StartError> {
    let configured = !config.gateway.keys.is_empty();
    let fresh = keys::generate().map_err(|error| StartError::Other(error.to_string()))?;
    match lacking(&config.gateway, store, &fresh).await {
        Ok((stored, made)) if configured || stored.iter().any(|key| key.name != keys::OWNERS_KEY) => {
            let stored: Vec<_> = stored.into_iter().filter_map(StoredKey::into_key).collect();
            apart(&config.gateway, &stored)?;
            shared.renew_keys(&stored);
            guard.renew(stored);
            Ok(made)
        }
        Ok(_) => Err(StartError::KeyNotKept { why: "it would be kept in memory alone".into(), key: fresh }),
        Err(error) if configured => {
            log::warn!("keys of the store are not known yet: {}", error.message);
            Ok(NewKeys::default())
        }
        Err(error) => Err(StartError::KeyNotKept { why: error.message, key: fresh }),
    }
}

/// The keys of the store with those that were made, of which the caller's is `fresh`.
async fn lacking(
    settings: &config::Gateway,
    store: &Store,
    fresh: &str,
) -> Result<(Vec<StoredKey>, NewKeys), Error> {
    let mut made = NewKeys::default();
    let stored = store.keys().await?;
    if !store.lasts() {
        return Ok((stored, made));
    }
    let has_owner = settings.admin.is_some() || stored.iter().any(|key| key.name == keys::OWNERS_KEY);
    if !has_owner {
        let text = keys::generate_owners()?;
        let key = GatewayKey::owners(&text);
        let kept = store.add_key(&key).await?;
        made.owner = kept.then_some(text);
    }
    if settings.keys.is_empty() && stored.iter().all(|key| key.name == keys::OWNERS_KEY) {
        let key = GatewayKey::new(keys::GENERATED, fresh);
        let kept = store.add_key(&key).await?;
        made.caller = kept.then(|| fresh.to_string());
    }
    Ok((store.keys().await?, made))
}

/// Sees that the owner's key is no caller's.
fn apart(settings: &config::Gateway, stored: &[GatewayKey]) -> Result<(), StartError> {
    let Some(admin) = &settings.admin else { return Ok(()) };
    match settings.keys.iter().chain(stored).find(|key| !key.is_owners() && key.is_same(admin)) {
        Some(key) => Err(StartError::OneKeyForBoth(key.name.clone())),
        None => Ok(()),
    }
}
