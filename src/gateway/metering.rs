//! What the metrics are told about the upstreams.

use super::{Gateway, Member, Status};
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

impl Gateway {
    /// Brings what the metrics say of the upstreams up to date. It costs no tokens, and each upstream
    /// is asked at most twice a minute.
    pub async fn measure(&self) {
        for (member, health) in self.members.iter().zip(self.known_health().await) {
            let is_up = health.is_some_and(|health| health.status != Status::Down);
            let entry = self.catalog.entry(member);
            let session = entry.session();
            let breaker = match session.breaker().state() {
                BreakerState::Closed => Breaker::Closed,
                BreakerState::HalfOpen => Breaker::HalfOpen,
                BreakerState::Open => Breaker::Open,
            };
            let name = &member.settings.name;
            self.shared.metrics.upstream(name, is_up, breaker, session.state().name(), &SESSIONS);
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
