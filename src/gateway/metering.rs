//! What the metrics are told about the upstreams.

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::health::{PAGE_TIME, health_of};
use super::{CACHE_TIME, Health, Member, Service, Status};
use crate::domain::error::Error;
use crate::metrics::Breaker;
use crate::provider::breaker::BreakerState;
use crate::provider::session::State;

/// All states of a session, for the metrics.
const SESSIONS: [&str; 5] = [
    State::Unknown.name(),
    State::Ok.name(),
    State::Expiring.name(),
    State::Expired.name(),
    State::Refused.name(),
];

impl Service {
    /// Brings what the metrics say of the upstreams up to date. It costs no tokens, and each upstream
    /// is asked at most twice a minute.
    pub async fn measure(&self) {
        let mut known = self.shared.up.lock().await;
        if known.as_ref().is_none_or(|(when, _)| when.elapsed() >= CACHE_TIME) {
            let asked = self.members.iter().map(|member| timeout(PAGE_TIME, health_of(member)));
            let is_up = |health: Health| health.status != Status::Down;
            let up = join_all(asked).await.into_iter().map(|health| health.is_ok_and(is_up));
            *known = Some((Instant::now(), up.collect()));
        }
        let up = known.as_ref().map(|(_, up)| up.as_slice()).unwrap_or_default();
        for (member, up) in self.members.iter().zip(up) {
            let session = member.upstream.session();
            let breaker = match session.breaker().state() {
                BreakerState::Closed => Breaker::Closed,
                BreakerState::HalfOpen => Breaker::HalfOpen,
                BreakerState::Open => Breaker::Open,
            };
            let name = &member.settings.name;
            self.shared.metrics.upstream(name, *up, breaker, session.state().name(), &SESSIONS);
        }
    }

    /// Counts how an upstream answered a question, unless it was not asked.
    pub(super) fn count(&self, member: &Member, failure: Option<&Error>) {
        let word = match failure.map(|error| error.kind) {
            None => "ok",
            Some(kind) if kind.asked_upstream() => kind.code(),
            Some(_) => return,
        };
        self.shared.metrics.upstream_request(&member.settings.name, word);
    }
}
