//! Runs every target over its corpus and, for some seconds, over variations of it: no libFuzzer, no
//! coverage, only the toolchain that builds the product.
//!
//! `replay [SECONDS [TARGET]]`: so long for each target, or for this one alone, after the corpus; none by
//! default.

use std::fs;
use std::panic;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mirrorgate_fuzz::TARGETS;

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).map_or(0.0, |text| text.parse().expect("seconds"));
    // One line each: thousands of runs go by here.
    panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut failed = false;
    let only = std::env::args().nth(2);
    for (name, target) in TARGETS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        let mut files: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a file")).collect();
        let mut runs = 0u64;
        let mut run = |bytes: &[u8], what: &str| {
            runs += 1;
            let good = panic::catch_unwind(|| target(bytes)).is_ok();
            if !good {
                let kept = std::env::temp_dir().join(format!("crash-{name}"));
                fs::write(&kept, bytes).expect("a place for the input");
                eprintln!("{name}: {what} fails, kept as {}", kept.display());
            }
            good
        };
        let mut good = true;
        for (file, seed) in files.iter().zip(&seeds) {
            good &= run(seed, &file.display().to_string());
        }
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while good && Instant::now() < end {
            good &= run(&varied(&seeds, &mut chance), "a variation");
        }
        println!("{name}: {} seeds, {runs} runs, {}", seeds.len(), if good { "ok" } else { "FAILED" });
        failed |= !good || seeds.is_empty();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A seed with a few bytes changed, taken out, doubled, or taken from another seed.
fn varied(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    const ODD: &[&[u8]] = &[
        b"\n",
        b"\r",
        b"\"",
        b"{",
        b"}",
        b"\\",
        b"\0",
        b"\xff",
        b"data:",
        b"\n\n",
        b"null",
        b"[DONE]",
        b"\xef\xbb\xbf",
        b"=",
        b"-1",
        b"1e999",
    ];
    let mut bytes = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(6) {
        let at = chance.below(bytes.len() + 1);
        let to = (at + chance.below(24)).min(bytes.len());
        match chance.below(5) {
            0 if at < bytes.len() => bytes[at] = chance.below(256) as u8,
            1 => drop(bytes.drain(at..to)),
            2 => {
                let part = bytes[at..to].to_vec();
                bytes.splice(at..at, part);
            }
            3 => {
                let other = &seeds[chance.below(seeds.len())];
                let from = chance.below(other.len() + 1);
                bytes.splice(at..to, other[from..(from + 40).min(other.len())].to_vec());
            }
            _ => drop(bytes.splice(at..at, ODD[chance.below(ODD.len())].to_vec())),
        }
    }
    bytes
}

/// xorshift64: the same run every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}
