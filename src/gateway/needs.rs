//! What a request needs beside a key, where it touches what the upstream's account keeps; and who made that.

use std::time::Duration;

use super::Gateway;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::keys;

/// How long it is remembered who made what the upstream keeps. OpenAI keeps an answer for 30 days.
pub const OBJECTS_KEPT: Duration = Duration::from_secs(35 * 24 * 3600);

/// What a request needs beside a key. By default nothing.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Paths under `/v1/` that the key must be given.
    pub paths: Vec<String>,
    /// Ids of what the same key must have made.
    pub objects: Vec<String>,
    /// Whether the answer is something that the upstream keeps under an id.
    pub makes_object: bool,
    /// Whether it names its model in a way that one reader takes for one model and another for another.
    pub has_other_models: bool,
    /// The models that its tools ask.
    pub models_of_tools: Vec<String>,
    /// Whether its answer is to be made after the call has ended.
    pub is_background: bool,
}

impl Gateway {
    /// Sees that an owner's key has what a request needs.
    ///
    /// # Errors
    /// That it has not, or that the store cannot be used.
    pub async fn allow(&self, owner: &Owner, needs: &Needs) -> Result<(), Error> {
        if keys::open_all(owner) {
            return Ok(());
        }
        let limits = self.shared.callers.limits(owner);
        let is_open = |path: &&String| limits.as_ref().is_some_and(|limits| limits.allow_path(path));
        if let Some(path) = needs.paths.iter().find(|path| !is_open(path)) {
            let what = format!("this key may not use what the upstream's account keeps under /v1/{path}");
            return Err(Error::new(Kind::NotAllowed, what));
        }
        if needs.has_other_models && limits.as_ref().is_some_and(|limits| limits.models.is_some()) {
            let what = "this key asks certain models, and the request names more than one, or in another way than by one `model`";
            return Err(
                Error::new(Kind::NotAllowed, what).hinted("name one model, in the field `model` alone")
            );
        }
        let may_ask = |model: &&String| limits.as_ref().is_none_or(|limits| limits.allow_model(model));
        if let Some(model) = needs.models_of_tools.iter().find(|model| !may_ask(model)) {
            let what = format!("this key may not ask the model `{model}`, which a tool of the request names");
            return Err(Error::new(Kind::NotAllowed, what));
        }
        if needs.is_background && limits.as_ref().is_some_and(|limits| limits.are_counted()) {
            let what = "this key has limits, and what an answer in the background costs is known to nobody";
            return Err(Error::new(Kind::NotAllowed, what).hinted("ask without `background`"));
        }
        for id in &needs.objects {
            if !self.shared.store.made_object(owner, id).await? {
                // As for an id that does not exist: it may be another key's.
                return Err(Error::new(
                    Kind::NotFound,
                    "this key has made no answer with this id, nor a part of one",
                ));
            }
        }
        Ok(())
    }

    /// Remembers that an owner made what the upstream keeps under these ids.
    pub async fn remember_objects(&self, owner: &Owner, ids: Vec<String>) {
        if let Err(error) = self.shared.store.keep_objects(owner, &ids).await {
            log::warn!(error = error.kind.code(); "who made an answer that the upstream keeps is not remembered: {}", error.message);
        }
    }
}
