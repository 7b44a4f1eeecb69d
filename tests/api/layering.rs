//! The shape of the program: who may import whom. See ARCHITECTURE.md.

use std::fs;
use std::path::Path;

/// What a leaf may not name: everything that stands above it.
const LEAF: &[&str] = &[
    "crate::api",
    "crate::http",
    "crate::gateway",
    "crate::store",
    "crate::backup",
    "crate::provider",
    "crate::app",
    "crate::cli",
    "crate::doctor",
    "actix_web",
    "awc",
];

/// What the doctor may not name: it looks at faces from outside, over HTTP. awc stands in its `http`.
const DOCTOR: &[&str] =
    &["crate::api", "crate::http", "crate::gateway", "crate::app", "crate::cli", "crate::demo", "actix_web"];

/// What the backup may not name: it takes the store as one file, and knows nothing of who serves from it.
/// awc stands in its `objects`, which know nothing of what they hold.
const BACKUP: &[&str] = &[
    "crate::api",
    "crate::http",
    "crate::gateway",
    "crate::provider",
    "crate::app",
    "crate::cli",
    "crate::demo",
    "crate::doctor",
    "actix_web",
];

/// A room, and what its files may not name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "provider",
        &[
            "crate::api",
            "crate::http",
            "crate::gateway",
            "crate::store",
            "crate::app",
            "crate::cli",
            "crate::demo",
            "crate::doctor",
            "actix_web",
        ],
    ),
    (
        "store",
        &[
            "crate::api",
            "crate::http",
            "crate::gateway",
            "crate::provider",
            "crate::app",
            "crate::cli",
            "crate::demo",
            "crate::doctor",
            "actix_web",
            "awc",
        ],
    ),
    (
        "gateway",
        &[
            "crate::api",
            "crate::http",
            "crate::app",
            "crate::cli",
            "crate::demo",
            "crate::doctor",
            "actix_web",
            "awc",
        ],
    ),
    (
        "outbound",
        &[
            "crate::api",
            "crate::http",
            "crate::gateway",
            "crate::store",
            "crate::provider",
            "crate::app",
            "crate::cli",
            "crate::demo",
            "crate::doctor",
            "actix_web",
        ],
    ),
    ("backup", BACKUP),
    ("backup/generations.rs", &["awc", "crate::"]),
    ("backup/mod.rs", &["awc"]),
    ("backup/objects.rs", &["crate::store", "crate::vault", "crate::domain"]),
    ("backup/uploads.rs", &["awc"]),
    (
        "api",
        &[
            "crate::provider",
            "crate::backup",
            "crate::store",
            "crate::app",
            "crate::cli",
            "crate::demo",
            "awc",
        ],
    ),
    (
        "http",
        &[
            "crate::api",
            "crate::provider",
            "crate::store",
            "crate::gateway",
            "crate::app",
            "crate::cli",
            "crate::demo",
            "awc",
        ],
    ),
    ("domain", LEAF),
    (
        "demo.rs",
        &[
            "crate::api",
            "crate::http",
            "crate::gateway",
            "crate::store",
            "crate::provider",
            "crate::app",
            "crate::cli",
            "awc",
        ],
    ),
    ("domain/error", &["crate::"]),
    ("reachability.rs", LEAF),
    ("activity.rs", LEAF),
    ("traffic", LEAF),
    ("config", LEAF),
    ("metrics.rs", LEAF),
    ("telemetry", LEAF),
    ("vault.rs", LEAF),
    ("vault", LEAF),
    ("allocator.rs", LEAF),
    ("budget.rs", LEAF),
    ("request.rs", LEAF),
    ("cli/tunnel.rs", LEAF),
    ("paste", LEAF),
    ("doctor", DOCTOR),
    ("doctor/document.rs", &["awc"]),
    ("doctor/document", &["awc"]),
    ("doctor/finding.rs", &["awc"]),
    ("doctor/mod.rs", &["awc"]),
    ("doctor/net.rs", &["awc"]),
    ("doctor/public.rs", &["awc"]),
    ("doctor/replay.rs", &["awc"]),
    ("doctor/session.rs", &["awc"]),
    ("doctor/trial.rs", &["awc"]),
    ("doctor/upstream.rs", &["awc"]),
    ("app", &["crate::cli", "awc"]),
];

