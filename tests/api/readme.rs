//! What the documents for people say about settings and errors is complete.

use mirrorgate::config::SETTINGS;
use mirrorgate::domain::error::Kind;

fn text(file: &str) -> String {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_setting_stands_in_both_readmes_and_in_the_example_file() {
    for setting in SETTINGS {
        for (readme, limits) in
            [("README.md", "docs/limits.md"), ("README.zh-Hant.md", "docs/limits.zh-Hant.md")]
        {
            let row = [text(readme), text(limits)]
                .concat()
                .lines()
                .any(|line| line.starts_with('|') && line.contains(&format!("`{}`", setting.name)));
            assert!(row, "{} is missing from the tables in {readme} and {limits}", setting.name);
        }
        assert!(text(".env.example").contains(setting.name), "{} is missing from .env.example", setting.name);
    }
}

#[test]
fn every_error_code_stands_in_both_readmes() {
    for kind in Kind::ALL {
        for file in ["README.md", "README.zh-Hant.md"] {
            assert!(
                text(file).contains(&format!("`{}`", kind.code())),
                "{} is missing from {file}",
                kind.code()
            );
        }
    }
}
