//! How well the upstream does, and swapping its credentials once it accepts others.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{CACHE_TIME, Service};
use crate::error::{Error, Kind};
use crate::upstream::session::{Credentials, State};

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
    /// How long it took to find out.
    pub latency: Duration,
    /// How the upstream took the credentials.
    pub session: State,
    /// What is wrong, unless all is well.
    pub error: Option<Error>,
}

impl Service {
    /// The upstream's health, asked of it now. It costs no tokens.
    pub async fn health(&self) -> Health {
        let start = Instant::now();
        let outcome = match timeout(PROBE_TIME, self.upstream.probe()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(no_answer()),
        };
        let session = self.upstream.session().state();
        // A probe can succeed where the login is not needed: what a question met says more.
        let outcome = outcome.and_then(|()| match session {
            State::Expired => Err(Error::new(
                Kind::UpstreamAuthExpired,
                "the upstream did not accept the credentials when it was last asked",
            )),
            State::Refused => {
                Err(Error::new(Kind::UpstreamRefused, "the upstream refused when it was last asked"))
            }
            State::Ok | State::Unknown | State::Expiring => Ok(()),
        });
        let health = Health {
            status: outcome.as_ref().map_or_else(|error| status_after(error.kind), |()| Status::Ok),
            latency: start.elapsed(),
            session,
            error: outcome.err(),
        };
        *self.shared.health.lock().await = Some((Instant::now(), health.clone()));
        health
    }

    /// The upstream's health for the public page: asked at most twice a minute however often the
    /// page is opened, and `None` when it is not known soon enough.
    pub async fn recent_health(&self) -> Option<Health> {
        if let Some((when, health)) = &*self.shared.health.lock().await
            && when.elapsed() < CACHE_TIME
        {
            return Some(health.clone());
        }
        timeout(PAGE_TIME, self.health()).await.ok()
    }

    /// Replaces the upstream's credentials by others, once the upstream accepts those.
    ///
    /// # Errors
    /// What the upstream says to them; then the old ones stay.
    pub async fn swap(&self, credentials: &Credentials) -> Result<State, Error> {
        let trial = Arc::new(self.upstream.session().with(credentials));
        match timeout(PROBE_TIME, self.upstream.with_session(Arc::clone(&trial)).probe()).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(no_answer()),
        }
        self.upstream.session().replace(&trial);
        *self.shared.health.lock().await = None;
        Ok(self.upstream.session().state())
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
    match kind {
        Kind::UpstreamAuthExpired
        | Kind::UpstreamRefused
        | Kind::UpstreamChallenge
        | Kind::UpstreamRateLimited
        | Kind::UpstreamRejected
        | Kind::ModelsUnknown => Status::Degraded,
        _ => Status::Down,
    }
}
