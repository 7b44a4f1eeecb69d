//! How well the upstream does, and swapping its credentials once it accepts others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use url::Url;

use super::catalog::{Need, Probe};
use super::{Gateway, Member};
use crate::domain::error::{self, Error, Kind};
use crate::provider::session::{Credentials, Session, State};

/// How long the upstream's health is waited for.
const PROBE_TIME: Duration = Duration::from_secs(10);

/// How long the public page waits for a health that is not at hand.
const PAGE_TIME: Duration = Duration::from_secs(2);

/// How well the upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It answers.
    Ok,
    /// It is there, and would not answer a question now.
    Degraded,
    /// It is not there, or not itself.
    Down,
}

impl Status {
    /// The word for callers.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Down => "down",
        }
    }
}

/// The upstream's health.
#[derive(Debug, Clone)]
pub struct Health {
    /// In one word.
    pub status: Status,
    /// The upstream's name; of several, each with how it does.
    pub upstream: String,
    /// How long it took to find out.
    pub latency: Duration,
    /// How the upstream took the credentials.
    pub session: State,
    /// What is wrong, unless all is well.
    pub error: Option<Error>,
}

/// How an upstream stands, for the owner.
#[derive(Debug, Clone)]
pub struct UpstreamState {
    /// Its name.
    pub name: String,
    /// How it does; none where that is not known yet.
    pub health: Option<Health>,
    /// Whether it is asked, by its circuit breaker.
    pub breaker: &'static str,
    /// How it last took the credentials.
    pub session: &'static str,
    /// Whether there is a login at all.
    pub has_login: bool,
    /// Since when it is in use, where that is known.
    pub session_since: Option<SystemTime>,
    /// When it ends, where its cookies tell.
    pub session_ends: Option<SystemTime>,
}

impl Gateway {
    /// The upstream's health, asked of it now. It costs no tokens.
    ///
    /// Of several upstreams all are asked: as long as one is well, so is the service, if degraded.
    pub async fn health(&self) -> Health {
        let all = join_all(self.members.iter().map(|member| async move {
            let probe = probed(member).await;
            let entry = self.catalog.entry(member);
            let health = health_of(member, entry.session(), &probe);
            entry.learn_probe(probe);
            health
        }));
        self.together(all.await)
    }

    /// The upstream's health for the public page: asked at most twice a minute however often the
    /// page is opened, and `None` when it is not known soon enough.
    pub async fn recent_health(&self) -> Option<Health> {
        let known = self.known_health().await.into_iter().collect::<Option<Vec<_>>>()?;
        Some(self.together(known))
    }

    /// How each upstream stands, as it is known.
    pub async fn upstream_states(&self) -> Vec<UpstreamState> {
        let known = self.known_health().await;
        let state = |(member, health): (&Member, Option<Health>)| {
            let entry = self.catalog.entry(member);
            let session = entry.session();
            UpstreamState {
                name: member.settings.name.to_string(),
                health,
                breaker: session.breaker().state().name(),
                session: session.state().name(),
                has_login: session.has_login(),
                session_since: session.since(),
                session_ends: session.ends(),
            }
        };
        self.members.iter().zip(known).map(state).collect()
    }

    /// Whether an upstream did not accept the login when it was last asked. None is asked now.
    pub fn login_fails(&self) -> bool {
        self.members.iter().any(|member| member.upstream.session().state() == State::Expired)
    }

    /// The health of each upstream as it is known. One that is not known at all is waited for a little.
    pub(super) async fn known_health(&self) -> Vec<Option<Health>> {
        let catalog = &self.catalog;
        let known = || {
            let probes = self.members.iter().map(|member| {
                let entry = catalog.renewed(member, Need::Health);
                let probe = entry.probe()?;
                Some(health_of(member, entry.session(), &probe))
            });
            probes.collect::<Vec<_>>()
        };
        let all_known = || Some(known()).filter(|all| all.iter().all(Option::is_some));
        catalog.until(PAGE_TIME, all_known).await.unwrap_or_else(known)
    }

