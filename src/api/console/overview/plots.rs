//! The four plots: what stands above each, its parts, and the values of each part in each slot. They are drawn
//! in the browser; the same values stand in a table.

use serde::Serialize;

use crate::gateway::{By, Series, Statistics, Sum};
use crate::http::codes;
use crate::http::page::Language;
use crate::traffic::{CALLER_LEFT, Histogram, OTHER};

/// How many groups have a colour of their own; the rest are drawn together.
const MOST_PARTS: usize = 3;

/// The plots, and the table of all their values.
#[derive(Serialize)]
pub struct Plots {
    /// When each slot begins, in milliseconds since 1970, as JSON for the script.
    starts: String,
    span: i64,
    /// The number of the last slot.
    last: usize,
    cards: [Card; 4],
    rows: Vec<Row>,
}

/// A plot.
#[derive(Serialize)]
struct Card {
    id: &'static str,
    /// Of what its values are: `count`, `tokens` or `ms`.
    unit: &'static str,
    /// The large figure.
    figure: String,
    /// The message that says what it means, and the number in that.
    text: &'static str,
    n: String,
    parts: Vec<Part>,
    /// The values of each part in each slot, as JSON for the script.
    values: String,
}

/// A part of a plot: a layer of its bars, or a line.
#[derive(Serialize)]
struct Part {
    /// Its name, or else the message that it is called by.
    name: Option<String>,
    word: &'static str,
    /// Its colour.
    colour: &'static str,
    is_dashed: bool,
    /// In all slots together.
    total: String,
    #[serde(skip)]
    values: Vec<Option<u64>>,
}

/// A slot as a row of the table.
#[derive(Serialize)]
struct Row {
    at: i64,
    cells: Vec<String>,
}

impl Plots {
    pub fn of(found: &Statistics, by: By, language: Language) -> Self {
        let cards = [calls(found, by, language), failed(found, language), tokens(found), times(found)];
        let cards = cards.map(|card| {
            let values: Vec<_> = card.parts.iter().map(|part| &part.values).collect();
            Card { values: json(&values), ..card }
        });
        let rows: Vec<_> = found.starts.iter().zip(&found.slots).map(|(at, slot)| row(*at, slot)).collect();
        Plots {
            starts: json(&found.starts),
            last: rows.len().saturating_sub(1),
            span: found.span,
            cards,
            rows,
        }
    }
}

fn calls(found: &Statistics, by: By, language: Language) -> Card {
    let (text, n) = match found.before.as_ref().map(|before| before.calls).filter(|calls| *calls > 0) {
        None => ("alone", String::new()),
        Some(before) => {
            let change = (found.all.calls as f64 / before as f64 - 1.0) * 100.0;
            let word = match change.round() {
                0.0 => "same",
                change if change > 0.0 => "more",
                _ => "less",
            };
            (word, format!("{:.0}", change.abs()))
        }
    };
    let name = |series: &Series| named(by, &series.name, language);
    let parts = layers(&found.groups, ["p1", "p2", "p3", "p4"], name);
    Card {
        id: "calls",
        unit: "count",
        figure: grouped(found.all.calls),
        text,
        n,
        parts,
        values: String::new(),
    }
}

fn failed(found: &Statistics, language: Language) -> Card {
    let share = 100.0 * found.all.failed as f64 / found.all.calls.max(1) as f64;
    let name = |series: &Series| named(By::Code, &series.name, language);
    let parts = layers(&found.failures, ["e1", "p3", "p2", "p4"], name);
    let figure = grouped(found.all.failed);
    Card {
        id: "failed",
        unit: "count",
        figure,
        text: "share",
        n: if share > 0.0 { format!("{share:.1}") } else { "0".into() },
        parts,
        values: String::new(),
    }
}

fn tokens(found: &Statistics) -> Card {
    let all = &found.all;
    let answered = all.calls - all.failed;
    let text = match all.estimated {
        0 => "told",
        estimated if estimated >= answered => "estimated",
        _ => "partly",
    };
    let part = |word, colour, tokens: fn(&Sum) -> u64| Part {
        name: None,
        word,
        colour,
        is_dashed: false,
        total: short(tokens(all)),
        values: found.slots.iter().map(|slot| Some(tokens(slot))).collect(),
    };
    let parts = vec![
        part("questions", "p1", |sum| sum.prompt_tokens),
        part("answers", "p2", |sum| sum.completion_tokens),
    ];
    let figure = short(all.prompt_tokens + all.completion_tokens);
    Card {
        id: "tokens",
        unit: "tokens",
        figure,
        text,
        n: grouped(all.estimated),
        parts,
        values: String::new(),
    }
}

fn times(found: &Statistics) -> Card {
    let line = |word, colour, is_dashed, times: fn(&Sum) -> &Histogram, share| Part {
        name: None,
        word,
        colour,
        is_dashed,
        total: seconds(quantile(times(&found.all), share)),
        values: found.slots.iter().map(|slot| quantile(times(slot), share)).collect(),
    };
    let parts = vec![
        line("first", "p1", false, |sum| &sum.first_token, 0.5),
        line("first95", "p1", true, |sum| &sum.first_token, 0.95),
        line("whole", "p2", false, |sum| &sum.total, 0.5),
        line("whole95", "p2", true, |sum| &sum.total, 0.95),
    ];
    let first = quantile(&found.all.first_token, 0.5);
    let text = if first.is_some() { "half" } else { "no_answer" };
    Card {
        id: "time",
        unit: "ms",
        figure: seconds(first),
        text,
        n: String::new(),
        parts,
        values: String::new(),
    }
}

