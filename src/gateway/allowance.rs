//! What a key with limits has used of them, as it is kept in the store for all replicas.
//!
//! Here is only the arithmetic; `allowances` reads and writes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::{Date, OffsetDateTime, Time};

use crate::domain::error::{Error, Kind};
use crate::domain::limits::KeyLimits;

/// Requests are counted by slots of so many milliseconds, so that a minute is at most this much too long.
const SLOT: i64 = 5_000;
const MINUTE: i64 = 60_000;

/// How long a process vouches for its running questions, in milliseconds.
pub const LEASE: i64 = 60_000;

/// When to come back where so many questions run at once as may.
const RETRY_PARALLEL: Duration = Duration::from_secs(1);

/// What a running question is taken to cost as long as no answer has told, in tokens.
const UNKNOWN_COST: u64 = 1_000;

/// What was used. All times are milliseconds since 1970 by the store's clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allowance {
    /// Requests in each slot of the last minute.
    requests: Vec<(i64, u32)>,
    /// Running questions of each process, and until when it vouches for them.
    running: BTreeMap<String, (u32, i64)>,
    /// Tokens of the day that began then.
    day: (i64, u64),
    /// Tokens of the month that began then.
    month: (i64, u64),
    /// What a costly answer of late came to, in tokens: so much is held back for each running question,
    /// since what it costs is known only at its end.
    cost: Option<u64>,
}

/// How a key stands to one of its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitState {
    /// Which limit, as headers name it.
    pub name: &'static str,
    /// What it counts, in a sentence.
    what: &'static str,
    /// How much there may be.
    pub limit: u64,
    /// How much of it is left.
    pub left: u64,
    /// When more of it is there.
    pub reset: Duration,
    /// How long the next question has to wait, where it may not come now.
    wait: Option<Duration>,
}

impl LimitState {
    /// Whether the next question may come.
    pub fn is_open(&self) -> bool {
        self.wait.is_none()
    }

    /// Whether something is left, but running questions may use it up.
    pub fn is_held_back(&self) -> bool {
        self.wait.is_some() && self.left > 0
    }
}

/// What answers have cost, in tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// All of them together.
    pub tokens: u64,
    /// The costliest of them.
    pub most: u64,
}

impl Spent {
    /// One more answer.
    pub fn add(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
        self.most = self.most.max(tokens);
    }

    /// Without what has been written down.
    pub fn without(self, written: Spent) -> Spent {
        match self.tokens.saturating_sub(written.tokens) {
            0 => Spent::default(),
            tokens => Spent { tokens, ..self },
        }
    }
}

impl Allowance {
    /// Leaves out what does not count any more, and says how many questions of this process run.
    pub fn renew(&mut self, now: i64, process: &str, running: u32) {
        self.requests.retain(|(slot, _)| (slot + 1) * SLOT > now - MINUTE && *slot <= now / SLOT);
        self.running.retain(|_, (_, until)| *until > now && *until <= now + 2 * LEASE);
        self.run(process, running, now);
        for (since, period) in [(&mut self.day, day(now)), (&mut self.month, month(now))] {
            if since.0 != period.0 {
                *since = (period.0, 0);
            }
        }
    }

    fn run(&mut self, process: &str, running: u32, now: i64) {
        match running {
            0 => drop(self.running.remove(process)),
            _ => drop(self.running.insert(process.into(), (running, now + LEASE))),
        }
    }

    /// Counts one more question of this process.
    pub fn enter(&mut self, now: i64, process: &str) {
        let slot = now / SLOT;
        match self.requests.last_mut().filter(|(last, _)| *last == slot) {
            Some((_, count)) => *count += 1,
            None => self.requests.push((slot, 1)),
        }
        let running = self.running.get(process).map_or(0, |(running, _)| *running);
        self.run(process, running + 1, now);
    }

    /// Counts tokens.
    pub fn spend(&mut self, spent: Spent) {
        self.day.1 = self.day.1.saturating_add(spent.tokens);
        self.month.1 = self.month.1.saturating_add(spent.tokens);
        if spent.most > 0 {
            // Up at once, down slowly: too much held back only makes some questions wait for others.
            let known = self.cost.unwrap_or(spent.most);
            self.cost = Some(spent.most.max(known - known / 8));
        }
    }

