//! Which upstream is asked, where there are several.
//!
//! Those that offer the model come first, in a random order by their weights; one that keeps
//! failing comes last. When an upstream surely did no work on a question, the next one gets it; each
//! gets it once.

use std::collections::HashMap;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{CACHE_TIME, Service};
use crate::config;
use crate::domain::error::{Error, Kind};
use crate::provider::Upstream;

/// One of the upstreams, with what is set about it.
pub struct Member {
    /// The upstream.
    pub upstream: Upstream,
    /// Its settings.
    pub settings: config::Upstream,
}

/// The names of an upstream's models, as far as they are known, and when they were asked for.
pub type Lists = HashMap<String, (Instant, Option<Vec<String>>)>;

impl Member {
    /// The models that its settings name.
    fn named(&self) -> impl Iterator<Item = &String> {
        self.settings.models.iter().chain(&self.settings.default_model)
    }

    /// Whether its settings name this model.
    pub(super) fn names(&self, model: &str) -> bool {
        self.named().any(|known| known == model)
    }
}

impl Service {
    /// What an answer says of the upstream that gave it: its name, where there are others.
    pub(super) fn upstream_label(&self, member: &Member) -> Option<String> {
        (self.members.len() > 1).then(|| member.settings.name.clone())
    }

    /// The upstream of this name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.settings.name == name)
    }

    /// The upstreams to ask for a model, the best first; `preferred` comes before all others.
    pub(super) async fn candidates(&self, model: Option<&str>, preferred: Option<&str>) -> Vec<&Member> {
        if let [only] = self.members.as_slice() {
            return vec![only];
        }
        let lists = self.lists().await;
        let offers = |member: &Member| {
            let name = &member.settings.name;
            model.is_none_or(|model| {
                let list = lists.get(name).and_then(|(_, list)| list.as_ref());
                list.is_some_and(|list| list.iter().any(|known| known == model))
            })
        };
        let mut ordered: Vec<(&Member, bool, f64)> = self
            .members
            .iter()
            .map(|member| (member, offers(member), draw(member.settings.weight)))
            .collect();
        // Where nobody lists the model, each may know it all the same.
        if ordered.iter().any(|(_, offers, _)| *offers) {
            ordered.retain(|(_, offers, _)| *offers);
        }
        ordered.sort_by(|(_, _, one), (_, _, other)| one.total_cmp(other));
        let (mut good, failing): (Vec<_>, Vec<_>) = ordered
            .into_iter()
            .map(|(member, ..)| member)
            .partition(|member| member.upstream.session().breaker().admits());
        good.extend(failing);
        if let Some(place) = good.iter().position(|member| Some(member.settings.name.as_str()) == preferred) {
            good[..=place].rotate_right(1);
        }
        good
    }

    /// Asks the candidates in turn until one answers, or fails in a way that forbids another try.
    pub(super) async fn ask_in_turn<'a, T>(
        &self,
        candidates: Vec<&'a Member>,
        ask: impl AsyncFn(&'a Member) -> Result<T, Error>,
    ) -> Result<(&'a Member, T), Error> {
        let last = candidates.len().saturating_sub(1);
        let mut failure = None;
        for (place, member) in candidates.into_iter().enumerate() {
            let outcome = ask(member).await;
            self.count(member, outcome.as_ref().err());
            match outcome {
                Ok(answer) => return Ok((member, answer)),
                Err(error) if place < last && error.unworked => {
                    log::warn!(error = error.kind.code(), upstream = member.settings.name; "another upstream is asked: {}", error.message);
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(Kind::ModelNotFound, "no upstream offers this")))
    }

    /// The models of each upstream: as they are set, else as it says, asked for now and then.
    async fn lists(&self) -> Lists {
        let mut lists = self.shared.lists.lock().await;
        let is_known = |member: &&Member| {
            lists.get(&member.settings.name).is_some_and(|(when, _)| when.elapsed() < CACHE_TIME)
        };
        let unknown: Vec<&Member> = self.members.iter().filter(|member| !is_known(member)).collect();
        let asked = unknown.into_iter().map(|member| async move {
            let name = member.settings.name.clone();
            let list = if member.settings.models.is_empty() {
                let models = timeout(super::health::PROBE_TIME, member.upstream.models()).await;
                let models = models.ok().and_then(Result::ok).flatten();
                models.map(|models| models.into_iter().map(|model| model.id).collect())
            } else {
                Some(member.named().cloned().collect())
            };
            (name, (Instant::now(), list))
        });
        lists.extend(join_all(asked).await);
        lists.clone()
    }
}

/// A random number by which members are put in order, smaller on average for a greater weight.
fn draw(weight: u32) -> f64 {
    let random = crate::random::number();
    // Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006.
    let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
    -(1.0 - uniform).ln() / f64::from(weight)
}