/// Series as the layers of a plot: those with the most calls, and the rest as one.
fn layers(
    all: &[Series],
    colours: [&'static str; MOST_PARTS + 1],
    name: impl Fn(&Series) -> (Option<String>, &'static str),
) -> Vec<Part> {
    let most = if all.len() > colours.len() { MOST_PARTS } else { all.len() };
    let (own, rest) = all.split_at(most);
    let layer = |series: &Series, colour| {
        let (name, word) = name(series);
        let values = series.calls.iter().map(|calls| Some(*calls)).collect();
        Part { name, word, colour, is_dashed: false, total: grouped(series.sum.calls), values }
    };
    let mut parts: Vec<_> = own.iter().zip(colours).map(|(series, colour)| layer(series, colour)).collect();
    if let Some(first) = rest.first() {
        let sum = |slot: usize| Some(rest.iter().map(|series| series.calls[slot]).sum());
        parts.push(Part {
            name: None,
            word: "others",
            colour: colours[MOST_PARTS],
            is_dashed: false,
            total: grouped(rest.iter().map(|series| series.sum.calls).sum()),
            values: (0..first.calls.len()).map(sum).collect(),
        });
    }
    parts
}

/// What a group is called: by its name, or else by a message.
fn named(by: By, name: &str, language: Language) -> (Option<String>, &'static str) {
    match (by, name) {
        (_, OTHER) => (None, "others"),
        (By::Key, "") => (None, "no_key"),
        (By::Model, "") => (None, "no_model"),
        (By::Upstream, "") => (None, "no_upstream"),
        (By::Code, "") => (None, "r_answered"),
        (By::Code, CALLER_LEFT) => (None, "r_stopped"),
        (By::Code, code) => {
            let word = codes::words(language, code).map_or(code, |words| words.word.as_str());
            (Some(word.to_string()), "")
        }
        (By::Upstream, name) => (Some(name.split_once("://").map_or(name, |(_, host)| host).to_string()), ""),
        (By::Key | By::Model, name) => (Some(name.to_string()), ""),
    }
}

fn row(at: i64, slot: &Sum) -> Row {
    let times = [&slot.first_token, &slot.total];
    let times = times.into_iter().flat_map(|times| [0.5, 0.95].map(|share| seconds(quantile(times, share))));
    let counts = [slot.calls, slot.failed, slot.prompt_tokens, slot.completion_tokens];
    Row { at, cells: counts.into_iter().map(grouped).chain(times).collect() }
}

fn quantile(times: &Histogram, share: f64) -> Option<u64> {
    times.quantile(share).map(|time| time.round() as u64)
}

fn json(values: &impl Serialize) -> String {
    serde_json::to_string(values).expect("numbers can be written")
}

/// A time as a person reads it.
pub fn seconds(milliseconds: Option<u64>) -> String {
    let Some(milliseconds) = milliseconds else { return "–".into() };
    let seconds = milliseconds as f64 / 1000.0;
    match milliseconds {
        0..100 => format!("{milliseconds} ms"),
        100..10_000 => format!("{seconds:.2} s"),
        10_000..100_000 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let pieces: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    pieces.join(",")
}

/// A number in at most three digits and a letter.
fn short(number: u64) -> String {
    let (scaled, unit) = match number {
        0..10_000 => return grouped(number),
        10_000..1_000_000 => (number as f64 / 1e3, "k"),
        1_000_000..1_000_000_000 => (number as f64 / 1e6, "M"),
        _ => (number as f64 / 1e9, "G"),
    };
    if scaled < 10.0 { format!("{scaled:.1} {unit}") } else { format!("{scaled:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, calls: u64) -> Series {
        Series { name: name.into(), sum: Sum { calls, ..Sum::default() }, calls: vec![calls, 0] }
    }

    #[test]
    fn more_groups_than_colours_are_drawn_together() {
        let all: Vec<_> = ["a", "b", "c", "d", ""]
            .into_iter()
            .zip([9, 8, 7, 6, 5])
            .map(|(name, calls)| series(name, calls))
            .collect();
        let colours = ["p1", "p2", "p3", "p4"];
        let name = |series: &Series| named(By::Key, &series.name, Language::English);
        let told = |all: &[Series]| -> Vec<(String, String)> {
            let parts = layers(all, colours, name).into_iter();
            parts.map(|part| (part.name.unwrap_or_else(|| part.word.into()), part.total)).collect()
        };
        let pair = |name: &str, total: &str| (name.to_string(), total.to_string());
        assert_eq!(told(&all), [pair("a", "9"), pair("b", "8"), pair("c", "7"), pair("others", "11")]);
        assert_eq!(told(&all[1..]), [pair("b", "8"), pair("c", "7"), pair("d", "6"), pair("no_key", "5")]);
        assert_eq!(layers(&all, colours, name)[3].values, [Some(11), Some(0)]);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 999, 1204, 9999].map(short), ["0", "999", "1,204", "9,999"]);
        assert_eq!([732_400, 1_200_000, 45_000_000].map(short), ["732 k", "1.2 M", "45 M"]);
        let times = [None, Some(7), Some(310), Some(18_400), Some(290_000)].map(seconds);
        assert_eq!(times, ["–", "7 ms", "0.31 s", "18.4 s", "290 s"]);
    }
}