    /// How the key stands to each of its limits.
    pub fn states(&self, limits: &KeyLimits, now: i64) -> Vec<LimitState> {
        let requests = self.requests.iter().map(|(_, count)| u64::from(*count)).sum();
        let oldest = self.requests.first().map_or(now, |(slot, _)| (slot + 1) * SLOT + MINUTE);
        let running = self.running.values().map(|(count, _)| u64::from(*count)).sum();
        let held_back = self.cost.unwrap_or(UNKNOWN_COST).saturating_mul(running);
        let state_of = |name, what, limit: Option<u64>, used: u64, held_back: u64, reset: i64| {
            limit.map(|limit| {
                let left = limit.saturating_sub(used);
                let reset = Duration::from_millis(u64::try_from(reset - now).unwrap_or_default());
                let wait = match left {
                    0 => Some(reset),
                    _ => (left <= held_back).then_some(RETRY_PARALLEL),
                };
                LimitState { name, what, limit, left, reset, wait }
            })
        };
        let parallel = now + RETRY_PARALLEL.as_millis() as i64;
        [
            state_of(
                "requests",
                "questions a minute",
                limits.requests_per_minute.map(u64::from),
                requests,
                0,
                oldest,
            ),
            state_of("parallel", "questions at once", limits.parallel.map(u64::from), running, 0, parallel),
            state_of("tokens-day", "tokens a day", limits.tokens_per_day, self.day.1, held_back, day(now).1),
            state_of(
                "tokens-month",
                "tokens a month",
                limits.tokens_per_month,
                self.month.1,
                held_back,
                month(now).1,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The refusal of a question, where one of the limits lets none in: of several, that which lasts longest.
pub fn refusal(states: &[LimitState]) -> Error {
    let spent = states.iter().max_by_key(|state| state.wait);
    let (limit, what, left) =
        spent.map_or((0, "questions", 0), |state| (state.limit, state.what, state.left));
    let wait = spent.and_then(|state| state.wait).unwrap_or_default().max(Duration::from_secs(1));
    let rest = match left {
        0 => "nothing of that is left".to_string(),
        left => format!("the {left} that are left are held back for its questions that are being answered"),
    };
    let what = format!("this key may ask for {limit} {what}, and {rest}");
    Error::new(Kind::KeyLimit, what).retry_after(Some(wait))
}

/// The beginning and the end of the day in UTC.
fn day(now: i64) -> (i64, i64) {
    const DAY: i64 = 86_400_000;
    let begin = now.div_euclid(DAY) * DAY;
    (begin, begin + DAY)
}

/// The beginning and the end of the month in UTC.
fn month(now: i64) -> (i64, i64) {
    let date =
        OffsetDateTime::from_unix_timestamp(now.div_euclid(1_000)).map_or(Date::MIN, OffsetDateTime::date);
    let first = date.replace_day(1).unwrap_or(date);
    let days = i64::from(first.month().length(first.year()));
    let begin = first.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp() * 1_000;
    (begin, begin + days * 86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-26, 12:00:00 UTC.
    const NOON: i64 = 1_795_694_400_000;

    fn left(allowance: &Allowance, limits: &KeyLimits, now: i64) -> Vec<u64> {
        allowance.states(limits, now).iter().map(|state| state.left).collect()
    }

    #[test]
    fn no_minute_has_more_requests_than_it_may() {
        let limits = KeyLimits { requests_per_minute: Some(60), ..KeyLimits::default() };
        let mut allowance = Allowance::default();
        let mut admitted = Vec::new();
        for now in (NOON..NOON + 300_000).step_by(250) {
            allowance.renew(now, "one", 0);
            if left(&allowance, &limits, now) != [0] {
                allowance.enter(now, "one");
                admitted.push(now);
            }
        }
        let of_minute = |end: i64| admitted.iter().filter(|at| **at > end - MINUTE && **at <= end).count();
        assert!(admitted.iter().all(|at| of_minute(*at) <= 60));
        assert!((240..=300).contains(&admitted.len()), "{}", admitted.len());
    }

    #[test]
    fn a_process_that_is_gone_vouches_for_nothing_after_a_minute() {
        let limits = KeyLimits { parallel: Some(2), ..KeyLimits::default() };
        let mut allowance = Allowance::default();
        allowance.enter(NOON, "one");
        allowance.enter(NOON, "other");
        assert_eq!(left(&allowance, &limits, NOON), [0]);
        allowance.renew(NOON + LEASE - 1, "one", 0);
        assert_eq!(left(&allowance, &limits, NOON), [1]);
        allowance.renew(NOON + LEASE, "one", 0);
        assert_eq!(left(&allowance, &limits, NOON), [2]);
    }

    #[test]
    fn tokens_come_back_with_the_day_and_the_month_in_utc() {
        let limits =
            KeyLimits { tokens_per_day: Some(100), tokens_per_month: Some(250), ..KeyLimits::default() };
        let mut allowance = Allowance::default();
        let at = |allowance: &mut Allowance, now: i64| {
            allowance.renew(now, "one", 0);
            left(allowance, &limits, now)
        };
        assert_eq!(at(&mut allowance, NOON), [100, 250]);
        allowance.spend(Spent { tokens: 120, most: 120 });
        assert_eq!(at(&mut allowance, NOON), [0, 130]);
        let refused = refusal(&allowance.states(&limits, NOON));
        assert_eq!(refused.retry_after, Some(Duration::from_secs(12 * 3600)));
        assert_eq!(at(&mut allowance, NOON + 12 * 3_600_000), [100, 130]);
        allowance.spend(Spent { tokens: 130, most: 130 });
        assert_eq!(at(&mut allowance, NOON + 24 * 3_600_000), [0, 0]);
        // December begins four days and twelve hours after that noon.
        assert_eq!(at(&mut allowance, NOON + 108 * 3_600_000), [100, 250]);
    }

    #[test]
    fn what_running_questions_may_cost_is_held_back() {
        let limits = KeyLimits { tokens_per_day: Some(100), ..KeyLimits::default() };
        let mut allowance = Allowance::default();
        let may_come =
            |allowance: &Allowance| allowance.states(&limits, NOON).iter().all(LimitState::is_open);
        allowance.renew(NOON, "one", 1);
        assert!(!may_come(&allowance), "what it costs is not known");
        let refused = refusal(&allowance.states(&limits, NOON));
        assert_eq!(refused.retry_after, Some(RETRY_PARALLEL));
        assert!(refused.message.contains("the 100 that are left are held back"), "{}", refused.message);

        let mut spent = Spent::default();
        spent.add(8);
        spent.add(20);
        allowance.spend(spent);
        allowance.renew(NOON, "one", 0);
        let mut let_in = 0;
        while may_come(&allowance) {
            allowance.enter(NOON, "one");
            let_in += 1;
        }
        assert_eq!(let_in, 4, "28 are used, and each may cost 20");
        let later = spent.without(Spent { tokens: 8, most: 8 });
        assert_eq!((later.tokens, later.most), (20, 20));
        assert_eq!(later.without(later).most, 0);
    }
}
