//! What the metrics are told about the upstream.

use super::{Failed, Service, Status};
use crate::error::{Error, Kind};
use crate::metrics::Breaker;
use crate::upstream::session::State;

/// All states of a session, for the metrics.
const SESSIONS: [&str; 5] = [
    State::Unknown.name(),
    State::Ok.name(),
    State::Expiring.name(),
    State::Expired.name(),
    State::Refused.name(),
];

/// How a call of the upstream ended that could begin an answer.
pub(super) trait Outcome {
    /// Why it failed.
    fn failure(&self) -> Option<Kind>;
}

impl<T> Outcome for Result<T, Error> {
    fn failure(&self) -> Option<Kind> {
        self.as_ref().err().map(|error| error.kind)
    }
}

impl<T> Outcome for Result<T, Failed> {
    fn failure(&self) -> Option<Kind> {
        self.as_ref().err().map(|failed| failed.error.kind)
    }
}

impl Service {
    /// Brings what the metrics say of the upstream up to date. It costs no tokens, and the upstream
    /// is asked at most twice a minute.
    pub async fn measure(&self) {
        let up = self.recent_health().await.is_some_and(|health| health.status != Status::Down);
        let session = self.upstream.session().state().name();
        self.shared.metrics.upstream(&self.upstream_label(), up, Breaker::Closed, session, &SESSIONS);
    }

    /// Counts how an answer began, and hands the outcome on.
    pub(super) fn counted<O: Outcome>(&self, outcome: O) -> O {
        let word = match outcome.failure() {
            None => "ok",
            Some(kind) if is_of_upstream(kind) => kind.code(),
            Some(_) => return outcome,
        };
        self.shared.metrics.upstream_request(&self.upstream_label(), word);
        outcome
    }

    fn upstream_label(&self) -> String {
        if self.is_demo() { "demo".into() } else { self.upstream.origin() }
    }
}

/// Whether a failure is one of the upstream, so that it was asked.
fn is_of_upstream(kind: Kind) -> bool {
    kind.code().starts_with("upstream_") || kind == Kind::ModelNotFound
}