/// Where a use case reacts to certain kinds of failure. All that merely follows from a kind, such as
/// a status, stands in the table of kinds.
const REACTS_TO_KINDS: &[(&str, &str)] = &[
    ("app/upstreams.rs", "a store of a newer program ends the start, another failing store does not"),
    ("doctor/service.rs", "one who is not the owner is told what a caller may see"),
    ("doctor/trial.rs", "a mirror that lists no models is tried with one that is named"),
    ("doctor/upstream.rs", "a step of its own for redirects; a limit and a missing list are warnings"),
    ("gateway/catalog.rs", "which failures throw doubt on what is known of an upstream"),
    ("gateway/inference.rs", "a lost conversation begins anew"),
    ("api/openai/body.rs", "another setting bounds the bodies of /v1"),
    ("api/openai/relay.rs", "a path that is open with another method says so"),
    ("provider/openai/dialect.rs", "an upstream that refuses to stream is asked without"),
    ("provider/web_chat/mod.rs", "a mirror without a list of conversations is reachable all the same"),
    ("store/mod.rs", "the failures of the store are counted"),
];

/// The APIs under `src/api` that may know another, and that other. All else that several share is
/// under `src/http`, and `src/api/mod.rs` puts them together.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("mcp", "tools"),
    ("keys", "audit"),
    ("session", "audit"),
    ("upstream", "audit"),
    ("console", "audit"),
    ("console", "kept"),
    ("console", "upstream"),
    ("kept", "audit"),
    ("kept", "conversations"),
    ("openai", "audit"),
    ("console", "dify"),
];

/// The lines of a file that name something forbidden.
fn violations(text: &str, forbidden: &[&str]) -> Vec<String> {
    let names = |line: &str, name: &str| {
        line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + name.len()..].chars().next();
            let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !part_of_word(before) && (name.ends_with(':') || !part_of_word(after))
        })
    };
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .filter(|line| forbidden.iter().any(|name| names(line, name)))
        .map(String::from)
        .collect()
}

/// The modules that a text names right under this path, as in `path::name` and `path::{name, name}`.
fn named<'a>(text: &'a str, path: &'a str) -> impl Iterator<Item = &'a str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let word = |text: &'a str| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let text = text.trim_start();
        &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
    };
    code.match_indices(path).flat_map(move |(at, _)| {
        let after = &code[at + path.len()..];
        let (mut depth, mut starts) = (0, vec![0]);
        for (at, c) in after.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && (c == '{' || c == ',') {
                starts.push(at + 1);
            }
            if depth == 0 {
                break;
            }
        }
        starts.into_iter().map(move |start| word(&after[start..]))
    })
}

/// The neighbours that a file of an API names, `depth` folders below `src/api`.
fn neighbours<'a>(text: &'a str, own: &str, depth: usize, all: &[String]) -> Vec<&'a str> {
    let path = ["super::super::super::", "super::super::", "super::"][2 - depth];
    let names = named(text, path).chain(named(text, "crate::api::"));
    names.filter(|name| *name != own && all.iter().any(|one| one == name)).collect()
}

/// All source files of a folder, or the one file that it is.
pub fn files(path: &Path) -> Vec<std::path::PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = fs::read_dir(path).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| files(&path))
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

#[test]
fn nothing_imports_against_the_direction() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, forbidden) in FORBIDDEN {
        let files = files(&source.join(room)).into_iter().chain(files_beside(&source, room));
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file");
            let found = violations(&text, forbidden);
            assert!(found.is_empty(), "{} may not name this: {found:#?}", file.display());
        }
    }
}

