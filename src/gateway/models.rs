//! The models that callers can name, and the one that is asked when they name none.

use std::borrow::Cow;
use std::collections::HashSet;

use super::callers::model_for;
use super::catalog::{Known, Need, REFRESH_TIME, named, not_listed};
use super::router::FIRST_LISTS_TIME;
use super::{Gateway, Member};
use crate::domain::chat::{Chat, Model, Owner};
use crate::domain::error::{Error, Kind};

/// The models that a caller can name.
#[derive(Debug, Clone)]
pub struct Models {
    /// All that are known.
    pub models: Vec<Model>,
    /// The one that answers when none is named.
    pub default_model: Option<String>,
}

impl Gateway {
    /// The models that a caller can name: those of all upstreams, each once, as they were told at most
    /// `CACHE_TIME` ago. An upstream that is silent is waited for in a bound.
    ///
    /// # Errors
    /// When no upstream can tell its models: why the first cannot.
    pub async fn models(&self) -> Result<Models, Error> {
        self.until_recent().await?;
        let catalog = &self.catalog;
        let mut models: Vec<Model> = Vec::new();
        let mut names = HashSet::new();
        let mut default_model = None;
        let mut failure = None;
        for member in &self.members {
            let known = catalog.entry(member).models();
            match known.as_deref().map_or_else(|| Err(not_listed()), |known| models_of(member, known)) {
                Ok(list) => {
                    let first = list.first().map(|model| model.id.clone());
                    default_model = default_model.or(member.settings.default_model.clone()).or(first);
                    models.extend(list.iter().filter(|model| names.insert(model.id.clone())).cloned());
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if models.is_empty() => Err(error),
            _ => Ok(Models { models, default_model }),
        }
    }

    /// As [`Gateway::models`], without those that this owner's key may not ask.
    ///
    /// # Errors
    /// As [`Gateway::models`].
    pub async fn models_of(&self, owner: &Owner) -> Result<Models, Error> {
        let mut all = self.models().await?;
        if let Some(limits) = self.shared.callers.limits(owner).filter(|limits| limits.models.is_some()) {
            all.models.retain(|model| limits.allow_model(&model.id));
            let usual = all.default_model.take();
            all.default_model = model_for(Some(&limits), None, usual.as_deref())?;
        }
        Ok(all)
    }

    /// The model of this name among [`Gateway::models`].
    ///
    /// # Errors
    /// As [`Gateway::models`], or that there is none.
    pub async fn model(&self, owner: &Owner, id: &str) -> Result<Model, Error> {
        model_for(self.shared.callers.limits(owner).as_deref(), Some(id.to_string()), None)?;
        self.until_recent().await?;
        let (mut is_listed, mut failure) = (false, None);
        for member in &self.members {
            let known = self.catalog.entry(member).models();
            match known.as_deref().map_or_else(|| Err(not_listed()), |known| models_of(member, known)) {
                Ok(list) => match list.iter().find(|model| model.id == id) {
                    Some(model) => return Ok(model.clone()),
                    None => is_listed |= !list.is_empty(),
                },
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let missing = || Error::new(Kind::ModelNotFound, "there is no model of this name");
        Err(failure.filter(|_| !is_listed).unwrap_or_else(missing))
    }

    /// Waits until what all upstreams said of their models is recent, in a bound.
    async fn until_recent(&self) -> Result<(), Error> {
        let catalog = &self.catalog;
        let recent = || {
            // All are looked at, so that all refreshes begin at once.
            let all = self.members.iter().map(|member| catalog.renewed(member, Need::Models).recent_models());
            all.collect::<Vec<_>>().into_iter().all(|known| known.is_some()).then_some(())
        };
        self.shared.admission.end().or(catalog.until(REFRESH_TIME, recent)).await.map(drop)
    }

    /// The model to ask an upstream for: the one that the caller names, unless a configured list
    /// lacks it, since an upstream that cannot list its models may not tell a wrong one either.
    pub(super) async fn model_of(
        &self,
        member: &Member,
        named: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let settings = &member.settings;
        let Some(model) = named else { return self.default_model(member).await };
        if settings.models.is_empty() || member.names(model) {
            Ok(Some(model.to_string()))
        } else {
            Err(Error::new(Kind::ModelNotFound, "the model is not one of `MODELS`").unworked())
        }
    }

    /// The most tokens to ask for: as many as the caller says. Where an upstream must be told and the
    /// caller does not say, as many as the model can generate, if the upstream's list has that.
    pub(super) async fn max_tokens(&self, member: &Member, asked: &Chat, model: Option<&str>) -> Option<u32> {
        if asked.max_tokens.is_some() || !member.upstream.capabilities().needs_max_tokens {
            return asked.max_tokens;
        }
        let catalog = &self.catalog;
        let answered = || catalog.renewed(member, Need::Models).answered_models();
        let known = catalog.until(FIRST_LISTS_TIME, answered).await?;
        let models = &known.listing.as_ref()?.models;
        models.iter().find(|listed| Some(listed.id.as_str()) == model)?.max_tokens
    }

    /// The model for questions that name none: the configured one, else the upstream's first.
    /// `None` leaves the choice to an upstream that does not list its models.
    async fn default_model(&self, member: &Member) -> Result<Option<String>, Error> {
        let settings = &member.settings;
        let configured = settings.default_model.as_ref().or(settings.models.first());
        if configured.is_some() || member.upstream.keeps_conversations() {
            return Ok(configured.cloned());
        }
        let catalog = &self.catalog;
        let answered = || catalog.renewed(member, Need::Models).answered_models();
        let known = catalog.until(REFRESH_TIME, answered).await;
        known.ok_or_else(not_listed)?.first()
    }
}

/// The models of one upstream, as it told them.
fn models_of<'a>(member: &Member, known: &'a Known) -> Result<Cow<'a, [Model]>, Error> {
    let default = || member.settings.default_model.clone().map(|id| vec![named(id)].into());
    match (&known.failure, &known.listing) {
        (Some(error), _) => Err(error.clone()),
        (None, Some(listing)) => Ok(Cow::Borrowed(&listing.models)),
        (None, None) => default().ok_or_else(|| {
            Error::new(Kind::ModelsUnknown, "this upstream cannot list its models, and none is configured")
        }),
    }
}
