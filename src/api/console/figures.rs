//! Figures for people: short numbers, bytes, and times that have passed or are to come, each as its parts, so
//! that a page's texts say them in either language.

use std::time::SystemTime;

use serde::Serialize;

/// About so much time, in the largest unit of which there is at least one: messages are named after the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// `moments`, `minutes`, `hours`, `day` or `days`.
    pub unit: &'static str,
    /// How many.
    pub n: i64,
}

impl Span {
    /// So many milliseconds.
    pub fn of(milliseconds: i64) -> Self {
        let minutes = milliseconds.max(0) / 60_000;
        match minutes {
            0 => Span { unit: "moments", n: 0 },
            1..60 => Span { unit: "minutes", n: minutes },
            60..1_410 => Span { unit: "hours", n: (minutes + 30) / 60 },
            1_410..2_160 => Span { unit: "day", n: 1 },
            _ => Span { unit: "days", n: (minutes + 720) / 1_440 },
        }
    }
}

/// The whole hours until a time.
pub fn hours_until(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / 3600)
}

/// How long ago a time was.
pub fn age(time: SystemTime) -> Span {
    Span::of(time.elapsed().map_or(0, |age| age.as_millis() as i64))
}

/// A number in at most three digits and a letter, such as `412 k`.
pub fn short(number: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match UNITS.into_iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{} {unit}", rounded(number, size)),
        None => number.to_string(),
    }
}

/// A number of bytes, such as `18 MB`; a megabyte has 1,048,576, as settings and keys count them.
pub fn bytes(number: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")];
    match UNITS.into_iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{} {unit}", rounded(number, size)),
        None => format!("{number} B"),
    }
}

/// One digit after the point where there is one before it, and none where it would be 0.
fn rounded(number: u64, size: u64) -> String {
    let tenths = number / (size / 10).max(1);
    if tenths < 100 && !tenths.is_multiple_of(10) {
        format!("{}.{}", tenths / 10, tenths % 10)
    } else {
        (number / size).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_more_than_they_are() {
        for (number, said) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1 k"),
            (1_250, "1.2 k"),
            (412_900, "412 k"),
            (3_100_000, "3.1 M"),
        ] {
            assert_eq!(short(number), said);
        }
        for (number, said) in [(12, "12 B"), (2048, "2 kB"), (50 << 20, "50 MB"), (1_610_612_736, "1.5 GB")] {
            assert_eq!(bytes(number), said);
        }
    }

    #[test]
    fn a_time_is_said_in_its_largest_unit() {
        for (minutes, unit, n) in
            [(0, "moments", 0), (59, "minutes", 59), (60, "hours", 1), (1_439, "day", 1), (4_319, "days", 3)]
        {
            assert_eq!(Span::of(minutes * 60_000), Span { unit, n });
        }
    }
}
