//! The models that callers can name, and the one that is asked when they name none.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{CACHE_TIME, Member, Service};
use crate::domain::chat::Model;
use crate::domain::error::{Error, Kind};

/// The models that a caller can name.
#[derive(Debug, Clone)]
pub struct Models {
    /// All that are known.
    pub models: Vec<Model>,
    /// The one that answers when none is named.
    pub default_model: Option<String>,
}

impl Service {
    /// The models that a caller can name: those of all upstreams, each once.
    ///
    /// # Errors
    /// When no upstream can tell its models: why the first cannot.
    pub async fn models(&self) -> Result<Models, Error> {
        let mut models: Vec<Model> = Vec::new();
        let mut default_model = None;
        let mut failure = None;
        for asked in self.shared.admission.until_over(join_all(self.members.iter().map(models_of))).await? {
            match asked {
                Ok((list, default)) => {
                    default_model = default_model.or(default);
                    let news: Vec<Model> = list
                        .into_iter()
                        .filter(|one| models.iter().all(|known| known.id != one.id))
                        .collect();
                    models.extend(news);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if models.is_empty() => Err(error),
            _ => Ok(Models { models, default_model }),
        }
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
            Err(Error::new(Kind::ModelNotFound, "the model is not one of `MODELS`"))
        }
    }

    /// The model for questions that name none: the configured one, else the upstream's first.
    /// `None` leaves the choice to an upstream that does not list its models.
    async fn default_model(&self, member: &Member) -> Result<Option<String>, Error> {
        let settings = &member.settings;
        let configured = settings.default_model.as_ref().or(settings.models.first());
        if configured.is_some() || member.upstream.keeps_conversations() {
            return Ok(configured.cloned());
        }
        // Held while the upstream is asked: a crowd at the start asks once.
        let mut first = self.shared.first_models.lock().await;
        if let Some((when, model)) = first.get(&settings.name)
            && when.elapsed() < CACHE_TIME
        {
            return Ok(model.clone());
        }
        let model = match member.upstream.models().await {
            Ok(models) => models.and_then(|models| models.into_iter().next()).map(|model| model.id),
            Err(error) if error.kind.lists_no_models() => None,
            Err(error) => return Err(error),
        };
        first.insert(settings.name.clone(), (Instant::now(), model.clone()));
        Ok(model)
    }
}

/// The models of one upstream, and the one that answers when none is named.
async fn models_of(member: &Member) -> Result<(Vec<Model>, Option<String>), Error> {
    let settings = &member.settings;
    let models = if settings.models.is_empty() {
        let asked = member.upstream.models().await?;
        asked.or_else(|| settings.default_model.clone().map(|id| vec![named(id)])).ok_or_else(|| {
            Error::new(Kind::ModelsUnknown, "this upstream cannot list its models, and none is configured")
        })?
    } else {
        settings.models.iter().cloned().map(named).collect()
    };
    let first = models.first().map(|model| model.id.clone());
    Ok((models, settings.default_model.clone().or(first)))
}

fn named(id: String) -> Model {
    Model { id, owned_by: "upstream".into() }
}
