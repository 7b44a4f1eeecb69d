//! What fails at the upstream, in the languages of the pages: a sentence and what to do, by the code of the
//! failure. Its words for programs stand in `domain/error/kinds.rs`.

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::Value;

use super::page::{Language, messages};
use crate::domain::error::Kind;

/// A failure as a person reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// What is wrong, in a sentence without a full stop.
    pub what: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

/// The failure in a language; `None` for one that does not come from an upstream.
pub fn cause(kind: Kind, language: Language) -> Option<Cause> {
    static ENGLISH: LazyLock<Value> = LazyLock::new(|| messages(include_str!("causes/messages.en.json")));
    static CHINESE: LazyLock<Value> =
        LazyLock::new(|| messages(include_str!("causes/messages.zh-Hant.json")));
    let all: &Value = match language {
        Language::English => &ENGLISH,
        Language::TraditionalChinese => &CHINESE,
    };
    let texts = all.get(kind.code())?;
    Some(Cause { what: texts.get("what")?.as_str()?, hint: texts.get("hint")?.as_str()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_an_upstream_has_its_sentences_in_both_languages() {
        for kind in Kind::ALL {
            for language in Language::ALL {
                let cause = cause(*kind, language);
                assert_eq!(cause.is_some(), kind.asked_upstream(), "{} {}", kind.code(), language.tag());
                assert!(cause.is_none_or(|cause| !cause.what.contains('_') && !cause.hint.is_empty()));
            }
        }
    }
}