/// Whether a line tells kinds of failures apart, rather than naming the kind of a new one.
fn tells_kinds_apart(line: &str) -> bool {
    line.match_indices("Kind::").any(|(at, name)| {
        let before = &line[..at];
        let after = line[at + name.len()..].trim_start_matches(char::is_alphanumeric);
        let after = after.trim_start_matches(')').trim_start();
        let is_pattern = after.starts_with("=>") || after.starts_with("| ") || after.starts_with("if ");
        let is_compared = ["== ", "!= "].iter().any(|sign| before.ends_with(sign));
        let of_other_type = before.ends_with(char::is_alphanumeric);
        !of_other_type && (is_pattern || is_compared || before.contains("matches!("))
    })
}

#[test]
fn what_follows_from_a_kind_of_failure_stands_in_the_table_alone() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in files(&source) {
        let name = file.strip_prefix(&source).expect("under src").to_string_lossy().replace('\\', "/");
        if name.ends_with("tests.rs") || REACTS_TO_KINDS.iter().any(|(file, _)| *file == name) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        let found: Vec<_> = lines.filter(|line| tells_kinds_apart(line)).collect();
        assert!(found.is_empty(), "{name}: let this be a column in domain/error/columns.rs: {found:#?}");
    }
}

#[test]
fn the_check_sees_kinds_told_apart() {
    for line in ["Kind::A => 1,", "Err(Kind::A) => 1,", "| Kind::A | Kind::B => 1", "Kind::A if x => 1"] {
        assert!(tells_kinds_apart(line), "{line}");
    }
    assert!(tells_kinds_apart("a.kind == Kind::A") && tells_kinds_apart("matches!(kind, Kind::A)"));
    for line in ["|| Error::new(Kind::A, \"b\")", "Fault::Html => Kind::A,", "io::ErrorKind::A => 1"] {
        assert!(!tells_kinds_apart(line), "{line}");
    }
}

#[test]
fn no_api_knows_another() {
    let api = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let entries = fs::read_dir(&api).expect("a folder").map(|entry| entry.expect("an entry").path());
    let is_api = |path: &std::path::PathBuf| !["mod", "tests"].contains(&name(path).as_str());
    let apis: Vec<_> = entries.filter(is_api).collect();
    let all: Vec<String> = apis.iter().map(|path| name(path)).collect();
    for (path, own) in apis.iter().zip(&all) {
        for file in files(path) {
            let text = fs::read_to_string(&file).expect("a source file");
            let inside = file.strip_prefix(&api).expect("a file of it").components().count() - 1;
            let depth = if name(&file) == "mod" { inside - 1 } else { inside };
            for other in neighbours(&text, own, depth, &all) {
                let is_allowed = NEIGHBOURS.contains(&(own, other));
                assert!(is_allowed, "{} may not name `{other}`", file.display());
            }
        }
    }
}

/// A room may be a folder with a file of the same name beside it.
fn files_beside(source: &Path, room: &str) -> Option<std::path::PathBuf> {
    Some(source.join(format!("{room}.rs"))).filter(|path| path.is_file())
}

#[test]
fn the_check_sees_a_forbidden_import() {
    assert_eq!(violations("use crate::api::tools;\n// crate::api\n", &["crate::api"]).len(), 1);
    assert_eq!(violations("use crate::{chat, error};\nlet x = awc::Client::new();", &["awc"]).len(), 1);
    assert_eq!(violations("use crate::apiary;\nlet lawcourt = 1;", &["crate::api", "awc"]).len(), 0);
}

#[test]
fn the_check_sees_a_neighbour() {
    let all = ["tools", "mcp", "docs"].map(String::from);
    let seen = |text: &'static str, depth| neighbours(text, "mcp", depth, &all);
    assert_eq!(seen("use super::{message, tools::{Tool, TOOLS}, docs};", 0), ["tools", "docs"]);
    assert_eq!(seen("use super::tools::Tool;", 1), Vec::<&str>::new());
    assert_eq!(seen("use super::super::docs;\nlet x = crate::api::tools::run();", 1), ["docs", "tools"]);
    assert_eq!(seen("use super::mcp;\n#[cfg(test)]\nuse super::docs;", 0), Vec::<&str>::new());
}
