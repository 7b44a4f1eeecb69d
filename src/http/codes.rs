//! What failures are called on the pages, by their codes: a word, what happened, and what the owner can do.
//! The service's own messages and hints are English and written for callers.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::page::Language;

/// A failure in words.
#[derive(Deserialize)]
pub struct Words {
    /// In a word or two, for a list.
    pub word: String,
    /// What happened.
    pub what: String,
    /// What to do about it.
    #[serde(rename = "do")]
    pub act: String,
}

type Table = HashMap<String, Words>;

static ENGLISH: LazyLock<Table> = LazyLock::new(|| table(include_str!("codes/messages.en.json")));
static CHINESE: LazyLock<Table> = LazyLock::new(|| table(include_str!("codes/messages.zh-Hant.json")));

fn table(text: &str) -> Table {
    serde_json::from_str(text).expect("the words are JSON")
}

/// The words for a code; none for one of another version, as it may stand in the statistics.
pub fn words(language: Language, code: &str) -> Option<&'static Words> {
    match language {
        Language::English => ENGLISH.get(code),
        Language::TraditionalChinese => CHINESE.get(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::Kind;

    #[test]
    fn each_code_has_its_words_in_both_languages_and_no_other_has() {
        for language in Language::ALL {
            for kind in Kind::ALL {
                let words =
                    words(language, kind.code()).unwrap_or_else(|| panic!("no words: {}", kind.code()));
                assert!([&words.word, &words.what, &words.act].iter().all(|text| !text.is_empty()));
                assert!(words.word.chars().count() <= 24, "{}: it stands in a list", words.word);
            }
        }
        assert_eq!([ENGLISH.len(), CHINESE.len()], [Kind::ALL.len(); 2]);
    }
}
