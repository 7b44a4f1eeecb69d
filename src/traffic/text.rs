//! Sums as they are kept: an object of JSON with the words once and a text of digits for each combination.
//! Five weeks of hours are kept, so a row is to be small; as numbers in JSON it would be three times as large.
//!
//! A number is one digit for each five of its bits, the lowest first; all but its last digit have 32 added.
//! A combination is the places of its four words, four sums, and two histograms: each its first bucket, how
//! many follow, and their counts.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::call::Combination;
use super::histogram::Histogram;
use super::sums::Counts;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[derive(Serialize, Deserialize)]
struct Kept {
    words: Vec<String>,
    rows: Vec<String>,
}

/// Writes what combinations came to.
pub fn write(counts: &HashMap<Combination, Counts>) -> String {
    let (mut words, mut places) = (Vec::new(), HashMap::new());
    let mut place = |word: &str| {
        *places.entry(word.to_string()).or_insert_with(|| {
            words.push(word.to_string());
            words.len() as u64 - 1
        })
    };
    let row = |(of, counts): (&Combination, &Counts)| {
        let mut row = String::new();
        for word in [&*of.key, &of.model, &of.upstream, &of.code] {
            write_number(&mut row, place(word));
        }
        for sum in [counts.calls, counts.prompt_tokens, counts.completion_tokens, counts.estimated] {
            write_number(&mut row, sum);
        }
        for histogram in [&counts.first_token, &counts.total] {
            let (first, counts) = histogram.counts();
            write_number(&mut row, first as u64);
            write_number(&mut row, counts.len() as u64);
            counts.iter().for_each(|count| write_number(&mut row, u64::from(*count)));
        }
        row
    };
    let rows = counts.iter().map(row).collect();
    serde_json::to_string(&Kept { words, rows }).expect("texts can be written")
}

/// Reads it; nothing where it is not understood.
pub fn read(text: &str) -> Option<Vec<(Combination, Counts)>> {
    let Kept { words, rows } = serde_json::from_str(text).ok()?;
    let row = |row: String| {
        let mut digits = row.bytes();
        let mut number = || read_number(&mut digits);
        let mut word = || words.get(usize::try_from(number()?).ok()?).cloned();
        let (key, model, upstream, code) = (word()?, word()?, word()?, word()?);
        let of = Combination { key: key.into(), model, upstream: upstream.into(), code: code.into() };
        let (calls, prompt_tokens, completion_tokens, estimated) =
            (number()?, number()?, number()?, number()?);
        let mut histogram = || {
            let (first, length) = (usize::try_from(number()?).ok()?, number()?);
            let counts = (0..length).map(|_| number()).collect::<Option<Vec<_>>>()?;
            Some(Histogram::from_counts(first, counts))
        };
        let (first_token, total) = (histogram()?, histogram()?);
        Some((of, Counts { calls, prompt_tokens, completion_tokens, estimated, first_token, total }))
    };
    rows.into_iter().map(row).collect()
}

fn write_number(text: &mut String, mut number: u64) {
    loop {
        let digit = (number & 31) as usize;
        number >>= 5;
        text.push(char::from(DIGITS[if number > 0 { digit + 32 } else { digit }]));
        if number == 0 {
            return;
        }
    }
}

fn read_number(digits: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let (mut number, mut shift) = (0_u64, 0);
    loop {
        let digit = value(digits.next()?)?;
        number |= (digit & 31).checked_shl(shift)?;
        shift += 5;
        if digit < 32 {
            return Some(number);
        }
    }
}

fn value(digit: u8) -> Option<u64> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(u64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for number in (0..5000).chain([1 << 20, u64::from(u32::MAX), u64::MAX >> 4, u64::MAX]) {
            let mut text = String::new();
            write_number(&mut text, number);
            let mut digits = text.bytes();
            assert_eq!((read_number(&mut digits), digits.next()), (Some(number), None));
        }
        assert!(DIGITS.iter().enumerate().all(|(place, digit)| value(*digit) == Some(place as u64)));
        for broken in ["", "g", "ggggggggggggggg", "!"] {
            assert_eq!(read_number(&mut broken.bytes()), None, "{broken}");
        }
    }

    #[test]
    fn what_is_not_understood_is_nothing() {
        for text in ["", "{}", r#"{"words":[],"rows":["AAAA"]}"#, r#"{"words":["a"],"rows":["AAAAB"]}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
