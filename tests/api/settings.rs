//! The texts that are written from the declarations of the settings: the tables in the documents, and
//! `.env.example`. With `WRITE_SETTINGS=1` in the environment they are written anew instead of compared.

use mirrorgate::config::settings::GROUPS;
use mirrorgate::config::{AnyKind, Language, Setting, Table, plain};

/// Where a table begins and ends in a document.
const MARKERS: (&str, &str) = (
    "<!-- settings:begin, written from src/config/settings.rs: see CONTRIBUTING.md -->\n",
    "<!-- settings:end -->\n",
);

/// The longest line of a comment in `.env.example`.
const WIDTH: usize = 110;

/// Compares a file with what it should be, or makes it so.
fn hold(file: &str, wanted_of: impl Fn(&str) -> String) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let found = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let wanted = wanted_of(&found);
    if std::env::var_os("WRITE_SETTINGS").is_some() {
        std::fs::write(&path, wanted).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let differing = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "{file} is not what src/config/settings.rs says; write it anew with \
         `WRITE_SETTINGS=1 cargo test --test api settings`\n{differing:#?}"
    );
}

/// A document with its table between the markers.
fn document(found: &str, table: Table, language: Language) -> String {
    let (begin, end) = MARKERS;
    let (before, rest) = found.split_once(begin).unwrap_or_else(|| panic!("no line {begin}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("no line {end}"));
    let head = match language {
        Language::English => "| setting | default | meaning |",
        Language::Chinese => "| 設定 | 預設值 | 說明 |",
    };
    let rows: String = GROUPS
        .iter()
        .filter(|group| group.table == table)
        .flat_map(|group| group.settings)
        .map(|setting| row(setting, language))
        .collect();
    format!("{before}{begin}{head}\n| --- | --- | --- |\n{rows}{end}{after}")
}

fn row(setting: &Setting<dyn AnyKind>, language: Language) -> String {
    format!("| `{}` | {} | {} |\n", setting.name, setting.default(language), setting.help.of(language))
}

/// `.env.example`: its first paragraph, which is no setting's, and all settings.
fn env_example(found: &str) -> String {
    let (introduction, _) = found.split_once("\n\n").expect("a first paragraph");
    let mut text = format!("{introduction}\n");
    for group in GROUPS {
        text.push_str(&format!("\n# --- {} ---\n", group.title));
        for setting in group.settings {
            text.push_str(&format!("\n{}", env_lines(setting)));
        }
    }
    text
}

/// A setting as a comment and a line to take the `#` away from; an example may have several lines.
fn env_lines(setting: &Setting<dyn AnyKind>) -> String {
    let language = Language::English;
    let help = comment(&plain(setting.help.of(language)));
    let default = plain(&setting.default(language));
    let example = setting.example().replace('\n', "\n#");
    format!("{help}\n# Default: {default}\n#{}={example}\n", setting.name)
}

fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split(' ') {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > WIDTH) {
            lines.push(String::from("#"));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}

#[test]
fn the_tables_in_the_documents_are_those_of_the_program() {
    for (file, table, language) in [
        ("docs/settings.md", Table::Settings, Language::English),
        ("docs/settings.zh-Hant.md", Table::Settings, Language::Chinese),
        ("docs/limits.md", Table::Limits, Language::English),
        ("docs/limits.zh-Hant.md", Table::Limits, Language::Chinese),
        ("docs/backup.md", Table::Backup, Language::English),
        ("docs/backup.zh-Hant.md", Table::Backup, Language::Chinese),
    ] {
        hold(file, |found| document(found, table, language));
    }
}

#[test]
fn the_example_file_is_that_of_the_program() {
    hold(".env.example", env_example);
}
