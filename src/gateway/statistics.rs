//! Sums of what was asked of whom: kept in the store beside the requests, and read over all processes.

use std::collections::HashMap;

use super::{Gateway, Shared};
use crate::domain::error::Error;
use crate::request;
use crate::store::SlotRow;
use crate::traffic::{self, CALLER_LEFT, Combination, Counts, HOUR, Histogram, SHORT, Slot};

const DAY: i64 = 24 * HOUR;

/// For how long times of each length are kept: the short ones for as long as an hour is compared with the
/// hour before.
pub const STATISTICS_KEPT: [(i64, i64); 2] = [(HOUR, 35 * DAY), (SHORT, 3 * HOUR)];

/// The farthest that a reader's clock is from UTC, in minutes.
const FARTHEST: i64 = 14 * 60;

/// How many names of a group are told apart, over all processes.
const MOST_GROUPS: usize = 50;

/// A time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// An hour, by five minutes.
    Hour,
    /// A day, by the hour.
    Day,
    /// Thirty days, by the day.
    Month,
}

/// By what calls are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By the name of their key.
    Key,
    /// By their model.
    Model,
    /// By the upstream that was asked.
    Upstream,
    /// By the code of their failure.
    Code,
}

/// What calls came to.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// How many there were.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many of them were left by their callers before the end.
    pub left: u64,
    /// Tokens of the questions.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// How many have their tokens estimated.
    pub estimated: u64,
    /// From the question to the first piece of its answer.
    pub first_token: Histogram,
    /// From the call to the end of its answer.
    pub total: Histogram,
}

/// The calls of one name.
#[derive(Debug, Default)]
pub struct Series {
    /// The name of the key, the model or the upstream, or the code of the failure.
    pub name: String,
    /// All of them.
    pub sum: Sum,
    /// How many there were in each slot.
    pub calls: Vec<u64>,
}

/// What was asked in a range of time.
#[derive(Debug)]
pub struct Statistics {
    /// How long a slot is, in milliseconds.
    pub span: i64,
    /// When each slot begins, in milliseconds since 1970.
    pub starts: Vec<i64>,
    /// All calls; the times are those of calls that were answered.
    pub all: Sum,
    /// The same in as long a time before, where anything is known of it.
    pub before: Option<Sum>,
    /// The same in each slot.
    pub slots: Vec<Sum>,
    /// By what was asked for, the most calls first.
    pub groups: Vec<Series>,
    /// Failed calls by their code, the most first.
    pub failures: Vec<Series>,
}

/// The slots of a range.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// The length of the rows from which they are added up.
    rows: i64,
    span: i64,
    count: usize,
    from: i64,
}

impl Range {
    /// As `now` is on a clock that is so many minutes before UTC.
    fn plan(self, now: i64, minutes: i64) -> Plan {
        let (rows, span, count) = match self {
            Range::Hour => (SHORT, SHORT, 12),
            Range::Day => (HOUR, HOUR, 24),
            Range::Month => (HOUR, DAY, 30),
        };
        let ahead = if span == DAY { minutes.clamp(-FARTHEST, FARTHEST) * 60_000 } else { 0 };
        let current = now - (now + ahead).rem_euclid(span);
        Plan { rows, span, count, from: current - (count as i64 - 1) * span }
    }
}

impl Plan {
    fn length(self) -> i64 {
        self.span * self.count as i64
    }

    /// From when rows are read: also those of as long a time before, if they are kept as long.
    fn since(self) -> i64 {
        let kept = STATISTICS_KEPT.iter().find(|(span, _)| *span == self.rows).map_or(0, |(_, kept)| *kept);
        if 2 * self.length() <= kept { self.from - self.length() } else { self.from }
    }
}

impl Sum {
    fn add(&mut self, of: &Combination, counts: &Counts, with_times: bool) {
        self.calls += counts.calls;
        if of.code == CALLER_LEFT {
            self.left += counts.calls;
        } else if !of.code.is_empty() {
            self.failed += counts.calls;
        }
        self.prompt_tokens += counts.prompt_tokens;
        self.completion_tokens += counts.completion_tokens;
        self.estimated += counts.estimated;
        if with_times {
            self.first_token.add(&counts.first_token);
            self.total.add(&counts.total);
        }
    }
}

