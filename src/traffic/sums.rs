//! Sums and histograms by what was asked of whom, for each five minutes and each hour.
//!
//! A slot stands for all that a process has counted in its time, and is kept as a row of that process's own,
//! written anew as it grows. So what is kept twice is not counted twice, replicas never wait for each other,
//! and what they counted is added up where it is read.

use std::collections::HashMap;

use super::call::{CALLER_LEFT, Call, Combination};
use super::histogram::Histogram;
use super::text;

/// The time of a short slot, of which twelve make an hour on a plot, in milliseconds.
pub const SHORT: i64 = 5 * 60_000;

/// The time of a long slot.
pub const HOUR: i64 = 60 * 60_000;

/// What all combinations are counted under that have no row of their own. No key can have this name.
pub const OTHER: &str = "(other)";

/// How many combinations of a slot have a row of their own in the store: those with the most calls.
const MOST_KEPT: usize = 50;

/// How many combinations are told apart until a slot has ended. Which of them will have the most calls shows
/// only then.
const MOST_COUNTED: usize = 500;

/// How many slots wait for a store that cannot be used.
const MOST_WAITING: usize = 48;

/// What calls came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many there were.
    pub calls: u64,
    /// Tokens of the questions.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// How many have their tokens estimated.
    pub estimated: u64,
    /// From the question to the first piece of its answer.
    pub first_token: Histogram,
    /// From the call to the end of its answer, of those that were put to an upstream.
    pub total: Histogram,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: &Counts) {
        self.calls += other.calls;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.estimated += other.estimated;
        self.first_token.add(&other.first_token);
        self.total.add(&other.total);
    }

    fn count(&mut self, call: &Call) {
        self.calls += 1;
        if let Some(usage) = call.usage {
            self.prompt_tokens += usage.prompt_tokens;
            self.completion_tokens += usage.completion_tokens;
            self.estimated += u64::from(usage.estimated);
        }
        if let Some(time) = call.first_token {
            self.first_token.count(time);
        }
        if let Some(time) = call.total.filter(|_| !call.of.upstream.is_empty()) {
            self.total.count(time);
        }
    }
}

/// What one process counted from a time on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slot {
    /// When it begins, in milliseconds since 1970.
    pub start: i64,
    /// How long it is, in milliseconds.
    pub span: i64,
    /// What each combination came to.
    pub counts: HashMap<Combination, Counts>,
}

impl Slot {
    fn at(time: i64, span: i64) -> Self {
        Slot { start: time - time.rem_euclid(span), span, counts: HashMap::new() }
    }

    /// Where a combination is counted: under its own name, as long as there is room for another.
    fn counts_of(&mut self, of: &Combination) -> &mut Counts {
        let has_room = self.counts.len() < MOST_COUNTED || self.counts.contains_key(of);
        let of = if has_room { of.clone() } else { others(of) };
        self.counts.entry(of).or_default()
    }

    fn count(&mut self, call: &Call) {
        match self.counts.get_mut(&call.of) {
            Some(counts) => counts.count(call),
            None => self.counts_of(&call.of).count(call),
        }
    }

    /// Adds those with the most calls first: where there is no room for all, others lose their names.
    fn add(&mut self, other: &Slot) {
        for (of, counts) in other.by_calls() {
            self.counts_of(of).add(counts);
        }
    }

    /// What was counted, those with the most calls first.
    fn by_calls(&self) -> Vec<(&Combination, &Counts)> {
        let mut all: Vec<_> = self.counts.iter().collect();
        all.sort_by(|(one, counts), (other, of_other)| {
            let by_name =
                || (&one.key, &one.model, &one.upstream).cmp(&(&other.key, &other.model, &other.upstream));
            of_other.calls.cmp(&counts.calls).then_with(by_name)
        });
        all
    }

    /// As it is kept: those with the most calls by their names, and the rest together.
    pub fn text(&self) -> String {
        let mut all = self.by_calls();
        let rest = all.split_off(all.len().min(MOST_KEPT));
        let mut kept: HashMap<Combination, Counts> =
            all.into_iter().map(|(of, counts)| (of.clone(), counts.clone())).collect();
        for (of, counts) in rest {
            kept.entry(others(of)).or_default().add(counts);
        }
        text::write(&kept)
    }

    /// Reads what was kept; nothing where it is not understood.
    pub fn read(kept: &str) -> Option<Vec<(Combination, Counts)>> {
        text::read(kept)
    }
}

/// What a combination without a row of its own is counted under. Good calls, failed ones and those that were
/// left stay apart.
fn others(of: &Combination) -> Combination {
    let code = if of.code.is_empty() || of.code == CALLER_LEFT { of.code.clone() } else { OTHER.into() };
    Combination { key: OTHER.into(), model: OTHER.into(), upstream: OTHER.into(), code }
}

/// What the process counts now, and what is not in the store.
#[derive(Debug, Default)]
pub struct Sums {
    short: Slot,
    /// Without the short slot that is counted in now.
    hour: Slot,
    /// Those that have ended and are not kept.
    ended: Vec<Slot>,
    has_changed: bool,
}

impl Sums {
    /// Counts a call that ended at this time.
    pub fn count(&mut self, call: &Call, ended_at: i64) {
        self.turn_to(ended_at);
        self.short.count(call);
        self.has_changed = true;
    }

    /// What is to be kept, with what goes on to be counted in.
    pub fn take(&mut self, now: i64) -> Vec<Slot> {
        if !std::mem::take(&mut self.has_changed) {
            return Vec::new();
        }
        self.turn_to(now);
        let mut hour = self.hour.clone();
        hour.add(&self.short);
        let mut slots = std::mem::take(&mut self.ended);
        slots.extend([self.short.clone(), hour].into_iter().filter(|slot| !slot.counts.is_empty()));
        slots
    }

    /// Takes back what could not be kept; what goes on is there anyway.
    pub fn give_back(&mut self, mut slots: Vec<Slot>) {
        let goes_on = [(self.short.start, SHORT), (self.hour.start, HOUR)];
        slots.retain(|slot| !goes_on.contains(&(slot.start, slot.span)));
        slots.append(&mut self.ended);
        slots.drain(..slots.len().saturating_sub(MOST_WAITING));
        self.ended = slots;
        self.has_changed = true;
    }

    /// Goes on to the slots of this time, and never back: a clock that is set back would have what is kept
    /// written over.
    fn turn_to(&mut self, now: i64) {
        let (short, hour) = (Slot::at(now, SHORT), Slot::at(now, HOUR));
        if short.start <= self.short.start {
            return;
        }
        let before = std::mem::replace(&mut self.short, short);
        self.hour.add(&before);
        self.end(before);
        if hour.start > self.hour.start {
            let before = std::mem::replace(&mut self.hour, hour);
            self.end(before);
        }
    }

    fn end(&mut self, slot: Slot) {
        if !slot.counts.is_empty() {
            self.ended.push(slot);
        }
        let over = self.ended.len().saturating_sub(MOST_WAITING);
        self.ended.drain(..over);
    }
}