    /// The health of the service, from that of each upstream.
    fn together(&self, all: Vec<Health>) -> Health {
        let well = all.iter().filter(|health| health.status == Status::Ok).count();
        let latency = all.iter().map(|health| health.latency).max().unwrap_or_default();
        let failing = all.iter().find(|health| health.status != Status::Ok).or(all.first()).cloned();
        let mut health = failing.expect("there is an upstream, at least the demo");
        health.latency = latency;
        if all.len() > 1 {
            let told = all.iter().map(|health| {
                let trouble = health.error.as_ref().map(|error| format!(", {}", error.kind.code()));
                format!("{} ({}{})", health.upstream, health.status.name(), trouble.unwrap_or_default())
            });
            health.upstream = told.collect::<Vec<_>>().join(", ");
        }
        if well > 0 && well < all.len() {
            // The others answer in its place.
            health = Health { status: Status::Degraded, error: None, ..health };
        }
        health
    }

    /// The upstream of this name, or the only one.
    fn meant(&self, name: Option<&str>) -> Result<&Member, Error> {
        let found = match name {
            Some(name) => self.member(name),
            None => self.members.first().filter(|_| self.members.len() == 1),
        };
        found.ok_or_else(|| {
            Error::new(Kind::InvalidRequest, "it is not clear which upstream is meant")
                .hinted(format!("name one in `upstream`: {}", self.upstream_name()))
        })
    }

    /// Sees that an address is that of an upstream: a login goes to no other.
    ///
    /// # Errors
    /// That it is another, or that it is not clear which upstream is meant.
    pub fn expect_address(&self, name: Option<&str>, address: &str) -> Result<(), Error> {
        let own = self.meant(name)?.settings.url.as_ref().map(Url::origin);
        match (own, Url::parse(address)) {
            (Some(own), Ok(given)) if own == given.origin() => Ok(()),
            _ => Err(Error::new(Kind::InvalidRequest, "this request was sent to another mirror").hinted(
                "copy a request to the mirror that answers here, or set the other one as the upstream",
            )),
        }
    }

    /// Replaces an upstream's credentials by others, once it accepts those. Of several upstreams
    /// one must be named.
    ///
    /// # Errors
    /// What the upstream says to them; then the old ones stay.
    pub async fn swap(&self, name: Option<&str>, credentials: &Credentials) -> Result<State, Error> {
        if self.is_demo() {
            return Err(Error::new(Kind::InvalidRequest, "there is no session without an upstream").hinted(
                "connect a mirror first: PUT /api/upstream, or the console's page Connect your mirror",
            ));
        }
        let member = self.meant(name)?;
        let upstream = &member.upstream;
        let trial = Arc::new(upstream.session().with(credentials));
        match timeout(PROBE_TIME, upstream.with_session(Arc::clone(&trial)).probe()).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(no_answer()),
        }
        upstream.session().replace(&trial);
        self.catalog.entry(member).forget();
        Ok(upstream.session().state())
    }
}

/// Looks at the health of one upstream now.
async fn probed(member: &Member) -> Probe {
    let start = Instant::now();
    let outcome = timeout(PROBE_TIME, member.upstream.probe()).await.unwrap_or_else(|_| Err(no_answer()));
    Probe { latency: start.elapsed(), failure: outcome.err() }
}

/// The health of one upstream, from the latest look at it and from what questions met since.
fn health_of(member: &Member, session: &Session, probe: &Probe) -> Health {
    let session = session.state();
    // A probe can succeed where the login is not needed: what a question met says more.
    let error = probe.failure.clone().or_else(|| match session {
        State::Expired => Some(Error::new(
            Kind::UpstreamAuthExpired,
            "the upstream did not accept the credentials when it was last asked",
        )),
        State::Refused => {
            Some(Error::new(Kind::UpstreamRefused, "the upstream refused when it was last asked"))
        }
        State::Ok | State::Unknown | State::Expiring => None,
    });
    Health {
        upstream: member.settings.name.to_string(),
        status: error.as_ref().map_or(Status::Ok, |error| status_after(error.kind)),
        latency: probe.latency,
        session,
        error,
    }
}

fn no_answer() -> Error {
    Error::new(
        Kind::UpstreamTimeout,
        format!("the upstream did not answer within {} seconds", PROBE_TIME.as_secs()),
    )
}

/// What a failure says about the upstream's health.
fn status_after(kind: Kind) -> Status {
    match kind.health() {
        error::Health::Degraded => Status::Degraded,
        error::Health::Down => Status::Down,
    }
}
