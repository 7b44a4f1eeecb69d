//! What a setting is, and the form in which `settings.rs` declares each of them once.
//!
//! One declaration gives the typed value that a [`Reader`](super::reader::Reader) reads, the flag and
//! its help, the line in `.env.example` and the row in the tables of the documents.

use super::kinds::Kind;

/// One setting: an environment variable that is a command-line flag as well.
///
/// `Setting<dyn AnyKind>` is a setting of whatever kind.
pub struct Setting<K: ?Sized> {
    /// The environment variable.
    pub name: &'static str,
    /// What it means, in Markdown.
    pub help: Words,
    /// What holds where it is not set, in Markdown; `{}` stands for the kind's default.
    pub unset: Option<Words>,
    /// A value to start from, where the default is none.
    pub example: Option<&'static str>,
    /// What kind of value it takes.
    pub kind: K,
}

/// A text in the languages of the documents.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// English.
    pub en: &'static str,
    /// Chinese in traditional characters.
    pub zh: &'static str,
}

/// A language of the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Chinese in traditional characters.
    Chinese,
}

/// Settings that belong together.
pub struct Group {
    /// Its heading.
    pub title: &'static str,
    /// Where its settings are explained.
    pub table: Table,
    /// Its settings.
    pub settings: &'static [&'static Setting<dyn AnyKind>],
}

/// The table that explains a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// That of `docs/settings.md`.
    Settings,
    /// That of `docs/limits.md`.
    Limits,
    /// That of `docs/backup.md`.
    Backup,
}

impl Words {
    /// The text in a language; a doc comment begins with a blank.
    pub fn of(self, language: Language) -> &'static str {
        match language {
            Language::English => self.en.trim_start(),
            Language::Chinese => self.zh,
        }
    }
}

impl<K: ?Sized> Setting<K> {
    /// The command-line flag without its dashes: `UPSTREAM_URL` is `upstream-url`.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }
}

impl Setting<dyn AnyKind> {
    /// What holds where it is not set, in Markdown.
    pub fn default(&self, language: Language) -> String {
        const NONE: Words = Words { en: "none", zh: "無" };
        let default = self.kind.default().map(|text| format!("`{text}`"));
        match (self.unset, default) {
            (Some(words), default) => words.of(language).replace("{}", &default.unwrap_or_default()),
            (None, Some(default)) => default,
            (None, None) => NONE.of(language).into(),
        }
    }

    /// A value to start from: the default, or what the declaration says; empty where neither is.
    pub fn example(&self) -> String {
        self.example.map(String::from).or_else(|| self.kind.default()).unwrap_or_default()
    }
}

/// What can be said of a [`Kind`] without naming its type of value.
pub trait AnyKind: Sync {
    /// As [`Kind::placeholder`].
    fn placeholder(&self) -> &'static str;
    /// As [`Kind::default`].
    fn default(&self) -> Option<String>;
    /// Whether a value is understood.
    fn accepts(&self, text: &str) -> bool;
    /// As [`Kind::is_secret`].
    fn is_secret(&self) -> bool;
}

impl<K: Kind> AnyKind for K {
    fn placeholder(&self) -> &'static str {
        Kind::placeholder(self)
    }

    fn default(&self) -> Option<String> {
        Kind::default(self)
    }

    fn accepts(&self, text: &str) -> bool {
        self.parse(text).is_some()
    }

    fn is_secret(&self) -> bool {
        Kind::is_secret(self)
    }
}

/// Markdown for a terminal or a plain file: without backticks, but where they hold words together.
pub fn plain(markdown: &str) -> String {
    let parts = markdown.split('`').enumerate().map(|(index, part)| {
        if index % 2 == 1 && part.contains(' ') { format!("`{part}`") } else { part.to_string() }
    });
    parts.collect()
}

/// Declares settings: one static of type [`Setting`] each, and all of them in `GROUPS`.
macro_rules! declare {
    ($($title:literal, $table:ident { $(
        $(#[doc = $en:literal])+
        $name:ident: $kind:ty = $value:expr,
        zh: $zh:literal
        $(, unset: $unset_en:literal / $unset_zh:literal)?
        $(, example: $example:literal)?
        ;
    )+ })+) => {
        $($(
            $(#[doc = $en])+
            pub static $name: Setting<$kind> = Setting {
                name: stringify!($name),
                help: Words { en: concat!($($en),+), zh: $zh },
                unset: declare!(@option $(Words { en: $unset_en, zh: $unset_zh })?),
                example: declare!(@option $($example)?),
                kind: $value,
            };
        )+)+

        /// All settings, in the order in which a person meets them.
        pub static GROUPS: &[Group] =
            &[$(Group { title: $title, table: Table::$table, settings: &[$(&$name),+] }),+];
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
}
pub(super) use declare;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_stay_only_around_several_words() {
        assert_eq!(
            plain("`key`, or one `Name: value` a line; `{uuid}`"),
            "key, or one `Name: value` a line; {uuid}"
        );
    }
}
