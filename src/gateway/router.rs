//! Which upstream is asked, where there are several.
//!
//! Those that offer the model come first, in a random order by their weights; one that keeps
//! failing comes after the others, and one whose models are not known comes last. When an upstream
//! surely did no work on a question, the next one gets it; each gets it once.

use std::rc::Rc;
use std::time::Duration;

use super::Gateway;
use super::catalog::{Known, Need, REFRESH_TIME};
use crate::config;
use crate::domain::error::{Error, Kind};
use crate::provider::{Endpoint, Passthrough, Upstream};
use crate::request;
use crate::telemetry::mending::{self, Mending};

/// One of the upstreams, with what is set about it.
pub struct Member {
    /// The upstream, which a refresh of what is known of it holds as well.
    pub upstream: Rc<Upstream>,
    /// Its settings.
    pub settings: config::Upstream,
}

/// How long the first lists are waited for when those that came do not offer the model: an upstream
/// that is well has given its list by then.
pub(super) const FIRST_LISTS_TIME: Duration = Duration::from_millis(300);

/// What an upstream is for a question, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It offers the model, or needs none.
    Offers,
    /// It should, by its settings or by a list that it did not give again.
    Should,
    /// Its list is not known.
    Unknown,
    /// It cannot list its models.
    Unlisted,
    /// Its list lacks the model.
    Lacks,
}

impl Member {
    /// The upstream at an endpoint, with connections of its own.
    pub fn new(endpoint: &Endpoint) -> Self {
        Member { upstream: Rc::new(endpoint.connect()), settings: endpoint.settings.clone() }
    }

    /// The way for requests in the OpenAI protocol's own words.
    ///
    /// # Errors
    /// That the upstream speaks another protocol.
    pub(super) fn passthrough(&self) -> Result<&dyn Passthrough, Error> {
        self.upstream.passthrough().ok_or_else(|| {
            let noun = self.upstream.capabilities().noun;
            Error::new(Kind::NotFound, format!("{noun} has nothing at this path"))
                .hinted("use /v1/chat/completions or /v1/models: `UPSTREAM_PROTOCOL` is not openai")
        })
    }

    /// Whether its settings name this model.
    pub(super) fn names(&self, model: &str) -> bool {
        self.settings.models.iter().chain(&self.settings.default_model).any(|known| known == model)
    }

    /// What it is for a question that names this model, or none.
    fn standing(&self, model: Option<&str>, known: Option<&Known>) -> Standing {
        let failure = known.and_then(|known| known.failure.as_ref());
        let failing = failure.is_some_and(|error| !error.kind.lists_no_models());
        let listing = known.and_then(|known| known.listing.as_ref());
        match (model, listing) {
            (Some(model), Some(listing)) if !listing.contains(model) => Standing::Lacks,
            (_, Some(_)) if !failing => Standing::Offers,
            (_, Some(_)) => Standing::Should,
            (None, None) if known.is_some() && !failing => Standing::Offers,
            (None, None) if self.settings.default_model.is_some() => Standing::Should,
            (Some(model), None) if self.names(model) => Standing::Should,
            (_, None) if known.is_some() && !failing => Standing::Unlisted,
            (_, None) => Standing::Unknown,
        }
    }
}

impl Gateway {
    /// What an answer says of the upstream that gave it: its name, where there are others.
    pub(super) fn upstream_label(&self, member: &Member) -> Option<String> {
        (self.members.len() > 1).then(|| member.settings.name.to_string())
    }

    /// The upstream of this name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| *member.settings.name == *name)
    }

    /// The upstreams to ask for a model, the best first; `preferred` comes before all others.
    pub(super) async fn candidates(&self, model: Option<&str>, preferred: Option<&str>) -> Vec<&Member> {
        if let [only] = self.members.as_slice() {
            return vec![only];
        }
        let mut ordered: Vec<_> = self.standings(model).await.into_iter().zip(&self.members).collect();
        let best = ordered.iter().map(|(standing, _)| *standing).min().unwrap_or(Standing::Unknown);
        // Where nobody lists the model, each may know it all the same.
        if best <= Standing::Should {
            ordered.retain(|(standing, _)| *standing <= Standing::Unknown);
        }
        let mut drawn: Vec<_> = ordered
            .into_iter()
            .map(|(standing, member)| {
                let passed_over = !self.catalog.entry(member).session().breaker().admits();
                (standing, passed_over, draw(member.settings.weight), member)
            })
            .collect();
        drawn.sort_by(|(standing, passed_over, draw, _), other| {
            let by_draw = draw.total_cmp(&other.2);
            (standing, passed_over).cmp(&(&other.0, &other.1)).then(by_draw)
        });
        let mut candidates: Vec<&Member> = drawn.into_iter().map(|(.., member)| member).collect();
        let place = candidates.iter().position(|member| Some(&*member.settings.name) == preferred);
        if let Some(place) = place {
            candidates[..=place].rotate_right(1);
        }
        candidates
    }

    /// What each upstream is for a question. It is waited for only while none is known to do.
    async fn standings(&self, model: Option<&str>) -> Vec<Standing> {
        let catalog = &self.catalog;
        let look = || {
            let looks = self.members.iter().map(|member| {
                let entry = catalog.renewed(member, Need::Models);
                let standing = member.standing(model, entry.models().as_deref());
                (standing, standing == Standing::Unknown && entry.answered_models().is_none())
            });
            looks.unzip::<_, _, Vec<_>, Vec<_>>()
        };
        // Whether the question can go on, and whether it would be better to see the lists to come.
        let enough = |patient: bool| {
            let (standings, coming) = look();
            let some_will_do = standings.iter().any(|standing| *standing <= Standing::Should);
            let some_may_do = !patient && standings.iter().any(|standing| *standing != Standing::Unknown);
            (some_will_do || some_may_do || !coming.contains(&true)).then_some(standings)
        };
        if let Some(standings) = catalog.until(FIRST_LISTS_TIME, || enough(true)).await {
            return standings;
        }
        let rest = REFRESH_TIME - FIRST_LISTS_TIME;
        catalog.until(rest, || enough(false)).await.unwrap_or_else(|| look().0)
    }

    /// Asks the candidates in turn until one answers, or fails in a way that forbids another try.
    pub(super) async fn ask_in_turn<'a, T>(
        &self,
        candidates: Vec<&'a Member>,
        ask: impl AsyncFn(&'a Member) -> Result<T, Error>,
    ) -> Result<(&'a Member, T), Error> {
        let last = candidates.len().saturating_sub(1);
        let mut failure = None;
        let call = request::call();
        for (place, member) in candidates.into_iter().enumerate() {
            if let Some(call) = &call {
                call.put_to(&member.settings.name);
            }
            let outcome = ask(member).await;
            self.count(member, outcome.as_ref().err());
            if let Err(error) = &outcome {
                self.catalog.entry(member).doubt(error);
            }
            match outcome {
                Ok(answer) => return Ok((member, answer)),
                Err(error) if place < last && error.unworked => {
                    log::warn!(error = error.kind.code(), upstream = member.settings.name; "{}", error.message);
                    mending::tell(Mending::OtherUpstreamAsked, &member.settings.name, 1);
                    failure = failure.or(Some(error));
                }
                // The best one's failure says most, unless another may have worked on the question.
                Err(error) if error.unworked => return Err(failure.unwrap_or(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(Kind::ModelNotFound, "no upstream offers this")))
    }
}

/// A random number by which members are put in order, smaller on average for a greater weight.
fn draw(weight: u32) -> f64 {
    let random = crate::random::number();
    // Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006.
    let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
    -(1.0 - uniform).ln() / f64::from(weight)
}
