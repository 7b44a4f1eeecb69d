//! What is known of the holders of keys: their limits.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::GatewayKey;
use crate::domain::limits::KeyLimits;

/// The keys of the store, by their owners.
#[derive(Default)]
pub struct Callers(RwLock<Known>);

#[derive(Default)]
struct Known {
    owners: HashSet<Owner>,
    /// Those that have limits.
    limits: HashMap<Owner, Arc<KeyLimits>>,
}

impl Callers {
    /// Takes the keys of the store in, in place of those before; gives the owners whose key is gone.
    pub fn renew(&self, stored: &[GatewayKey]) -> Vec<Owner> {
        let owners = stored.iter().map(|key| key.owner.clone()).collect();
        let limited = stored.iter().filter(|key| *key.limits != KeyLimits::default());
        let limits = limited.map(|key| (key.owner.clone(), Arc::clone(&key.limits))).collect();
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, Known { owners, limits });
        before.owners.into_iter().filter(|owner| !known.owners.contains(owner)).collect()
    }

    /// The limits of an owner's key, if it has any.
    pub fn limits(&self, owner: &Owner) -> Option<Arc<KeyLimits>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).limits.get(owner).cloned()
    }
}

/// The model that a question of a key with limits is asked of: the one that is named, else the usual one if
/// the key may ask it, else the first that it may ask.
///
/// # Errors
/// That the key may not ask the model that is named.
pub fn model_for(
    limits: Option<&KeyLimits>,
    named: Option<String>,
    usual: Option<&str>,
) -> Result<Option<String>, Error> {
    let Some(models) = limits.and_then(|limits| limits.models.as_deref()) else { return Ok(named) };
    let may = |model: &str| models.iter().any(|allowed| allowed == model);
    match named {
        Some(model) if may(&model) => Ok(Some(model)),
        Some(_) => Err(Error::new(Kind::NotAllowed, "this key may not ask this model").hinted(format!(
            "name one of: {}; the service's owner can open others with `mirrorgate key set`",
            models.join(", ")
        ))),
        None => match usual.filter(|model| may(model)).or(models.first().map(String::as_str)) {
            Some(model) => Ok(Some(model.into())),
            None => Err(Error::new(Kind::NotAllowed, "this key may ask no model")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_models_asks_one_of_them() {
        let limits = KeyLimits { models: Some(vec!["a".into(), "b".into()]), ..KeyLimits::default() };
        let model =
            |named: Option<&str>, usual| model_for(Some(&limits), named.map(String::from), usual).ok();
        assert_eq!(model(Some("b"), Some("c")), Some(Some("b".into())));
        assert_eq!(model(Some("c"), Some("c")), None);
        assert_eq!(model(None, Some("b")), Some(Some("b".into())));
        assert_eq!(model(None, Some("c")), Some(Some("a".into())));
        let none = KeyLimits { models: Some(Vec::new()), ..KeyLimits::default() };
        assert!(model_for(Some(&none), None, Some("a")).is_err());
        assert_eq!(model_for(None, Some("c".into()), None).ok(), Some(Some("c".into())));
    }
}
