//! Generations: the objects that a backup consists of, each with the next number in its name and never
//! written twice, so that whoever creates the next one has it, and nobody else.
//!
//! Most are snapshots. A claim is a few bytes with which a process that starts takes the next number, and so
//! the backup, away from one that may still run.

/// How many snapshots are kept. The newest is all that a start needs. The others are there for when that
/// one turns out to be damaged or to hold a mistake, and few, since what is deleted from the store stays in
/// them until they go.
const KEPT: usize = 8;

/// No SQLite database is smaller: what is smaller is a claim.
const LEAST_SNAPSHOT: u64 = 512;

/// How the names of all of them begin.
const NAME: &str = "mirrorgate-";

/// What a claim says to a person who looks into the bucket.
pub const CLAIM: &str = "a process of mirrorgate has taken this backup over here\n";

/// A generation in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    pub number: u64,
    /// In bytes.
    pub size: u64,
}

impl Generation {
    /// The one that an object under the prefix is, if it is one.
    pub fn of(key: &str, size: u64, prefix: &str) -> Option<Self> {
        let number = key.strip_prefix(prefix)?.strip_prefix(NAME)?.parse().ok()?;
        let generation = Generation { number, size };
        (generation.key(prefix) == key).then_some(generation)
    }

    /// The name of its object. Names sort as numbers do.
    pub fn key(self, prefix: &str) -> String {
        key(self.number, prefix)
    }

    fn is_snapshot(self) -> bool {
        self.size >= LEAST_SNAPSHOT
    }
}

/// The name of a generation's object.
pub fn key(number: u64, prefix: &str) -> String {
    format!("{prefix}{NAME}{number:012}")
}

/// The number after the last.
pub fn next(all: &[Generation]) -> u64 {
    all.iter().map(|generation| generation.number).max().map_or(1, |last| last + 1)
}

/// The newest snapshot.
pub fn newest(all: &[Generation]) -> Option<Generation> {
    all.iter().copied().filter(|generation| generation.is_snapshot()).max_by_key(|snapshot| snapshot.number)
}

/// Those that nobody needs any more: older than the snapshots that are kept, and earlier claims than the
/// last generation.
pub fn outdated(all: &[Generation]) -> Vec<Generation> {
    let mut snapshots: Vec<_> = all.iter().filter(|generation| generation.is_snapshot()).collect();
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.number));
    let kept: Vec<_> = snapshots.iter().take(KEPT).map(|snapshot| snapshot.number).collect();
    let last = next(all) - 1;
    all.iter()
        .copied()
        .filter(|generation| generation.number != last && !kept.contains(&generation.number))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sizes: &[(u64, u64)]) -> Vec<Generation> {
        sizes.iter().map(|&(number, size)| Generation { number, size }).collect()
    }

    #[test]
    fn names_are_read_as_they_are_written_and_sort_by_age() {
        for prefix in ["", "a/b/"] {
            let numbers = [0, 1, 9, 10, 999_999_999_999];
            let names = numbers.map(|number| key(number, prefix));
            assert!(names.is_sorted(), "{names:?}");
            for (name, number) in names.iter().zip(numbers) {
                assert_eq!(Generation::of(name, 7, prefix), Some(Generation { number, size: 7 }));
            }
        }
        assert_eq!(key(42, "a/"), "a/mirrorgate-000000000042");
        for name in [
            "a/mirrorgate-1",
            "a/mirrorgate-+00000000042",
            "a/mirrorgate-000000000042.db",
            "mirrorgate-x",
            "a/",
        ] {
            assert_eq!(Generation::of(name, 7, "a/"), None, "{name}");
        }
        assert_eq!(Generation::of("b/mirrorgate-000000000042", 7, "a/"), None);
    }

    #[test]
    fn a_claim_takes_a_number_and_is_no_snapshot() {
        assert_eq!((next(&[]), newest(&[])), (1, None));
        let some = all(&[(3, 4096), (5, CLAIM.len() as u64), (4, 8192)]);
        assert_eq!((next(&some), newest(&some).map(|newest| newest.number)), (6, Some(4)));
    }

    #[test]
    fn the_last_snapshots_are_kept_and_the_last_generation_whatever_it_is() {
        let claim = CLAIM.len() as u64;
        let some = all(&[(1, 4096), (2, claim), (3, claim)]);
        assert_eq!(outdated(&some), all(&[(2, claim)]));
        let many: Vec<_> = (1..=KEPT as u64 + 3).map(|number| Generation { number, size: 4096 }).collect();
        assert_eq!(outdated(&many), many[..3]);
        assert_eq!(outdated(&many[..KEPT]), []);
    }
}
