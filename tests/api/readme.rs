//! The documents for people: what they say about errors is complete, their links lead somewhere, and their two
//! languages say the same.

use mirrorgate::domain::error::Kind;

fn text(file: &str) -> String {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The codes in a table of errors, each with its status. A row holds several codes with a
/// status each, or one for all.
fn errors(document: &str) -> Vec<(String, u16)> {
    let mut errors = Vec::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').collect();
        let statuses: Result<Vec<u16>, _> =
            cells[2].split([',', '、']).map(|status| status.trim().parse()).collect();
        let statuses = statuses.unwrap_or_else(|error| panic!("{line}: {error}"));
        let codes: Vec<_> = cells[1].split('`').skip(1).step_by(2).collect();
        assert!(statuses.len() == 1 || statuses.len() == codes.len(), "{line}");
        let status_of = |place: usize| statuses[place.min(statuses.len() - 1)];
        errors.extend(codes.iter().enumerate().map(|(place, code)| (code.to_string(), status_of(place))));
    }
    errors.sort();
    errors
}

#[test]
fn the_error_codes_in_both_languages_are_those_of_the_program_with_their_statuses() {
    let mut known: Vec<_> =
        Kind::ALL.iter().map(|kind| (kind.code().to_string(), kind.api_status())).collect();
    known.sort();
    for file in ["docs/errors.md", "docs/errors.zh-Hant.md"] {
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

/// What two languages of a document must have in common. Words differ; these may not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    /// The levels of the headings, in their order.
    headings: Vec<usize>,
    /// Of each block of code its language and its number of lines.
    code: Vec<(String, usize)>,
    /// Of each table its number of columns and of rows.
    tables: Vec<(usize, usize)>,
    /// Where links and pictures lead, sorted, without the language of the page and the place in it.
    links: Vec<String>,
}

/// A document read as far as the tests need it.
#[derive(Default)]
struct Document {
    shape: Shape,
    /// The headings, as GitHub makes anchors of them, and the anchors themselves: of one title's second heading
    /// with a number.
    titles: Vec<String>,
    anchors: Vec<String>,
    /// Where links and pictures lead, as written.
    links: Vec<String>,
}

impl Document {
    fn read(text: &str) -> Self {
        let mut document = Self::default();
        let (mut in_code, mut in_table) = (false, false);
        for line in text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, in_code, document.shape.code.last_mut()) {
                (Some(language), false, _) => document.shape.code.push((language.into(), 0)),
                (None, true, Some((_, lines))) => *lines += 1,
                _ => {}
            }
            in_code ^= fence.is_some();
            if in_code || fence.is_some() {
                in_table = false;
                continue;
            }
            document.read_table(line, in_table);
            in_table = line.starts_with('|');
            document.read_heading(line);
            document.read_links(line);
        }
        let same_page = |link: &String| {
            let page = link.split('#').next().unwrap_or_default().replace(".zh-Hant", "");
            if page.is_empty() { "#".into() } else { page }
        };
        document.shape.links = document.links.iter().map(same_page).collect();
        document.shape.links.sort();
        document
    }

    fn read_table(&mut self, line: &str, goes_on: bool) {
        let columns = line.replace("\\|", "").matches('|').count().saturating_sub(1);
        match self.shape.tables.last_mut() {
            _ if !line.starts_with('|') => {}
            Some((expected, rows)) if goes_on => {
                assert_eq!(columns, *expected, "{line}");
                *rows += 1;
            }
            _ => self.shape.tables.push((columns, 1)),
        }
    }

    fn read_heading(&mut self, line: &str) {
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        let Some(title) = line[level..].strip_prefix(' ').filter(|_| level > 0) else { return };
        let kept = |letter: &char| letter.is_alphanumeric() || "-_ ".contains(*letter);
        let anchor = title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-");
        let earlier = self.titles.iter().filter(|known| **known == anchor).count();
        self.anchors.push(if earlier == 0 { anchor.clone() } else { format!("{anchor}-{earlier}") });
        self.titles.push(anchor);
        self.shape.headings.push(level);
    }

    fn read_links(&mut self, line: &str) {
        // What stands in a span of code is no link.
        let words: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        let ends = words.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        self.links.extend(ends.map(|(link, _)| link.to_string()));
    }
}

/// The documents under a folder of the repository, by their paths in it.
fn documents(folder: &str) -> Vec<String> {
    let path = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let documents = names.filter(|name| name.ends_with(".md"));
    let mut paths: Vec<_> =
        documents.map(|name| format!("{folder}/{name}").trim_start_matches('/').to_string()).collect();
    paths.sort();
    paths
}

#[test]
fn both_languages_of_a_document_have_the_same_shape() {
    let pages = documents("docs").into_iter().chain(["README.md".into(), "deploy/README.md".into()]);
    for english in pages.filter(|path| !path.ends_with(".zh-Hant.md")) {
        let chinese = english.replace(".md", ".zh-Hant.md");
        let (here, there) = (Document::read(&text(&english)), Document::read(&text(&chinese)));
        assert_eq!(here.shape, there.shape, "{english} (left) and {chinese} (right) differ");
    }
}

#[test]
fn no_link_between_documents_is_dead() {
    let folders = ["", "docs", "deploy", "deploy/grafana", "deploy/huggingface", "bench"];
    let mut dead = Vec::new();
    for path in folders.into_iter().flat_map(documents) {
        let document = Document::read(&text(&path));
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in document.links.iter().filter(|link| !link.contains("://")) {
            let (page, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = format!("{}/{folder}/{page}", env!("CARGO_MANIFEST_DIR"));
            let anchors = match page {
                "" => document.anchors.clone(),
                page if anchor.is_empty() || !page.ends_with(".md") => Vec::new(),
                page => Document::read(&text(&format!("{folder}/{page}"))).anchors,
            };
            let there = page.is_empty() || std::path::Path::new(&target).exists();
            if !there || (!anchor.is_empty() && !anchors.iter().any(|known| known == anchor)) {
                dead.push(format!("{path}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
