//! What the documents for people say about errors is complete.

use mirrorgate::domain::error::Kind;

fn text(file: &str) -> String {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The codes in a README's table of errors, each with its status. A row holds several codes with a
/// status each, or one for all.
fn errors(readme: &str) -> Vec<(String, u16)> {
    let mut errors = Vec::new();
    for line in readme.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').collect();
        let statuses: Result<Vec<u16>, _> =
            cells[2].split([',', '、']).map(|status| status.trim().parse()).collect();
        // Other tables have no statuses.
        let Ok(statuses) = statuses else { continue };
        let codes: Vec<_> = cells[1].split('`').skip(1).step_by(2).collect();
        assert!(statuses.len() == 1 || statuses.len() == codes.len(), "{line}");
        let status_of = |place: usize| statuses[place.min(statuses.len() - 1)];
        errors.extend(codes.iter().enumerate().map(|(place, code)| (code.to_string(), status_of(place))));
    }
    errors.sort();
    errors
}

#[test]
fn the_error_codes_in_both_readmes_are_those_of_the_program_with_their_statuses() {
    let mut known: Vec<_> =
        Kind::ALL.iter().map(|kind| (kind.code().to_string(), kind.api_status())).collect();
    known.sort();
    for file in ["README.md", "README.zh-Hant.md"] {
        let told = errors(&text(file));
        let missing: Vec<_> = known.iter().filter(|error| !told.contains(error)).collect();
        let wrong: Vec<_> = told.iter().filter(|error| !known.contains(error)).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "{file}: missing {missing:?}, wrong {wrong:?}");
        assert_eq!(told.len(), known.len(), "{file} tells a code twice");
    }
}

#[test]
fn each_promise_of_security_names_a_test_that_is_there() {
    let security = text("SECURITY.md");
    let quoted: Vec<&str> = security.split('`').skip(1).step_by(2).collect();
    let named = quoted.iter().filter_map(|name| name.split_once("::")).filter(|(file, _)| *file != "file");
    let mut count = 0;
    for (file, test) in named {
        assert!(text(&format!("tests/api/{file}.rs")).contains(&format!("fn {test}(")), "{file}::{test}");
        count += 1;
    }
    for file in
        quoted.iter().filter(|name| name.starts_with("test_") && name.ends_with(".py") && !name.contains('*'))
    {
        text(&format!("tests/clients/{file}"));
        count += 1;
    }
    assert!(count > 30, "{count}");
}