impl By {
    fn name(self, of: &Combination) -> &str {
        match self {
            By::Key => &of.key,
            By::Model => &of.model,
            By::Upstream => &of.upstream,
            By::Code => &of.code,
        }
    }
}

/// Series by their names, over so many slots.
struct Groups {
    slots: usize,
    all: HashMap<String, Series>,
}

impl Groups {
    fn new(slots: usize) -> Self {
        Groups { slots, all: HashMap::new() }
    }

    /// The series of this name, with so many calls more in a slot.
    fn sum(&mut self, name: &str, slot: usize, calls: u64) -> &mut Sum {
        let series = self.all.entry(name.to_string()).or_insert_with(|| Series {
            name: name.to_string(),
            sum: Sum::default(),
            calls: vec![0; self.slots],
        });
        series.calls[slot] += calls;
        &mut series.sum
    }

    /// The most calls first.
    fn sorted(self) -> Vec<Series> {
        let mut all: Vec<_> = self.all.into_values().collect();
        all.sort_by(|one, other| other.sum.calls.cmp(&one.sum.calls).then_with(|| one.name.cmp(&other.name)));
        all
    }
}

impl Statistics {
    fn of(rows: &[SlotRow], plan: Plan, by: By) -> Self {
        let starts: Vec<_> = (0..plan.count as i64).map(|slot| plan.from + slot * plan.span).collect();
        let mut slots = vec![Sum::default(); plan.count];
        let (mut all, mut before) = (Sum::default(), None::<Sum>);
        let (mut groups, mut failures) = (Groups::new(plan.count), Groups::new(plan.count));
        for row in rows {
            let Some(counts) = Slot::read(&row.counts) else {
                log::warn!("a row of the statistics is not understood: it is left out");
                continue;
            };
            let slot = (row.begins_at - plan.from).div_euclid(plan.span);
            for (of, counts) in &counts {
                let answered = of.code.is_empty();
                let Ok(slot) = usize::try_from(slot) else {
                    before.get_or_insert_default().add(of, counts, answered);
                    continue;
                };
                // Another machine's clock may be ahead.
                let slot = slot.min(plan.count - 1);
                slots[slot].add(of, counts, answered);
                all.add(of, counts, answered);
                groups.sum(by.name(of), slot, counts.calls).add(of, counts, answered || by == By::Code);
                if !answered && of.code != CALLER_LEFT {
                    failures.sum(&of.code, slot, counts.calls).add(of, counts, true);
                }
            }
        }
        let mut groups = groups.sorted();
        fold(&mut groups);
        Statistics { span: plan.span, starts, all, before, slots, groups, failures: failures.sorted() }
    }
}

/// Puts those with the fewest calls together under one name: each process tells fifty combinations apart,
/// and each may have met others.
fn fold(groups: &mut Vec<Series>) {
    let rest = groups.split_off(groups.len().min(MOST_GROUPS));
    let Some(mut other) = rest.into_iter().reduce(Series::joined) else { return };
    if let Some(known) = groups.iter().position(|series| series.name == traffic::OTHER) {
        other = groups.remove(known).joined(other);
    }
    groups.push(Series { name: traffic::OTHER.into(), ..other });
}

impl Series {
    fn joined(mut self, other: Series) -> Self {
        let sums = &other.sum;
        self.sum.calls += sums.calls;
        self.sum.failed += sums.failed;
        self.sum.left += sums.left;
        self.sum.prompt_tokens += sums.prompt_tokens;
        self.sum.completion_tokens += sums.completion_tokens;
        self.sum.estimated += sums.estimated;
        self.sum.first_token.add(&sums.first_token);
        self.sum.total.add(&sums.total);
        self.calls.iter_mut().zip(other.calls).for_each(|(own, other)| *own += other);
        self
    }
}

impl Shared {
    /// Keeps in the store what was counted since this was last done.
    ///
    /// # Errors
    /// When the store cannot be used; then nothing is lost.
    pub async fn settle_statistics(&self) -> Result<(), Error> {
        let slots = self.traffic.unkept();
        if slots.is_empty() {
            return Ok(());
        }
        let row = |slot: &Slot| SlotRow { span: slot.span, begins_at: slot.start, counts: slot.text() };
        let rows = slots.iter().map(row).collect();
        let kept = self.store.keep_statistics(&self.writer, rows).await;
        if kept.is_err() {
            self.traffic.give_back(slots);
        }
        kept
    }
}

