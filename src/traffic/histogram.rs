//! Durations in fixed buckets, each a quarter of the step to the next power of two of milliseconds: so
//! histograms of any hours and replicas add up, and a median or a 95th percentile is read to within an
//! eighth of itself.

use std::time::Duration;

/// Each power of two has so many buckets; those below are one millisecond wide.
const STEPS: u64 = 4;

/// So many buckets reach to more than half an hour. What takes longer counts in the last one.
pub const BUCKETS: usize = 84;

/// How often durations fell into each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram([u32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Histogram([0; BUCKETS])
    }
}

impl Histogram {
    /// That with these counts from this bucket on.
    pub fn from_counts(first: usize, counts: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Histogram::default();
        for (bucket, count) in histogram.0.iter_mut().skip(first).zip(counts) {
            *bucket = u32::try_from(count).unwrap_or(u32::MAX);
        }
        histogram
    }

    /// Counts a duration.
    pub fn count(&mut self, duration: Duration) {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let bucket = bucket_of(milliseconds).min(BUCKETS - 1);
        self.0[bucket] = self.0[bucket].saturating_add(1);
    }

    /// Adds another.
    pub fn add(&mut self, other: &Histogram) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = own.saturating_add(other);
        }
    }

    /// The first bucket that is not empty, and the counts from there to the last one that is not.
    pub fn counts(&self) -> (usize, &[u32]) {
        let Some(first) = self.0.iter().position(|count| *count > 0) else { return (0, &[]) };
        let last = self.0.iter().rposition(|count| *count > 0).unwrap_or(first);
        (first, &self.0[first..=last])
    }

    /// The milliseconds that this share of the durations does not exceed; none where there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let rank = all as f64 * share;
        let mut below = 0.0;
        for (bucket, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            if below + count >= rank {
                let (from, to) = (lower_bound(bucket) as f64, lower_bound(bucket + 1) as f64);
                return Some(from + (to - from) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        None
    }
}

fn bucket_of(milliseconds: u64) -> usize {
    if milliseconds < STEPS {
        return milliseconds as usize;
    }
    let power = u64::from(milliseconds.ilog2());
    let step = (milliseconds >> (power - 2)) & (STEPS - 1);
    ((power - 1) * STEPS + step) as usize
}

fn lower_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (power, step) = (bucket / STEPS + 1, bucket % STEPS);
    (STEPS + step) << (power - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_the_bucket_that_begins_at_or_below_it() {
        for milliseconds in (0..5000).chain([60_000, 290_000, 1_000_000]) {
            let bucket = bucket_of(milliseconds);
            assert!(lower_bound(bucket) <= milliseconds && milliseconds < lower_bound(bucket + 1));
        }
        assert!(lower_bound(BUCKETS) > 30 * 60 * 1000);
    }

    #[test]
    fn quantiles_are_right_to_within_an_eighth_also_of_what_was_added_up() {
        let (mut odd, mut even) = (Histogram::default(), Histogram::default());
        for milliseconds in 1..=10_000 {
            let half = if milliseconds % 2 == 0 { &mut even } else { &mut odd };
            half.count(Duration::from_millis(milliseconds));
        }
        odd.add(&even);
        for share in [0.01, 0.5, 0.95, 1.0] {
            let (found, right) = (odd.quantile(share).expect("some"), share * 10_000.0);
            assert!((found - right).abs() <= right / 8.0, "{share}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
        let mut long = Histogram::default();
        long.count(Duration::from_secs(100_000));
        assert!(long.quantile(0.5) > Some(30.0 * 60_000.0));
    }

    #[test]
    fn counts_are_told_without_the_empty_ends() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.counts(), (0, &[][..]));
        for milliseconds in [2, 4, 4] {
            histogram.count(Duration::from_millis(milliseconds));
        }
        let (first, counts) = histogram.counts();
        assert_eq!((first, counts), (2, &[1, 0, 2][..]));
        let again = Histogram::from_counts(first, counts.iter().map(|count| u64::from(*count)));
        assert_eq!(again, histogram);
    }
}
