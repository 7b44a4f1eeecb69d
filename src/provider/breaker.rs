//! Whether an upstream that keeps failing is to be asked before others.
//!
//! After some failures in a row it is passed over; after a while one request is let through to see
//! whether it is back. It is advice among several upstreams: where there is no other, even one that
//! fails is asked, and its caller learns why it does.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::error::Kind;

/// How many failures in a row it takes.
const FAILURES: u32 = 5;

/// How long it is passed over then, and how far apart the requests are that try it.
const PAUSE: Duration = Duration::from_secs(30);

/// Counts the failures of one upstream, for all threads.
#[derive(Debug)]
pub struct Breaker {
    pause: Duration,
    inner: Mutex<Inner>,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { pause: PAUSE, inner: Mutex::default() }
    }
}

#[derive(Debug, Default)]
struct Inner {
    failures: u32,
    /// When the next request may try it.
    until: Option<Instant>,
}

/// How a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// The upstream is asked.
    Closed,
    /// The next request tries it.
    HalfOpen,
    /// It is passed over.
    Open,
}

impl BreakerState {
    /// The word for the owner.
    pub const fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        }
    }
}

impl Breaker {
    /// Learns from how a request ended.
    pub fn learn(&self, outcome: Result<(), Kind>) {
        let failed = match outcome {
            Ok(()) => false,
            Err(kind) if kind.trips_breaker() => true,
            Err(_) => return,
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !failed {
            *inner = Inner::default();
            return;
        }
        inner.failures += 1;
        if inner.failures >= FAILURES {
            inner.until = Some(Instant::now() + self.pause);
        }
    }

    /// How it stands.
    pub fn state(&self) -> BreakerState {
        match self.inner.lock().unwrap_or_else(PoisonError::into_inner).until {
            None => BreakerState::Closed,
            Some(until) if until <= Instant::now() => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }

    /// Whether a request may go there now. Of those that come while it is half open, one may.
    pub fn admits(&self) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.until {
            None => true,
            Some(until) if until <= Instant::now() => {
                inner.until = Some(Instant::now() + self.pause);
                true
            }
            Some(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_request_tries_it_again() {
        let breaker = Breaker { pause: Duration::from_millis(50), ..Breaker::default() };
        for _ in 0..4 {
            breaker.learn(Err(Kind::UpstreamUnreachable));
        }
        breaker.learn(Err(Kind::UpstreamRateLimited));
        assert!(breaker.admits());
        breaker.learn(Err(Kind::UpstreamError));
        assert!(!breaker.admits() && breaker.state() == BreakerState::Open);
        std::thread::sleep(breaker.pause);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(breaker.admits() && !breaker.admits());
        breaker.learn(Ok(()));
        assert!(breaker.admits() && breaker.state() == BreakerState::Closed);
    }
}
