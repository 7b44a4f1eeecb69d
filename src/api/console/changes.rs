//! What changed in this version, from the changelog, which the program carries. It is in English, as the
//! changelog is, and shortened: of each entry its first sentence is shown.

use std::sync::LazyLock;

use serde::Serialize;

const CHANGELOG: &str = include_str!("../../../CHANGELOG.md");

/// Beyond this many bytes an entry ends with a clause, where it has one.
const LONG: usize = 160;

/// The newest section of the changelog.
#[derive(Serialize)]
pub struct Changes {
    version: &'static str,
    is_released: bool,
    groups: Vec<Group>,
}

/// What was added, or changed, or mended.
#[derive(Serialize)]
struct Group {
    name: &'static str,
    /// By which its message is named.
    word: String,
    /// Each entry in pieces, of which every second one is code.
    entries: Vec<Vec<String>>,
}

pub static CHANGES: LazyLock<Changes> = LazyLock::new(|| newest(CHANGELOG));

fn newest(changelog: &'static str) -> Changes {
    let section = changelog.split("\n## [").nth(1).unwrap_or_default();
    let (version, rest) = section.split_once(']').unwrap_or_default();
    let date = rest.lines().next().unwrap_or_default();
    let groups = section.split("\n### ").skip(1).map(|group| {
        let (name, text) = group.split_once('\n').unwrap_or((group, ""));
        Group { name, word: format!("changes_{}", name.to_lowercase()), entries: entries(text) }
    });
    Changes { version, is_released: !date.contains("Unreleased"), groups: groups.collect() }
}

fn entries(text: &str) -> Vec<Vec<String>> {
    let text = format!("\n{}", text.replace("**", ""));
    let entries = text.split("\n- ").skip(1).map(|entry| {
        let line = entry.split_whitespace().collect::<Vec<_>>().join(" ");
        shortened(&line).split('`').map(String::from).collect()
    });
    entries.collect()
}

/// The first sentence, or of a long one what comes before a colon or a semicolon.
fn shortened(entry: &str) -> &str {
    let (mut is_code, mut clause) = (false, None);
    for (place, letter) in entry.char_indices() {
        match letter {
            '`' => is_code = !is_code,
            '.' if !is_code && entry[place..].starts_with(". ") => return &entry[..place],
            ':' | ';' if !is_code && place <= LONG => clause = Some(place),
            _ => {}
        }
        if place > LONG && clause.is_some() {
            break;
        }
    }
    match clause {
        Some(end) if entry.len() > LONG => &entry[..end],
        _ => entry.trim_end_matches('.'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::page::messages;

    #[test]
    fn the_newest_section_has_a_version_and_its_groups_have_words() {
        assert!(
            CHANGES.version.split('.').all(|number| number.parse::<u32>().is_ok()),
            "{}",
            CHANGES.version
        );
        assert!(!CHANGES.groups.is_empty());
        for texts in super::super::maintain::PAGE.messages.map(messages) {
            for group in &CHANGES.groups {
                assert!(texts[&group.word].is_string(), "no message `{}`", group.word);
                assert!(group.entries.iter().all(|entry| entry.len() % 2 == 1), "{}: code ends", group.name);
                assert!(!group.entries.is_empty());
            }
        }
    }

    #[test]
    fn an_entry_is_its_first_sentence_or_the_clause_that_a_long_one_begins_with() {
        let changes = newest(
            "# C\n\n## [2.0.0] - Unreleased\n\n### Fixed\n\n- **One** of\n  `a. b`, mended. More.\n- Two.\n\n## [1.0.0]\n\n### Added\n\n- Old.\n",
        );
        assert_eq!((changes.version, changes.is_released, changes.groups.len()), ("2.0.0", false, 1));
        assert_eq!(changes.groups[0].entries, [vec!["One of ", "a. b", ", mended"], vec!["Two"]]);
        let long = format!("A thing: {}", "word ".repeat(40));
        assert_eq!(shortened(&long), "A thing");
    }
}