impl Gateway {
    /// What was asked in a range of time that ends now, over all processes. Days are those of a clock that is
    /// so many minutes before UTC.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn statistics(&self, range: Range, by: By, minutes: i64) -> Result<Statistics, Error> {
        self.shared.settle_statistics().await?;
        let plan = range.plan(traffic::now(), minutes);
        let rows = self.shared.store.statistics(plan.rows, plan.since()).await?;
        let bytes = rows.iter().map(|row| row.counts.len()).sum();
        request::take(bytes)?;
        request::apart(bytes, move || Statistics::of(&rows, plan, by)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_the_days_of_its_reader() {
        // 2026-11-26, 20:30 in UTC: in Taipei it is half past four in the morning of the next day.
        let now = 1_795_725_000_000;
        let plan = Range::Month.plan(now, 8 * 60);
        assert_eq!((now - plan.from) / 60_000, 29 * 24 * 60 + 4 * 60 + 30);
        let plan = Range::Month.plan(now, 0);
        assert_eq!((now - plan.from) / 60_000, 29 * 24 * 60 + 20 * 60 + 30);
        assert_eq!(plan.since(), plan.from, "so many days are not kept twice");
        let plan = Range::Day.plan(now, 8 * 60);
        assert_eq!((plan.from, plan.since()), (now - 30 * 60_000 - 23 * HOUR, plan.from - DAY));
    }

    #[test]
    fn what_processes_counted_is_added_up_and_compared_with_the_time_before() {
        let plan = Range::Hour.plan(100 * HOUR, 0);
        let row = |begins_at, model: &str, code: &'static str, calls| {
            let of = Combination { model: model.into(), code: code.into(), ..Combination::default() };
            let counts =
                HashMap::from([(of, Counts { calls, prompt_tokens: 2 * calls, ..Counts::default() })]);
            SlotRow { span: SHORT, begins_at, counts: Slot { start: begins_at, span: SHORT, counts }.text() }
        };
        let rows = [
            row(plan.from, "a", "", 3),
            row(plan.from, "a", "", 4),
            row(plan.from + 11 * SHORT, "b", "upstream_timeout", 5),
            row(plan.from + 11 * SHORT, "b", CALLER_LEFT, 1),
            row(plan.from + 12 * SHORT, "b", "", 1),
            row(plan.from - SHORT, "a", "", 6),
            SlotRow { span: SHORT, begins_at: plan.from, counts: "of another version".into() },
        ];
        let found = Statistics::of(&rows, plan, By::Model);
        let sums = |sum: &Sum| (sum.calls, sum.failed, sum.left, sum.prompt_tokens);
        assert_eq!(sums(&found.all), (14, 5, 1, 28));
        assert_eq!(found.before.as_ref().map(sums), Some((6, 0, 0, 12)));
        assert_eq!((sums(&found.slots[0]).0, sums(&found.slots[11]).0), (7, 7));
        let names: Vec<_> =
            found.groups.iter().map(|series| (series.name.as_str(), series.sum.calls)).collect();
        assert_eq!(names, [("a", 7), ("b", 7)]);
        let failures: Vec<_> =
            found.failures.iter().map(|series| (series.name.as_str(), series.calls[11])).collect();
        assert_eq!(failures, [("upstream_timeout", 5)]);
    }

    #[test]
    fn names_beyond_fifty_are_told_together() {
        let series = |number: u64| {
            let name = if number == 0 { traffic::OTHER.into() } else { format!("m{number}") };
            Series { name, sum: Sum { calls: 100 - number, ..Sum::default() }, calls: vec![1] }
        };
        let mut groups: Vec<_> = (0..60).map(series).collect();
        fold(&mut groups);
        assert_eq!(groups.len(), MOST_GROUPS);
        let other = groups.last().expect("some");
        assert_eq!((other.name.as_str(), other.calls[0]), (traffic::OTHER, 11));
        assert_eq!(other.sum.calls, 100 + (50..60).map(|number| 100 - number).sum::<u64>());
    }
}
